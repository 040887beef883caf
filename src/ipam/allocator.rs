//! Which addresses an attachment gets: the same decision over every kind of store.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::error::{Error, Result};
use super::hints::{AddressSet, AllocationHints};
use super::lease::{Lease, Owner, Tenant};
use super::pool::Pool;
use super::range::Range;

/// How many addresses are looked at one by one before all that are taken are listed at once.
///
/// A look is a system call and finds a free address at once while most are free. A listing costs about as much as
/// looking at a seventh of the addresses taken, and is worth it where long rows of them are that no search has seen.
const MAX_PROBES: usize = if cfg!(test) { 2 } else { 64 };

/// What a store does for the allocator. Nobody else changes it meanwhile.
pub(super) trait Table {
    fn lease_of(&mut self, owner: &Owner) -> Result<Option<Lease>>;

    /// The lease that holds an address. What holds it without being a lease is removed here.
    fn holder_of(&mut self, address: IpAddr) -> Result<Option<Lease>>;

    /// Whether anything holds an address, at a look.
    fn is_taken(&mut self, address: IpAddr) -> Result<bool>;

    /// Every address that is taken.
    fn taken(&mut self) -> Result<HashSet<IpAddr>>;

    /// Every lease, for when addresses have run out; so what holds an address without being one is removed here.
    fn all(&mut self) -> Result<Vec<Lease>>;

    /// What earlier searches have found out. Addresses that are removed since are not among the taken.
    fn hints(&self) -> AllocationHints;

    fn insert(&mut self, tenant: &Tenant, addresses: Vec<IpNetwork>, hints: AllocationHints) -> Result<Lease>;

    fn remove(&mut self, owner: &Owner) -> Result<()>;
}

/// Gives `tenant` one address of each pool, those of `requested` where it names any: of all pools or, on an error, of
/// none.
///
/// `reclaim` is asked about the leases that stand in the way, but for those that were imported; those that it gives up
/// are removed.
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
    let wishes = requested_by_pool(pools, requested)?;
    // Wishes come first, lest one is taken for another pool that has the address too.
    for wish in wishes.iter().flatten() {
        claim(table, *wish, reclaim)?;
    }
    let mut chosen: Vec<IpAddr> = wishes.iter().copied().flatten().collect();
    let mut hints = table.hints();
    let mut addresses = Vec::with_capacity(pools.len());
    let mut last = Vec::with_capacity(pools.len());
    for (pool, wish) in pools.iter().zip(&wishes) {
        let cursor = hints.last.iter().copied().find(|address| pool.contains(*address));
        let address = match wish {
            Some(address) => *address,
            None => {
                let mut search = Search { table, pool, cursor, chosen: &chosen, taken: &mut hints.taken };
                let address = search.free_address(reclaim)?;
                chosen.push(address);
                address
            }
        };
        // An address that was asked for says nothing of where the search has come to.
        last.extend(if wish.is_some() { cursor } else { Some(address) });
        addresses.push(pool.range_of(address).map_or(address.into(), |range: &Range| range.with_prefix(address)));
    }
    hints.last = last;
    table.insert(tenant, addresses, hints)
}

/// What is asked for of each pool.
fn requested_by_pool(pools: &[Pool], requested: &[IpAddr]) -> Result<Vec<Option<IpAddr>>> {
    let mut wishes = vec![None; pools.len()];
    for (index, address) in requested.iter().enumerate() {
        // A runtime may tell the same wish in several places.
        if requested[..index].contains(address) {
            continue;
        }
        let Some((pool, wish)) = pools.iter().zip(&mut wishes).find(|(pool, _)| pool.contains(*address)) else {
            let pools: Vec<String> = pools.iter().map(Pool::to_string).collect();
            return Err(Error::NotInPools { address: *address, pools: pools.join(", ") });
        };
        if let Some(first) = wish.replace(*address) {
            return Err(Error::RequestedTwice { first, second: *address, pool: Box::new(pool.clone()) });
        }
    }
    Ok(wishes)
}

/// Sees to it that `address` is free.
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
    /// What this allocation has decided on already.
    chosen: &'a [IpAddr],
    /// What is known to be taken.
    taken: &'a mut AddressSet,
}

impl<T: Table> Search<'_, T> {
    fn free_address(&mut self, reclaim: &mut dyn FnMut(&Lease) -> bool) -> Result<IpAddr> {
        if let Some(address) = self.free_by_looks()? {
            return Ok(address);
        }
        if let Some(address) = self.free_by_list()? {
            return Ok(address);
        }
        for lease in self.table.all()? {
            if lease.addresses.iter().any(|address| self.pool.contains(address.ip())) && reclaim(&lease) {
                self.table.remove(&lease.owner)?;
                // Its addresses in the pools that are searched after this one are free as well.
                for address in &lease.addresses {
                    self.taken.remove(address.ip());
                }
            }
        }
        self.free_by_list()?.ok_or_else(|| Error::PoolExhausted { pool: Box::new(self.pool.clone()) })
    }

    /// Looks at one address after the other, past the rows that are known to be taken, until it has had enough.
    fn free_by_looks(&mut self) -> Result<Option<IpAddr>> {
        let mut place = self.cursor;
        // A jump leads past a row; who has made more of them than there are rows has been everywhere.
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

    /// Lists what is taken, which is true whatever the hints say, and learns from it.
    fn free_by_list(&mut self) -> Result<Option<IpAddr>> {
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
