//! Removes a store.

use std::fs;
use std::io::{ErrorKind, Result as IoResult};
use std::path::Path;

use super::error::{Error, Result};
use super::files;
use super::store::Store;

impl Store {
    /// Whether the directory is a store with written data. A directory with other content, such as
    /// another plugin's leases, is not.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the directory cannot be examined.
    pub fn is_written(&self) -> Result<bool> {
        for dir in [self.leases_dir(), self.owners_dir()] {
            match fs::symlink_metadata(&dir) {
                Ok(found) if found.is_dir() => return Ok(true),
                Err(error) if ![ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => {
                    return Err(Error::io("examine", &dir)(error));
                }
                _ => {}
            }
        }
        Ok(false)
    }

    /// Removes the store with its leases, and no other files. Success if the directory is absent or
    /// is [not a store](Self::is_written).
    ///
    /// No call that uses the store may be in progress.
    ///
    /// ```
    /// use cnikit::ipam::{LOCK_TIMEOUT, Store};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let store = Store::open(dir.path().join("podnet"))?;
    /// drop(store.lock_owner(&cnikit::spec::AttachmentKey::new("c1".parse()?, "eth0".parse()?), LOCK_TIMEOUT)?);
    /// store.remove()?;
    /// assert!(!store.exists()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Io`] for a file that could not be removed. `ENOTEMPTY` means that the directory
    /// contains a file that is not part of the store. Everything else is removed then.
    pub fn remove(&self) -> Result<()> {
        if !self.is_written()? {
            return Ok(());
        }
        // The directory that identifies a store is removed last, so that an interrupted removal can
        // be repeated.
        for dir in [self.damaged_dir(), self.addresses_dir(), self.leases_dir(), self.owners_dir()] {
            for entry in files::list(&dir)?.into_iter().flatten() {
                files::remove(&entry.map_err(Error::io("list", &dir))?.path())?;
            }
            if dir == self.owners_dir() {
                files::remove(&self.pending_path())?;
                files::remove(&self.lock_path())?;
            }
            remove_dir(&dir)?;
        }
        remove_dir(&self.dir)
    }
}

fn remove_dir(dir: &Path) -> Result<()> {
    absent_or(fs::remove_dir(dir)).map_err(Error::io("remove", dir))
}

fn absent_or(removed: IoResult<()>) -> IoResult<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
