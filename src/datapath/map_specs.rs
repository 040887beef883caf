//! The maps of a set: names, and the sizes of keys and values.

use super::layout::{RawDatapathConfig, RawEndpoint, RawPortAddress, RawPortConfig};
use super::map::{MapSpec, PerCpu};
use super::remote::layout::{RawPeer, RawPeerKey};
use super::{Drops, NetStats, PodCounters, RemoteStats};

pub(super) const PKT_COUNT: MapSpec = MapSpec::of::<[u8; 4], <PodCounters as PerCpu>::Words>("pkt_count");
pub(super) const PKT_COUNT_V6: MapSpec = MapSpec::of::<[u8; 16], <PodCounters as PerCpu>::Words>("pkt_count_v6");
pub(super) const POD_IFINDEX: MapSpec = MapSpec::of::<[u8; 4], RawEndpoint>("pod_ifindex");
pub(super) const POD_IFINDEX_V6: MapSpec = MapSpec::of::<[u8; 16], RawEndpoint>("pod_ifindex_v6");
pub(super) const PORT_CONFIG: MapSpec = MapSpec::of::<u32, RawPortConfig>("port_config");
pub(super) const PORT_ADDRESSES: MapSpec = MapSpec::of::<RawPortAddress, u32>("port_addresses");
pub(super) const PORT_DROPS: MapSpec = MapSpec::of::<u32, <Drops as PerCpu>::Words>("port_drops");
pub(super) const NET_CONFIG: MapSpec = MapSpec::of::<u32, RawDatapathConfig>("net_config");
pub(super) const NET_STATS: MapSpec = MapSpec::of::<u32, <NetStats as PerCpu>::Words>("net_stats");
pub(super) const NET_DROPS: MapSpec = MapSpec::of::<u32, <Drops as PerCpu>::Words>("net_drops");
/// For each port, the kernel address of the pointer to the XDP program of the pod's interface.
pub(super) const PORT_XDP: MapSpec = MapSpec::of::<u32, u64>("port_xdp");
/// The flow table, used by the programs only: a `struct flow_key` and a byte of `enum flow_state`.
pub(super) const FLOWS: MapSpec = MapSpec::of::<[u8; 40], u8>("flows");

/// A byte for each remainder of a hash of two addresses: 1 if `flows` may have a flow between them.
pub(super) const FLOW_FILTER: MapSpec = MapSpec::of::<u32, u8>("flow_filter");
/// A byte for each remainder of an ifindex: 1 if `port_config` may have flags for the port.
pub(super) const PORT_FILTER: MapSpec = MapSpec::of::<u32, u8>("port_filter");
/// A program array, by `enum stage`.
pub(super) const STAGES: MapSpec = MapSpec::of::<u32, u32>("stages");
/// The `struct packet` that a program works on.
pub(super) const PACKET_SCRATCH: MapSpec = MapSpec::of::<u32, [u8; 256]>("packet_scratch");

/// The way to each pod CIDR of another node.
pub(super) const PEERS: MapSpec = MapSpec::of::<RawPeerKey, RawPeer>("peers");
pub(super) const REMOTE_STATS: MapSpec = MapSpec::of::<u32, <RemoteStats as PerCpu>::Words>("remote_stats");

/// `CNI_TC_FILTER_SIZE`: the entries of [`FLOW_FILTER`] and [`PORT_FILTER`].
pub(super) const FILTER_SIZE: u32 = 8192;

/// All maps of a set.
pub(super) const MAPS: [MapSpec; 18] = [
    PKT_COUNT,
    PKT_COUNT_V6,
    POD_IFINDEX,
    POD_IFINDEX_V6,
    PORT_CONFIG,
    PORT_ADDRESSES,
    PORT_DROPS,
    PORT_XDP,
    NET_CONFIG,
    NET_STATS,
    NET_DROPS,
    FLOWS,
    FLOW_FILTER,
    PORT_FILTER,
    STAGES,
    PACKET_SCRATCH,
    PEERS,
    REMOTE_STATS,
];

/// Maps that older builds with this layout do not create. A set without them serves its pods.
pub(super) const OPTIONAL_MAPS: [&str; 8] = [
    PORT_ADDRESSES.name,
    PORT_XDP.name,
    FLOW_FILTER.name,
    PORT_FILTER.name,
    STAGES.name,
    PACKET_SCRATCH.name,
    PEERS.name,
    REMOTE_STATS.name,
];

/// The key of the only entry of an array.
pub(super) const SINGLE_KEY: [u8; 4] = [0; 4];
