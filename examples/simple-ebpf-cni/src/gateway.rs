//! Who has a gateway's address: the node, on the bridge, or another machine that the bridge has a wire to.

use std::net::IpAddr;

use cnikit::netlink::{AddressProbe, Link, Route, Socket};
use cnikit::plugin::{Failure, Step as _};
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
    /// Refuses gateways of the network's own pools that the bridge lacks and another machine has. Changes nothing.
    ///
    /// A bridge that is down is not asked here: [`ensure`](Self::ensure) does it.
    pub(crate) fn look(host: &'a Socket, config: &'a Config, found: Option<&Found>) -> Result<Self, Failure> {
        let mut gateways = Self { host, config, free: Vec::new() };
        let addresses = found.map_or(&[][..], |found| &found.addresses);
        let missing: Vec<IpNetwork> =
            bridge::gateways(config).filter(|gateway| !has(addresses, gateway.ip())).collect();
        let bridge = found.map(|found| &found.bridge).filter(|bridge| bridge.up);
        gateways.refuse_held(&missing, bridge)?;
        if bridge.is_some() {
            gateways.free = missing.iter().map(IpNetwork::ip).collect();
        }
        Ok(gateways)
    }

    /// Gives the bridge the gateways' addresses that it lacks. Returns those that the node has; the others are left to
    /// another machine.
    pub(crate) fn ensure(&self, bridge: &Link, gateways: &[IpNetwork]) -> Result<Vec<IpNetwork>, Failure> {
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
            for (gateway, _) in self.holders(&asked, Some(bridge), usize::MAX)? {
                debug!("{gateway} is left to another machine on {}", bridge.name);
                own.retain(|own| own.ip() != gateway);
                missing.retain(|missing| missing.ip() != gateway);
            }
        } else {
            self.refuse_held(&asked, Some(bridge))?;
        }
        for gateway in missing {
            let added = bridge::unless_exists(self.host.add_address(bridge.index, gateway));
            added.step(format_args!("give {} the address of the gateway", bridge.name))?;
        }
        Ok(own)
    }

    /// Whether a gateway that another machine has is left to that machine, rather than refused.
    fn may_be_left(&self) -> bool {
        self.config.is_gateway.is_none() && matches!(self.config.addressing, Addressing::Delegated)
    }

    fn refuse_held(&self, gateways: &[IpNetwork], bridge: Option<&Link>) -> Result<(), Failure> {
        let Some((gateway, holder)) = self.holders(gateways, bridge, 1)?.into_iter().next() else {
            return Ok(());
        };
        let remedy = if self.config.is_gateway == Some(true) {
            "\"isGateway\" is true: set it to false if that machine is the pods' router, or name another gateway"
        } else {
            "set \"isGateway\" to false if that machine is the pods' router, or name another \"gateway\""
        };
        let msg = format!("the node cannot take the gateway's address {gateway}: {}; {remedy}", self.shown(&holder)?);
        Err(Failure::new(ErrorCode::INVALID_CONFIG, msg))
    }

    /// The first few of these addresses that another machine has: next hops of the node's routes and, if the bridge has a
    /// wire to other machines, addresses that one of them answers for.
    fn holders(
        &self,
        gateways: &[IpNetwork],
        bridge: Option<&Link>,
        most: usize,
    ) -> Result<Vec<(IpAddr, Holder)>, Failure> {
        if gateways.is_empty() {
            return Ok(Vec::new());
        }
        let routes = self.host.routes_of_all_tables()?;
        let (mut holders, mut asked) = (Vec::new(), Vec::new());
        for gateway in gateways.iter().map(IpNetwork::ip) {
            let is_near =
                |route: &&Route| !bridge::is_link_local(gateway) || bridge.is_some_and(|on| on.index == route.oif);
            match routes.iter().filter(is_near).find(|route| route.gateway == Some(gateway)) {
                Some(route) => holders.push((gateway, Holder::NextHop(route.clone()))),
                None => asked.push(gateway),
            }
        }
        let Some(bridge) = bridge.filter(|_| !asked.is_empty() && holders.len() < most) else {
            return Ok(holders);
        };
        let links = self.host.links()?;
        if !is_wired(bridge, &links) {
            return Ok(holders);
        }
        let _span = info_span!("probe").entered();
        // Another link of the node may hear the probe, and answer for the bridge.
        let own_macs = links.iter().filter_map(|link| link.mac);
        let mut probe = AddressProbe::start(bridge, &asked)?.ignoring(own_macs);
        while holders.len() < most
            && let Some(answer) = probe.next_answer()?
        {
            holders.push((answer.address, Holder::Machine(answer.mac)));
        }
        Ok(holders)
    }

    fn shown(&self, holder: &Holder) -> Result<String, Failure> {
        Ok(match holder {
            Holder::Machine(mac) => format!("the machine with the MAC {mac} has it"),
            Holder::NextHop(route) => {
                let link = self.host.link_by_index(route.oif)?;
                let link = link.map_or_else(|| format!("link {}", route.oif), |link| link.name.to_string());
                format!("it is the next hop of the node's route to {} by {link}", route.dst)
            }
        })
    }
}

/// Whether the bridge has a port that is no pod's of this plugin, by which other machines may be reached. `links` are the
/// host's.
pub(crate) fn is_wired(bridge: &Link, links: &[Link]) -> bool {
    links.iter().any(|link| link.master == Some(bridge.index) && !Attachment::is_host_ifname(&link.name))
}

fn has(addresses: &[IpNetwork], address: IpAddr) -> bool {
    addresses.iter().any(|found| found.ip() == address)
}
