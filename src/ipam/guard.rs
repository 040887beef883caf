use std::collections::HashSet;
use std::fs::File;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::ops::Deref;
use std::path::Path;

use ipnetwork::IpNetwork;

use super::allocator::{self, Table};
use super::error::{Error, Result};
use super::hints::{AddressSet, AllocationHints};
use super::lease::{Lease, Owner, Tenant};
use super::pool::Pool;
use super::recovery::Quarantined;
use super::store::{NAME_MAX, Store};
use super::{files, timestamp};

/// A [`Store`] whose lock is held, so that it can be changed; made by [`Store::lock`].
///
/// ```
/// # use std::time::Duration;
/// # use cnikit::ipam::Store;
/// # let dir = tempfile::tempdir()?;
/// # let store = Store::open(dir.path())?;
/// // What a garbage collection does: free what is not wanted any more.
/// let mut locked = store.lock(Duration::from_secs(5))?;
/// for lease in locked.leases()?.flatten() {
///     locked.release(&lease.owner)?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct StoreGuard<'a> {
    pub(super) store: &'a Store,
    /// Whether no change is left half done, neither by us nor by who held the lock before.
    pub(super) settled: bool,
    pub(super) quarantined: Vec<Quarantined>,
    pub(super) hints: AllocationHints,
    lock: File,
    /// How many bytes the lock file has.
    length: usize,
}

impl<'a> StoreGuard<'a> {
    pub(super) fn new(store: &'a Store, lock: File) -> Result<Self> {
        let text = files::read_open(&lock, &store.lock_path())?;
        let hints = store.hints_of_this_boot(&text);
        let is_of_this_boot = hints.is_some();
        let hints = hints.unwrap_or_else(|| AllocationHints::from_previous_boot(&text));
        let mut locked = Self { store, settled: false, quarantined: Vec::new(), hints, lock, length: text.len() };
        locked.recover_pending()?;
        if !is_of_this_boot {
            locked.start_new_boot()?;
        }
        Ok(locked)
    }

    /// Gives `owner` one address of each pool: of all of them or, on an error, of none.
    ///
    /// Addresses of `requested` are taken for the pool that they are of, the others are chosen: the first that is free
    /// after the one handed out last. The time of that does not depend on the leases held, but where long rows of
    /// addresses are taken: there, the names of all that are taken are listed once, and the rows remembered.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyLeased`] with the lease that `owner` holds, [`Error::CorruptLease`] when it holds one that
    /// cannot be read, [`Error::PoolExhausted`]; [`Error::AddressTaken`], [`Error::NotInPools`] and
    /// [`Error::RequestedTwice`] of what was requested; [`Error::NameTooLong`], [`Error::Io`].
    pub fn allocate(&mut self, owner: &Owner, pools: &[Pool], requested: &[IpAddr]) -> Result<Lease> {
        self.allocate_with(owner, pools, requested, |_| false)
    }

    /// As [`allocate`](Self::allocate), and frees the leases that `reclaim` gives up.
    ///
    /// It is asked when no address of a pool is free, about each lease with an address of that pool, and about the
    /// lease that holds a requested address. It must answer `true` only for an attachment that is provably gone: nobody
    /// works on it, and its interface does not exist. The first is so while [`Store::lock_owner`] is held: take it without
    /// waiting, because who has it may wait for this store, and look for the interface before it is given back. A lease's
    /// age proves nothing, for an ADD that was stopped may go on at any time.
    ///
    /// It is never asked about a lease that was [imported](Lease::imported). Whether a damaged one was is not known: it is
    /// asked about those.
    ///
    /// # Errors
    ///
    /// Those of [`allocate`](Self::allocate).
    pub fn allocate_with(
        &mut self,
        owner: &Owner,
        pools: &[Pool],
        requested: &[IpAddr],
        reclaim: impl FnMut(&Lease) -> bool,
    ) -> Result<Lease> {
        self.allocate_for(&owner.into(), pools, requested, reclaim)
    }

    /// As [`allocate_with`](Self::allocate_with), and records the pod of the tenant in the lease.
    ///
    /// # Errors
    ///
    /// Those of [`allocate`](Self::allocate).
    pub fn allocate_for(
        &mut self,
        tenant: &Tenant,
        pools: &[Pool],
        requested: &[IpAddr],
        mut reclaim: impl FnMut(&Lease) -> bool,
    ) -> Result<Lease> {
        allocator::allocate(self, tenant, pools, requested, &mut reclaim)
    }

    /// Frees the addresses of `owner` and returns its lease; there being none is a success.
    ///
    /// A lease that cannot be read is freed too, and its file [set aside](Self::quarantined). Nothing is returned of it,
    /// for what it held is not known.
    ///
    /// # Errors
    ///
    /// [`Error::Io`].
    pub fn release(&mut self, owner: &Owner) -> Result<Option<Lease>> {
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
                // A directory has gone as a whole.
                if files::stat(&file)?.is_some() {
                    // Which addresses will be free is not known.
                    self.hints.taken = AddressSet::default();
                    self.try_mark();
                    self.settled = false;
                    files::rename(&file, &self.pending_path())?;
                    self.recover_pending()?;
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The damaged files that were met since the lock was taken. Each cost one lease: it is worth a warning.
    pub fn quarantined(&self) -> &[Quarantined] {
        &self.quarantined
    }

    /// Makes a lease, all of it or nothing, of an owner that has none. Where a file is in the way of an address, that is
    /// [`Error::AddressTaken`].
    pub(super) fn commit(&mut self, lease: &Lease) -> Result<()> {
        self.recover_pending()?;
        let file = self.owner_path(&lease.owner).ok_or_else(|| name_too_long(&lease.owner))?;
        // What is half done is not left to the next caller, if it need not be.
        self.write(lease, &file).inspect_err(|_| drop(self.recover_pending()))
    }

    /// Makes a lease under the name `pending`, links its addresses to it, and gives it the name of its owner.
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

    /// Writes the boot and the hints into the lock file.
    pub(super) fn write_header(&mut self) -> Result<()> {
        let text = format!("{}\n{}", self.boot_id.as_str(), self.hints);
        files::overwrite(&self.lock, &self.lock_path(), text.as_bytes(), self.length)?;
        self.length = text.len();
        Ok(())
    }

    /// Says that these addresses will be free: before they are, lest a search passes over them.
    fn forget_taken(&mut self, addresses: &[IpNetwork]) {
        let mut known = false;
        for address in addresses {
            known |= self.hints.taken.remove(address.ip());
        }
        if known {
            self.try_mark();
        }
    }

    /// Writes hints down if it can. On a full disk they stay wrong, and what they say is taken is found when there seems
    /// to be no other address.
    fn try_mark(&mut self) {
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
    fn lease_of(&mut self, owner: &Owner) -> Result<Option<Lease>> {
        self.recover_pending()?;
        // A damaged lease is an error here: the attachment may be alive, and another lease would cost it its addresses.
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
        // Before the lease and not after it: a disk that is full is then told of while nothing is committed.
        self.hints = hints;
        self.write_header()?;
        self.commit(&lease)?;
        Ok(lease)
    }

    fn remove(&mut self, owner: &Owner) -> Result<()> {
        self.release(owner).map(drop)
    }
}

pub(super) fn name_too_long(owner: &Owner) -> Error {
    Error::NameTooLong { owner: Box::new(owner.clone()), length: owner.file_name().len(), limit: NAME_MAX }
}
