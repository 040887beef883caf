use std::collections::BTreeMap;
use std::fs::{Metadata, ReadDir};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::Error as _;

use super::error::{Error, Result};
use super::files;
use super::hints::AllocationHints;
use super::lease::{BootId, Lease};
use super::pool::Pool;
use super::usage::Usage;
use crate::spec::{AttachmentKey, NetworkName};

/// Maximum length of a file name, on every file system with hard links.
pub(super) const NAME_MAX: usize = 255;

/// The leases of one network, in one directory.
///
/// The methods of this type only read and take no lock. A lease appears and disappears by a single
/// rename, so a reader sees either the whole lease or none. The data may change after the read. A
/// caller that decides on it must hold the [lock](Self::lock); the guard has all methods of this
/// type. Reads ignore the leases of earlier boots.
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) dir: PathBuf,
    pub(super) boot_id: BootId,
}

/// The leases of a store, in no particular order; created by [`Store::leases`] and
/// [`Store::leases_of_all_boots`].
///
/// An unreadable file yields one [`Error`]. The iteration continues after it.
#[derive(Debug)]
pub struct Leases {
    store: Store,
    entries: Option<ReadDir>,
    all_boots: bool,
}

/// The default timeout for [`Store::lock`]. It is far longer than all queued changes of a busy
/// node, and shorter than the timeout of a runtime for a plugin.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

impl Store {
    /// The store in `dir`, for the running boot. Nothing is created until the first change.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the boot id cannot be read.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        Ok(Self::for_boot(dir, BootId::current()?))
    }

    /// The store in `dir`, for a given boot.
    pub fn for_boot(dir: impl Into<PathBuf>, boot_id: BootId) -> Self {
        Self { dir: dir.into(), boot_id }
    }

    /// The stores in `data_dir` with [written data](Self::is_written), ordered by name. Empty if
    /// the directory does not exist.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the directory cannot be listed or the boot id cannot be read.
    pub fn open_all(data_dir: &Path) -> Result<BTreeMap<NetworkName, Self>> {
        let boot_id = BootId::current()?;
        let mut stores = BTreeMap::new();
        for entry in files::list(data_dir)?.into_iter().flatten() {
            let path = entry.map_err(Error::io("list", data_dir))?.path();
            // A store directory has a valid network name.
            let Some(name) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
            let store = Self::for_boot(path, boot_id.clone());
            // Other programs may keep directories in the same place.
            if store.is_written()? {
                stores.insert(name, store);
            }
        }
        Ok(stores)
    }

    /// The boot of valid leases.
    #[must_use]
    pub fn boot_id(&self) -> &BootId {
        &self.boot_id
    }

    /// Whether the directory exists. If it does not, nothing was ever written.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the directory cannot be examined.
    pub fn exists(&self) -> Result<bool> {
        self.dir.try_exists().map_err(Error::io("examine", &self.dir))
    }

    /// The directory of the store.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The lease of `owner`, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::CorruptLease`], [`Error::Io`].
    pub fn lease(&self, owner: &AttachmentKey) -> Result<Option<Lease>> {
        let lease = self.owner_path(owner).map_or(Ok(None), |path| self.read(&path))?;
        Ok(lease.filter(|lease| lease.boot_id == self.boot_id))
    }

    /// The lease that holds `address`, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::CorruptLease`], [`Error::Io`].
    pub fn lease_at(&self, address: IpAddr) -> Result<Option<Lease>> {
        let Some((lease, file)) = parse(&self.address_path(address))? else {
            return Ok(None);
        };
        // Without the owner's file, the link belongs to an uncommitted change.
        let committed = match self.owner_path(&lease.owner) {
            Some(path) => files::stat(&path)?.is_some_and(|found| found.ino() == file.ino()),
            None => false,
        };
        Ok((committed && lease.boot_id == self.boot_id).then_some(lease))
    }

    /// All leases. A lease that is added or removed during the iteration may or may not be
    /// included.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the directory cannot be listed.
    pub fn leases(&self) -> Result<Leases> {
        Ok(Leases { store: self.clone(), entries: files::list(&self.leases_dir())?, all_boots: false })
    }

    /// All leases, including leases of earlier boots that no lock holder has removed yet. For
    /// diagnosis.
    ///
    /// # Errors
    ///
    /// As for [`leases`](Self::leases).
    pub fn leases_of_all_boots(&self) -> Result<Leases> {
        Ok(Leases { all_boots: true, ..self.leases()? })
    }

    /// The usage of each range of a pool, in the order of the ranges. The duration grows with the
    /// number of leases, but no lease is read. The count includes addresses of a killed process
    /// until the next lock.
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
    /// [`Error::Io`] if the directory cannot be listed.
    pub fn usage(&self, pool: &Pool) -> Result<Vec<Usage>> {
        let mut usage = Usage::empty(pool);
        if self.is_of_this_boot() {
            self.visit_addresses(|address| Usage::count(&mut usage, pool, address))?;
        }
        Ok(usage)
    }

    /// Checks that each pool has a free address, for `STATUS`. Takes no lock.
    ///
    /// ```
    /// use cnikit::ipam::{Error, Pool, Store};
    /// use cnikit::spec::AttachmentKey;
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let store = Store::open(dir.path())?;
    /// let pool: Pool = serde_json::from_str(r#"[{"subnet": "10.0.0.0/30"}]"#)?;
    /// store.require_free(&[pool.clone()])?;
    ///
    /// let owner = AttachmentKey::new("4fe2c9".parse()?, "eth0".parse()?);
    /// store.lock(std::time::Duration::from_secs(5))?.allocate(&owner, &[pool.clone()], &[])?;
    /// assert!(matches!(store.require_free(&[pool]), Err(Error::PoolExhausted { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::PoolExhausted`]. Its code belongs to `ADD`: `STATUS` reports
    /// [`LIMITED_CONNECTIVITY`](crate::spec::ErrorCode::LIMITED_CONNECTIVITY) or
    /// [`PLUGIN_NOT_AVAILABLE`](crate::spec::ErrorCode::PLUGIN_NOT_AVAILABLE). [`Error::Io`] as for
    /// [`usage`](Self::usage).
    pub fn require_free(&self, pools: &[Pool]) -> Result<()> {
        for pool in pools {
            if self.usage(pool)?.into_iter().all(|range| range.free() == 0) {
                return Err(Error::PoolExhausted { pool: pool.clone().into() });
            }
        }
        Ok(())
    }

    /// The damaged files in quarantine. They stay until an operator removes them.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the directory cannot be listed.
    pub fn damaged(&self) -> Result<Vec<PathBuf>> {
        let dir = self.damaged_dir();
        let mut files = Vec::new();
        files::visit_names(&dir, |name| {
            files.push(dir.join(name));
        })?;
        Ok(files)
    }

    /// Passes every address that has a file to `visit`.
    pub(super) fn visit_addresses(&self, mut visit: impl FnMut(IpAddr)) -> Result<()> {
        files::visit_names(&self.addresses_dir(), |name| {
            if let Ok(address) = name.parse() {
                visit(address);
            }
        })
    }

    /// Whether the directory is marked with the boot of this store.
    fn is_of_this_boot(&self) -> bool {
        // An unreadable mark counts as no mark. At worst, the next lock scans the leases once more.
        let mark = files::read(&self.lock_path());
        mark.is_ok_and(|mark| mark.is_some_and(|(text, _)| self.hints_of_this_boot(&text).is_some()))
    }

    /// The hints in the text of the lock file; `None` if it does not have the boot id of this
    /// store.
    pub(super) fn hints_of_this_boot(&self, text: &[u8]) -> Option<AllocationHints> {
        text.strip_prefix(self.boot_id.as_str().as_bytes())?.strip_prefix(b"\n").map(AllocationHints::parse)
    }

    /// The lease in the file of an owner, from any boot.
    pub(super) fn read(&self, path: &Path) -> Result<Option<Lease>> {
        Ok(self.read_file(path)?.map(|(lease, _)| lease))
    }

    /// Like [`read`](Self::read), with the metadata of the file.
    pub(super) fn read_file(&self, path: &Path) -> Result<Option<(Lease, Metadata)>> {
        let Some((lease, file)) = parse(path)? else {
            return Ok(None);
        };
        if path.file_name() != Some(lease.owner.file_name().as_ref()) {
            let source = serde_json::Error::custom(format!("it is the lease of {}", lease.owner.described()));
            return Err(Error::corrupt(path)(source));
        }
        Ok(Some((lease, file)))
    }

    /// The path of the lease of `owner`; `None` if the file name would be too long.
    pub(super) fn owner_path(&self, owner: &AttachmentKey) -> Option<PathBuf> {
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

    /// The lock file. It also contains the boot id of the leases and the hints, because it is open
    /// in any case.
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
                Ok(Some(lease)) if self.all_boots || lease.boot_id == self.store.boot_id => return Some(Ok(lease)),
                Ok(_) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The lease in a file and the metadata of the file, from one open file.
pub(super) fn parse(path: &Path) -> Result<Option<(Lease, Metadata)>> {
    let Some((text, file)) = files::read(path)? else {
        return Ok(None);
    };
    let lease = serde_json::from_slice(&text).map_err(Error::corrupt(path))?;
    Ok(Some((lease, file)))
}
