//! A library for authors of CNI plugins: the programs that a container runtime runs to connect a
//! pod to a network.
//!
//! | module | contents | feature |
//! |---|---|---|
//! | [`spec`] | the protocol as types: versions, configuration, results of every version, errors; no I/O | |
//! | [`plugin`] | a trait for a plugin's verbs, and the program that calls them | |
//! | [`runtime`] | the runtime's side: finding and running plugins, delegation, network configurations, the result cache | |
//! | [`ipam`] | address ranges and a lease store that survives crashes | `ipam` |
//! | [`netlink`] | links, addresses, routes, TC filters and network namespaces | `netlink` |
//! | [`bpf`] | loading own eBPF programs once, pinning them as a whole, TCX links | `bpf` |
//! | [`datapath`] | eBPF programs that count the packets of pods and forward them directly | `datapath` |
//! | `conformance` | the specification's rules as tests for any plugin | `conformance` |
//!
//! All features except `conformance` are on by default. Modules depend on [`spec`] alone, not on
//! each other, so that a program enables only the modules that it needs. `datapath` also depends on
//! `bpf`. Only these two need more than Rust to build: a C compiler, make, pkg-config and the
//! headers of libelf and zlib, and `datapath` also clang.
//!
//! # What it does not do
//!
//! The library runs no daemon. Its only state is the files and pins that the modules document. The
//! layout of the network is the plugin's decision; the repository's `simple-ebpf-cni` is one such
//! plugin.
//!
//! The library does not print. It emits spans and events of [`tracing`], and the program chooses
//! the subscriber. [`plugin::run`] installs one: see [its log](plugin#logging-and-tracing).
//!
//! # Types of other crates
//!
//! The public API contains types and traits of four other crates:
//!
//! | crate | in the API |
//! |---|---|
//! | [`ipnetwork`], exported by this crate | an address with its prefix length |
//! | [`serde_json`] | values of keys that the specification does not define |
//! | [`serde`] | the configuration of a plugin, and the JSON form of types |
//! | [`tracing`] | the subscriber of [`plugin`] |
//!
//! # Where to start
//!
//! The documentation of [`plugin`] contains a complete plugin. In a verb, `?` converts an error of
//! any module into a [`plugin::PluginError`]. Elsewhere, [`Error`] holds an error of any module.
//!
//! # Errors
//!
//! The text of an error names the object, the reason and the remedy, in this order:
//!
//! ```text
//! cannot read /x: No such file or directory (os error 2); mount /proc
//! ```
//!
//! Print it with `{error}`. If the text contains the reason, [`source`](std::error::Error::source)
//! returns nothing, so a printed chain of sources does not repeat the reason. Its value is a public
//! field of the variant.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    not(all(feature = "ipam", feature = "netlink", feature = "datapath")),
    allow(rustdoc::broken_intra_doc_links, reason = "the documentation links to modules of disabled features")
)]
#![warn(clippy::must_use_candidate, clippy::return_self_not_must_use)]

#[cfg(feature = "bpf")]
pub mod bpf;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "datapath")]
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
#[cfg(any(feature = "ipam", feature = "bpf", feature = "netlink"))]
mod poll;
pub mod runtime;
pub mod spec;
mod statfs;
mod utc;

pub use self::error::{Error, Result};
pub use ipnetwork;

/// Compiles the code blocks of the repository's README.
#[cfg(all(doctest, cnikit_repository, feature = "ipam", feature = "netlink"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// Compiles the code blocks of the library's README.
#[cfg(all(doctest, feature = "ipam", feature = "netlink"))]
#[doc = include_str!("README.md")]
struct LibraryReadme;

/// Compiles the code blocks of the page for authors of plugins.
#[cfg(all(doctest, cnikit_repository, feature = "ipam", feature = "netlink"))]
#[doc = include_str!("../docs/authors.md")]
struct Authors;
