//! Differences between a bridge and what its pods expect: a gateway address that is missing, another MAC than the maps say.

use std::net::IpAddr;

use cnikit::datapath::{self, Datapath, NetConfig};
use cnikit::netlink::Link;
use ipnetwork::IpNetwork;

use crate::bridge;
use crate::config::Config;

/// The gateways' addresses that the bridge must have, by the maps: those that an ADD gave it. The maps know no prefix
/// lengths, so these come from the configuration, or else from the address that the bridge `has`.
pub(crate) fn taken(
    datapath: &Datapath,
    config: Option<&Config>,
    has: &[IpNetwork],
) -> datapath::Result<Vec<IpNetwork>> {
    let (ports, bridge) = (datapath.ports()?, datapath.config()?.bridge_ifindex);
    let configured: Vec<IpNetwork> = config.into_iter().flat_map(bridge::gateways).collect();
    let mut taken = Vec::new();
    for address in ports.addresses()? {
        // The link-local one comes and goes with the bridge, by its MAC.
        let is_link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if is_link_local || ports.read(address)?.is_none_or(|port| port.ifindex != bridge) {
            continue;
        }
        let known = configured.iter().chain(has).find(|network| network.ip() == address);
        taken.push(known.copied().unwrap_or_else(|| address.into()));
    }
    taken.sort_unstable();
    Ok(taken)
}

/// What the bridge lacks of the gateways' addresses.
pub(crate) fn lacking<'g>(
    link: &Link,
    has: &[IpNetwork],
    gateways: &'g [IpNetwork],
) -> impl Iterator<Item = String> + use<'g> {
    let (name, has) = (link.name.clone(), has.to_vec());
    let missing = gateways.iter().filter(move |gateway| !bridge::serves(&has, **gateway));
    missing.map(move |gateway| format!("the bridge {name} lacks the gateway's address {gateway}"))
}

/// How the bridge's MAC differs from the one that the eBPF programs know.
pub(crate) fn other_mac(bridge: &Link, told: &NetConfig) -> Option<String> {
    let mac = bridge.mac.filter(|mac| *mac != told.gateway_mac)?;
    let (name, expected) = (&bridge.name, told.gateway_mac);
    Some(format!("the bridge {name} has the MAC {mac}, and the eBPF programs know it by {expected}"))
}
