//! The module `spec`: configurations, results and properties of both.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod config;
mod properties;
mod results;
