//! The bridge of a network, and its ports.

use std::collections::HashSet;
use std::time::Duration;

use cnikit::datapath::{Endpoint, PortConfig};
use cnikit::ipam::Range;
use cnikit::netlink::{self, AddrGenMode, BridgePort, BridgeSpec, FdbEntry, Ipv4Conf, Ipv6Conf, Link, Socket, Sysctl};
use cnikit::plugin::PluginError;
use cnikit::spec::{Attachment, ErrorCode, IfName, MacAddr, NetworkName};
use ipnetwork::IpNetwork;
use tracing::{info_span, warn};

use crate::agent;
use crate::config::Config;
use crate::endpoints::Endpoints;
use crate::ip::{self, is_link_local};
use crate::naming::{BRIDGE_ALIAS_PREFIX, bridge_alias, bridge_mac, shared_blocks};
use crate::network::Network;

/// The MTU of a bridge on a node without a default route, in bytes.
const DEFAULT_MTU: u32 = 1500;

/// The maximum number of ports of a bridge. The kernel numbers them with 10 bits, from 1
/// (`BR_MAX_PORTS`).
const MAX_PORTS: usize = 1023;

/// The maximum time from the first running port to the running bridge. A bridge needs a
/// millisecond, or half a minute with STP.
pub const RUNNING_TIMEOUT: Duration = Duration::from_secs(1);

/// The link with the bridge's name, if the network can use it.
#[derive(Debug)]
pub struct ExistingBridge {
    /// The bridge.
    pub bridge: Link,
    /// The addresses of the bridge.
    pub addresses: Vec<IpNetwork>,
    /// Whether the bridge anchors the network's filter blocks.
    pub is_claimed: bool,
}

/// Looks up the link with the bridge's name. Changes nothing.
///
/// # Errors
///
/// Fails if the network cannot use the link, or if a subnet overlaps with an address of the host.
pub fn look(host: &Socket, network: &NetworkName, config: &Config) -> Result<Option<ExistingBridge>, PluginError> {
    let _span = info_span!("look").entered();
    let bridge = host.link_by_name(&config.bridge)?;
    let existing = match bridge {
        Some(bridge) => {
            refuse_other_kind(&bridge)?;
            let is_claimed = is_claimed(host, network, &bridge)?;
            Some(ExistingBridge { addresses: host.addresses(bridge.index)?, is_claimed, bridge })
        }
        None => None,
    };
    let addresses = existing.as_ref().map_or(&[][..], |existing| &existing.addresses);
    for range in config.ranges() {
        let taken = addresses.iter().find(|address| range.contains(address.ip()));
        if let Some((existing, taken)) = existing.as_ref().zip(taken) {
            return Err(address_in_range(&existing.bridge, *taken, range));
        }
    }
    let missing: Vec<IpNetwork> = config.gateways().filter(|gateway| !ip::serves(addresses, *gateway)).collect();
    refuse_overlap(host, &config.bridge, &missing)?;
    Ok(existing)
}

impl Network<'_> {
    /// Creates the bridge, or repairs it, except for its addresses. A bridge serves one network, so
    /// the network claims it before any other change.
    pub(crate) fn ensure_bridge(&self, existing: Option<ExistingBridge>) -> Result<Link, PluginError> {
        let ExistingBridge { mut bridge, is_claimed, .. } = match existing {
            Some(existing) => existing,
            None => self.create_bridge()?,
        };
        if !is_claimed {
            self.adopt_ports(&bridge)?;
            claim(self.host, self.name, &bridge)?;
        }
        // A claimed bridge without an alias is the remains of a killed call.
        if !is_claimed || bridge.alias.is_none() {
            bridge.mac = Some(mark(self.host, self.name, &bridge)?);
        }
        set_ipv6(self.host, self.name, &bridge)?;
        if !bridge.up {
            self.host.set_up(bridge.index)?;
        }
        Ok(bridge)
    }

    fn create_bridge(&self) -> Result<ExistingBridge, PluginError> {
        let Network { host, config, .. } = self;
        let mtu = match config.mtu {
            Some(mtu) => mtu,
            None => host.uplink()?.map_or(DEFAULT_MTU, |uplink| uplink.mtu),
        };
        // No multicast querier runs on the bridge, so it floods multicast with or without snooping.
        let spec =
            BridgeSpec::new(config.bridge.clone()).mac(bridge_mac(self.name)).mtu(mtu).mcast_snooping(false).up();
        ignore_exists(host.create_bridge(&spec).map(drop))?;
        enable_mac_notifications(&config.bridge);
        look(host, self.name, config)?.ok_or_else(|| {
            let msg = format!("{} was deleted immediately after its creation: try again", config.bridge);
            PluginError::new(ErrorCode::TRY_AGAIN, msg)
        })
    }

    /// Sets the flags of a pod's port on the bridge.
    ///
    /// With `spoofCheck`, the bridge has a static forwarding entry for the pod's MAC. It then
    /// neither learns MACs nor floods frames to the port.
    ///
    /// # Errors
    ///
    /// Fails if the kernel refuses a setting.
    pub fn prepare_port(&self, port: Endpoint) -> netlink::Result<()> {
        let _span = info_span!("port").entered();
        let learns = !self.config.spoof_check;
        let flags = BridgePort::default().hairpin(self.config.hairpin_mode).learning(learns).flood(learns);
        self.host.set_bridge_port(port.ifindex, flags)?;
        // The host has its addresses on the bridge. A link-local address on each port would add a
        // route for each, announced to the pod. With a thousand pods, this is more work than all
        // other steps of an ADD.
        self.host.set_addr_gen_mode(port.ifindex, AddrGenMode::None)?;
        if learns { Ok(()) } else { self.host.set_fdb(port.ifindex, port.mac) }
    }

    /// Makes the network's pods that lost their bridge ports of this one. A link with an entry in
    /// the maps belongs to a pod of this network, also if a delegate assigned its address.
    pub(crate) fn adopt_ports(&self, bridge: &Link) -> Result<(), PluginError> {
        let endpoints = Endpoints::open(&self.datapath)?;
        let is_orphan = |link: &Link| link.master.is_none() && Attachment::is_host_ifname(&link.name);
        for port in self.host.links()?.into_iter().filter(is_orphan) {
            if let Some(PortConfig { mac, .. }) = endpoints.port_config(port.index)? {
                let port = Endpoint::new(port.index, mac);
                let master_set = self.host.set_master(port.ifindex, bridge.index);
                let adopted = master_set.and_then(|()| self.prepare_port(port));
                // A port under deletion needs no bridge.
                if adopted.is_err() && self.host.link_by_index(port.ifindex)?.is_some() {
                    adopted?;
                }
            }
        }
        Ok(())
    }

    /// Sets the ports of the network's pods up, with the flags and the forwarding entry of an ADD.
    /// Skips the ports in `in_progress`, which other calls attach or detach: an ADD sets its port
    /// up only when the spoof check is active.
    pub(crate) fn set_ports_up(&self, bridge: &Link, in_progress: &HashSet<IfName>) -> Result<(), PluginError> {
        let endpoints = Endpoints::open(&self.datapath)?;
        let links = self.host.links()?;
        for port in pod_ports(bridge, &links).filter(|port| !in_progress.contains(&port.name)) {
            if let Some(PortConfig { mac, .. }) = endpoints.port_config(port.index)? {
                let prepared = self.prepare_port(Endpoint::new(port.index, mac));
                let set = prepared.and_then(|()| if port.up { Ok(()) } else { self.host.set_up(port.index) });
                // A port under deletion needs no settings.
                if set.is_err() && self.host.link_by_index(port.index)?.is_some() {
                    set?;
                }
            }
        }
        Ok(())
    }
}

/// The ports of the bridge that are host ends of pods. `links` are the links of the host.
pub fn pod_ports<'l>(bridge: &Link, links: &'l [Link]) -> impl Iterator<Item = &'l Link> + use<'l> {
    let bridge = bridge.index;
    links.iter().filter(move |link| link.master == Some(bridge) && Attachment::is_host_ifname(&link.name))
}

/// Whether a port of the bridge is not a pod's, so that other machines may be behind it. `links`
/// are the links of the host.
pub(crate) fn is_wired(bridge: &Link, links: &[Link]) -> bool {
    links.iter().any(|link| link.master == Some(bridge.index) && !Attachment::is_host_ifname(&link.name))
}

/// Whether the bridge has the maximum number of ports. `links` are the links of the host.
#[must_use]
pub fn is_full(bridge: &Link, links: &[Link]) -> bool {
    links.iter().filter(|link| link.master == Some(bridge.index)).count() >= MAX_PORTS
}

/// The error for a bridge without a free port.
#[must_use]
pub fn full(bridge: &IfName) -> PluginError {
    let msg = format!("{bridge} has 1,023 ports, as many as a bridge can: delete pods, or use another network");
    PluginError::new(ErrorCode::TRY_AGAIN, msg)
}

/// Whether the bridge's qdisc names the network's blocks.
///
/// # Errors
///
/// Fails if the qdisc names other blocks: the bridge belongs to another network or tool.
pub fn is_claimed(host: &Socket, network: &NetworkName, bridge: &Link) -> Result<bool, PluginError> {
    match host.ingress_qdisc(bridge.index)? {
        None => Ok(false),
        Some(qdisc) if qdisc.blocks == shared_blocks(network) => Ok(true),
        Some(qdisc) => {
            let owner = match bridge.alias.as_deref() {
                Some(alias) if alias.starts_with(BRIDGE_ALIAS_PREFIX) => {
                    format!("belongs to another network (its alias is {alias})")
                }
                // A bridge has no alias yet immediately after the claim.
                _ => format!("belongs to another network or tool, by its {} qdisc", qdisc.kind),
            };
            Err(refused(bridge, &owner))
        }
    }
}

/// Whether the plugin created the bridge for this network. A new bridge has no alias yet.
#[must_use]
pub fn is_made_for(network: &NetworkName, bridge: &Link) -> bool {
    bridge.mac == Some(bridge_mac(network)) && bridge.alias.as_ref().is_none_or(|found| *found == bridge_alias(network))
}

/// Announces the bridge's MAC to the pods: their neighbor tables keep the former MAC for half a
/// minute. The bridge must have its ports and the gateways' addresses.
///
/// # Errors
///
/// Fails if the kernel refuses the change.
pub fn announce(host: &Socket, bridge: &Link) -> netlink::Result<()> {
    let _span = info_span!("announce").entered();
    let Some(mac) = bridge.mac else { return Ok(()) };
    enable_mac_notifications(&bridge.name);
    // A bridge that does not run yet drops its packets. Without a running port, no pod listens.
    host.wait_running(bridge.index, RUNNING_TIMEOUT)?;
    // The kernel announces a MAC that is set, even if it stays the same.
    host.set_mac(bridge.index, mac)
}

/// Refuses subnets that the host reaches through another link: the host would lose one of the two.
pub(crate) fn refuse_overlap(host: &Socket, bridge: &IfName, gateways: &[IpNetwork]) -> Result<(), PluginError> {
    if gateways.is_empty() {
        return Ok(());
    }
    for found in host.all_addresses()?.into_iter().filter(|found| !is_link_local(found.address.ip())) {
        let (index, other) = (found.ifindex, found.address);
        let Some(gateway) = gateways.iter().find(|gateway| ip::overlap(other, **gateway)) else { continue };
        let link = host.link_by_index(index)?;
        // By name: another ADD may have created the bridge after the lookup.
        if link.as_ref().is_some_and(|link| link.name == *bridge || agent::has_gateway(link, other)) {
            continue;
        }
        let name = link.map_or_else(|| format!("link {index}"), |link| link.name.to_string());
        let subnet = ip::subnet(*gateway);
        return Err(PluginError::new(
            ErrorCode::INVALID_CONFIG,
            format!("subnet {subnet} overlaps with the address {other} of {name}: choose another subnet"),
        ));
    }
    Ok(())
}

/// Turns "exists" into success. Another caller may have created the object in the meantime.
pub(crate) fn ignore_exists(created: netlink::Result<()>) -> netlink::Result<()> {
    match created {
        Err(netlink::Error::Exists { .. }) => Ok(()),
        created => created,
    }
}

/// Anchors the network's blocks on the bridge. The kernel lets one caller create the qdisc, so of
/// two networks that name one bridge, one gets it.
fn claim(host: &Socket, network: &NetworkName, bridge: &Link) -> Result<(), PluginError> {
    match host.create_clsact(bridge.index, shared_blocks(network)) {
        Err(netlink::Error::Exists { .. }) => is_claimed(host, network, bridge).map(drop),
        claimed => Ok(claimed?),
    }
}

/// Fixes the MAC of a claimed bridge, and writes the network's name into its alias. Returns the
/// MAC.
fn mark(host: &Socket, network: &NetworkName, bridge: &Link) -> netlink::Result<MacAddr> {
    // Until the MAC is set, a bridge follows the lowest MAC of its ports. Pods keep the gateway's
    // MAC in their neighbor tables, and net_config holds it too.
    let other = MacAddr::derived_from(&format!("{network}/adopted-bridge"));
    // Linux 5.10 and 6.1 leave a bridge without a MAC if it loses its last port.
    let mac = bridge.mac.filter(|mac| mac.octets() != [0; 6]).unwrap_or(other);
    // Linux 5.10 adds the forwarding entry of the bridge's own MAC only if the MAC changes. A
    // bridge with its first MAC and without ports has one for VLAN 1 alone, and would flood the
    // gateway's packets.
    let is_own = |entry: &FdbEntry| entry.mac == mac && entry.vlan.is_none();
    if mac != other && !host.fdb(bridge.index)?.iter().any(is_own) {
        host.set_mac(bridge.index, other)?;
    }
    host.set_mac(bridge.index, mac)?;
    if bridge.alias.is_none() {
        host.set_alias(bridge.index, &bridge_alias(network))?;
    }
    Ok(mac)
}

/// Makes the host ignore router advertisements of pods (CVE-2020-10749), and lets it solicit
/// neighbors as soon as the bridge is up. If a setting cannot be written, the network still works,
/// and a warning reports it.
///
/// Leaves a foreign bridge with a port to other machines unchanged: the node may have its addresses
/// and its default route from a router there.
fn set_ipv6(host: &Socket, network: &NetworkName, bridge: &Link) -> netlink::Result<()> {
    let differs = |(setting, value): &(Ipv6Conf, i32)| bridge.ipv6_conf(*setting) != Some(*value);
    let wanted = [(Ipv6Conf::AcceptRa, 0), (Ipv6Conf::AcceptDad, 0)];
    if !wanted.iter().any(differs) || (!is_made_for(network, bridge) && is_wired(bridge, &host.links()?)) {
        return Ok(());
    }
    for (setting, value) in wanted.into_iter().filter(differs) {
        set_or_warn(Sysctl::Ipv6Conf(&bridge.name, setting), value);
    }
    Ok(())
}

/// Makes the kernel announce each new MAC of the bridge, also one that an operator sets.
fn enable_mac_notifications(bridge: &IfName) {
    set_or_warn(Sysctl::Ipv4Conf(bridge, Ipv4Conf::ArpNotify), 1);
    set_or_warn(Sysctl::Ipv6Conf(bridge, Ipv6Conf::NdiscNotify), 1);
}

/// Writes an optional setting.
fn set_or_warn(setting: Sysctl<'_>, value: i32) {
    match setting.ensure(value) {
        // SysctlMissing: a kernel without IPv6.
        Ok(_) | Err(netlink::Error::SysctlMissing { .. }) => {}
        Err(error) => warn!("{error}; set it to {value} by hand"),
    }
}

/// Refuses a link with the bridge's name and another kind.
fn refuse_other_kind(bridge: &Link) -> Result<(), PluginError> {
    match bridge.kind.as_deref() {
        Some("bridge") => Ok(()),
        kind => Err(refused(bridge, &format!("exists and is no bridge but a {} link", kind.unwrap_or("physical")))),
    }
}

/// The error for an address of the bridge that the network could assign to a pod.
fn address_in_range(bridge: &Link, address: IpNetwork, range: &Range) -> PluginError {
    PluginError::new(
        ErrorCode::INVALID_CONFIG,
        format!(
            "{} has the address {address}, and subnet {} could assign it to a pod: make it the \"gateway\", \
             \"exclude\" it, or choose another subnet",
            bridge.name,
            range.subnet()
        ),
    )
}

fn refused(bridge: &Link, reason: &str) -> PluginError {
    let msg = format!("{} {reason}: name another with the key \"bridge\"", bridge.name);
    PluginError::new(ErrorCode::INVALID_CONFIG, msg)
}
