//! The gateways' addresses: on the bridge of the node, or at another machine behind the bridge.

use std::net::IpAddr;
use std::path::Path;

use cnikit::netlink::{AddressProbe, Link, Route, Socket};
use cnikit::plugin::{Context as _, PluginError};
use cnikit::spec::{ErrorCode, IfIndex, MacAddr};
use ipnetwork::IpNetwork;
use tracing::{debug, info_span};

use crate::bridge::{self, ExistingBridge, is_wired};
use crate::config::{Config, Ipam};
use crate::ip::{self, is_link_local};

/// The number of the main routing table (`RT_TABLE_MAIN` of the kernel).
const MAIN_TABLE: u32 = 254;

/// The gateways of a network, during one call.
#[derive(Debug)]
pub struct Gateways<'a> {
    host: &'a Socket,
    config: &'a Config,
    /// The addresses that no other machine has, according to a probe.
    free: Vec<IpAddr>,
}

/// The evidence that another machine has a gateway's address.
enum Holder {
    /// A route of the node has the address as its next hop.
    NextHop(Route),
    /// A machine with this MAC has answered a probe.
    Machine(MacAddr),
}

impl<'a> Gateways<'a> {
    /// Checks the gateways of the network's own pools that the bridge lacks. Probes a wired bridge,
    /// and changes nothing. [`ensure`](Self::ensure) probes a bridge that is down now.
    ///
    /// # Errors
    ///
    /// Fails if another machine has such an address.
    pub fn look(host: &'a Socket, config: &'a Config, existing: Option<&ExistingBridge>) -> Result<Self, PluginError> {
        let mut gateways = Self { host, config, free: Vec::new() };
        let missing = missing(config, existing);
        let bridge = existing.map(|existing| &existing.bridge).filter(|bridge| bridge.up);
        gateways.refuse_held(&missing, bridge)?;
        if bridge.is_some() {
            gateways.free = missing.iter().map(IpNetwork::ip).collect();
        }
        Ok(gateways)
    }

    /// Adds the missing addresses of the gateways to the bridge. Returns the addresses of the node;
    /// other machines keep the rest.
    ///
    /// # Errors
    ///
    /// Fails if another machine has an address that the configuration requests, or if a subnet
    /// overlaps with an address of the host.
    pub fn ensure(&self, bridge: &Link, gateways: &[IpNetwork]) -> Result<Vec<IpNetwork>, PluginError> {
        let _span = info_span!("gateway").entered();
        if self.config.is_gateway == Some(false) || gateways.is_empty() {
            return Ok(Vec::new());
        }
        let addresses = self.host.addresses(bridge.index)?;
        let mut own = gateways.to_vec();
        let mut missing = gateways.to_vec();
        missing.retain(|gateway| !ip::serves(&addresses, *gateway));
        if missing.is_empty() {
            return Ok(own);
        }
        bridge::refuse_overlap(self.host, &bridge.name, &missing)?;
        let mut unknown = missing.clone();
        unknown.retain(|gateway| !contains(&addresses, gateway.ip()) && !self.free.contains(&gateway.ip()));
        if self.is_optional() {
            for gateway in self.foreign(&unknown, bridge)? {
                debug!("{gateway} is left to another machine on {}", bridge.name);
                own.retain(|own| own.ip() != gateway);
                missing.retain(|missing| missing.ip() != gateway);
            }
        } else {
            self.refuse_held(&unknown, Some(bridge))?;
        }
        for gateway in missing {
            let added = bridge::ignore_exists(self.host.add_address(bridge.index, gateway));
            added.context(format_args!("add the gateway's address to {}", bridge.name))?;
        }
        Ok(own)
    }

    /// Whether another machine may keep a gateway's address. Otherwise this is an error.
    fn is_optional(&self) -> bool {
        self.config.is_gateway.is_none() && matches!(self.config.ipam, Ipam::Delegated)
    }

    /// The addresses that the node takes only on request.
    ///
    /// On a wired bridge these are all addresses: the router may be absent for a moment, and a
    /// probe does not show this.
    fn foreign(&self, gateways: &[IpNetwork], bridge: &Link) -> Result<Vec<IpAddr>, PluginError> {
        if gateways.is_empty() {
            return Ok(Vec::new());
        }
        if is_wired(bridge, &self.host.links()?) {
            return Ok(gateways.iter().map(IpNetwork::ip).collect());
        }
        let hops = next_hops(self.host, self.config, gateways, Some(bridge))?;
        Ok(hops.into_iter().map(|(gateway, _)| gateway).collect())
    }

    fn refuse_held(&self, gateways: &[IpNetwork], bridge: Option<&Link>) -> Result<(), PluginError> {
        let hop = next_hops(self.host, self.config, gateways, bridge)?.into_iter().next();
        let held = match (hop, bridge) {
            (Some((gateway, route)), _) => Some((gateway, Holder::NextHop(route))),
            (None, Some(bridge)) => self.probe(gateways, bridge)?.map(|(gateway, mac)| (gateway, Holder::Machine(mac))),
            (None, None) => None,
        };
        match held {
            Some((gateway, holder)) => Err(refused(&conflict_message(self.host, gateway, &holder)?, self.config)),
            None => Ok(()),
        }
    }

    /// The first answer of another machine for one of these addresses. Probes a wired bridge only.
    fn probe(&self, gateways: &[IpNetwork], bridge: &Link) -> Result<Option<(IpAddr, MacAddr)>, PluginError> {
        if gateways.is_empty() {
            return Ok(None);
        }
        let links = self.host.links()?;
        if !is_wired(bridge, &links) {
            return Ok(None);
        }
        let _span = info_span!("probe").entered();
        let addresses: Vec<IpAddr> = gateways.iter().map(IpNetwork::ip).collect();
        // Another link of the node may receive the probe, and answer for the bridge.
        let own_macs = links.iter().filter_map(|link| link.mac);
        let mut probe = AddressProbe::start(bridge, &addresses)?.with_ignored(own_macs);
        Ok(probe.next_answer()?.map(|answer| (answer.address, answer.mac)))
    }
}

/// Checks the gateways of the network's own pools that the bridge lacks. Sends no packet, for verbs
/// and commands that only read.
///
/// # Errors
///
/// Fails if such an address is a next hop of the node.
pub fn refuse_next_hops(host: &Socket, config: &Config, existing: Option<&ExistingBridge>) -> Result<(), PluginError> {
    match next_hop_among_gateways(host, config, existing)? {
        Some(conflict) => Err(refused(&conflict, config)),
        None => Ok(()),
    }
}

/// The message of [`refuse_next_hops`] without its remedy.
///
/// # Errors
///
/// Fails if the kernel does not list the routes or the links.
pub fn next_hop_among_gateways(
    host: &Socket,
    config: &Config,
    existing: Option<&ExistingBridge>,
) -> Result<Option<String>, PluginError> {
    let bridge = existing.map(|existing| &existing.bridge);
    let hop = next_hops(host, config, &missing(config, existing), bridge)?.into_iter().next();
    hop.map(|(gateway, route)| conflict_message(host, gateway, &Holder::NextHop(route))).transpose()
}

/// The remedy for a gateway address at another machine. `file` is the file of the configuration, if
/// it is known.
#[must_use]
pub fn remedy(config: &Config, file: Option<&Path>) -> String {
    let place = file.map(|file| format!(" in {}", file.display())).unwrap_or_default();
    if config.is_gateway == Some(true) {
        format!(
            "\"isGateway\" is true: set it to false{place} if that machine is the pods' router, or name another \"gateway\""
        )
    } else {
        format!("set \"isGateway\" to false{place} if that machine is the pods' router, or name another \"gateway\"")
    }
}

/// Whether the route shows that another machine has the address. `bridge` is the index of the
/// bridge.
///
/// If the configuration requests the address, a policy route of another link does not count. Such a
/// router is in another network with the same addresses.
#[must_use]
pub fn is_next_hop(route: &Route, address: IpAddr, config: &Config, bridge: Option<IfIndex>) -> bool {
    let is_by_bridge = bridge == Some(route.oif);
    let is_main = route.table.is_none_or(|table| table == MAIN_TABLE);
    route.gateway == Some(address)
        && (is_by_bridge || !is_link_local(address))
        && (is_by_bridge || is_main || config.is_gateway != Some(true))
}

/// The gateways of the network's own pools that the bridge lacks.
fn missing(config: &Config, existing: Option<&ExistingBridge>) -> Vec<IpNetwork> {
    let addresses = existing.map_or(&[][..], |existing| &existing.addresses);
    config.gateways().filter(|gateway| !contains(addresses, gateway.ip())).collect()
}

/// The addresses among `gateways` that are next hops of the node's routes.
fn next_hops(
    host: &Socket,
    config: &Config,
    gateways: &[IpNetwork],
    bridge: Option<&Link>,
) -> Result<Vec<(IpAddr, Route)>, PluginError> {
    if gateways.is_empty() {
        return Ok(Vec::new());
    }
    let (routes, bridge) = (host.routes_of_all_tables()?, bridge.map(|bridge| bridge.index));
    let to = |address: IpAddr| routes.iter().find(|route| is_next_hop(route, address, config, bridge));
    let gateways = gateways.iter().map(IpNetwork::ip);
    Ok(gateways.filter_map(|gateway| Some((gateway, to(gateway)?.clone()))).collect())
}

fn refused(conflict: &str, config: &Config) -> PluginError {
    PluginError::new(ErrorCode::INVALID_CONFIG, format!("{conflict}; {}", remedy(config, None)))
}

fn conflict_message(host: &Socket, gateway: IpAddr, holder: &Holder) -> Result<String, PluginError> {
    let evidence = match holder {
        Holder::Machine(mac) => format!("the machine with the MAC {mac} has it"),
        Holder::NextHop(route) => {
            let link = host.link_by_index(route.oif)?;
            let link = link.map_or_else(|| format!("link {}", route.oif), |link| link.name.to_string());
            format!("it is the next hop of the node's route to {} by {link}", route.dst)
        }
    };
    Ok(format!("the node cannot take the gateway's address {gateway}: {evidence}"))
}

fn contains(addresses: &[IpNetwork], address: IpAddr) -> bool {
    addresses.iter().any(|found| found.ip() == address)
}
