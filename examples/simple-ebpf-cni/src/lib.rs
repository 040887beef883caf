//! The objects of a network on one node: names, the bridge, veth pairs, eBPF programs and their
//! maps.
//!
//! The binary of this package adds the CNI verbs and the commands. A node agent can share the
//! library. The library prints nothing, reads no environment, and parses no arguments.
//!
//! The modules depend on each other in one direction. From the bottom to the top:
//!
//! * [`naming`], [`ip`], [`config`]: names, address arithmetic and configuration, without I/O
//! * [`network`]: the context of one call, which most other modules extend with methods
//! * [`programs`], [`endpoints`], [`siblings`]: eBPF programs and map entries
//! * [`bridge`], [`veth`], [`ipv6`], [`gateway`], [`masquerade`]: links, addresses and rules
//! * [`pool`], [`drift`]: free addresses, and differences from the expected state
//! * [`setup`] with `resync`, and `repair`: the whole network

pub mod agent;
pub mod bridge;
pub mod config;
pub mod drift;
pub mod endpoints;
pub mod gateway;
pub mod ip;
pub mod ipv6;
pub mod masquerade;
pub mod naming;
pub mod network;
pub mod pool;
pub mod programs;
mod repair;
mod resync;
pub mod setup;
pub mod siblings;
pub mod veth;
