//! The module `runtime`, with plugins that are small shell scripts, and with the reference plugins
//! and `cnitool` if they are installed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cache;
mod chain;
mod cnitool;
mod delegate;
mod example;
mod invoke;
mod network;
mod reference;
mod support;
