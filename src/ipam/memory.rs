use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::allocator::{self, Table};
use super::error::Result;
use super::hints::AllocationHints;
use super::lease::{BootId, Lease, Tenant};
use super::pool::Pool;
use super::timestamp;
use super::usage::Usage;
use crate::spec::AttachmentKey;

/// Leases in the memory of the process, for tests of code that uses leases.
///
/// Allocates the same addresses in the same order as a [`Store`](super::Store). Both are a
/// [`LeaseTable`](super::LeaseTable). A `MemoryStore` has no lock and no files that can be damaged.
///
/// ```
/// use cnikit::ipam::{MemoryStore, Pool};
/// use cnikit::spec::AttachmentKey;
///
/// let mut leases = MemoryStore::new();
/// let pool: Pool = serde_json::from_str(r#"[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.100"}]"#)?;
/// let owner = AttachmentKey::new("4fe2c9".parse()?, "eth0".parse()?);
/// let lease = leases.allocate(&owner, &[pool], &[])?;
/// assert_eq!(lease.addresses, ["10.0.0.100/24".parse()?]);
/// assert_eq!(leases.release(&owner), Some(lease));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct MemoryStore {
    leases: BTreeMap<AttachmentKey, Lease>,
    holders: HashMap<IpAddr, AttachmentKey>,
    hints: AllocationHints,
}

impl MemoryStore {
    /// A store without leases.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Like [`StoreGuard::allocate`](super::StoreGuard::allocate).
    ///
    /// # Errors
    ///
    /// The same errors about the request; never [`Error::Io`](super::Error::Io).
    pub fn allocate(&mut self, owner: &AttachmentKey, pools: &[Pool], requested: &[IpAddr]) -> Result<Lease> {
        self.allocate_with(owner, pools, requested, |_| false)
    }

    /// Like [`StoreGuard::allocate_with`](super::StoreGuard::allocate_with).
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

    /// Like [`StoreGuard::allocate_for`](super::StoreGuard::allocate_for).
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

    /// Releases the addresses of `owner` and returns its lease.
    pub fn release(&mut self, owner: &AttachmentKey) -> Option<Lease> {
        let lease = self.leases.remove(owner)?;
        for address in &lease.addresses {
            self.holders.remove(&address.ip());
            self.hints.taken.remove(address.ip());
        }
        Some(lease)
    }

    /// The lease of `owner`, if there is one.
    #[must_use]
    pub fn lease(&self, owner: &AttachmentKey) -> Option<&Lease> {
        self.leases.get(owner)
    }

    /// The lease that holds `address`, if there is one.
    #[must_use]
    pub fn lease_at(&self, address: IpAddr) -> Option<&Lease> {
        self.lease(self.holders.get(&address)?)
    }

    /// All leases, ordered by owner.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    /// The usage of each range of a pool, in the order of the ranges.
    #[must_use]
    pub fn usage(&self, pool: &Pool) -> Vec<Usage> {
        let mut usage = Usage::empty(pool);
        for address in self.holders.keys() {
            Usage::count(&mut usage, pool, *address);
        }
        usage
    }
}

impl Table for MemoryStore {
    fn lease_of(&mut self, owner: &AttachmentKey) -> Result<Option<Lease>> {
        Ok(self.lease(owner).cloned())
    }

    fn holder_of(&mut self, address: IpAddr) -> Result<Option<Lease>> {
        Ok(self.lease_at(address).cloned())
    }

    fn is_taken(&mut self, address: IpAddr) -> Result<bool> {
        Ok(self.holders.contains_key(&address))
    }

    fn taken(&mut self) -> Result<HashSet<IpAddr>> {
        Ok(self.holders.keys().copied().collect())
    }

    fn all(&mut self) -> Result<Vec<Lease>> {
        Ok(self.leases().cloned().collect())
    }

    fn hints(&self) -> AllocationHints {
        self.hints.clone()
    }

    fn insert(&mut self, tenant: &Tenant, addresses: Vec<IpNetwork>, hints: AllocationHints) -> Result<Lease> {
        let Tenant { owner, pod } = tenant.clone();
        let lease = Lease {
            owner: owner.clone(),
            addresses,
            boot_id: BootId::new("memory"),
            created: timestamp::now(),
            imported: false,
            pod,
        };
        self.hints = hints;
        self.holders.extend(lease.addresses.iter().map(|address| (address.ip(), owner.clone())));
        self.leases.insert(owner, lease.clone());
        Ok(lease)
    }

    fn remove(&mut self, owner: &AttachmentKey) -> Result<()> {
        self.release(owner);
        Ok(())
    }
}
