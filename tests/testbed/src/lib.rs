//! A private *host* with *pods* beside it, for tests that need a real kernel.
//!
//! A test that touches links, mounts or bpffs must not touch those of the machine it runs on. [`host`] gives it a
//! machine of its own: a thread with its own network and mount namespace, a fresh `/sys`, an empty bpffs, an empty
//! `/run` and `/var/lib/cni`. Whatever the test starts from that thread lives in there, and everything is gone when
//! the thread ends, however it ends. After a test that passed, the host is searched for what was left behind.
//!
//! ```
//! use cnikit_testbed::{Namespace, host};
//!
//! // Skipped with a line on stderr where the privileges are missing.
//! host(|host| {
//!     let pod = host.pod();
//!     host.ip("link add veth0 type veth peer name eth0");
//!     host.ip(&format!("link set eth0 netns {}", pod.netns().display()));
//!     assert!(pod.link("eth0").is_some());
//!     host.ip("link del veth0");
//! });
//! ```
//!
//! # What is here
//!
//! - [`host`], [`Host`] and [`Pod`]: the places; [`Namespace`] is what can be asked of both.
//! - [`Plugin`], [`Invocation`] and [`Outcome`]: a CNI plugin run the way a runtime runs it.
//! - [`Footprint`]: all that a plugin can leave on a host, as lines that compare and subtract.
//! - [`Command`] and [`Running`]: processes with a time limit that do not outlive the test; [`eventually`] and [`patience`]
//!   for what else takes time.
//! - [`Call`] and [`Ruling`]: a process that is killed, or whose call is made to fail, at any of its system calls.
//! - [`raw`]: frames past the stack.
//! - [`classifier`] and [`Xdp`]: programs for a TC hook and for an XDP hook.
//! - [`privileged`], [`tool`], [`cnitool`] and [`kernel`]: the reasons for which a test may be skipped, and when it may not;
//!   [`skipped`] says so.
//!
//! Everything here panics with the facts when something goes wrong: a test has no use for an error value.
#![cfg(target_os = "linux")]

mod call;
mod classifier;
mod command;
mod footprint;
mod host;
mod namespace;
mod plugin;
mod pod;
pub mod raw;
mod require;
mod supervise;
mod unshare;

pub use call::Call;
pub use classifier::{Xdp, classifier};
pub use command::{Command, Output, Running, eventually, patience};
pub use footprint::Footprint;
pub use host::{Host, host};
pub use namespace::Namespace;
pub use plugin::{Invocation, Outcome, Plugin};
pub use pod::Pod;
pub use require::{cnitool, kernel, privileged, skipped, supervision, tool};
pub use supervise::Ruling;
