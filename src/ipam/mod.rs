//! Address ranges and the store of who holds which address.
//!
//! A [`Range`] is pure arithmetic: which addresses of a subnet may be handed out. Ranges that stand in for each other are
//! a [`Pool`], and [`IpamConfig`] reads pools out of a configuration. A [`Store`] is a directory that remembers who holds
//! which address; changing it takes its lock, reading it does not.
//!
//! ```
//! use std::time::Duration;
//! use cnikit::ipam::{Owner, Range, Store};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path().join("podnet");
//! let range = Range::new("10.244.1.0/24".parse()?, None)?;
//! let store = Store::open(dir)?;
//! let owner = Owner { container_id: "4fe2c9".parse()?, ifname: "eth0".parse()? };
//!
//! let lease = store.lock(Duration::from_secs(5))?.allocate(&owner, &[range.into()], &[])?;
//! assert_eq!(lease.addresses, ["10.244.1.2/24".parse()?]);
//! assert_eq!(store.lease(&owner)?, Some(lease));
//! # Ok(()) }
//! ```
//!
//! # The directory
//!
//! | Path | Content |
//! |---|---|
//! | `leases/<container id>@<ifname>.json` | one lease, readable JSON |
//! | `addresses/<address>` | a hard link to the file of the lease that holds the address |
//! | `pending` | the change under way; left over only by a process that was killed |
//! | `lock` | held with [flock(2)] while the directory changes; names the boot of the leases, and helps the search |
//! | `owners/` | locks that callers hold for as long as they work on one attachment |
//! | `damaged/` | files that were damaged, kept for a look; made when there is one |
//!
//! Both an owner and an address are found by name, so a lease costs the same however many are held. All names of a
//! lease lead to one inode; that inode, not what the file says, decides which addresses are its own.
//!
//! The search for a free address goes on where it has come to, so that a released address rests until the others were
//! used. It steps over long rows of addresses that it has seen to be taken and that were not released since; both stand
//! in `lock`, which is open in any case.
//!
//! # A process killed in the middle
//!
//! To allocate is to write `pending`, to [link(2)] it to each address, and to [rename(2)] it to the owner's name: the
//! rename is the commit. To release is the way back: rename the owner's file to `pending`, which is the commit, then
//! remove the links and `pending`. Whoever takes the lock next and finds `pending` removes the links to that inode, then
//! the file. So a kill at any instruction leaves the state before the change or the one after it.
//!
//! # A machine that loses power
//!
//! Leases belong to a boot: with the machine go the network namespaces that the addresses were in. The first to take
//! the lock after a boot removes all leases of earlier ones, and only then marks the directory with the new boot.
//! Nothing written before the power was cut is ever believed, so nothing waits for the disk: there is no fsync here.
//! Files that the disk holds half-written are kept for a look, and [told of](StoreGuard::quarantined).
//!
//! The repository's docs/ipam.md says more: the order of every step, damage, locks, moving over from other plugins,
//! and what all of it costs.
//!
//! [flock(2)]: https://man7.org/linux/man-pages/man2/flock.2.html
//! [link(2)]: https://man7.org/linux/man-pages/man2/link.2.html
//! [rename(2)]: https://man7.org/linux/man-pages/man2/rename.2.html

mod allocator;
mod config;
mod error;
mod files;
mod guard;
mod hints;
mod import;
mod lease;
mod lock;
mod memory;
mod owner_lock;
mod pool;
mod probe;
mod range;
mod recovery;
mod remove;
mod resolv_conf;
mod store;
mod timestamp;
mod usage;

#[cfg(test)]
mod allocator_tests;
#[cfg(test)]
mod config_tests;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod import_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod probe_tests;
#[cfg(test)]
mod range_tests;
#[cfg(test)]
mod recovery_tests;
#[cfg(test)]
mod remove_tests;
#[cfg(test)]
mod store_tests;

pub use config::{IpamConfig, IpamKeys, RangeKeys};
pub use error::{ADDRESS_TAKEN, ALREADY_LEASED, CORRUPT_LEASE, Error, POOL_EXHAUSTED, Result};
pub use guard::StoreGuard;
pub use import::{ForeignLeases, Import, SkipReason, Skipped};
pub use lease::{BootId, Lease, Owner, Tenant};
pub use memory::MemoryStore;
pub use owner_lock::OwnerLock;
pub use pool::Pool;
pub use range::{Addresses, Range};
pub use recovery::Quarantined;
pub use store::{LOCK_TIMEOUT, Leases, Store};
pub use usage::Usage;
