//! The manifest of installed files. It prevents overwriting or removal of foreign files.
//!
//! The manifest has a digest of each file. A file with another digest was changed, so it counts as
//! foreign.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use cnikit::spec::NetworkName;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::error::Error;

/// The installed files.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    #[serde(skip)]
    path: PathBuf,
    files: BTreeMap<PathBuf, Written>,
    /// The lease directories of networks that an unfinished `uninstall --purge` must still remove.
    /// Their configurations are gone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    leases: BTreeMap<NetworkName, PathBuf>,
}

/// An installed file, or one that is being written.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Written {
    /// The digest of the content, or of the target of a symbolic link.
    sha256: String,
    /// The digest of the earlier version, until the new one is in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaces: Option<String>,
    /// The network that the file configures, or `None` for a plugin.
    network: Option<NetworkName>,
}

/// The lock of an `install` or `uninstall`. Two at once would each lose the other's entries in the
/// manifest.
#[derive(Debug)]
pub(crate) struct InstallLock {
    data_dir: PathBuf,
    /// The lock is on the directory, so there is no lock file to remove.
    _dir: File,
}

/// The state of a file in relation to the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileState {
    Absent,
    /// An unchanged installed file.
    Ours,
    /// A file that `install` has not written, or that was changed since.
    Foreign,
}

/// The file name of the manifest in the state directory.
const NAME: &str = "installed.json";

impl Manifest {
    /// Reads the manifest in a state directory. Without a file it is empty.
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

    /// The manifest's file. It exists while the manifest has entries.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The files, with the networks that they configure.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&Path, Option<&NetworkName>)> {
        self.files.iter().map(|(path, written)| (path.as_path(), written.network.as_ref()))
    }

    /// The directories of [`remember_leases`](Self::remember_leases).
    pub(crate) fn leases(&self) -> &BTreeMap<NetworkName, PathBuf> {
        &self.leases
    }

    /// Stores the lease directory of a network before its configuration is removed.
    pub(crate) fn remember_leases(&mut self, network: &NetworkName, data_dir: &Path) -> Result<(), Error> {
        self.leases.insert(network.clone(), data_dir.to_owned());
        self.save()
    }

    /// Removes the entry of [`remember_leases`](Self::remember_leases).
    pub(crate) fn forget_leases(&mut self, network: &NetworkName) -> Result<(), Error> {
        if self.leases.remove(network).is_some() { self.save() } else { Ok(()) }
    }

    /// The state of a file or symbolic link.
    pub(crate) fn state(&self, path: &Path) -> Result<FileState, Error> {
        let ours = self.files.get(path);
        let target = fs::read_link(path).ok();
        if target.as_ref().is_some_and(|target| ours.is_some_and(|ours| ours.has_digest(&link_digest(target)))) {
            return Ok(FileState::Ours);
        }
        match fs::read(path) {
            // A link of another program may lead nowhere.
            Err(error) if error.kind() == io::ErrorKind::NotFound && target.is_none() => Ok(FileState::Absent),
            // So may a link to itself.
            Err(_) if target.is_some() => Ok(FileState::Foreign),
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => Ok(FileState::Foreign),
            Err(source) => Err(Error::File { operation: "read", path: path.to_owned(), source }),
            Ok(content) if ours.is_some_and(|ours| ours.has_digest(&digest(&content))) => Ok(FileState::Ours),
            Ok(_) => Ok(FileState::Foreign),
        }
    }

    /// Writes a file atomically, and adds it to the manifest.
    ///
    /// The entry is saved first: a file that a killed command has renamed into place must not count
    /// as foreign. If the rename did not happen, the digest of the existing file shows it.
    pub(crate) fn write(
        &mut self,
        path: &Path,
        content: &[u8],
        mode: u32,
        network: Option<&NetworkName>,
    ) -> Result<(), Error> {
        let before = self.files.get(path).cloned();
        let replaces = match self.state(path)? {
            FileState::Ours => fs::read(path).ok().map(|existing| digest(&existing)),
            FileState::Absent | FileState::Foreign => None,
        };
        let written = Written { sha256: digest(content), replaces, network: network.cloned() };
        self.files.insert(path.to_owned(), written.clone());
        self.save()?;
        let replaced = replace(path, content, mode);
        let entry = match (&replaced, before) {
            (Ok(()), _) => Some(Written { replaces: None, ..written }),
            (Err(_), before) => before,
        };
        match entry {
            Some(entry) => self.files.insert(path.to_owned(), entry),
            None => self.files.remove(path),
        };
        replaced.and(self.save())
    }

    /// Creates a symbolic link, and adds it to the manifest, in the order of [`write`](Self::write).
    /// Replaces nothing: only an equal link may exist.
    pub(crate) fn link(&mut self, path: &Path, target: &Path) -> Result<(), Error> {
        let written = Written { sha256: link_digest(target), replaces: None, network: None };
        let before = self.files.insert(path.to_owned(), written);
        self.save()?;
        let Err(source) = symlink(target, path) else { return Ok(()) };
        if fs::read_link(path).is_ok_and(|existing| existing == target) {
            return Ok(());
        }
        match before {
            Some(entry) => self.files.insert(path.to_owned(), entry),
            None => self.files.remove(path),
        };
        // The first error is reported.
        let _ = self.save();
        Err(Error::File { operation: "create", path: path.to_owned(), source })
    }

    /// Removes the entry of a file, and keeps the file.
    pub(crate) fn forget(&mut self, path: &Path) -> Result<(), Error> {
        if self.files.remove(path).is_some() { self.save() } else { Ok(()) }
    }

    /// Removes a file and its entry. An absent file is not an error.
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
    fn has_digest(&self, sha256: &str) -> bool {
        self.sha256 == sha256 || self.replaces.as_deref() == Some(sha256)
    }
}

impl InstallLock {
    /// Takes the lock without waiting. Creates the directory if it does not exist.
    pub(crate) fn acquire(data_dir: &Path) -> Result<Self, Error> {
        let failed = |operation| move |source| Error::File { operation, path: data_dir.to_owned(), source };
        // The directory gets leases. The plugin refuses one that other users can change.
        let created = DirBuilder::new().recursive(true).mode(0o755).create(data_dir);
        created.map_err(failed("create the directory"))?;
        let dir = File::open(data_dir).map_err(failed("open"))?;
        match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => return Err(Error::Busy { data_dir: data_dir.to_owned() }),
            locked => locked.map_err(io::Error::from).map_err(failed("lock"))?,
        }
        // The previous holder of the lock may have removed the directory.
        let exists = dir.metadata().and_then(|locked| Ok(fs::metadata(data_dir)?.ino() == locked.ino()));
        if !exists.unwrap_or(false) {
            return Err(Error::Busy { data_dir: data_dir.to_owned() });
        }
        // The temporary manifest of a killed command. On a read-only file system it stays, without
        // effect.
        let _ = fs::remove_file(temporary(&data_dir.join(NAME)));
        Ok(Self { data_dir: data_dir.to_owned(), _dir: dir })
    }
}

impl Drop for InstallLock {
    fn drop(&mut self) {
        // The removal fails if the directory is not empty, as intended.
        let _ = fs::remove_dir(&self.data_dir);
    }
}

/// Writes a file under a temporary name and renames it, because a runtime may be executing or
/// reading the existing file.
fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    let failed = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { operation, path, source }
    };
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir).map_err(failed("create the directory", dir))?;
    let new = temporary(path);
    let open = || OpenOptions::new().write(true).create_new(true).mode(mode).open(&new);
    let written = match open() {
        // A leftover may have another mode, or be a symbolic link.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => fs::remove_file(&new).and_then(|()| open()),
        opened => opened,
    };
    let written = written.and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    let replaced = written.and_then(|()| fs::rename(&new, path));
    if replaced.is_err() {
        // The first error is reported.
        let _ = fs::remove_file(&new);
    }
    replaced.map_err(failed("write", path))
}

/// Removes a file, and the temporary file of a killed command. Absent files are no error.
fn remove(path: &Path) -> Result<(), Error> {
    remove_file(path)?;
    remove_file(&temporary(path))
}

/// An absent file is not an error.
fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::File { operation: "remove", path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// The temporary name of a file. Only the holder of the install lock writes it.
fn temporary(path: &Path) -> PathBuf {
    // Runtimes ignore this suffix.
    path.with_file_name(format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy()))
}

/// The digest of a symbolic link. The prefix keeps it apart from the digest of a file.
fn link_digest(target: &Path) -> String {
    digest(&[b"symbolic link to ", target.as_os_str().as_bytes()].concat())
}

fn digest(content: &[u8]) -> String {
    format!("{:x}", Sha256::digest(content))
}
