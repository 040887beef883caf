//! The netlink verbs against a real kernel, checked by what `ip`, `tc` and `bridge` see.
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
mod routes;
mod support;
mod sysctl;
mod tc;
