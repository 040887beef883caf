//! Tests of the store and the ranges, one file for each module or property.

mod allocator;
mod config;
pub(super) mod crash;
mod fixture;
#[cfg(cnikit_repository)]
mod hostile;
mod import;
mod lease_table;
mod model;
#[cfg(cnikit_repository)]
mod probe;
mod range;
mod recovery;
mod remove;
mod store;
