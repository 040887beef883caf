//! Migration of map entries from an older layout.

use std::net::Ipv4Addr;
use std::path::Path;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::layout::{RawDatapathConfig, RawEndpoint};
use super::map::{Map, MapSpec, PerCpu};
use super::map_specs::{NET_CONFIG, NET_STATS, POD_IFINDEX, SINGLE_KEY};
use super::maps::{CounterMap, EndpointMap, PortConfigMap};
use super::{DatapathConfig, Endpoint, MapSet, NetStats, PodCounters, PortConfig, Result};

/// The maps of layout 1, which had IPv4 only. `pod_ifindex` and `net_config` have the same entries
/// today, except that the flags of `net_config` were padding.
const PKT_COUNT_1: MapSpec = MapSpec::of::<[u8; 4], PodCounters1>("pkt_count");
const NET_STATS_1: MapSpec = MapSpec::of::<u32, NetStats1>("net_stats");

#[derive(FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct PodCounters1 {
    tx_packets: u64,
    tx_bytes: u64,
    tx_direct: u64,
    /// Packets delivered by the bridge. Directly forwarded packets were not counted for the
    /// receiver.
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

/// Whether all maps of layout 1 are pinned in `directory`. An incomplete set is not migrated.
pub(super) fn is_layout_1(directory: &Path) -> bool {
    [PKT_COUNT_1, POD_IFINDEX, NET_CONFIG, NET_STATS_1].iter().all(|shape| directory.join(shape.name).exists())
}

/// Copies the entries of layout 1 into the maps `new`.
///
/// The old programs count in the old maps until they are replaced. Packets counted between copy and
/// replacement are lost.
pub(super) fn from_layout_1(old: &Path, new: &MapSet) -> Result<()> {
    let (old_endpoints, endpoints, ports) =
        (Map::open(old, &POD_IFINDEX)?, EndpointMap::open(new)?, PortConfigMap::open(new)?);
    for address in old_endpoints.keys::<4>()?.into_iter().map(Ipv4Addr::from) {
        let Some(raw) = old_endpoints.read::<RawEndpoint>(&address.octets(), address)? else { continue };
        let endpoint = Endpoint::from(raw);
        endpoints.insert(address.into(), endpoint)?;
        endpoints.insert(endpoint.mac.link_local().into(), endpoint)?;
        ports.insert(endpoint.ifindex, PortConfig::new(endpoint.mac))?;
    }

    let (old_counters, counters) = (Map::open(old, &PKT_COUNT_1)?, CounterMap::open(new)?);
    for address in old_counters.keys::<4>()?.into_iter().map(Ipv4Addr::from) {
        let Some(counted) = old_counters.sum::<PodCounters1>(&address.octets(), address)? else { continue };
        counters.put(address.into(), &counted.into())?;
    }

    if let Some(raw) = Map::open(old, &NET_CONFIG)?.read::<RawDatapathConfig>(&SINGLE_KEY, "the entry")? {
        let old = DatapathConfig::from(raw);
        let config = DatapathConfig::new(old.bridge_ifindex, old.gateway_mac);
        new.open(&NET_CONFIG)?.put(&SINGLE_KEY, &RawDatapathConfig::from(config), "the entry")?;
    }
    if let Some(counted) = Map::open(old, &NET_STATS_1)?.sum::<NetStats1>(&SINGLE_KEY, "the entry")? {
        new.open(&NET_STATS)?.put_sum(&SINGLE_KEY, &NetStats::from(counted), "the entry")?;
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
