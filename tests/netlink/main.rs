//! The netlink operations on a real kernel, checked with `ip`, `tc` and `bridge`.
#![cfg(feature = "netlink")]

mod address_specs;
mod addresses;
mod background;
mod configured;
mod cost;
mod encap;
mod forged;
mod kinds;
mod link_changes;
mod links;
mod lookup;
mod neighbors;
mod netns;
mod nft_foreign;
mod nft_rules;
mod nft_sets;
mod nft_traffic;
mod nftables;
mod peers;
mod ports;
mod probe;
mod raw;
mod route_fields;
mod routes;
mod rules;
mod shaping;
mod support;
mod sysctl;
mod sysctl_names;
mod tc;
mod vlans;
mod vxlan;
