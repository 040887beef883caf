//! A library for authors of CNI plugins.
#[cfg(feature = "bpf")]
pub mod datapath;
#[cfg(feature = "ipam")]
pub mod ipam;
#[cfg(feature = "netlink")]
pub mod netlink;
pub mod plugin;
pub mod spec;
