//! Checks in advance whether a lease can be written.

use std::io;
use std::path::Path;

use rustix::fs::{Access, StatVfs, access, statvfs};
use rustix::io::Errno;

use super::error::{Error, Result};
use super::store::Store;
use super::{files, lock};

impl Store {
    /// Checks whether a lease could be written. No other user may be able to change the directory.
    /// It must be writable, or possible to create, on a file system with free space. Changes
    /// nothing and takes no lock.
    ///
    /// ```
    /// use cnikit::ipam::{Error, Store};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let store = Store::open(dir.path().join("podnet"))?;
    /// store.probe()?;
    /// assert!(!store.exists()?);
    ///
    /// std::fs::write(store.dir(), "in the way")?;
    /// assert!(matches!(store.probe(), Err(Error::Io { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`lock`](Self::lock), except [`Error::LockTimeout`]. [`Error::Shared`] and
    /// [`Error::Linked`] mean that another user could change the directory. [`Error::Io`] means
    /// that it cannot be created or changed.
    pub fn probe(&self) -> Result<()> {
        files::check_ownership(&self.dir)?;
        for dir in [self.leases_dir(), self.addresses_dir(), self.owners_dir()] {
            // A missing directory is created in its closest existing ancestor.
            if let Some(dir) = dir.ancestors().find(|dir| dir.symlink_metadata().is_ok()) {
                check_writable(dir).map_err(Error::io("write in", dir))?;
            }
        }
        lock::check_usable(&self.lock_path())
    }
}

fn check_writable(dir: &Path) -> io::Result<()> {
    if !dir.metadata()?.is_dir() {
        return Err(Errno::NOTDIR.into());
    }
    access(dir, Access::WRITE_OK | Access::EXEC_OK)?;
    if has_room(&statvfs(dir)?) { Ok(()) } else { Err(Errno::NOSPC.into()) }
}

/// Whether a file could be created. Some file systems do not count inodes or blocks and report
/// zero.
fn has_room(found: &StatVfs) -> bool {
    // Blocks that are reserved for root count as free, because runtimes run as root.
    (found.f_blocks == 0 || found.f_bfree > 0) && (found.f_files == 0 || found.f_ffree > 0)
}
