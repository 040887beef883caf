//! The netlink operations on a real kernel, checked with `ip`, `tc` and `bridge`.
#![cfg(feature = "netlink")]

mod addresses;
mod background;
mod cost;
mod forged;
mod links;
mod netns;
mod nft_rules;
mod nft_sets;
mod nft_traffic;
mod nftables;
mod peers;
mod ports;
mod probe;
mod routes;
mod support;
mod sysctl;
mod tc;
