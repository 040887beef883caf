//! Tests of the store and the ranges, one file for each module or property.

mod allocator;
mod config;
pub(super) mod crash;
mod fixture;
mod hostile;
mod import;
mod lease_table;
mod model;
mod probe;
mod range;
mod recovery;
mod remove;
mod store;
