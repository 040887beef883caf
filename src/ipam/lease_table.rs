use std::net::IpAddr;

use super::error::Result;
use super::guard::StoreGuard;
use super::lease::{Lease, Tenant};
use super::memory::MemoryStore;
use super::pool::Pool;
use super::usage::Usage;
use crate::spec::AttachmentKey;

/// The leases of one network, for changes: a [`StoreGuard`], or a [`MemoryStore`] in tests.
///
/// A function that takes a `LeaseTable` can be tested without files and without a lock:
///
/// ```
/// use cnikit::ipam::{LeaseTable, MemoryStore, Pool, Result};
/// use cnikit::spec::AttachmentKey;
///
/// /// Keeps an existing lease, so that a repeated call is a success.
/// fn reserve(leases: &mut impl LeaseTable, owner: &AttachmentKey, pools: &[Pool]) -> Result<String> {
///     let lease = match leases.lease(owner)? {
///         Some(lease) => lease,
///         None => leases.allocate(owner, pools, &[])?,
///     };
///     Ok(lease.addresses[0].to_string())
/// }
///
/// let pools: Vec<Pool> = serde_json::from_str(r#"[[{"subnet": "10.0.0.0/24"}]]"#)?;
/// let owner = AttachmentKey::new("4fe2c9".parse()?, "eth0".parse()?);
/// let mut leases = MemoryStore::new();
/// assert_eq!(reserve(&mut leases, &owner, &pools)?, "10.0.0.2/24");
/// assert_eq!(reserve(&mut leases, &owner, &pools)?, "10.0.0.2/24");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A plugin calls such a function with the locked store: `reserve(&mut store.lock(TIMEOUT)?, ...)`.
pub trait LeaseTable {
    /// Allocates one address of each pool for `owner`, or none at all if an error occurs. See
    /// [`StoreGuard::allocate`].
    ///
    /// # Errors
    ///
    /// The errors of [`StoreGuard::allocate`].
    fn allocate(&mut self, owner: &AttachmentKey, pools: &[Pool], requested: &[IpAddr]) -> Result<Lease> {
        self.allocate_for(&owner.into(), pools, requested, &mut |_| false)
    }

    /// Like [`allocate`](Self::allocate), records the pod of the tenant, and removes the leases for
    /// which `reclaim` returns `true`. See [`StoreGuard::allocate_with`] for the conditions.
    ///
    /// # Errors
    ///
    /// The errors of [`StoreGuard::allocate`].
    fn allocate_for(
        &mut self,
        tenant: &Tenant,
        pools: &[Pool],
        requested: &[IpAddr],
        reclaim: &mut dyn FnMut(&Lease) -> bool,
    ) -> Result<Lease>;

    /// Releases the addresses of `owner` and returns its lease. Success with `None` if there is no
    /// lease.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](super::Error::Io).
    fn release(&mut self, owner: &AttachmentKey) -> Result<Option<Lease>>;

    /// The lease of `owner`, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::CorruptLease`](super::Error::CorruptLease), [`Error::Io`](super::Error::Io).
    fn lease(&self, owner: &AttachmentKey) -> Result<Option<Lease>>;

    /// The lease that holds `address`, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::CorruptLease`](super::Error::CorruptLease), [`Error::Io`](super::Error::Io).
    fn lease_at(&self, address: IpAddr) -> Result<Option<Lease>>;

    /// All leases. [`Store::leases`](super::Store::leases) continues after a damaged file; this
    /// function does not.
    ///
    /// # Errors
    ///
    /// [`Error::CorruptLease`](super::Error::CorruptLease) for the first damaged file,
    /// [`Error::Io`](super::Error::Io).
    fn leases(&self) -> Result<Vec<Lease>>;

    /// The usage of each range of a pool, in the order of the ranges.
    ///
    /// # Errors
    ///
    /// [`Error::Io`](super::Error::Io).
    fn usage(&self, pool: &Pool) -> Result<Vec<Usage>>;
}

impl LeaseTable for StoreGuard<'_> {
    fn allocate_for(
        &mut self,
        tenant: &Tenant,
        pools: &[Pool],
        requested: &[IpAddr],
        reclaim: &mut dyn FnMut(&Lease) -> bool,
    ) -> Result<Lease> {
        Self::allocate_for(self, tenant, pools, requested, reclaim)
    }

    fn release(&mut self, owner: &AttachmentKey) -> Result<Option<Lease>> {
        Self::release(self, owner)
    }

    fn lease(&self, owner: &AttachmentKey) -> Result<Option<Lease>> {
        self.store.lease(owner)
    }

    fn lease_at(&self, address: IpAddr) -> Result<Option<Lease>> {
        self.store.lease_at(address)
    }

    fn leases(&self) -> Result<Vec<Lease>> {
        self.store.leases()?.collect()
    }

    fn usage(&self, pool: &Pool) -> Result<Vec<Usage>> {
        self.store.usage(pool)
    }
}

/// Only the request can cause an error.
impl LeaseTable for MemoryStore {
    fn allocate_for(
        &mut self,
        tenant: &Tenant,
        pools: &[Pool],
        requested: &[IpAddr],
        reclaim: &mut dyn FnMut(&Lease) -> bool,
    ) -> Result<Lease> {
        Self::allocate_for(self, tenant, pools, requested, reclaim)
    }

    fn release(&mut self, owner: &AttachmentKey) -> Result<Option<Lease>> {
        Ok(Self::release(self, owner))
    }

    fn lease(&self, owner: &AttachmentKey) -> Result<Option<Lease>> {
        Ok(Self::lease(self, owner).cloned())
    }

    fn lease_at(&self, address: IpAddr) -> Result<Option<Lease>> {
        Ok(Self::lease_at(self, address).cloned())
    }

    fn leases(&self) -> Result<Vec<Lease>> {
        Ok(Self::leases(self).cloned().collect())
    }

    fn usage(&self, pool: &Pool) -> Result<Vec<Usage>> {
        Ok(Self::usage(self, pool))
    }
}
