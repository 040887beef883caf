//! The node agent of `simple-ebpf-cni`: it connects the pods of all nodes of a cluster.
//!
//! The data flows in one direction:
//!
//! * [`watch`] watches the Node objects, and [`nodes`] is their index. It returns a
//!   [`ClusterView`](view::ClusterView).
//! * [`desired`] computes routes, map entries and sets from the view, with [`routes`] and
//!   [`cidrs`]. All of them are pure.
//! * [`reconcile`] compares with the kernel and applies the differences, with [`tunnel`],
//!   [`underlay`] and [`masquerade`], and writes the network configuration last ([`conflist`]).
//!   [`forward`] accepts packets of pods in packet filters of other programs. [`untracked`]
//!   excludes packets of the tunnel from connection tracking, in the [`table`] of [`masquerade`].
//! * [`probe`] tries the direct ways to other nodes, and [`collect`] removes forgotten pods.
//! * [`agent`] is the loop around them, woken by the API, by [`monitor`] and by time. [`http`]
//!   shows the result.

pub mod agent;
pub mod cidrs;
pub mod collect;
pub mod conflist;
pub mod desired;
pub mod forward;
pub mod http;
pub mod kernel;
pub mod masquerade;
pub mod monitor;
pub mod nodes;
pub mod probe;
pub mod reconcile;
pub mod routes;
pub mod settings;
pub mod sysctls;
pub mod table;
pub mod tunnel;
pub mod underlay;
pub mod untracked;
pub mod view;
pub mod watch;
