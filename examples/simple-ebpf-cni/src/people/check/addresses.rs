//! Whether the bridge can have the addresses that a network needs: the gateways', and any of IPv6.

use std::net::IpAddr;

use cnikit::netlink::{Link, Route, Socket};
use ipnetwork::IpNetwork;

use super::Check;
use crate::gateway::Gateways;
use crate::people::Error;
use crate::people::network::Network;
use crate::{bridge, ipv6};

/// Whether an ADD of the network would be refused for its gateways or for its IPv6 addresses.
pub(crate) fn addresses(network: &Network, host: &Socket, links: &[Link]) -> Result<Vec<Check>, Error> {
    let bridge = links.iter().find(|link| link.name == *network.bridge());
    let mut checks: Vec<Check> = ipv6(network, bridge).into_iter().collect();
    checks.extend(gateway(network, host));
    if let Some(bridge) = bridge {
        let addresses = host.addresses(bridge.index)?;
        checks.extend(left(network, bridge, &addresses));
        checks.extend(own_next_hop(bridge, &addresses, &host.routes_of_all_tables()?));
    }
    Ok(checks)
}

fn ipv6(network: &Network, bridge: Option<&Link>) -> Option<Check> {
    let failure = ipv6::probe(&network.name, network.config(), network.ipam(), bridge).err()?;
    let found = format!("no pod of {} can have an IPv6 address: {failure}", network.name);
    Some(Check::fail("ipv6", found, "enable IPv6, or remove the IPv6 addresses from the configuration"))
}

fn gateway(network: &Network, host: &Socket) -> Option<Check> {
    // A bridge that the network cannot use is another check's to report.
    let found = bridge::look(host, &network.name, network.config()).ok()?;
    let failure = Gateways::look(host, network.config(), found.as_ref()).err()?;
    Some(Check::fail("gateway", failure.to_string(), format!("change the configuration of {}", network.name)))
}

/// An address that the node has kept, though the configuration leaves it to another machine.
fn left(network: &Network, bridge: &Link, addresses: &[IpNetwork]) -> Option<Check> {
    let (name, config) = (&bridge.name, network.config());
    if config.is_gateway != Some(false) {
        return None;
    }
    let gateways: Vec<_> = config.ranges().map(|range| range.gateway()).collect();
    let kept = addresses.iter().find(|address| gateways.contains(&address.ip()));
    kept.map(|kept| {
        let found =
            format!("{name} has {kept}, which \"isGateway\": false of {} leaves to another machine", network.name);
        Check::warn("gateway", found, remove(*kept, bridge))
    })
}

/// An address of the bridge by which the node means to send to another machine.
fn own_next_hop(on: &Link, addresses: &[IpNetwork], routes: &[Route]) -> Option<Check> {
    let is_near = |route: &&Route, address: IpAddr| !bridge::is_link_local(address) || route.oif == on.index;
    let to = |address: &IpNetwork| {
        let address = address.ip();
        routes.iter().filter(|route| is_near(route, address)).find(|route| route.gateway == Some(address))
    };
    let (address, route) = addresses.iter().find_map(|address| Some((address, to(address)?)))?;
    let (name, dst) = (&on.name, route.dst);
    let found =
        format!("{name} has {address}, the next hop of the node's route to {dst}, which leads to the node itself");
    Some(Check::fail("gateway", found, remove(*address, on) + ", and set \"isGateway\" to false"))
}

fn remove(address: IpNetwork, bridge: &Link) -> String {
    format!("ip address delete {address} dev {}", bridge.name)
}
