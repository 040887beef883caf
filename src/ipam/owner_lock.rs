use std::fs::File;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::error::{Error, Result};
use super::lease::Owner;
use super::lock;
use super::store::{NAME_MAX, Store};

/// The lock of one owner, held until it is dropped; made by [`Store::lock_owner`].
#[derive(Debug)]
pub struct OwnerLock {
    _file: File,
}

impl Store {
    /// Keeps all else that would make or remove `owner`'s attachment waiting, for at most `timeout`.
    ///
    /// The [store's lock](Self::lock) guards the leases for the moment of a change. Making or removing an attachment
    /// takes several such moments, with links and more in between: two calls for one attachment, such as an ADD whose
    /// runtime has given it up and the DEL that follows, must not take turns at them. Take this lock first and hold it
    /// for the whole of the call. Owners share a fixed number of lock files, so two may have to wait for each other.
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock), and [`Error::NameTooLong`] for an owner that can have no lease.
    pub fn lock_owner(&self, owner: &Owner, timeout: Duration) -> Result<OwnerLock> {
        let name = owner.file_name();
        if name.len() > NAME_MAX {
            return Err(Error::NameTooLong { owner: Box::new(owner.clone()), length: name.len(), limit: NAME_MAX });
        }
        // A file for each owner would have to be removed, and could be when another call waits for it.
        let stripe = format!("{:02x}", Sha256::digest(name)[0]);
        let file = lock::acquire(&self.dir.join("owners").join(stripe), timeout)?;
        Ok(OwnerLock { _file: file })
    }
}
