//! A look at whether a lease could be written, for who is asked before there is one to write.

use std::io;
use std::path::Path;

use rustix::fs::{Access, StatVfs, access, statvfs};
use rustix::io::Errno;

use super::error::{Error, Result};
use super::store::Store;
use super::{files, lock};

impl Store {
    /// Whether a lease could be expected to be written: nobody else could change the directory, and it can be written, or
    /// made, on a file system with room. Changes nothing, and takes no lock.
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
    /// Those that [`lock`](Self::lock) would end with, but for [`Error::LockTimeout`]: [`Error::Shared`] and
    /// [`Error::Linked`] when somebody else could change the directory, [`Error::Io`] when it cannot be made or changed.
    pub fn probe(&self) -> Result<()> {
        files::check_ownership(&self.dir)?;
        for dir in [self.leases_dir(), self.addresses_dir(), self.owners_dir()] {
            // What is missing is made in what is there.
            if let Some(dir) = dir.ancestors().find(|dir| dir.symlink_metadata().is_ok()) {
                refuse_unwritable(dir).map_err(Error::io("write in", dir))?;
            }
        }
        lock::refuse_unusable(&self.lock_path())
    }
}

fn refuse_unwritable(dir: &Path) -> io::Result<()> {
    if !dir.metadata()?.is_dir() {
        return Err(Errno::NOTDIR.into());
    }
    access(dir, Access::WRITE_OK | Access::EXEC_OK)?;
    if has_room(&statvfs(dir)?) { Ok(()) } else { Err(Errno::NOSPC.into()) }
}

/// Whether a file could be made. Some file systems do not count files, or blocks, and say that they have none.
fn has_room(found: &StatVfs) -> bool {
    // What is kept for root is for runtimes, too.
    (found.f_blocks == 0 || found.f_bfree > 0) && (found.f_files == 0 || found.f_ffree > 0)
}
