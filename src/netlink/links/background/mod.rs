//! Deleting a link without waiting for the kernel's grace period: another process waits.

mod notices;
mod orphans;
mod process;
mod wait;

pub use orphans::OrphanRecord;
