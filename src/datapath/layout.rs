//! Keys and values of the maps, as `bpf/cni_tc.h` lays them out.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::spec::MacAddr;

/// What one pod address has sent and received. `struct pod_counters`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
#[non_exhaustive]
pub struct PodCounters {
    /// Packets that the pod sent from the address. A GSO super-frame counts as one.
    pub tx_packets: u64,
    /// Bytes of [`tx_packets`](Self::tx_packets), Ethernet headers included.
    pub tx_bytes: u64,
    /// Of [`tx_packets`](Self::tx_packets), those redirected straight into the target pod.
    pub tx_direct: u64,
    /// Packets that the bridge delivered to the address; direct ones do not pass there.
    pub rx_stack: u64,
}

/// The verdicts on all IPv4 packets of a network. `struct net_stats`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
#[non_exhaustive]
pub struct NetStats {
    /// From a pod, redirected straight into the target pod.
    pub direct: u64,
    /// From a pod, left to the bridge.
    pub to_stack: u64,
    /// Came up to the bridge device: for the host, or to be routed.
    pub to_host: u64,
    /// Delivered to a pod by the bridge.
    pub from_stack: u64,
    /// From a pod, with a source address that nobody [tracks](super::CounterMap::track).
    pub unknown_source: u64,
}

/// Where a pod address lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodPort {
    /// Index of the host end of the pod's veth pair.
    pub ifindex: u32,
    /// The pod end's MAC.
    pub mac: MacAddr,
}

/// What the programs must know of their network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// Index of the bridge device.
    pub bridge_ifindex: u32,
    /// The bridge's own MAC: frames to it are to be routed.
    pub gateway_mac: MacAddr,
}

/// `struct pod_port`
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct RawPodPort {
    ifindex: u32,
    mac: [u8; 6],
    reserved: [u8; 2],
}

/// `struct net_config`
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct RawNetConfig {
    bridge_ifindex: u32,
    gateway_mac: [u8; 6],
    reserved: [u8; 2],
}

impl From<PodPort> for RawPodPort {
    fn from(port: PodPort) -> Self {
        Self { ifindex: port.ifindex, mac: port.mac.octets(), reserved: [0; 2] }
    }
}

impl From<RawPodPort> for PodPort {
    fn from(raw: RawPodPort) -> Self {
        Self { ifindex: raw.ifindex, mac: MacAddr::new(raw.mac) }
    }
}

impl From<NetConfig> for RawNetConfig {
    fn from(config: NetConfig) -> Self {
        Self { bridge_ifindex: config.bridge_ifindex, gateway_mac: config.gateway_mac.octets(), reserved: [0; 2] }
    }
}

impl From<RawNetConfig> for NetConfig {
    fn from(raw: RawNetConfig) -> Self {
        Self { bridge_ifindex: raw.bridge_ifindex, gateway_mac: MacAddr::new(raw.gateway_mac) }
    }
}

/// Adding up what each CPU counted for itself.
pub(super) trait PerCpu: FromBytes + Default {
    fn add(&mut self, other: &Self);
}

impl PerCpu for PodCounters {
    fn add(&mut self, other: &Self) {
        self.tx_packets += other.tx_packets;
        self.tx_bytes += other.tx_bytes;
        self.tx_direct += other.tx_direct;
        self.rx_stack += other.rx_stack;
    }
}

impl PerCpu for NetStats {
    fn add(&mut self, other: &Self) {
        self.direct += other.direct;
        self.to_stack += other.to_stack;
        self.to_host += other.to_host;
        self.from_stack += other.from_stack;
        self.unknown_source += other.unknown_source;
    }
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;
    use crate::datapath::skeleton::types;

    /// Compares a struct here with the one that the skeleton took from the C program's BTF.
    macro_rules! same_layout {
        ($rust:ty, $c:ty, $($member:ident),+) => {
            assert_eq!(size_of::<$rust>(), size_of::<$c>());
            $(assert_eq!(
                offset_of!($rust, $member), offset_of!($c, $member), stringify!($member)
            );)+
        };
    }

    #[test]
    fn layouts_match_the_c_program() {
        same_layout!(PodCounters, types::pod_counters, tx_packets, tx_bytes, tx_direct, rx_stack);
        same_layout!(NetStats, types::net_stats, direct, to_stack, to_host, from_stack, unknown_source);
        same_layout!(RawPodPort, types::pod_port, ifindex, mac, reserved);
        same_layout!(RawNetConfig, types::net_config, bridge_ifindex, gateway_mac, reserved);
        assert_eq!(size_of::<types::ipv4_key>(), 4);
    }
}
