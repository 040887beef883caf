//! The module `plugin`, through `dispatch`: values in, values out, and no process.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod dispatch;
mod errors;
mod rejections;
mod requests;
mod scripted;
mod spans;
