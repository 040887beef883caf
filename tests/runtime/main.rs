//! The runtime's side of the protocol, against plugins that are small shell scripts.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cache;
mod chain;
mod invoke;
mod network;
mod support;
