//! Keys and values of the maps, as `bpf/abi.h` lays them out.

use std::net::IpAddr;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::map::PerCpu;
use crate::spec::MacAddr;

/// What one address has sent and received. `struct pod_counters`
///
/// A GSO super-frame counts as one packet; bytes include the Ethernet headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
#[non_exhaustive]
pub struct PodCounters {
    /// Packets that the pod sent from the address, without those that the guard dropped.
    pub tx_packets: u64,
    /// Bytes of [`tx_packets`](Self::tx_packets).
    pub tx_bytes: u64,
    /// Of [`tx_packets`](Self::tx_packets), those redirected straight into the target pod.
    pub tx_direct: u64,
    /// Packets that were delivered to the address, directly or by the bridge.
    pub rx_packets: u64,
    /// Bytes of [`rx_packets`](Self::rx_packets).
    pub rx_bytes: u64,
    /// Of [`rx_packets`](Self::rx_packets), those redirected straight from the sending pod.
    pub rx_direct: u64,
}

/// The verdicts on all IP packets of a network. `struct net_stats`
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
    /// ARP requests that the programs answered.
    pub arp_answers: u64,
    /// Neighbour solicitations that the programs answered.
    pub nd_answers: u64,
    /// Flows from pod to pod that the stack delivered, and which it therefore gets both ways.
    pub flows_added: u64,
    /// Of [`flows_added`](Self::flows_added), those that were closed, and whose ports were used again for a direct
    /// conversation. What was displaced for want of room is in neither.
    pub flows_forgotten: u64,
    /// What all addresses together sent and received that nobody [tracks](super::CounterMap::track), groups among them.
    pub unknown: PodCounters,
}

/// Who owns an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodPort {
    /// Index of the host end of the pod's veth pair; of the bridge for the gateway's addresses.
    pub ifindex: u32,
    /// The pod end's MAC; the bridge's for the gateway's addresses.
    pub mac: MacAddr,
}

/// What a port may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PodLink {
    /// The pod end's MAC, from which alone it may send.
    pub mac: MacAddr,
    /// Never deliver directly to or from this port: for pods whose traffic is shaped at it.
    pub stack_only: bool,
    /// The pod has other ports. Leave packets between subnets to the host: the pod's routes may lead by another port.
    pub has_siblings: bool,
}

/// What the programs must know of their network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NetConfig {
    /// Index of the bridge device. As long as it is 0 the programs do nothing.
    pub bridge_ifindex: u32,
    /// The bridge's own MAC: frames to it are to be routed.
    pub gateway_mac: MacAddr,
    /// Deliver packets between pods directly, past the bridge and netfilter. Flows that the stack carries when this is
    /// turned on stay with it.
    pub direct: bool,
    /// Drop what a pod sends in another's name. Applies to ports with a row in the [`LinkMap`](super::LinkMap).
    pub guard: bool,
}

/// `struct endpoint`
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct RawPodPort {
    ifindex: u32,
    mac: [u8; 6],
    xdp: u16,
}

/// `struct port_config`
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct RawPortConfig {
    mac: [u8; 6],
    flags: u8,
    reserved: u8,
}

/// `struct port_address`
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct RawPortAddress {
    ifindex: u32,
    address: [u8; 16],
}

/// `struct net_config`
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct RawNetConfig {
    bridge_ifindex: u32,
    gateway_mac: [u8; 6],
    flags: u8,
    reserved: u8,
}

/// `CNI_PORT_STACK_ONLY`
const STACK_ONLY: u8 = 1 << 0;
/// `CNI_PORT_HAS_SIBLINGS`
const HAS_SIBLINGS: u8 = 1 << 1;
/// `CNI_NET_DIRECT_FORWARDING`
const DIRECT: u8 = 1 << 0;
/// `CNI_NET_SPOOF_CHECK`
const GUARD: u8 = 1 << 1;

impl NetConfig {
    /// A network whose pods are guarded and reach each other directly.
    #[must_use]
    pub const fn new(bridge_ifindex: u32, gateway_mac: MacAddr) -> Self {
        Self { bridge_ifindex, gateway_mac, direct: true, guard: true }
    }
}

impl PodLink {
    /// A port of a pod without others, to and from which packets may be delivered directly.
    #[must_use]
    pub const fn new(mac: MacAddr) -> Self {
        Self { mac, stack_only: false, has_siblings: false }
    }

    /// Sets whether packets are never delivered directly to or from the port.
    #[must_use]
    pub const fn stack_only(mut self, stack_only: bool) -> Self {
        self.stack_only = stack_only;
        self
    }
}

impl From<PodPort> for RawPodPort {
    fn from(port: PodPort) -> Self {
        Self { ifindex: port.ifindex, mac: port.mac.octets(), xdp: 0 }
    }
}

impl From<RawPodPort> for PodPort {
    fn from(raw: RawPodPort) -> Self {
        Self { ifindex: raw.ifindex, mac: MacAddr::new(raw.mac) }
    }
}

impl From<PodLink> for RawPortConfig {
    fn from(link: PodLink) -> Self {
        let flags = flag(link.stack_only, STACK_ONLY) | flag(link.has_siblings, HAS_SIBLINGS);
        Self { mac: link.mac.octets(), flags, reserved: 0 }
    }
}

impl RawPortConfig {
    pub(super) fn has_flags(&self) -> bool {
        self.flags != 0
    }
}

impl From<RawPortConfig> for PodLink {
    fn from(raw: RawPortConfig) -> Self {
        let has = |flag| raw.flags & flag != 0;
        Self { mac: MacAddr::new(raw.mac), stack_only: has(STACK_ONLY), has_siblings: has(HAS_SIBLINGS) }
    }
}

impl RawPortAddress {
    pub(super) fn new(ifindex: u32, address: IpAddr) -> Self {
        let address = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        Self { ifindex, address: address.octets() }
    }

    pub(super) fn parts(self) -> (u32, IpAddr) {
        (self.ifindex, IpAddr::from(self.address).to_canonical())
    }
}

impl From<NetConfig> for RawNetConfig {
    fn from(config: NetConfig) -> Self {
        Self {
            bridge_ifindex: config.bridge_ifindex,
            gateway_mac: config.gateway_mac.octets(),
            flags: flag(config.direct, DIRECT) | flag(config.guard, GUARD),
            reserved: 0,
        }
    }
}

impl From<RawNetConfig> for NetConfig {
    fn from(raw: RawNetConfig) -> Self {
        Self {
            bridge_ifindex: raw.bridge_ifindex,
            gateway_mac: MacAddr::new(raw.gateway_mac),
            direct: raw.flags & DIRECT != 0,
            guard: raw.flags & GUARD != 0,
        }
    }
}

impl PerCpu for PodCounters {}

impl PerCpu for NetStats {}

const fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;
    use crate::datapath::Drops;
    use crate::datapath::maps::{FLOWS, PACKET_SCRATCH};
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
        same_layout!(
            PodCounters,
            types::pod_counters,
            tx_packets,
            tx_bytes,
            tx_direct,
            rx_packets,
            rx_bytes,
            rx_direct
        );
        same_layout!(NetStats, types::net_stats, direct, to_stack, to_host, from_stack, unknown);
        same_layout!(NetStats, types::net_stats, arp_answers, nd_answers, flows_added, flows_forgotten);
        same_layout!(RawPodPort, types::endpoint, ifindex, mac, xdp);
        same_layout!(RawPortConfig, types::port_config, mac, flags, reserved);
        same_layout!(RawNetConfig, types::net_config, bridge_ifindex, gateway_mac, flags, reserved);
        same_layout!(RawPortAddress, types::port_address, ifindex, address);
        assert_eq!(size_of::<Drops>(), size_of::<types::drops>());
        assert_eq!(PACKET_SCRATCH.sizes, (4, size_of::<types::packet>()));
        assert_eq!(FLOWS.sizes, (size_of::<types::flow_key>(), 1));
        assert_eq!((size_of::<types::ipv4_key>(), size_of::<types::ipv6_key>()), (4, 16));
    }
}
