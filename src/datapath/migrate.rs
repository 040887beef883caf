//! Migration of map entries from an older layout.

use std::net::Ipv4Addr;
use std::path::Path;

use super::layout::{RawDatapathConfig, RawEndpoint};
use super::map::{Map, MapSpec};
use super::map_specs::{NET_CONFIG, NET_STATS, POD_IFINDEX, SINGLE_KEY};
use super::maps::{CounterMap, EndpointMap, PortConfigMap};
use super::{DatapathConfig, MapSet, NetStats, PodCounters, PortConfig, Result};

/// The maps of layout 1, which had IPv4 only. `pod_ifindex` and `net_config` have the same entries
/// today, except that the flags of `net_config` were padding.
const PKT_COUNT_1: MapSpec = MapSpec::of::<[u8; 4], PodCounters1>("pkt_count");
const NET_STATS_1: MapSpec = MapSpec::of::<u32, NetStats1>("net_stats");

/// The counters of an address: see [`counters_from_layout_1`].
type PodCounters1 = [u64; 4];

/// The counters of the network: see [`stats_from_layout_1`].
type NetStats1 = [u64; 5];

/// Whether all maps of layout 1 are pinned in `directory`. An incomplete set is not migrated.
pub(super) fn is_layout_1(directory: &Path) -> bool {
    [PKT_COUNT_1, POD_IFINDEX, NET_CONFIG, NET_STATS_1].iter().all(|spec| directory.join(spec.name).exists())
}

/// Copies the entries of layout 1 into the maps `new`.
///
/// The old programs count in the old maps until they are replaced. Packets counted between copy and
/// replacement are lost.
pub(super) fn from_layout_1(old: &Path, new: &MapSet) -> Result<()> {
    let (old_endpoints, endpoints, ports) =
        (Map::open(old, &POD_IFINDEX)?, EndpointMap::open(new)?, PortConfigMap::open(new)?);
    for address in old_endpoints.keys::<4>()?.into_iter().map(Ipv4Addr::from) {
        let Some(raw) = old_endpoints.read(&address.octets(), address)? else { continue };
        let Some(endpoint) = RawEndpoint::endpoint(raw) else { continue };
        endpoints.insert(address.into(), endpoint)?;
        endpoints.insert(endpoint.mac.link_local().into(), endpoint)?;
        ports.insert(endpoint.ifindex, PortConfig::new(endpoint.mac))?;
    }

    let (old_counters, counters) = (Map::open(old, &PKT_COUNT_1)?, CounterMap::open(new)?);
    for address in old_counters.keys::<4>()?.into_iter().map(Ipv4Addr::from) {
        let Some(counted) = old_counters.sum::<PodCounters1>(&address.octets(), address)? else { continue };
        counters.put(address.into(), &counters_from_layout_1(counted))?;
    }

    if let Some(raw) = Map::open(old, &NET_CONFIG)?.read::<RawDatapathConfig>(&SINGLE_KEY, "the entry")? {
        let old = DatapathConfig::from(raw);
        let config = DatapathConfig { direct_forwarding: true, spoof_check: true, ..old };
        new.open(&NET_CONFIG)?.put(&SINGLE_KEY, &RawDatapathConfig::from(config), "the entry")?;
    }
    if let Some(counted) = Map::open(old, &NET_STATS_1)?.sum::<NetStats1>(&SINGLE_KEY, "the entry")? {
        new.open(&NET_STATS)?.put_sum(&SINGLE_KEY, &stats_from_layout_1(counted), "the entry")?;
    }
    Ok(())
}

/// Packets delivered by the bridge are the only ones that layout 1 counted for the receiver.
fn counters_from_layout_1([tx_packets, tx_bytes, tx_direct, rx_stack]: PodCounters1) -> PodCounters {
    PodCounters { tx_packets, tx_bytes, tx_direct, rx_packets: rx_stack, ..PodCounters::default() }
}

fn stats_from_layout_1([direct, to_stack, to_host, from_stack, unknown_source]: NetStats1) -> NetStats {
    let unknown = PodCounters { tx_packets: unknown_source, ..PodCounters::default() };
    NetStats { direct, to_stack, to_host, from_stack, unknown, ..NetStats::default() }
}
