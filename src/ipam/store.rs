use std::fs::{self, ReadDir};
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::Error as _;

use super::error::{Error, Result};
use super::lease::{BootId, Lease, Owner};
use super::locked::Locked;
use super::range::Range;
use super::{files, lock};

/// The longest name of a file, on every file system that has hard links.
pub(super) const NAME_MAX: usize = 255;

/// The leases of one network, in a directory of their own.
///
/// What is here reads, and takes no lock: a lease appears and disappears by a single rename, so a reader sees all of
/// it or nothing. What is read may have changed by the time it is used; who decides on it holds the [lock](Self::lock),
/// through which everything here can be called too. Leases of an earlier boot are not there for a reader.
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) dir: PathBuf,
    pub(super) boot_id: BootId,
}

/// All leases of a store, in no order; made by [`Store::leases`].
///
/// A file that cannot be read is one [`Error`], after which the others follow.
#[derive(Debug)]
pub struct Leases {
    store: Store,
    entries: Option<ReadDir>,
}

/// How full a range is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// How many of its addresses are taken.
    pub used: u128,
    /// How many addresses it has.
    pub total: u128,
}

impl Store {
    /// The store in `dir`, for the boot that is running. Nothing is made until something is written.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the running boot cannot be told.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        Ok(Self::for_boot(dir, BootId::current()?))
    }

    /// The store in `dir`, for a boot that the caller names.
    pub fn for_boot(dir: impl Into<PathBuf>, boot_id: BootId) -> Self {
        Self { dir: dir.into(), boot_id }
    }

    /// The directory that holds the leases.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Takes the lock that changes need, waiting for it at most `timeout`; dropping the result gives it back.
    ///
    /// Before it returns, a change that a killed process left behind is undone, and on the first call after a boot the
    /// leases of earlier boots are removed. Locking twice in one thread waits for itself, until the timeout.
    ///
    /// # Errors
    ///
    /// [`Error::LockTimeout`], which is [`TRY_AGAIN`](crate::spec::ErrorCode::TRY_AGAIN) to a runtime;
    /// [`Error::Io`] when the directory cannot be made or changed.
    pub fn lock(&self, timeout: Duration) -> Result<Locked<'_>> {
        Locked::new(self, lock::acquire(&self.dir.join("lock"), timeout)?)
    }

    /// The lease of `owner`, if it has one.
    ///
    /// # Errors
    ///
    /// [`Error::CorruptLease`], [`Error::Io`].
    pub fn lease(&self, owner: &Owner) -> Result<Option<Lease>> {
        let lease = self.owner_path(owner).map_or(Ok(None), |path| self.read(&path))?;
        Ok(lease.filter(|lease| lease.boot_id == self.boot_id))
    }

    /// The lease that holds `address`, if one does.
    ///
    /// # Errors
    ///
    /// [`Error::CorruptLease`], [`Error::Io`].
    pub fn lease_at(&self, address: IpAddr) -> Result<Option<Lease>> {
        let Some((lease, inode)) = parse(&self.address_path(address))? else {
            return Ok(None);
        };
        // Without an owner's file the link belongs to a change that is not committed.
        let committed = match self.owner_path(&lease.owner) {
            Some(path) => files::stat(&path)?.is_some_and(|file| file.ino() == inode),
            None => false,
        };
        Ok((committed && lease.boot_id == self.boot_id).then_some(lease))
    }

    /// All leases. Those that come or go during the iteration may or may not be seen.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the directory cannot be listed.
    pub fn leases(&self) -> Result<Leases> {
        Ok(Leases { store: self.clone(), entries: files::list(&self.leases_dir())? })
    }

    /// How many addresses of `range` are taken. The time grows with the leases held, but none of them is read. What a
    /// killed process had taken counts until the lock is next taken.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the directory cannot be listed.
    pub fn usage(&self, range: &Range) -> Result<Usage> {
        let mut used = 0;
        if self.is_of_this_boot() {
            let dir = self.addresses_dir();
            for entry in files::list(&dir)?.into_iter().flatten() {
                let name = entry.map_err(Error::io("list", &dir))?.file_name();
                let address = name.to_str().and_then(|name| name.parse().ok());
                used += u128::from(address.is_some_and(|address| range.contains(address)));
            }
        }
        Ok(Usage { used, total: range.capacity() })
    }

    /// Whether the directory's leases are of the boot of this store.
    pub(super) fn is_of_this_boot(&self) -> bool {
        // A mark that cannot be read is no mark: at worst, the leases are looked through once more.
        fs::read(self.boot_id_path()).is_ok_and(|mark| mark == self.boot_id.as_str().as_bytes())
    }

    /// The lease in the file of an owner, of whichever boot it is.
    pub(super) fn read(&self, path: &Path) -> Result<Option<Lease>> {
        let Some((lease, _)) = parse(path)? else {
            return Ok(None);
        };
        if path.file_name() != Some(lease.owner.file_name().as_ref()) {
            let source = serde_json::Error::custom(format!("it is the lease of {}", lease.owner));
            return Err(Error::CorruptLease { path: path.to_owned(), source });
        }
        Ok(Some(lease))
    }

    /// Where the lease of `owner` is; nowhere when no file can have such a name.
    pub(super) fn owner_path(&self, owner: &Owner) -> Option<PathBuf> {
        let name = owner.file_name();
        (name.len() <= NAME_MAX).then(|| self.leases_dir().join(name))
    }

    pub(super) fn address_path(&self, address: IpAddr) -> PathBuf {
        self.addresses_dir().join(address.to_string())
    }

    pub(super) fn leases_dir(&self) -> PathBuf {
        self.dir.join("leases")
    }

    pub(super) fn addresses_dir(&self) -> PathBuf {
        self.dir.join("addresses")
    }

    pub(super) fn pending_path(&self) -> PathBuf {
        self.dir.join("pending")
    }

    pub(super) fn last_path(&self) -> PathBuf {
        self.dir.join("last")
    }

    pub(super) fn boot_id_path(&self) -> PathBuf {
        self.dir.join("boot_id")
    }
}

impl Iterator for Leases {
    type Item = Result<Lease>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let entry = self.entries.as_mut()?.next()?;
            let lease = entry
                .map_err(Error::io("list", &self.store.leases_dir()))
                .and_then(|entry| self.store.read(&entry.path()));
            match lease {
                Ok(Some(lease)) if lease.boot_id == self.store.boot_id => return Some(Ok(lease)),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The lease in a file and the file's inode, both of the same moment.
pub(super) fn parse(path: &Path) -> Result<Option<(Lease, u64)>> {
    let Some(mut file) = files::open(path)? else {
        return Ok(None);
    };
    let inode = file.metadata().map_err(Error::io("look at", path))?.ino();
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(Error::io("read", path))?;
    let corrupt = |source| Error::CorruptLease { path: path.to_owned(), source };
    let lease = serde_json::from_slice(&text).map_err(corrupt)?;
    Ok(Some((lease, inode)))
}
