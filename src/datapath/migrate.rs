//! What an older layout knew, brought into this one.

use std::net::Ipv4Addr;
use std::path::Path;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::layout::{RawDatapathConfig, RawEndpoint};
use super::map::{Map, MapSpec, PerCpu};
use super::maps::{CounterMap, EndpointMap, NET_CONFIG, NET_STATS, ONLY, POD_IFINDEX, PortConfigMap};
use super::{DatapathConfig, Endpoint, MapSet, NetStats, PodCounters, PortConfig, Result};

/// The maps of layout 1. It knew IPv4 alone; owners of addresses and the network's row look as they do now, but for the
/// flags of the latter, which were a hole.
const PKT_COUNT_1: MapSpec = MapSpec::of::<[u8; 4], PodCounters1>("pkt_count");
const NET_STATS_1: MapSpec = MapSpec::of::<u32, NetStats1>("net_stats");

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct PodCounters1 {
    tx_packets: u64,
    tx_bytes: u64,
    tx_direct: u64,
    /// Packets that the bridge delivered; direct ones were not counted at their target.
    rx_stack: u64,
}

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct NetStats1 {
    direct: u64,
    to_stack: u64,
    to_host: u64,
    from_stack: u64,
    unknown_source: u64,
}

/// Whether all maps of layout 1 are in `directory`. A set from which somebody removed pins has nothing to bring along.
pub(super) fn is_layout_1(directory: &Path) -> bool {
    [PKT_COUNT_1, POD_IFINDEX, NET_CONFIG, NET_STATS_1].iter().all(|shape| directory.join(shape.name).exists())
}

/// Copies the rows of layout 1 into the maps pinned in `new`.
///
/// Its programs go on counting in their own maps until they are replaced: what they count in this while is lost.
pub(super) fn from_layout_1(old: &Path, new: &MapSet) -> Result<()> {
    let (old_ports, ports, links) = (Map::open(old, &POD_IFINDEX)?, EndpointMap::open(new)?, PortConfigMap::open(new)?);
    for address in old_ports.keys::<4>()?.into_iter().map(Ipv4Addr::from) {
        let Some(raw) = old_ports.read::<RawEndpoint>(&address.octets(), address)? else { continue };
        let port = Endpoint::from(raw);
        ports.insert(address.into(), port)?;
        ports.insert(port.mac.link_local().into(), port)?;
        links.insert(port.ifindex, PortConfig::new(port.mac))?;
    }

    let (old_counters, counters) = (Map::open(old, &PKT_COUNT_1)?, CounterMap::open(new)?);
    for address in old_counters.keys::<4>()?.into_iter().map(Ipv4Addr::from) {
        let Some(counted) = old_counters.sum::<PodCounters1>(&address.octets(), address)? else { continue };
        counters.put(address.into(), &counted.into())?;
    }

    if let Some(raw) = Map::open(old, &NET_CONFIG)?.read::<RawDatapathConfig>(&ONLY, "the row")? {
        let told = DatapathConfig::from(raw);
        let config = DatapathConfig::new(told.bridge_ifindex, told.gateway_mac);
        new.open(&NET_CONFIG)?.put(&ONLY, &RawDatapathConfig::from(config), "the row")?;
    }
    if let Some(counted) = Map::open(old, &NET_STATS_1)?.sum::<NetStats1>(&ONLY, "the row")? {
        new.open(&NET_STATS)?.put_sum(&ONLY, &NetStats::from(counted), "the row")?;
    }
    Ok(())
}

impl PerCpu for PodCounters1 {}

impl PerCpu for NetStats1 {}

impl From<PodCounters1> for PodCounters {
    fn from(old: PodCounters1) -> Self {
        Self {
            tx_packets: old.tx_packets,
            tx_bytes: old.tx_bytes,
            tx_direct: old.tx_direct,
            rx_packets: old.rx_stack,
            ..Self::default()
        }
    }
}

impl From<NetStats1> for NetStats {
    fn from(old: NetStats1) -> Self {
        Self {
            direct: old.direct,
            to_stack: old.to_stack,
            to_host: old.to_host,
            from_stack: old.from_stack,
            unknown: PodCounters { tx_packets: old.unknown_source, ..PodCounters::default() },
            ..Self::default()
        }
    }
}
