//! Whether the bridge can have the addresses that a network needs: gateways and IPv6.

use cnikit::netlink::{Link, Route, Socket};
use ipnetwork::IpNetwork;

use super::diagnostic::Diagnostic;
use crate::cli::advice;
use crate::cli::error::Error;
use crate::cli::inventory::ConfiguredNetwork;
use simple_ebpf_cni::ipv6::{self, Unavailable};
use simple_ebpf_cni::{bridge, gateway};

/// Where a check runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Where the runtime's plugins run.
    Node,
    /// Perhaps in the container of the DaemonSet. Its `/proc/sys` is read-only, and the node's may
    /// not be.
    MaybeContainer,
}

/// Reports whether the gateways or the IPv6 addresses of the network make an ADD fail.
pub(crate) fn addresses(
    network: &ConfiguredNetwork,
    host: &Socket,
    links: &[Link],
    place: Place,
) -> Result<Vec<Diagnostic>, Error> {
    let bridge = links.iter().find(|link| link.name == *network.bridge());
    let mut checks: Vec<Diagnostic> = ipv6(network, bridge, place).into_iter().collect();
    checks.extend(gateway(network, host));
    if let Some(bridge) = bridge {
        let addresses = host.addresses(bridge.index)?;
        checks.extend(unwanted(network, bridge, &addresses, &host.routes_of_all_tables()?));
    }
    Ok(checks)
}

fn ipv6(network: &ConfiguredNetwork, bridge: Option<&Link>, place: Place) -> Option<Diagnostic> {
    let Unavailable { found, remedy, is_read_only } =
        ipv6::find_unavailable(&network.name, network.config(), network.ipam(), bridge).err()?;
    if is_read_only && place == Place::MaybeContainer {
        return None;
    }
    Some(Diagnostic::fail("ipv6", format!("no pod of {} can have an IPv6 address: {found}", network.name), remedy))
}

/// Sends no address probe: only ADD and `repair` do.
fn gateway(network: &ConfiguredNetwork, host: &Socket) -> Option<Diagnostic> {
    let config = network.config();
    // The check `bridge` reports an unusable bridge.
    let bridge = bridge::look(host, &network.name, config).ok()?;
    let remedy = gateway::remedy(config, Some(network.file()));
    match gateway::next_hop_among_gateways(host, config, bridge.as_ref()) {
        Ok(found) => Some(Diagnostic::fail("gateway", found?, remedy)),
        Err(error) => Some(Diagnostic::fail("gateway", error.to_string(), advice::REPORT)),
    }
}

/// Addresses that the bridge must not have: a next hop of the node, or a gateway that belongs to
/// another machine. An address that is both gets one diagnostic.
fn unwanted(network: &ConfiguredNetwork, bridge: &Link, addresses: &[IpNetwork], routes: &[Route]) -> Vec<Diagnostic> {
    let (name, config) = (&bridge.name, network.config());
    let is_remote = config.is_gateway == Some(false);
    let route_by = |address: &IpNetwork| {
        routes.iter().find(|route| gateway::is_next_hop(route, address.ip(), config, Some(bridge.index)))
    };
    let mut checks = Vec::new();
    let next_hop = addresses.iter().find_map(|address| Some((*address, route_by(address)?.dst)));
    if let Some((address, dst)) = next_hop {
        let found = format!(
            "{name} has {address}, the next hop of the node's route to {dst}: the route leads to the node itself"
        );
        let mut remedy = remove(address, bridge);
        if !is_remote {
            remedy += &format!(", and set \"isGateway\" to false in {}", network.file().display());
        }
        checks.push(Diagnostic::fail("gateway", found, remedy));
    }
    let gateways: Vec<_> = config.ranges().filter(|_| is_remote).map(|range| range.gateway()).collect();
    let is_unwanted = |address: &&IpNetwork| {
        gateways.contains(&address.ip()) && next_hop.is_none_or(|(next_hop, _)| next_hop != **address)
    };
    if let Some(address) = addresses.iter().find(is_unwanted) {
        let found = format!(
            "{name} has {address}, but with \"isGateway\": false of {} it belongs to another machine",
            network.name
        );
        checks.push(Diagnostic::warn("gateway", found, remove(*address, bridge)));
    }
    checks
}

fn remove(address: IpNetwork, bridge: &Link) -> String {
    format!("ip address delete {address} dev {}", bridge.name)
}
