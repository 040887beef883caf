//! Loads network configurations from files, as in `/etc/cni/net.d`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::network::in_file;
use super::{Error, NetworkConfigList, PluginConfig};
use crate::spec::NetworkName;

/// The file extensions of networks.
const NETWORK_EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];

/// The file extensions of single plugins, in a directory with the name of their network.
const PLUGIN_EXTENSIONS: [&str; 1] = ["conf"];

impl NetworkConfigList {
    /// Reads a network from a file. The directory beside the file with the name of the network may
    /// contain further plugins. Their `*.conf` files are appended in the order of their names,
    /// unless `loadOnlyInlinedPlugins` is set.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], or [`Error::File`], which names the file.
    pub fn load_file(path: &Path) -> Result<Self, Error> {
        let mut network = Self::parse(read(path)?).map_err(in_file(path))?;
        if !network.load_only_inlined_plugins {
            let dir = path.parent().unwrap_or(Path::new("")).join(network.name.as_str());
            for path in files(&dir, &PLUGIN_EXTENSIONS)? {
                network.plugins.push(PluginConfig::parse(read(&path)?).map_err(in_file(&path))?);
            }
        }
        if network.plugins.is_empty() {
            return Err(in_file(path)(Error::NoPlugins { network: network.name }));
        }
        Ok(network)
    }

    /// Reads all networks of a directory: the files `*.conflist`, `*.conf` and `*.json` in the
    /// order of their names. Administrators choose names so that the preferred network comes first.
    /// An invalid file does not affect the others. A missing directory contains no networks.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the directory cannot be listed. The list contains the errors of
    /// [`load_file`](Self::load_file).
    pub fn load_dir(dir: &Path) -> Result<Vec<Result<Self, Error>>, Error> {
        Ok(Self::files(dir)?.iter().map(|path| Self::load_file(path)).collect())
    }

    /// The files that [`load_dir`](Self::load_dir) reads, in the same order.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the directory cannot be listed.
    pub fn files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
        files(dir, &NETWORK_EXTENSIONS)
    }

    /// Reads the network of this name from a directory. If several networks have the name, the
    /// first in the order of [`load_dir`](Self::load_dir) counts.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchNetwork`]. If any file is unreadable, its error is returned instead, because
    /// it may contain the network.
    pub fn load(dir: &Path, name: &NetworkName) -> Result<Self, Error> {
        let mut present = Vec::new();
        let mut unreadable = None;
        for network in Self::load_dir(dir)? {
            match network {
                Ok(network) if network.name == *name => return Ok(network),
                Ok(network) => present.push(network.name),
                Err(error) => unreadable = unreadable.or(Some(error)),
            }
        }
        let missing = || Error::NoSuchNetwork { network: name.clone(), dir: dir.to_owned(), present };
        Err(unreadable.unwrap_or_else(missing))
    }
}

/// The files of a directory with one of these extensions, sorted by name.
fn files(dir: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Io { operation: "list", path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut files = entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect::<Result<Vec<_>, Error>>()?;
    let matches =
        |path: &Path| path.extension().is_some_and(|extension| extensions.iter().any(|known| extension == *known));
    files.retain(|path| matches(path) && !path.is_dir());
    files.sort_unstable();
    Ok(files)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(Error::io("read", path))
}
