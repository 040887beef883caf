use std::collections::BTreeMap;
use std::fs::{Metadata, ReadDir};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::Error as _;

use super::error::{Error, Result};
use super::guard::StoreGuard;
use super::hints::AllocationHints;
use super::lease::{BootId, Lease, Owner};
use super::pool::Pool;
use super::usage::Usage;
use super::{files, lock};
use crate::spec::NetworkName;

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

/// Leases of a store, in no order; made by [`Store::leases`] and [`Store::leases_of_all_boots`].
///
/// A file that cannot be read is one [`Error`], after which the others follow.
#[derive(Debug)]
pub struct Leases {
    store: Store,
    entries: Option<ReadDir>,
    of_all_boots: bool,
}

/// The time limit for [`Store::lock`] where there is no reason for another: far more than all that a busy node has to
/// do in the order of its turn, and less than what runtimes wait for a plugin.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

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

    /// The stores in `data_dir` in which [something was written](Self::is_written), in the order of their names. A directory
    /// that does not exist has none.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the directory cannot be listed, or the running boot not be told.
    pub fn open_all(data_dir: &Path) -> Result<BTreeMap<NetworkName, Self>> {
        let boot_id = BootId::current()?;
        let mut stores = BTreeMap::new();
        for entry in files::list(data_dir)?.into_iter().flatten() {
            let path = entry.map_err(Error::io("list", data_dir))?.path();
            // What is called otherwise than a network can be is not the store of one.
            let Some(name) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
            let store = Self::for_boot(path, boot_id.clone());
            // Nor is what others keep in the same place.
            if store.is_written()? {
                stores.insert(name, store);
            }
        }
        Ok(stores)
    }

    /// The boot that the leases have to be of.
    pub fn boot_id(&self) -> &BootId {
        &self.boot_id
    }

    /// Whether there is a directory: where there is none, nothing was ever written.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when that cannot be told.
    pub fn exists(&self) -> Result<bool> {
        self.dir.try_exists().map_err(Error::io("look for", &self.dir))
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
    /// [`Error::Shared`] and [`Error::Linked`] when somebody else could change the directory; [`Error::Io`] when it cannot be made or changed.
    pub fn lock(&self, timeout: Duration) -> Result<StoreGuard<'_>> {
        files::check_ownership(&self.dir)?;
        StoreGuard::new(self, lock::acquire(&self.lock_path(), timeout)?)
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
        let Some((lease, file)) = parse(&self.address_path(address))? else {
            return Ok(None);
        };
        // Without an owner's file the link belongs to a change that is not committed.
        let committed = match self.owner_path(&lease.owner) {
            Some(path) => files::stat(&path)?.is_some_and(|found| found.ino() == file.ino()),
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
        Ok(Leases { store: self.clone(), entries: files::list(&self.leases_dir())?, of_all_boots: false })
    }

    /// All leases, and those of earlier boots that nobody has taken the lock since to remove: for people to look at.
    ///
    /// # Errors
    ///
    /// As [`leases`](Self::leases).
    pub fn leases_of_all_boots(&self) -> Result<Leases> {
        Ok(Leases { of_all_boots: true, ..self.leases()? })
    }

    /// How full each range of a pool is, in their order. The time grows with the leases held, but none of them is read.
    /// What a killed process had taken counts until the lock is next taken.
    ///
    /// ```
    /// # use cnikit::ipam::{Pool, Range, Store, Usage};
    /// # let dir = tempfile::tempdir()?;
    /// # let store = Store::open(dir.path())?;
    /// let pool: Pool = serde_json::from_str(r#"[{"subnet": "10.0.0.0/24"}, {"subnet": "10.7.0.0/24"}]"#)?;
    /// let whole: Usage = store.usage(&pool)?.into_iter().sum();
    /// assert_eq!((whole.used, whole.free(), whole.total), (0, 506, 506));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the directory cannot be listed.
    pub fn usage(&self, pool: &Pool) -> Result<Vec<Usage>> {
        let mut usage = Usage::none_of(pool);
        if self.is_of_this_boot() {
            self.visit_addresses(|address| Usage::count(&mut usage, pool, address))?;
        }
        Ok(usage)
    }

    /// The damaged files that were set aside; they stay until somebody removes them.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the directory cannot be listed.
    pub fn damaged(&self) -> Result<Vec<PathBuf>> {
        let dir = self.damaged_dir();
        let mut files = Vec::new();
        files::visit_names(&dir, |name| {
            if name != "." && name != ".." {
                files.push(dir.join(name));
            }
        })?;
        Ok(files)
    }

    /// Shows `visit` every address that has a file.
    pub(super) fn visit_addresses(&self, mut visit: impl FnMut(IpAddr)) -> Result<()> {
        files::visit_names(&self.addresses_dir(), |name| {
            if let Ok(address) = name.parse() {
                visit(address);
            }
        })
    }

    /// Whether the directory's leases are of the boot of this store.
    fn is_of_this_boot(&self) -> bool {
        // A mark that cannot be read is no mark: at worst, the leases are looked through once more.
        let mark = files::read(&self.lock_path());
        mark.is_ok_and(|mark| mark.is_some_and(|(text, _)| self.hints_of_this_boot(&text).is_some()))
    }

    /// The hints in the text of the lock file; nothing where it is not marked with the boot of this store.
    pub(super) fn hints_of_this_boot(&self, text: &[u8]) -> Option<AllocationHints> {
        text.strip_prefix(self.boot_id.as_str().as_bytes())?.strip_prefix(b"\n").map(AllocationHints::parse)
    }

    /// The lease in the file of an owner, of whichever boot it is.
    pub(super) fn read(&self, path: &Path) -> Result<Option<Lease>> {
        Ok(self.read_file(path)?.map(|(lease, _)| lease))
    }

    /// The same, and what the kernel knows of the file.
    pub(super) fn read_file(&self, path: &Path) -> Result<Option<(Lease, Metadata)>> {
        let Some((lease, file)) = parse(path)? else {
            return Ok(None);
        };
        if path.file_name() != Some(lease.owner.file_name().as_ref()) {
            let source = serde_json::Error::custom(format!("it is the lease of {}", lease.owner));
            return Err(Error::corrupt(path)(source));
        }
        Ok(Some((lease, file)))
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

    pub(super) fn owners_dir(&self) -> PathBuf {
        self.dir.join("owners")
    }

    pub(super) fn damaged_dir(&self) -> PathBuf {
        self.dir.join("damaged")
    }

    pub(super) fn pending_path(&self) -> PathBuf {
        self.dir.join("pending")
    }

    /// The lock, which also holds the boot that the leases belong to, and the hints: it is open in any case.
    pub(super) fn lock_path(&self) -> PathBuf {
        self.dir.join("lock")
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
                Ok(Some(lease)) if self.of_all_boots || lease.boot_id == self.store.boot_id => return Some(Ok(lease)),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The lease in a file and what the kernel knows of the file, both of the same moment.
pub(super) fn parse(path: &Path) -> Result<Option<(Lease, Metadata)>> {
    let Some((text, file)) = files::read(path)? else {
        return Ok(None);
    };
    let lease = serde_json::from_slice(&text).map_err(Error::corrupt(path))?;
    Ok(Some((lease, file)))
}
