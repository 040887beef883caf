//! A private *host* with *pods*, for tests that need a real kernel.
//!
//! A test that touches links, mounts or bpffs must not touch the machine's own. [`host`] creates
//! a private host: a thread with its own network and mount namespace, a new `/sys`, an empty bpffs,
//! an empty `/run` and `/var/lib/cni`. All processes and threads that the test starts live on the
//! host, and everything disappears when the thread ends. After a passed test, the host is checked
//! for leftovers.
//!
//! ```
//! use cnikit_testbed::{Namespace, host};
//!
//! // Skipped with a line on stderr if the privileges are missing.
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
//! - [`host`], [`Host`] and [`Pod`]: the namespaces. [`Namespace`] has the operations of both.
//! - [`Plugin`], [`Invocation`] and [`Outcome`]: a CNI plugin run as a runtime runs it.
//! - [`Footprint`]: all state that a plugin can leave on a host, as lines that can be compared and
//!   subtracted.
//! - [`Command`] and [`Running`]: processes with a timeout that do not outlive the test.
//!   [`eventually`] and [`patience`] are for other events.
//! - [`Call`] and [`Ruling`]: kill a process at any of its system calls, or make the call fail.
//! - [`raw`]: frames that bypass the network stack.
//! - [`classifier`] and [`Xdp`]: programs for a TC hook and for an XDP hook.
//! - [`privileged`], [`tool`], [`cnitool`] and [`kernel`]: the requirements of a test, and whether
//!   it may be skipped. [`skipped`] reports a skip.
//!
//! Errors panic with the facts, because a test has no use for an error value.
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
pub use classifier::{Xdp, classifier, classifier_with_maps};
pub use command::{Command, Output, Running, eventually, patience};
pub use footprint::Footprint;
pub use host::{Host, host};
pub use namespace::Namespace;
pub use plugin::{Invocation, Outcome, Plugin};
pub use pod::Pod;
pub use require::{cnitool, kernel, privileged, skipped, supervision, tool};
pub use supervise::Ruling;
