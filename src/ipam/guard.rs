use std::collections::HashSet;
use std::fs::File;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::ops::Deref;
use std::path::Path;
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::allocator::{self, Table};
use super::error::{Error, Result};
use super::hints::{AddressSet, AllocationHints};
use super::lease::{Lease, Tenant};
use super::pool::Pool;
use super::quarantine::Quarantined;
use super::store::{NAME_MAX, Store};
use super::{files, lock, timestamp};
use crate::spec::AttachmentKey;

/// A [`Store`] with its lock held, which allows changes; created by [`Store::lock`].
///
/// ```
/// # use std::time::Duration;
/// # use cnikit::ipam::Store;
/// # let dir = tempfile::tempdir()?;
/// # let store = Store::open(dir.path())?;
/// // Release all leases, as a garbage collection without valid attachments does.
/// let mut guard = store.lock(Duration::from_secs(5))?;
/// for lease in guard.leases()?.flatten() {
///     guard.release(&lease.owner)?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct StoreGuard<'a> {
    pub(super) store: &'a Store,
    /// Whether `pending` is known to be absent: no change is half done, by this process or by an
    /// earlier one.
    pub(super) settled: bool,
    pub(super) quarantined: Vec<Quarantined>,
    pub(super) hints: AllocationHints,
    lock: File,
    /// Size of the lock file in bytes.
    length: usize,
}

impl Store {
    /// Takes the lock for changes and waits for at most `timeout`. Dropping the guard releases the
    /// lock.
    ///
    /// First undoes a change that a killed process left half done. The first call after a boot also
    /// removes the leases of earlier boots. A second call in the same thread blocks until the
    /// timeout.
    ///
    /// # Errors
    ///
    /// - [`Error::LockTimeout`], which has the code
    ///   [`TRY_AGAIN`](crate::spec::ErrorCode::TRY_AGAIN).
    /// - [`Error::Shared`] or [`Error::Linked`] if another user could change the directory.
    /// - [`Error::Io`] if the directory cannot be created or changed.
    pub fn lock(&self, timeout: Duration) -> Result<StoreGuard<'_>> {
        files::check_ownership(&self.dir)?;
        StoreGuard::new(self, lock::acquire(&self.lock_path(), timeout)?)
    }
}

impl<'a> StoreGuard<'a> {
    pub(super) fn new(store: &'a Store, lock: File) -> Result<Self> {
        let text = files::read_open(&lock, &store.lock_path())?;
        let hints = store.hints_of_this_boot(&text);
        let is_of_this_boot = hints.is_some();
        let hints = hints.unwrap_or_else(|| AllocationHints::from_previous_boot(&text));
        let mut guard = Self { store, settled: false, quarantined: Vec::new(), hints, lock, length: text.len() };
        guard.recover_pending()?;
        if !is_of_this_boot {
            guard.start_new_boot()?;
        }
        Ok(guard)
    }

    /// Allocates one address of each pool for `owner`, or none at all if an error occurs.
    ///
    /// Each address of `requested` is used for the pool that contains it. For the other pools, the
    /// search takes the next free address after the last allocated one.
    ///
    /// The duration does not depend on the number of leases, except if long runs of addresses are
    /// taken. The search then lists the names of all taken addresses once, and remembers the runs.
    ///
    /// # Errors
    ///
    /// - [`Error::AlreadyLeased`] with the existing lease of `owner`.
    /// - [`Error::CorruptLease`] if the existing lease cannot be read.
    /// - [`Error::PoolExhausted`] if no address of a pool is free.
    /// - [`Error::AddressTaken`], [`Error::NotInPools`] and [`Error::RequestedTwice`] for a
    ///   requested address.
    /// - [`Error::NameTooLong`], [`Error::Io`].
    pub fn allocate(&mut self, owner: &AttachmentKey, pools: &[Pool], requested: &[IpAddr]) -> Result<Lease> {
        self.allocate_with(owner, pools, requested, |_| false)
    }

    /// Like [`allocate`](Self::allocate), and removes the leases for which `reclaim` returns
    /// `true`.
    ///
    /// `reclaim` is called for each lease with an address of an exhausted pool, and for the holder
    /// of a requested address. It must return `true` only if the attachment is provably gone: no
    /// process works on it, and its interface does not exist.
    ///
    /// [`Store::lock_owner`] proves that no process works on the attachment while its lock is held.
    /// Take that lock with a zero timeout, because its holder may wait for this store. Look for the
    /// interface before its release. The age of a lease proves nothing: a stopped ADD
    /// can continue at any time.
    ///
    /// `reclaim` is never called for an [imported](Lease::imported) lease. For a damaged lease it
    /// is not known whether it was imported, so `reclaim` is called.
    ///
    /// # Errors
    ///
    /// As for [`allocate`](Self::allocate).
    pub fn allocate_with(
        &mut self,
        owner: &AttachmentKey,
        pools: &[Pool],
        requested: &[IpAddr],
        reclaim: impl FnMut(&Lease) -> bool,
    ) -> Result<Lease> {
        self.allocate_for(&owner.into(), pools, requested, reclaim)
    }

    /// Like [`allocate_with`](Self::allocate_with), and records the pod of the tenant in the lease.
    ///
    /// # Errors
    ///
    /// As for [`allocate`](Self::allocate).
    pub fn allocate_for(
        &mut self,
        tenant: &Tenant,
        pools: &[Pool],
        requested: &[IpAddr],
        mut reclaim: impl FnMut(&Lease) -> bool,
    ) -> Result<Lease> {
        allocator::allocate(self, tenant, pools, requested, &mut reclaim)
    }

    /// Releases the addresses of `owner` and returns its lease. Success with `None` if there is no
    /// lease.
    ///
    /// A lease that cannot be read is released too, and its file is
    /// [quarantined](Self::quarantined). The result is then `None`, because its addresses are
    /// unknown.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn release(&mut self, owner: &AttachmentKey) -> Result<Option<Lease>> {
        self.recover_pending()?;
        let Some(file) = self.owner_path(owner) else {
            return Ok(None);
        };
        match self.read_file(&file) {
            Ok(None) => Ok(None),
            Ok(Some((lease, found))) => {
                self.forget_taken(&lease.addresses);
                self.settled = false;
                files::rename(&file, &self.pending_path())?;
                self.remove_pending(&found, &lease.addresses)?;
                Ok(Some(lease))
            }
            Err(error) if error.is_damage() => {
                self.quarantine(&file, error)?;
                // `quarantine` has moved a directory as a whole.
                if files::stat(&file)?.is_some() {
                    // The addresses of the lease are unknown, so no address can stay marked as
                    // taken.
                    self.hints.taken = AddressSet::default();
                    self.try_write_header();
                    self.settled = false;
                    files::rename(&file, &self.pending_path())?;
                    self.recover_pending()?;
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The damaged files that were found since the lock was taken. Each one is a lost lease and
    /// deserves a warning.
    #[must_use]
    pub fn quarantined(&self) -> &[Quarantined] {
        &self.quarantined
    }

    /// Writes the lease of an owner that has none, atomically. Fails with [`Error::AddressTaken`]
    /// if the file of an address exists.
    pub(super) fn commit(&mut self, lease: &Lease) -> Result<()> {
        self.recover_pending()?;
        let file = self.owner_path(&lease.owner).ok_or_else(|| name_too_long(&lease.owner))?;
        // Undo a failed change now, if possible, instead of in the next call.
        self.write(lease, &file).inspect_err(|_| drop(self.recover_pending()))
    }

    /// Writes a lease as `pending`, links its addresses to that file, and renames it to the owner's
    /// name.
    fn write(&mut self, lease: &Lease, file: &Path) -> Result<()> {
        let pending = self.pending_path();
        let mut text = serde_json::to_vec_pretty(lease).map_err(|error| Error::io("encode", &pending)(error.into()))?;
        text.push(b'\n');
        self.settled = false;
        files::create(&pending, &text)?;
        for address in lease.addresses.iter().map(IpNetwork::ip) {
            match files::link(&pending, &self.address_path(address)) {
                Err(Error::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists => {
                    return Err(Error::AddressTaken { address, holder: None });
                }
                linked => linked?,
            }
        }
        files::rename(&pending, file)?;
        self.settled = true;
        Ok(())
    }

    /// Writes the boot id and the hints into the lock file.
    pub(super) fn write_header(&mut self) -> Result<()> {
        let text = format!("{}\n{}", self.boot_id.as_str(), self.hints);
        files::overwrite(&self.lock, &self.lock_path(), text.as_bytes(), self.length)?;
        self.length = text.len();
        Ok(())
    }

    /// Removes addresses from the hints. Called before the release: a search would otherwise skip
    /// the free addresses.
    fn forget_taken(&mut self, addresses: &[IpNetwork]) {
        let mut known = false;
        for address in addresses {
            known |= self.hints.taken.remove(address.ip());
        }
        if known {
            self.try_write_header();
        }
    }

    /// Writes the hints and ignores an error. On a full disk the hints stay wrong. A search of an
    /// apparently exhausted pool then lists the addresses and finds the free ones.
    fn try_write_header(&mut self) {
        let _ = self.write_header();
    }
}

impl Deref for StoreGuard<'_> {
    type Target = Store;

    fn deref(&self) -> &Store {
        self.store
    }
}

impl Table for StoreGuard<'_> {
    fn lease_of(&mut self, owner: &AttachmentKey) -> Result<Option<Lease>> {
        self.recover_pending()?;
        // A damaged lease is an error here. The attachment may be alive, and a second lease would
        // cost it its addresses.
        self.read(&self.owner_path(owner).ok_or_else(|| name_too_long(owner))?)
    }

    fn holder_of(&mut self, address: IpAddr) -> Result<Option<Lease>> {
        match self.lease_at(address) {
            Err(error) if !error.is_damage() => Err(error),
            Ok(Some(lease)) => Ok(Some(lease)),
            _ => self.remove_orphans().map(|()| None),
        }
    }

    fn is_taken(&mut self, address: IpAddr) -> Result<bool> {
        Ok(files::stat(&self.address_path(address))?.is_some())
    }

    fn taken(&mut self) -> Result<HashSet<IpAddr>> {
        let mut taken = HashSet::new();
        self.visit_addresses(|address| {
            taken.insert(address);
        })?;
        Ok(taken)
    }

    fn all(&mut self) -> Result<Vec<Lease>> {
        self.remove_orphans()?;
        let mut leases = Vec::new();
        for lease in self.leases()? {
            match lease {
                Ok(lease) => leases.push(lease),
                Err(error @ (Error::CorruptLease { .. } | Error::Io { .. })) => leases.extend(self.salvage(&error)?),
                Err(error) => return Err(error),
            }
        }
        Ok(leases)
    }

    fn hints(&self) -> AllocationHints {
        self.hints.clone()
    }

    fn insert(&mut self, tenant: &Tenant, addresses: Vec<IpNetwork>, hints: AllocationHints) -> Result<Lease> {
        let Tenant { owner, pod } = tenant.clone();
        let (boot_id, created) = (self.boot_id.clone(), timestamp::now());
        let lease = Lease { owner, addresses, boot_id, created, imported: false, pod };
        // Written before the lease: an error on a full disk then occurs while nothing is committed.
        self.hints = hints;
        self.write_header()?;
        self.commit(&lease)?;
        Ok(lease)
    }

    fn remove(&mut self, owner: &AttachmentKey) -> Result<()> {
        self.release(owner).map(drop)
    }
}

pub(super) fn name_too_long(owner: &AttachmentKey) -> Error {
    Error::NameTooLong { owner: Box::new(owner.clone()), length: owner.file_name().len(), limit: NAME_MAX }
}
