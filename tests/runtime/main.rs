//! The runtime's side of the protocol, against plugins that are small shell scripts, and against plugins and a runtime
//! that others wrote where they are installed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cache;
mod chain;
mod cnitool;
mod delegate;
mod invoke;
mod network;
mod reference;
mod support;
