//! Network configurations from files, as administrators lay them down in `/etc/cni/net.d`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::network::in_file;
use super::{Error, NetworkConfigList, PluginConfig};
use crate::spec::NetworkName;

/// How the files of networks end.
const NETWORKS: [&str; 3] = ["conf", "conflist", "json"];

/// How the files of single plugins end, in a directory that is named as their network.
const PLUGINS: [&str; 1] = ["conf"];

impl NetworkConfigList {
    /// Reads a network from a file. To the plugins of a list come those in the `*.conf` files of the directory beside
    /// the file that is named as the network, in the order of their names, unless `loadOnlyInlinedPlugins` is set.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], or [`Error::File`], which names the file.
    pub fn load_file(path: &Path) -> Result<Self, Error> {
        let mut network = Self::parse(read(path)?).map_err(in_file(path))?;
        if !network.load_only_inlined_plugins {
            let dir = path.parent().unwrap_or(Path::new("")).join(network.name.as_str());
            for path in files(&dir, &PLUGINS)? {
                network.plugins.push(PluginConfig::parse(read(&path)?).map_err(in_file(&path))?);
            }
        }
        if network.plugins.is_empty() {
            return Err(in_file(path)(Error::NoPlugins { network: network.name }));
        }
        Ok(network)
    }

    /// Reads every network of a directory: the files `*.conflist`, `*.conf` and `*.json` in the order of their names,
    /// by which administrators say which one is to be preferred. One that cannot be read does not keep the others from
    /// it. A directory that does not exist has none.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the directory cannot be listed; within the list, those of [`load_file`](Self::load_file).
    pub fn load_dir(dir: &Path) -> Result<Vec<Result<Self, Error>>, Error> {
        Ok(Self::files(dir)?.iter().map(|path| Self::load_file(path)).collect())
    }

    /// The files that [`load_dir`](Self::load_dir) reads, in its order.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the directory cannot be listed.
    pub fn files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
        files(dir, &NETWORKS)
    }

    /// Reads the network of a name from a directory; where several have it, the first in the order of
    /// [`load_dir`](Self::load_dir).
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchNetwork`]; but where a file before or after could not be read it might have been that one, and its
    /// error is returned.
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

/// The files of a directory with one of these endings, by name.
fn files(dir: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Io { operation: "list", path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut files = entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect::<Result<Vec<_>, Error>>()?;
    let has_one = |path: &Path| extensions.iter().any(|one| path.extension().is_some_and(|has| has == *one));
    files.retain(|path| has_one(path) && !path.is_dir());
    files.sort_unstable();
    Ok(files)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(Error::io("read", path))
}
