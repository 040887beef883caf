//! Keys and values of the maps, as `bpf/abi.h` lays them out.

use std::net::IpAddr;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::map::PerCpu;
use crate::spec::{IfIndex, MacAddr};

/// The packet counters of one address: `struct pod_counters`.
///
/// A GSO super-frame counts as one packet. Bytes include the Ethernet headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PodCounters {
    /// Packets that the pod sent from the address, without packets that the spoof check dropped.
    pub tx_packets: u64,
    /// Bytes of [`tx_packets`](Self::tx_packets).
    pub tx_bytes: u64,
    /// The part of [`tx_packets`](Self::tx_packets) that was forwarded directly to the receiving
    /// pod.
    pub tx_direct: u64,
    /// Packets delivered to the address, directly or through the bridge.
    pub rx_packets: u64,
    /// Bytes of [`rx_packets`](Self::rx_packets).
    pub rx_bytes: u64,
    /// The part of [`rx_packets`](Self::rx_packets) that was forwarded directly from the sending
    /// pod.
    pub rx_direct: u64,
}

/// The verdict counters of a network, in packets: `struct net_stats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NetStats {
    /// From a pod, forwarded directly to another pod.
    pub direct: u64,
    /// From a pod, passed to the bridge.
    pub to_stack: u64,
    /// Received by the bridge device, for the host or for routing.
    pub to_host: u64,
    /// Delivered to a pod by the bridge.
    pub from_stack: u64,
    /// ARP requests that the programs answered.
    pub arp_answers: u64,
    /// Neighbor solicitations that the programs answered.
    pub nd_answers: u64,
    /// Flows between pods that the stack delivered. The stack receives both directions of such a
    /// flow.
    pub flows_added: u64,
    /// The part of [`flows_added`](Self::flows_added) that was closed and replaced by a direct flow
    /// with the same ports. Flows evicted from a full table are not counted.
    pub flows_forgotten: u64,
    /// The sum of all addresses without [counters](super::CounterMap::insert), including multicast
    /// groups.
    pub unknown: PodCounters,
}

/// The endpoint of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Endpoint {
    /// The index of the host end of the pod's veth pair, or of the bridge for gateway addresses.
    pub ifindex: IfIndex,
    /// The MAC of the pod's interface, or of the bridge for gateway addresses.
    pub mac: MacAddr,
}

/// The configuration of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortConfig {
    /// The MAC of the pod's interface, the only valid source MAC of the port.
    pub mac: MacAddr,
    /// Disables direct forwarding to and from the port, for pods with traffic shaping at the port.
    pub stack_only: bool,
    /// The pod has other ports. Packets between subnets go to the host, because routes of the pod
    /// can use another port.
    pub has_siblings: bool,
}

/// The configuration of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DatapathConfig {
    /// The index of the bridge. Without one, the programs do nothing.
    pub bridge_ifindex: Option<IfIndex>,
    /// The MAC of the bridge. Frames to this MAC are routed.
    pub gateway_mac: MacAddr,
    /// Forwards packets between pods directly, without bridge and netfilter. Existing flows through
    /// the stack stay there.
    pub direct_forwarding: bool,
    /// Drops packets with a source that does not belong to the pod. Applies to ports with an entry
    /// in the [`PortConfigMap`](super::PortConfigMap).
    pub spoof_check: bool,
}

/// `struct endpoint`
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct RawEndpoint {
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
pub(super) struct RawDatapathConfig {
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
const DIRECT_FORWARDING: u8 = 1 << 0;
/// `CNI_NET_SPOOF_CHECK`
const SPOOF_CHECK: u8 = 1 << 1;

impl DatapathConfig {
    /// A network with spoof check and direct forwarding.
    #[must_use]
    pub const fn new(bridge_ifindex: IfIndex, gateway_mac: MacAddr) -> Self {
        Self { bridge_ifindex: Some(bridge_ifindex), gateway_mac, direct_forwarding: true, spoof_check: true }
    }
}

impl PortConfig {
    /// The only port of a pod, with direct forwarding.
    #[must_use]
    pub const fn new(mac: MacAddr) -> Self {
        Self { mac, stack_only: false, has_siblings: false }
    }

    /// Disables direct forwarding to and from the port, or enables it.
    #[must_use]
    pub const fn stack_only(mut self, stack_only: bool) -> Self {
        self.stack_only = stack_only;
        self
    }
}

impl Endpoint {
    /// The endpoint at the port `ifindex`, with this MAC.
    #[must_use]
    pub const fn new(ifindex: IfIndex, mac: MacAddr) -> Self {
        Self { ifindex, mac }
    }
}

impl From<Endpoint> for RawEndpoint {
    fn from(port: Endpoint) -> Self {
        Self { ifindex: port.ifindex.get(), mac: port.mac.octets(), xdp: 0 }
    }
}

impl RawEndpoint {
    /// `None` for index 0, which names no port.
    pub(super) fn endpoint(self) -> Option<Endpoint> {
        Some(Endpoint { ifindex: IfIndex::new(self.ifindex)?, mac: MacAddr::new(self.mac) })
    }
}

impl From<PortConfig> for RawPortConfig {
    fn from(link: PortConfig) -> Self {
        let flags = flag(link.stack_only, STACK_ONLY) | flag(link.has_siblings, HAS_SIBLINGS);
        Self { mac: link.mac.octets(), flags, reserved: 0 }
    }
}

impl RawPortConfig {
    pub(super) fn has_flags(&self) -> bool {
        self.flags != 0
    }
}

impl From<RawPortConfig> for PortConfig {
    fn from(raw: RawPortConfig) -> Self {
        let has = |flag| raw.flags & flag != 0;
        Self { mac: MacAddr::new(raw.mac), stack_only: has(STACK_ONLY), has_siblings: has(HAS_SIBLINGS) }
    }
}

impl RawPortAddress {
    pub(super) fn new(ifindex: IfIndex, address: IpAddr) -> Self {
        let address = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        Self { ifindex: ifindex.get(), address: address.octets() }
    }

    /// `None` for index 0, which names no port.
    pub(super) fn parts(self) -> Option<(IfIndex, IpAddr)> {
        Some((IfIndex::new(self.ifindex)?, IpAddr::from(self.address).to_canonical()))
    }
}

impl From<DatapathConfig> for RawDatapathConfig {
    fn from(config: DatapathConfig) -> Self {
        Self {
            bridge_ifindex: config.bridge_ifindex.map_or(0, IfIndex::get),
            gateway_mac: config.gateway_mac.octets(),
            flags: flag(config.direct_forwarding, DIRECT_FORWARDING) | flag(config.spoof_check, SPOOF_CHECK),
            reserved: 0,
        }
    }
}

impl From<RawDatapathConfig> for DatapathConfig {
    fn from(raw: RawDatapathConfig) -> Self {
        Self {
            bridge_ifindex: IfIndex::new(raw.bridge_ifindex),
            gateway_mac: MacAddr::new(raw.gateway_mac),
            direct_forwarding: raw.flags & DIRECT_FORWARDING != 0,
            spoof_check: raw.flags & SPOOF_CHECK != 0,
        }
    }
}

impl PerCpu for PodCounters {
    type Words = [u64; 6];

    fn from_words([tx_packets, tx_bytes, tx_direct, rx_packets, rx_bytes, rx_direct]: Self::Words) -> Self {
        Self { tx_packets, tx_bytes, tx_direct, rx_packets, rx_bytes, rx_direct }
    }

    fn words(&self) -> Self::Words {
        let Self { tx_packets, tx_bytes, tx_direct, rx_packets, rx_bytes, rx_direct } = *self;
        [tx_packets, tx_bytes, tx_direct, rx_packets, rx_bytes, rx_direct]
    }
}

impl PerCpu for NetStats {
    type Words = [u64; 14];

    fn from_words(words: Self::Words) -> Self {
        let [
            direct,
            to_stack,
            to_host,
            from_stack,
            arp_answers,
            nd_answers,
            flows_added,
            flows_forgotten,
            unknown @ ..,
        ] = words;
        let unknown = PodCounters::from_words(unknown);
        Self { direct, to_stack, to_host, from_stack, arp_answers, nd_answers, flows_added, flows_forgotten, unknown }
    }

    fn words(&self) -> Self::Words {
        let Self {
            direct,
            to_stack,
            to_host,
            from_stack,
            arp_answers,
            nd_answers,
            flows_added,
            flows_forgotten,
            unknown,
        } = *self;
        let [a, b, c, d, e, f] = unknown.words();
        [direct, to_stack, to_host, from_stack, arp_answers, nd_answers, flows_added, flows_forgotten, a, b, c, d, e, f]
    }
}

const fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::array;
    use std::mem::{offset_of, size_of};

    use super::*;
    use crate::datapath::map_specs::{FLOWS, NET_DROPS, NET_STATS, PACKET_SCRATCH, PKT_COUNT};
    use crate::datapath::skeleton::types;

    /// Compares a struct with its C twin, which the skeleton takes from the BTF of the C program.
    macro_rules! same_layout {
        ($rust:ty, $c:ty, $($member:ident),+) => {
            assert_eq!(size_of::<$rust>(), size_of::<$c>());
            $(assert_eq!(
                offset_of!($rust, $member), offset_of!($c, $member), stringify!($member)
            );)+
        };
    }

    /// Compares the order of counters with the C struct. Each counter is its own number here.
    macro_rules! same_order {
        ($value:expr, $c:ty, $from:expr, $($member:ident),+) => {
            $(assert_eq!(
                $value.$member as usize, ($from + offset_of!($c, $member)) / 8, stringify!($member)
            );)+
        };
    }

    #[test]
    fn counters_have_the_order_of_the_c_program() {
        let counters = PodCounters::from_words(array::from_fn(|number| number as u64));
        same_order!(counters, types::pod_counters, 0, tx_packets, tx_bytes, tx_direct, rx_packets, rx_bytes, rx_direct);
        assert_eq!(PodCounters::from_words(counters.words()), counters);

        let stats = NetStats::from_words(array::from_fn(|number| number as u64));
        same_order!(stats, types::net_stats, 0, direct, to_stack, to_host, from_stack);
        same_order!(stats, types::net_stats, 0, arp_answers, nd_answers, flows_added, flows_forgotten);
        let from = offset_of!(types::net_stats, unknown);
        same_order!(stats.unknown, types::pod_counters, from, tx_packets, tx_bytes, tx_direct);
        same_order!(stats.unknown, types::pod_counters, from, rx_packets, rx_bytes, rx_direct);
        assert_eq!(NetStats::from_words(stats.words()), stats);

        assert_eq!(PKT_COUNT.sizes, (4, size_of::<types::pod_counters>()));
        assert_eq!(NET_STATS.sizes, (4, size_of::<types::net_stats>()));
        assert_eq!(NET_DROPS.sizes, (4, size_of::<types::drops>()));
    }

    #[test]
    fn layouts_match_the_c_program() {
        same_layout!(RawEndpoint, types::endpoint, ifindex, mac, xdp);
        same_layout!(RawPortConfig, types::port_config, mac, flags, reserved);
        same_layout!(RawDatapathConfig, types::net_config, bridge_ifindex, gateway_mac, flags, reserved);
        same_layout!(RawPortAddress, types::port_address, ifindex, address);
        assert_eq!(PACKET_SCRATCH.sizes, (4, size_of::<types::packet>()));
        assert_eq!(FLOWS.sizes, (size_of::<types::flow_key>(), 1));
        assert_eq!((size_of::<types::ipv4_key>(), size_of::<types::ipv6_key>()), (4, 16));
    }
}
