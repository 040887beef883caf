//! Taking a store away.

use std::fs;
use std::io::{ErrorKind, Result as IoResult};
use std::path::Path;

use super::error::{Error, Result};
use super::files;
use super::store::Store;

impl Store {
    /// Whether the directory is that of a store in which something was written. One that holds other things, such as
    /// another plugin's leases, is not.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when that cannot be told.
    pub fn is_written(&self) -> Result<bool> {
        for dir in [self.leases_dir(), self.owners_dir()] {
            match fs::symlink_metadata(&dir) {
                Ok(found) if found.is_dir() => return Ok(true),
                Err(error) if ![ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => {
                    return Err(Error::io("look at", &dir)(error));
                }
                _ => {}
            }
        }
        Ok(false)
    }

    /// Removes the store with its leases, and nothing that is not its own. Absent is success, and so is a directory that is
    /// [not a store's](Self::is_written).
    ///
    /// No call may be under way that uses it.
    ///
    /// ```
    /// use cnikit::ipam::{LOCK_TIMEOUT, Store};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let store = Store::open(dir.path().join("podnet"))?;
    /// drop(store.lock_owner(&cnikit::ipam::Owner { container_id: "c1".parse()?, ifname: "eth0".parse()? }, LOCK_TIMEOUT)?);
    /// store.remove()?;
    /// assert!(!store.exists()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Io`] for what could not be removed: `ENOTEMPTY` where somebody else has put something into the directory. All
    /// else is gone then.
    pub fn remove(&self) -> Result<()> {
        if !self.is_written()? {
            return Ok(());
        }
        // What tells a store goes last, so that a removal that is cut short can be repeated.
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
