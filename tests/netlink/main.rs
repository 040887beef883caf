//! The netlink operations on a real kernel, checked with `ip`, `tc` and `bridge`.
#![cfg(feature = "netlink")]

mod addresses;
mod background;
mod cost;
mod forged;
mod links;
mod netns;
mod nftables;

mod peers;
mod ports;
mod probe;
mod raw;
mod route_fields;
mod routes;
mod rules;
mod support;
mod sysctl;
mod tc;
