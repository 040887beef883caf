//! Chooses the addresses of an attachment. The decision is the same for every kind of store.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::error::{Error, Result};
use super::hints::{AddressSet, AllocationHints};
use super::lease::{Lease, Tenant};
use super::pool::Pool;
use super::range::Range;
use crate::spec::AttachmentKey;

/// The number of single lookups before the allocator lists all taken addresses at once.
///
/// A lookup is one system call, and finds a free address immediately while most addresses are free.
/// A listing costs about as much as lookups of a seventh of the taken addresses. It pays off if
/// long runs of addresses are taken that no search has seen.
const MAX_PROBES: usize = if cfg!(test) { 2 } else { 64 };

/// The operations that a store provides to the allocator. No other process changes the store in
/// between.
pub(super) trait Table {
    fn lease_of(&mut self, owner: &AttachmentKey) -> Result<Option<Lease>>;

    /// The lease that holds an address. Removes an address entry without a lease.
    fn holder_of(&mut self, address: IpAddr) -> Result<Option<Lease>>;

    /// Whether the address has an entry; reads no lease.
    fn is_taken(&mut self, address: IpAddr) -> Result<bool>;

    /// Every taken address.
    fn taken(&mut self) -> Result<HashSet<IpAddr>>;

    /// Every lease, for an exhausted pool. Removes address entries without a lease.
    fn all(&mut self) -> Result<Vec<Lease>>;

    /// The results of earlier searches. They never list an address as taken after its release.
    fn hints(&self) -> AllocationHints;

    fn insert(&mut self, tenant: &Tenant, addresses: Vec<IpNetwork>, hints: AllocationHints) -> Result<Lease>;

    fn remove(&mut self, owner: &AttachmentKey) -> Result<()>;
}

/// Allocates one address of each pool for `tenant`, or none at all if an error occurs. Addresses of
/// `requested` are used for the pools that contain them.
///
/// `reclaim` decides about each lease that blocks the allocation, except imported leases. The
/// leases for which it returns `true` are removed.
pub(super) fn allocate(
    table: &mut impl Table,
    tenant: &Tenant,
    pools: &[Pool],
    requested: &[IpAddr],
    reclaim: &mut dyn FnMut(&Lease) -> bool,
) -> Result<Lease> {
    if let Some(lease) = table.lease_of(&tenant.owner)? {
        return Err(Error::AlreadyLeased { lease: Box::new(lease) });
    }
    let reclaim = &mut |lease: &Lease| !lease.imported && reclaim(lease);
    let requests = requested_by_pool(pools, requested)?;
    // Requested addresses come first: the search in another pool could otherwise choose one of
    // them.
    for request in requests.iter().flatten() {
        claim(table, *request, reclaim)?;
    }
    let mut chosen: Vec<IpAddr> = requests.iter().copied().flatten().collect();
    let mut hints = table.hints();
    let mut addresses = Vec::with_capacity(pools.len());
    let mut last = Vec::with_capacity(pools.len());
    for (pool, request) in pools.iter().zip(&requests) {
        let cursor = hints.last.iter().copied().find(|address| pool.contains(*address));
        let address = match request {
            Some(address) => *address,
            None => {
                let mut search = Search { table, pool, cursor, chosen: &chosen, taken: &mut hints.taken };
                let address = search.free_address(reclaim)?;
                chosen.push(address);
                address
            }
        };
        // A requested address does not move the cursor of the search.
        last.extend(if request.is_some() { cursor } else { Some(address) });
        addresses.push(pool.range_of(address).map_or(address.into(), |range: &Range| range.with_prefix(address)));
    }
    hints.last = last;
    table.insert(tenant, addresses, hints)
}

/// The requested address of each pool.
fn requested_by_pool(pools: &[Pool], requested: &[IpAddr]) -> Result<Vec<Option<IpAddr>>> {
    let mut requests = vec![None; pools.len()];
    for (index, address) in requested.iter().enumerate() {
        // A runtime may pass the same request in several places.
        if requested[..index].contains(address) {
            continue;
        }
        let Some((pool, request)) = pools.iter().zip(&mut requests).find(|(pool, _)| pool.contains(*address)) else {
            let pools: Vec<String> = pools.iter().map(Pool::to_string).collect();
            return Err(Error::NotInPools { address: *address, pools: pools.join(", ") });
        };
        if let Some(first) = request.replace(*address) {
            return Err(Error::RequestedTwice { first, second: *address, pool: Box::new(pool.clone()) });
        }
    }
    Ok(requests)
}

/// Makes `address` free, or returns an error.
fn claim(table: &mut impl Table, address: IpAddr, reclaim: &mut dyn FnMut(&Lease) -> bool) -> Result<()> {
    if !table.is_taken(address)? {
        return Ok(());
    }
    match table.holder_of(address)? {
        Some(lease) if reclaim(&lease) => table.remove(&lease.owner),
        None if !table.is_taken(address)? => Ok(()),
        holder => Err(Error::AddressTaken { address, holder: holder.map(|lease| Box::new(lease.owner)) }),
    }
}

/// The search for a free address of one pool.
struct Search<'a, T> {
    table: &'a mut T,
    pool: &'a Pool,
    cursor: Option<IpAddr>,
    /// Addresses that this allocation has already chosen.
    chosen: &'a [IpAddr],
    /// Addresses that are known to be taken.
    taken: &'a mut AddressSet,
}

impl<T: Table> Search<'_, T> {
    fn free_address(&mut self, reclaim: &mut dyn FnMut(&Lease) -> bool) -> Result<IpAddr> {
        if let Some(address) = self.free_by_probing()? {
            return Ok(address);
        }
        if let Some(address) = self.free_by_listing()? {
            return Ok(address);
        }
        for lease in self.table.all()? {
            if lease.addresses.iter().any(|address| self.pool.contains(address.ip())) && reclaim(&lease) {
                self.table.remove(&lease.owner)?;
                // The lease may also have freed addresses of pools that are searched later.
                for address in &lease.addresses {
                    self.taken.remove(address.ip());
                }
            }
        }
        self.free_by_listing()?.ok_or_else(|| Error::PoolExhausted { pool: Box::new(self.pool.clone()) })
    }

    /// Probes addresses one by one and skips intervals that are known to be taken, up to the limit.
    fn free_by_probing(&mut self) -> Result<Option<IpAddr>> {
        let mut place = self.cursor;
        // Each jump skips one interval. More jumps than intervals mean that the search has covered
        // the whole pool.
        let steps = MAX_PROBES + self.chosen.len() + self.taken.len() + 1;
        for _ in 0..steps {
            let Some(address) = self.pool.iter_from(place).next() else {
                return Ok(None);
            };
            place = match self.taken.end_of_interval(address) {
                Some(end) => Some(end),
                None if self.chosen.contains(&address) => Some(address),
                None if !self.table.is_taken(address)? => return Ok(Some(address)),
                None => {
                    self.taken.add(address);
                    Some(address)
                }
            };
        }
        Ok(None)
    }

    /// Lists the taken addresses, which does not depend on the hints, and updates the hints from
    /// the list.
    fn free_by_listing(&mut self) -> Result<Option<IpAddr>> {
        let taken = self.table.taken()?;
        self.taken.forget(|address| self.pool.contains(address));
        for address in self.pool.iter_from(self.cursor) {
            if taken.contains(&address) {
                self.taken.add(address);
            } else if !self.chosen.contains(&address) {
                return Ok(Some(address));
            }
        }
        Ok(None)
    }
}
