use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::error::{Error, Result};
use super::store::{NAME_MAX, Store};
use super::{files, lock};
use crate::spec::AttachmentKey;

/// The lock of one owner, held until it is dropped; created by [`Store::lock_owner`].
#[derive(Debug)]
pub struct OwnerLock {
    path: PathBuf,
    _file: File,
}

impl Store {
    /// Locks `owner`, so that no other call adds or removes its attachment. Waits for at most
    /// `timeout`.
    ///
    /// The [store's lock](Self::lock) protects a single change of the leases. An ADD or DEL makes
    /// several such changes, with interfaces and routes in between. Two calls for one attachment
    /// must not interleave, for example an ADD after its runtime's timeout and the DEL that
    /// follows. Take this lock first and hold it for the whole call.
    ///
    /// # Errors
    ///
    /// As for [`lock`](Self::lock), and [`Error::NameTooLong`] for an owner that cannot have a
    /// lease.
    pub fn lock_owner(&self, owner: &AttachmentKey, timeout: Duration) -> Result<OwnerLock> {
        let name = owner.file_name();
        if name.len() > NAME_MAX {
            return Err(Error::NameTooLong { owner: Box::new(owner.clone()), length: name.len(), limit: NAME_MAX });
        }
        files::check_ownership(&self.dir)?;
        let path = self.owners_dir().join(name);
        let start = Instant::now();
        loop {
            let file = lock::acquire(&path, timeout.saturating_sub(start.elapsed()))?;
            // The previous holder has removed the file. Other processes lock a new file at the same
            // path.
            let held = file.metadata().map_err(Error::io("examine", &path))?.ino();
            if files::stat(&path)?.is_some_and(|found| found.ino() == held) {
                return Ok(OwnerLock { path, _file: file });
            }
        }
    }
}

impl Store {
    /// The owners that are locked now: their attachments are being added or removed.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn locked_owners(&self) -> Result<Vec<AttachmentKey>> {
        let mut owners = Vec::new();
        files::visit_names(&self.owners_dir(), |name| owners.extend(AttachmentKey::from_file_name(name)))?;
        // The lock of a killed process is free. Taking it removes the file.
        let is_held = |owner: &AttachmentKey| match self.lock_owner(owner, Duration::ZERO) {
            Err(Error::LockTimeout { .. }) => Ok(true),
            free => free.map(|_| false),
        };
        owners.into_iter().filter_map(|owner| is_held(&owner).map(|held| held.then_some(owner)).transpose()).collect()
    }
}

impl Drop for OwnerLock {
    /// Removes the file while it is still locked. A file that a killed process left behind is
    /// reused.
    fn drop(&mut self) {
        let _ = files::remove(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::ipam::BootId;

    const TIMEOUT: Duration = Duration::from_millis(20);

    fn owner(id: &str) -> AttachmentKey {
        AttachmentKey { container_id: id.parse().unwrap(), ifname: "eth0".parse().unwrap() }
    }

    #[test]
    fn owners_are_locked_independently_and_no_file_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::for_boot(dir.path().join("net"), BootId::new("boot"));
        let (one, two) = (owner("one"), owner("two"));
        let held = store.lock_owner(&one, TIMEOUT).unwrap();
        assert!(matches!(store.lock_owner(&one, TIMEOUT), Err(Error::LockTimeout { .. })));
        // Asking the kernel for the holder would take too long for a caller that does not wait.
        let refused = store.lock_owner(&one, Duration::ZERO);
        assert!(matches!(refused, Err(Error::LockTimeout { holder: None, .. })), "{refused:?}");
        drop(store.lock_owner(&two, TIMEOUT).unwrap());
        std::fs::write(store.dir().join("owners").join(two.file_name()), "left by a kill").unwrap();
        assert_eq!(store.locked_owners().unwrap(), std::slice::from_ref(&one));
        drop(held);
        assert_eq!(store.locked_owners().unwrap(), []);
        drop(store.lock_owner(&one, TIMEOUT).unwrap());
        assert_eq!(std::fs::read_dir(store.dir().join("owners")).unwrap().count(), 0);
    }

    #[test]
    fn only_one_thread_at_a_time_holds_an_owner() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::for_boot(dir.path().join("net"), BootId::new("boot"));
        let inside = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _turn = store.lock_owner(&owner("one"), Duration::from_secs(30)).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
    }
}
