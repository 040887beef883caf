//! Who has a gateway's address: the node, on the bridge, or another machine that the bridge has a wire to.

use std::net::IpAddr;
use std::path::Path;

use cnikit::netlink::{AddressProbe, Link, Route, Socket};
use cnikit::plugin::{Context as _, PluginError};
use cnikit::spec::{Attachment, ErrorCode, MacAddr};
use ipnetwork::IpNetwork;
use tracing::{debug, info_span};

use crate::bridge::{self, Found};
use crate::config::{Addressing, Config};

/// The gateways that this call has asked about, and which of them no other machine has.
pub(crate) struct Gateways<'a> {
    host: &'a Socket,
    config: &'a Config,
    free: Vec<IpAddr>,
}

/// What shows that another machine has a gateway's address.
enum Holder {
    /// The node sends by it.
    NextHop(Route),
    /// It has answered a probe.
    Machine(MacAddr),
}

impl<'a> Gateways<'a> {
    /// Refuses gateways of the network's own pools that the bridge lacks and another machine has. Probes a wired bridge, and
    /// changes nothing.
    ///
    /// A bridge that is down is not asked here: [`ensure`](Self::ensure) does it.
    pub(crate) fn look(host: &'a Socket, config: &'a Config, found: Option<&Found>) -> Result<Self, PluginError> {
        let mut gateways = Self { host, config, free: Vec::new() };
        let missing = missing(config, found);
        let bridge = found.map(|found| &found.bridge).filter(|bridge| bridge.up);
        gateways.refuse_held(&missing, bridge)?;
        if bridge.is_some() {
            gateways.free = missing.iter().map(IpNetwork::ip).collect();
        }
        Ok(gateways)
    }

    /// Gives the bridge the gateways' addresses that it lacks. Returns those that the node has; the others are left to
    /// another machine.
    pub(crate) fn ensure(&self, bridge: &Link, gateways: &[IpNetwork]) -> Result<Vec<IpNetwork>, PluginError> {
        let _span = info_span!("gateway").entered();
        if self.config.is_gateway == Some(false) || gateways.is_empty() {
            return Ok(Vec::new());
        }
        let addresses = self.host.addresses(bridge.index)?;
        let mut own = gateways.to_vec();
        let mut missing = gateways.to_vec();
        missing.retain(|gateway| !bridge::serves(&addresses, *gateway));
        if missing.is_empty() {
            return Ok(own);
        }
        bridge::refuse_overlap(self.host, &bridge.name, &missing)?;
        let mut asked = missing.clone();
        asked.retain(|gateway| !has(&addresses, gateway.ip()) && !self.free.contains(&gateway.ip()));
        if self.may_be_left() {
            for gateway in self.left(&asked, bridge)? {
                debug!("{gateway} is left to another machine on {}", bridge.name);
                own.retain(|own| own.ip() != gateway);
                missing.retain(|missing| missing.ip() != gateway);
            }
        } else {
            self.refuse_held(&asked, Some(bridge))?;
        }
        for gateway in missing {
            let added = bridge::unless_exists(self.host.add_address(bridge.index, gateway));
            added.context(format_args!("give {} the address of the gateway", bridge.name))?;
        }
        Ok(own)
    }

    /// Whether a gateway that another machine has is left to that machine, rather than refused.
    fn may_be_left(&self) -> bool {
        self.config.is_gateway.is_none() && matches!(self.config.addressing, Addressing::Delegated)
    }

    /// Those of these addresses that the node does not take unless the configuration asks for them.
    ///
    /// On a wired bridge these are all: the router may be away for a moment, and no probe shows this.
    fn left(&self, gateways: &[IpNetwork], bridge: &Link) -> Result<Vec<IpAddr>, PluginError> {
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
            (None, Some(bridge)) => {
                self.answer(gateways, bridge)?.map(|(gateway, mac)| (gateway, Holder::Machine(mac)))
            }
            (None, None) => None,
        };
        match held {
            Some((gateway, holder)) => Err(refused(&found(self.host, gateway, &holder)?, self.config)),
            None => Ok(()),
        }
    }

    /// The first answer of another machine for one of these addresses, if the bridge has a wire to other machines.
    fn answer(&self, gateways: &[IpNetwork], bridge: &Link) -> Result<Option<(IpAddr, MacAddr)>, PluginError> {
        if gateways.is_empty() {
            return Ok(None);
        }
        let links = self.host.links()?;
        if !is_wired(bridge, &links) {
            return Ok(None);
        }
        let _span = info_span!("probe").entered();
        let asked: Vec<IpAddr> = gateways.iter().map(IpNetwork::ip).collect();
        // Another link of the node may hear the probe, and answer for the bridge.
        let own_macs = links.iter().filter_map(|link| link.mac);
        let mut probe = AddressProbe::start(bridge, &asked)?.ignoring(own_macs);
        Ok(probe.next_answer()?.map(|answer| (answer.address, answer.mac)))
    }
}

/// Refuses gateways of the network's own pools that the bridge lacks and that are next hops of the node. Sends nothing, so
/// that a verb or command that only looks leaves the wire silent.
pub(crate) fn refuse_next_hops(host: &Socket, config: &Config, found: Option<&Found>) -> Result<(), PluginError> {
    match next_hop_among_gateways(host, config, found)? {
        Some(found) => Err(refused(&found, config)),
        None => Ok(()),
    }
}

/// The failure that [`refuse_next_hops`] reports, without its remedy.
pub(crate) fn next_hop_among_gateways(
    host: &Socket,
    config: &Config,
    found: Option<&Found>,
) -> Result<Option<String>, PluginError> {
    let bridge = found.map(|found| &found.bridge);
    let hop = next_hops(host, config, &missing(config, found), bridge)?.into_iter().next();
    hop.map(|(gateway, route)| self::found(host, gateway, &Holder::NextHop(route))).transpose()
}

/// What to do about a gateway that another machine has. `file` is the configuration's, if it is known.
pub(crate) fn remedy(config: &Config, file: Option<&Path>) -> String {
    let place = file.map(|file| format!(" in {}", file.display())).unwrap_or_default();
    if config.is_gateway == Some(true) {
        format!(
            "\"isGateway\" is true: set it to false{place} if that machine is the pods' router, or name another \"gateway\""
        )
    } else {
        format!("set \"isGateway\" to false{place} if that machine is the pods' router, or name another \"gateway\"")
    }
}

/// Whether the route shows that another machine has the address.
///
/// If the configuration asks for the address, a policy route of another link does not count. Such a router is in another
/// network with the same addresses.
pub(crate) fn is_next_hop(route: &Route, address: IpAddr, config: &Config, bridge: Option<u32>) -> bool {
    let is_by_bridge = bridge == Some(route.oif);
    let is_main = route.table.is_none_or(|table| table == MAIN_TABLE);
    route.gateway == Some(address)
        && (is_by_bridge || !bridge::is_link_local(address))
        && (is_by_bridge || is_main || config.is_gateway != Some(true))
}

/// The number of the main routing table (`RT_TABLE_MAIN` of the kernel).
const MAIN_TABLE: u32 = 254;

/// The gateways of the network's own pools that the bridge lacks.
fn missing(config: &Config, found: Option<&Found>) -> Vec<IpNetwork> {
    let addresses = found.map_or(&[][..], |found| &found.addresses);
    bridge::gateways(config).filter(|gateway| !has(addresses, gateway.ip())).collect()
}

/// Those of these addresses that are next hops of the node's routes.
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

fn refused(found: &str, config: &Config) -> PluginError {
    PluginError::new(ErrorCode::INVALID_CONFIG, format!("{found}; {}", remedy(config, None)))
}

fn found(host: &Socket, gateway: IpAddr, holder: &Holder) -> Result<String, PluginError> {
    let shown = match holder {
        Holder::Machine(mac) => format!("the machine with the MAC {mac} has it"),
        Holder::NextHop(route) => {
            let link = host.link_by_index(route.oif)?;
            let link = link.map_or_else(|| format!("link {}", route.oif), |link| link.name.to_string());
            format!("it is the next hop of the node's route to {} by {link}", route.dst)
        }
    };
    Ok(format!("the node cannot take the gateway's address {gateway}: {shown}"))
}

/// Whether the bridge has a port that is no pod's of this plugin, by which other machines may be reached. `links` are the
/// host's.
pub(crate) fn is_wired(bridge: &Link, links: &[Link]) -> bool {
    links.iter().any(|link| link.master == Some(bridge.index) && !Attachment::is_host_ifname(&link.name))
}

fn has(addresses: &[IpNetwork], address: IpAddr) -> bool {
    addresses.iter().any(|found| found.ip() == address)
}
