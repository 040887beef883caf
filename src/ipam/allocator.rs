//! Which addresses an attachment gets: the same decision over every kind of store.

use std::collections::HashSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::error::{Error, Result};
use super::lease::{Lease, Owner};
use super::pool::Pool;
use super::range::Range;

/// How many addresses are looked at one by one before all that are taken are listed at once.
///
/// A look is a system call and finds a free address at once while most are free. A listing costs about as much as
/// looking at a seventh of the addresses taken, and is worth it where long rows of them are.
const LOOKS: usize = 64;

/// What a store does for the allocator. Nobody else changes it meanwhile.
pub(super) trait Table {
    fn lease_of(&mut self, owner: &Owner) -> Result<Option<Lease>>;

    fn holder_of(&mut self, address: IpAddr) -> Result<Option<Lease>>;

    fn is_taken(&mut self, address: IpAddr) -> Result<bool>;

    /// Every address that is taken.
    fn taken(&mut self) -> Result<HashSet<IpAddr>>;

    /// Every lease, for when addresses have run out; so what holds an address without being one is removed here.
    fn all(&mut self) -> Result<Vec<Lease>>;

    /// The addresses handed out last.
    fn last(&self) -> Vec<IpAddr>;

    fn insert(&mut self, owner: &Owner, addresses: Vec<IpNetwork>, last: &[IpAddr]) -> Result<Lease>;

    fn remove(&mut self, owner: &Owner) -> Result<()>;
}

/// Gives `owner` one address of each pool, those of `requested` where it names any: of all pools or, on an error, of
/// none.
///
/// `reclaim` is asked about the leases that stand in the way; those that it gives up are removed.
pub(super) fn allocate(
    table: &mut impl Table,
    owner: &Owner,
    pools: &[Pool],
    requested: &[IpAddr],
    reclaim: &mut dyn FnMut(&Lease) -> bool,
) -> Result<Lease> {
    if let Some(lease) = table.lease_of(owner)? {
        return Err(Error::AlreadyLeased { lease: Box::new(lease) });
    }
    let wishes = wishes(pools, requested)?;
    let before = table.last();
    let mut addresses = Vec::with_capacity(pools.len());
    let mut last = Vec::with_capacity(pools.len());
    // Wishes come first, lest one is taken for another pool that has the address too.
    for wish in wishes.iter().flatten() {
        claim(table, *wish, reclaim)?;
    }
    for (pool, wish) in pools.iter().zip(&wishes) {
        let cursor = before.iter().copied().find(|address| pool.contains(*address));
        let address = match wish {
            Some(address) => *address,
            None => {
                let chosen: Vec<IpAddr> =
                    addresses.iter().map(IpNetwork::ip).chain(wishes.iter().copied().flatten()).collect();
                Search { table, pool, cursor, chosen }.free_address(reclaim)?
            }
        };
        // An address that was asked for says nothing of where the search has come to.
        last.extend(if wish.is_some() { cursor } else { Some(address) });
        addresses.push(pool.range_of(address).map_or(address.into(), |range: &Range| range.with_prefix(address)));
    }
    table.insert(owner, addresses, &last)
}

/// What is asked for of each pool.
fn wishes(pools: &[Pool], requested: &[IpAddr]) -> Result<Vec<Option<IpAddr>>> {
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
        holder => Err(Error::AddressTaken { address, holder: holder.map(|lease| Box::new(lease.owner)) }),
    }
}

/// The search for a free address of one pool.
struct Search<'a, T> {
    table: &'a mut T,
    pool: &'a Pool,
    cursor: Option<IpAddr>,
    /// What this allocation has decided on already.
    chosen: Vec<IpAddr>,
}

impl<T: Table> Search<'_, T> {
    fn free_address(&mut self, reclaim: &mut dyn FnMut(&Lease) -> bool) -> Result<IpAddr> {
        for address in self.pool.after(self.cursor).take(LOOKS) {
            if !self.chosen.contains(&address) && !self.table.is_taken(address)? {
                return Ok(address);
            }
        }
        if let Some(address) = self.free_by_list()? {
            return Ok(address);
        }
        for lease in self.table.all()? {
            if lease.addresses.iter().any(|address| self.pool.contains(address.ip())) && reclaim(&lease) {
                self.table.remove(&lease.owner)?;
            }
        }
        self.free_by_list()?.ok_or_else(|| Error::PoolExhausted { pool: Box::new(self.pool.clone()) })
    }

    fn free_by_list(&mut self) -> Result<Option<IpAddr>> {
        let taken = self.table.taken()?;
        Ok(self.pool.after(self.cursor).find(|address| !self.chosen.contains(address) && !taken.contains(address)))
    }
}
