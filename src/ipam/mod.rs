//! Address ranges, and a store of address leases.
//!
//! A [`Range`] computes the addresses of a subnet that can be allocated; it does no I/O. A [`Pool`]
//! is a list of ranges that are used one after the other. [`IpamConfig`] reads pools from a
//! configuration. A [`Store`] is a directory of leases. Changes take its lock, reads do not.
//!
//! ```
//! use std::time::Duration;
//! use cnikit::ipam::{Range, Store};
//! use cnikit::spec::AttachmentKey;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path().join("podnet");
//! let range = Range::new("10.244.1.0/24".parse()?, None)?;
//! let store = Store::open(dir)?;
//! let owner = AttachmentKey::new("4fe2c9".parse()?, "eth0".parse()?);
//!
//! let lease = store.lock(Duration::from_secs(5))?.allocate(&owner, &[range.into()], &[])?;
//! assert_eq!(lease.addresses, ["10.244.1.2/24".parse()?]);
//! assert_eq!(store.lease(&owner)?, Some(lease));
//! # Ok(()) }
//! ```
//!
//! # Directory layout
//!
//! | Path | Content |
//! |---|---|
//! | `leases/<container id>@<ifname>.json` | one lease as indented JSON |
//! | `addresses/<address>` | a hard link to the file of the lease that holds the address |
//! | `pending` | the pending change; remains only after a kill |
//! | `lock` | locked with [flock(2)] during changes; contains the boot id of the leases and hints for the search |
//! | `owners/` | locks for the duration of a call on one attachment |
//! | `damaged/` | quarantined damaged files; created on demand |
//!
//! Owners and addresses are found by file name, so the cost of an operation does not depend on the
//! number of leases. All names of a lease refer to one inode. That inode decides which addresses
//! belong to the lease, not the file content.
//!
//! The search for a free address continues after the last allocated one. A released address is
//! therefore reused only after the others. The search skips long runs of addresses that it has seen
//! as taken and that were not released since. The position and the runs are stored in `lock`, which
//! is open in any case.
//!
//! # Killed processes
//!
//! An allocation writes `pending`, creates a hard link with [link(2)] for each address, and renames
//! `pending` to the owner's name with [rename(2)]. The rename is the commit. A release renames the
//! owner's file to `pending`, which is the commit, and then removes the links and `pending`.
//!
//! The next process that takes the lock and finds `pending` removes the links to that inode, then
//! the file. A kill at any instruction therefore leaves the state before or after the change.
//!
//! # Power loss
//!
//! A lease belongs to a boot, because network namespaces do not survive a boot. The first process
//! that takes the lock after a boot removes all leases of earlier boots. It marks the directory
//! with the new boot id afterwards.
//!
//! Data from before the power loss is never trusted, so nothing waits for the disk: the store calls
//! no fsync. Half-written files are moved to `damaged/` and [reported](StoreGuard::quarantined).
//!
//! The repository's docs/ipam.md describes the order of every step, damage, locks, the import from
//! other plugins, and the costs.
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
mod lease_table;
mod lock;
mod memory;
mod owner_lock;
mod pool;
mod probe;
mod quarantine;
mod range;
mod recovery;
mod remove;
mod resolv_conf;
mod store;
mod timestamp;
mod usage;

#[cfg(test)]
mod tests;

pub use config::{IpamConfig, IpamKeys};
pub use error::{ADDRESS_TAKEN, ALREADY_LEASED, CORRUPT_LEASE, Error, POOL_EXHAUSTED, Result};
pub use guard::StoreGuard;
pub use import::{ForeignLeases, Import, SkipReason, Skipped};
pub use lease::{BootId, Lease, Tenant};
pub use lease_table::LeaseTable;
pub use memory::MemoryStore;
pub use owner_lock::OwnerLock;
pub use pool::Pool;
pub use quarantine::Quarantined;
pub use range::{Addresses, Range, RangeKeys};
pub use store::{LOCK_TIMEOUT, Leases, Store};
pub use usage::Usage;
