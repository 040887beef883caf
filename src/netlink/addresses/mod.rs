//! The addresses of links.

mod address;
mod operations;

pub use address::{Address, AddressSpec};
