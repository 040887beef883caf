//! What `install` has written, so that nothing else is ever overwritten or removed.
//!
//! A file is known by its digest: one that somebody has changed since is theirs.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use cnikit::spec::NetworkName;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Error;

/// The files that were written and are not removed yet.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    #[serde(skip)]
    path: PathBuf,
    files: BTreeMap<PathBuf, Written>,
    /// Where the leases of networks lie that are to be purged, and whose configurations no longer say so.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    leases: BTreeMap<NetworkName, PathBuf>,
}

/// A file as it was written, or is about to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Written {
    sha256: String,
    /// What it takes the place of, and was written as well, until that is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaces: Option<String>,
    /// The network that it configures; none for the binary.
    network: Option<NetworkName>,
}

/// The turn of one command: two that install or uninstall at once would forget what the other wrote.
#[derive(Debug)]
pub(crate) struct Turn {
    data_dir: PathBuf,
    /// Holds the lock on the directory itself, so that no file of it is left.
    _dir: File,
}

/// What there is where a file is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// What was written there, and nobody has changed.
    Ours,
    /// Somebody else's, or changed by somebody.
    Foreign,
}

/// The manifest, in the directory for state.
const NAME: &str = "installed.json";

impl Manifest {
    /// The manifest in a directory for state, which need not exist yet.
    pub(crate) fn read(data_dir: &Path) -> Result<Self, Error> {
        let path = data_dir.join(NAME);
        match fs::read(&path) {
            Ok(text) => {
                let manifest: Self =
                    serde_json::from_slice(&text).map_err(|source| Error::Manifest { path: path.clone(), source })?;
                Ok(Self { path, ..manifest })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self { path, files: BTreeMap::new(), leases: BTreeMap::new() })
            }
            Err(source) => Err(Error::File { operation: "read", path, source }),
        }
    }

    /// The manifest's own file, which exists while something is remembered.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The files, and the networks that they configure.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&Path, Option<&NetworkName>)> {
        self.files.iter().map(|(path, written)| (path.as_path(), written.network.as_ref()))
    }

    /// Where leases lie that [`remember_leases`](Self::remember_leases) was told of.
    pub(crate) fn leases(&self) -> &BTreeMap<NetworkName, PathBuf> {
        &self.leases
    }

    /// Remembers the directory for the leases of a network whose configuration is about to be removed.
    pub(crate) fn remember_leases(&mut self, network: &NetworkName, data_dir: &Path) -> Result<(), Error> {
        self.leases.insert(network.clone(), data_dir.to_owned());
        self.save()
    }

    /// Forgets what was remembered of a network that is gone.
    pub(crate) fn forget_leases(&mut self, network: &NetworkName) -> Result<(), Error> {
        if self.leases.remove(network).is_some() { self.save() } else { Ok(()) }
    }

    /// What there is in the place of a file.
    pub(crate) fn look(&self, path: &Path) -> Result<Found, Error> {
        match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
            Err(source) => Err(Error::File { operation: "read", path: path.to_owned(), source }),
            Ok(content) if self.files.get(path).is_some_and(|ours| ours.is(&digest(&content))) => Ok(Found::Ours),
            Ok(_) => Ok(Found::Foreign),
        }
    }

    /// Writes a file, whole or not at all, and remembers it.
    ///
    /// It is remembered first: a file that a killed command has put in its place must not count as somebody else's. Of
    /// one that was remembered in vain, what lies there tells.
    pub(crate) fn write(
        &mut self,
        path: &Path,
        content: &[u8],
        mode: u32,
        network: Option<&NetworkName>,
    ) -> Result<(), Error> {
        let before = self.files.get(path).cloned();
        let replaces = match self.look(path)? {
            Found::Ours => fs::read(path).ok().map(|there| digest(&there)),
            Found::Nothing | Found::Foreign => None,
        };
        let written = Written { sha256: digest(content), replaces, network: network.cloned() };
        self.files.insert(path.to_owned(), written.clone());
        self.save()?;
        let replaced = replace(path, content, mode);
        let remembered = match (&replaced, before) {
            (Ok(()), _) => Some(Written { replaces: None, ..written }),
            (Err(_), before) => before,
        };
        match remembered {
            Some(remembered) => self.files.insert(path.to_owned(), remembered),
            None => self.files.remove(path),
        };
        replaced.and(self.save())
    }

    /// Removes a file, and forgets it. Absent is success.
    pub(crate) fn remove(&mut self, path: &Path) -> Result<(), Error> {
        remove(path)?;
        self.files.remove(path);
        self.save()
    }

    fn save(&self) -> Result<(), Error> {
        if !self.files.is_empty() || !self.leases.is_empty() {
            let mut text = serde_json::to_vec_pretty(self)?;
            text.push(b'\n');
            return replace(&self.path, &text, 0o644);
        }
        remove(&self.path)
    }
}

impl Written {
    fn is(&self, sha256: &str) -> bool {
        self.sha256 == sha256 || self.replaces.as_deref() == Some(sha256)
    }
}

impl Turn {
    /// Takes the turn, for which the directory is made if it is missing.
    pub(crate) fn take(data_dir: &Path) -> Result<Self, Error> {
        let failed = |operation| move |source| Error::File { operation, path: data_dir.to_owned(), source };
        // Leases will lie in it, which are refused in one that others could change.
        let made = DirBuilder::new().recursive(true).mode(0o755).create(data_dir);
        made.map_err(failed("make the directory"))?;
        let dir = File::open(data_dir).map_err(failed("open"))?;
        match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(Error::Busy { data_dir: data_dir.to_owned() }),
            locked => locked.map_err(io::Error::from).map_err(failed("lock"))?,
        }
        // Whoever had it before may have removed the directory meanwhile.
        let is_there = dir.metadata().and_then(|locked| Ok(fs::metadata(data_dir)?.ino() == locked.ino()));
        if !is_there.unwrap_or(false) {
            return Err(Error::Busy { data_dir: data_dir.to_owned() });
        }
        // What was to become the manifest of one who was killed; nobody writes one now. On a file system that is read-only
        // it stays, and is in nobody's way.
        let _ = fs::remove_file(beside(&data_dir.join(NAME)));
        Ok(Self { data_dir: data_dir.to_owned(), _dir: dir })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Fails, rightly, where something lies in it.
        let _ = fs::remove_dir(&self.data_dir);
    }
}

/// Puts a file in its place by a rename: a runtime may be executing or reading the one that is there.
fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { operation, path, source }
    };
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir).map_err(failed("make the directory", dir))?;
    let new = beside(path);
    let open = || OpenOptions::new().write(true).create_new(true).mode(mode).open(&new);
    let written = match open() {
        // What another has left there may have another mode, or lead elsewhere.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fs::remove_file(&new).and_then(|()| open()),
        opened => opened,
    };
    let written = written.and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    let replaced = written.and_then(|()| fs::rename(&new, path));
    if replaced.is_err() {
        // The error to report is the other one.
        let _ = fs::remove_file(&new);
    }
    replaced.map_err(failed("write", path))
}

/// Removes a file, and what a killed command has left beside it. Absent is success.
fn remove(path: &Path) -> Result<(), Error> {
    remove_file(path)?;
    remove_file(&beside(path))
}

/// Absent is success.
fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::File { operation: "remove", path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// Where a file is written before it gets its place. Whoever writes has the turn, and takes over what another left.
fn beside(path: &Path) -> PathBuf {
    // Runtimes take no notice of what ends like this.
    path.with_file_name(format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy()))
}

fn digest(content: &[u8]) -> String {
    format!("{:x}", Sha256::digest(content))
}
