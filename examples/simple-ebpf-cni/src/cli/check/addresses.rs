//! Whether the bridge can have the addresses that a network needs: the gateways', and any of IPv6.

use cnikit::netlink::{Link, Route, Socket};
use ipnetwork::IpNetwork;
use simple_ebpf_cni::ipv6::{self, Unavailable};
use simple_ebpf_cni::{bridge, gateway};

use super::Check;
use crate::cli::network::Network;
use crate::cli::{Error, remedy};

/// Whether an ADD of the network would be refused for its gateways or for its IPv6 addresses.
pub(crate) fn addresses(network: &Network, host: &Socket, links: &[Link]) -> Result<Vec<Check>, Error> {
    let bridge = links.iter().find(|link| link.name == *network.bridge());
    let mut checks: Vec<Check> = ipv6(network, bridge).into_iter().collect();
    checks.extend(gateway(network, host));
    if let Some(bridge) = bridge {
        let addresses = host.addresses(bridge.index)?;
        checks.extend(kept(network, bridge, &addresses, &host.routes_of_all_tables()?));
    }
    Ok(checks)
}

fn ipv6(network: &Network, bridge: Option<&Link>) -> Option<Check> {
    let Unavailable { found, remedy } =
        ipv6::find_unavailable(&network.name, network.config(), network.ipam(), bridge).err()?;
    Some(Check::fail("ipv6", format!("no pod of {} can have an IPv6 address: {found}", network.name), remedy))
}

/// Sends no probe: only an ADD and `repair` do.
fn gateway(network: &Network, host: &Socket) -> Option<Check> {
    let config = network.config();
    // A bridge that the network cannot use is another check's to report.
    let bridge = bridge::look(host, &network.name, config).ok()?;
    let remedy = gateway::remedy(config, Some(network.file()));
    match gateway::next_hop_among_gateways(host, config, bridge.as_ref()) {
        Ok(found) => Some(Check::fail("gateway", found?, remedy)),
        Err(failure) => Some(Check::fail("gateway", failure.to_string(), remedy::REPORT)),
    }
}

/// An address of the bridge that should not be there: a next hop of the node, or a gateway that the configuration leaves to
/// another machine. An address that is both is one finding.
fn kept(network: &Network, bridge: &Link, addresses: &[IpNetwork], routes: &[Route]) -> Vec<Check> {
    let (name, config) = (&bridge.name, network.config());
    let is_left = config.is_gateway == Some(false);
    let route_by = |address: &IpNetwork| {
        routes.iter().find(|route| gateway::is_next_hop(route, address.ip(), config, Some(bridge.index)))
    };
    let mut checks = Vec::new();
    let next_hop = addresses.iter().find_map(|address| Some((*address, route_by(address)?.dst)));
    if let Some((address, dst)) = next_hop {
        let found =
            format!("{name} has {address}, the next hop of the node's route to {dst}, which leads to the node itself");
        let mut remedy = remove(address, bridge);
        if !is_left {
            remedy += &format!(", and set \"isGateway\" to false in {}", network.file().display());
        }
        checks.push(Check::fail("gateway", found, remedy));
    }
    let gateways: Vec<_> = config.ranges().filter(|_| is_left).map(|range| range.gateway()).collect();
    let is_kept = |address: &&IpNetwork| {
        gateways.contains(&address.ip()) && next_hop.is_none_or(|(next_hop, _)| next_hop != **address)
    };
    if let Some(kept) = addresses.iter().find(is_kept) {
        let found =
            format!("{name} has {kept}, which \"isGateway\": false of {} leaves to another machine", network.name);
        checks.push(Check::warn("gateway", found, remove(*kept, bridge)));
    }
    checks
}

fn remove(address: IpNetwork, bridge: &Link) -> String {
    format!("ip address delete {address} dev {}", bridge.name)
}
