//! A library for authors of CNI plugins, the programs that a container runtime calls to give a pod its network.
//!
//! | module | what it gives | feature |
//! |---|---|---|
//! | [`spec`] | the protocol as types: versions, configuration, results of every version, errors; no I/O | |
//! | [`plugin`] | a trait to implement, and the program around it | |
//! | [`runtime`] | the other side: finding and running plugins, delegation, network configurations, the result cache | |
//! | [`ipam`] | address ranges and a lease store that survives crashes | `ipam` |
//! | [`netlink`] | links, addresses, routes, TC filters and network namespaces | `netlink` |
//! | [`datapath`] | eBPF programs that count what pods send and deliver it directly | `bpf` |
//! | `conformance` | rules of the specification to hold any plugin to, in tests | `conformance` |
//!
//! All features but `conformance` are on by default. The modules do not know each other, beyond the types of [`spec`]: take those that
//! you need. `bpf` alone needs more than Rust to build: clang, make, pkg-config and the headers of libelf and zlib.
//!
//! # What it does not do
//!
//! It brings no daemon and keeps no state but the files and pins that its modules describe. It has no opinion on how
//! a network should look: that is the plugin's, and the repository's `simple-ebpf-cni` is one.
//!
//! It does not print: what takes time and what goes wrong are spans and events of [`tracing`], and who hears of them is
//! the program's choice. [`plugin::run`] makes one, see [there](plugin#what-is-told-of-a-call).
//!
//! # Where to start
//!
//! A whole plugin stands in the documentation of [`plugin`]. Errors of every module go through `?` in a verb
//! ([`plugin::PluginError`]); outside of one, [`Error`] holds any of them.

#![cfg_attr(
    not(all(feature = "ipam", feature = "netlink", feature = "bpf")),
    allow(rustdoc::broken_intra_doc_links, reason = "the documentation links to modules of features that are off")
)]

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "bpf")]
pub mod datapath;
#[cfg(any(feature = "ipam", feature = "bpf"))]
mod dir;
mod error;
#[cfg(any(feature = "ipam", feature = "bpf"))]
mod flock;
#[cfg(feature = "ipam")]
pub mod ipam;
#[cfg(feature = "netlink")]
pub mod netlink;
mod nsfs;
pub mod plugin;
pub mod runtime;
pub mod spec;
mod utc;

pub use self::error::Error;

/// Compiles the code of the repository's README.
#[cfg(all(doctest, feature = "ipam", feature = "netlink"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// Compiles the code of the library's README.
#[cfg(all(doctest, feature = "ipam", feature = "netlink"))]
#[doc = include_str!("README.md")]
struct LibraryReadme;
