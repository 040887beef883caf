//! The bridge that the pods of a network are ports of.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use cnikit::datapath::{Datapath, Endpoint, PortConfig};
use cnikit::ipam::Range;
use cnikit::netlink::{
    self, AddrGenMode, BridgePort, BridgeSpec, Ipv4Conf, Ipv6Conf, Link, SharedBlocks, Socket, Sysctl,
};
use cnikit::plugin::PluginError;
use cnikit::spec::{Attachment, ErrorCode, IfName, MacAddr, NetworkName};
use ipnetwork::IpNetwork;
use tracing::{info_span, warn};

use crate::config::Config;
use crate::endpoints::Rows;
use crate::{gateway, network};

/// Of a node without a default route, in bytes.
const DEFAULT_MTU: u32 = 1500;

/// As many as a bridge can have: it numbers them with 10 bits, from 1 (`BR_MAX_PORTS` of the kernel).
const MOST_PORTS: usize = 1023;

/// How long a bridge may take to run after its first port does. It takes a millisecond, or half a minute with STP.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// What there is under the bridge's name.
pub(crate) struct Found {
    pub(crate) bridge: Link,
    pub(crate) addresses: Vec<IpNetwork>,
    pub(crate) is_claimed: bool,
}

/// Looks at what has the bridge's name, and refuses what the network cannot use. Changes nothing.
pub(crate) fn look(host: &Socket, network: &NetworkName, config: &Config) -> Result<Option<Found>, PluginError> {
    let _span = info_span!("look").entered();
    let bridge = host.link_by_name(&config.bridge)?;
    let found = match bridge {
        Some(bridge) => {
            refuse_other_kind(&bridge)?;
            let is_claimed = is_claimed(host, network, &bridge)?;
            Some(Found { addresses: host.addresses(bridge.index)?, is_claimed, bridge })
        }
        None => None,
    };
    let addresses = found.as_ref().map_or(&[][..], |found| &found.addresses);
    for range in config.ranges() {
        let taken = addresses.iter().find(|address| range.contains(address.ip()));
        if let Some((found, taken)) = found.as_ref().zip(taken) {
            return Err(gives_away(&found.bridge, *taken, range));
        }
    }
    let missing: Vec<IpNetwork> = gateways(config).filter(|gateway| !serves(addresses, *gateway)).collect();
    refuse_overlap(host, &config.bridge, &missing)?;
    Ok(found)
}

/// Makes the bridge, or mends what is missing of it, but for its addresses. A bridge serves one network: it is claimed
/// before anything of it is changed.
pub(crate) fn ensure(
    host: &Socket,
    network: &NetworkName,
    config: &Config,
    datapath: &Datapath,
    found: Option<Found>,
) -> Result<Link, PluginError> {
    let Found { mut bridge, is_claimed, .. } = match found {
        Some(found) => found,
        None => create(host, network, config)?,
    };
    if !is_claimed {
        adopt_ports(host, config, datapath, &bridge)?;
        claim(host, network, &bridge)?;
    }
    // An alias that is missing tells that who claimed the bridge did not come to its end.
    if !is_claimed || bridge.alias.is_none() {
        bridge.mac = Some(mark(host, network, &bridge)?);
    }
    set_ipv6(host, network, &bridge)?;
    if !bridge.up {
        host.set_up(bridge.index)?;
    }
    Ok(bridge)
}

/// Sets how the bridge treats a pod's port. Where pods are held to their MACs, the bridge is told these instead of
/// learning them, and floods nothing to look for others.
pub(crate) fn prepare_port(host: &Socket, port: Endpoint, config: &Config) -> netlink::Result<()> {
    let _span = info_span!("port").entered();
    let learns = !config.spoof_check;
    let flags = BridgePort::default().hairpin(config.hairpin_mode).learning(learns).flood(learns);
    host.set_bridge_port(port.ifindex, flags)?;
    // The host has addresses on the bridge, and none on its ports. A link-local one on each would be a route for each,
    // announced to the pod: beside a thousand pods, more work than all else of an ADD.
    host.set_addr_gen_mode(port.ifindex, AddrGenMode::None)?;
    if learns { Ok(()) } else { host.set_fdb(port.ifindex, port.mac) }
}

/// The bridge's addresses, with the prefix lengths of their subnets, as far as the network itself gives addresses. None if
/// another machine is the gateway.
pub(crate) fn gateways(config: &Config) -> impl Iterator<Item = IpNetwork> {
    let ranges = config.ranges().filter(|_| config.is_gateway != Some(false));
    ranges.map(|range| range.with_prefix(range.gateway()))
}

/// Whether one of the bridge's addresses is the gateway's and leads to its whole subnet.
pub(crate) fn serves(addresses: &[IpNetwork], gateway: IpNetwork) -> bool {
    addresses.iter().any(|address| address.ip() == gateway.ip() && address.prefix() <= gateway.prefix())
}

/// Whether an address means another machine on each link.
pub(crate) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// The shared blocks of a network's filters: anchored by the bridge, joined by each port. They derive from the network
/// alone, so that ports outlive their bridge in them.
pub(crate) fn blocks(network: &NetworkName) -> SharedBlocks {
    SharedBlocks::from_name(&format!("simple-ebpf-cni/{network}"))
}

/// The ports of the bridge that are pods' of this plugin. `links` are the host's.
pub(crate) fn pod_ports<'l>(bridge: &Link, links: &'l [Link]) -> impl Iterator<Item = &'l Link> + use<'l> {
    let bridge = bridge.index;
    links.iter().filter(move |link| link.master == Some(bridge) && Attachment::is_host_ifname(&link.name))
}

/// Whether the bridge takes no other port. `links` are the host's.
pub(crate) fn is_full(bridge: &Link, links: &[Link]) -> bool {
    links.iter().filter(|link| link.master == Some(bridge.index)).count() >= MOST_PORTS
}

/// Refuses one more port than the bridge takes.
pub(crate) fn full(bridge: &IfName) -> PluginError {
    let msg = format!("{bridge} has 1,023 ports, as many as a bridge can: delete pods, or use another network");
    PluginError::new(ErrorCode::TRY_AGAIN, msg)
}

/// Refuses a link that has the bridge's name and is none.
fn refuse_other_kind(bridge: &Link) -> Result<(), PluginError> {
    match bridge.kind.as_deref() {
        Some("bridge") => Ok(()),
        kind => Err(refused(bridge, &format!("exists and is no bridge but a {} link", kind.unwrap_or("physical")))),
    }
}

/// Whether the bridge's qdisc names the network's blocks. A qdisc that names others is another network's, or somebody
/// else's.
pub(crate) fn is_claimed(host: &Socket, network: &NetworkName, bridge: &Link) -> Result<bool, PluginError> {
    match host.ingress_qdisc(bridge.index)? {
        None => Ok(false),
        Some(qdisc) if qdisc.blocks == blocks(network) => Ok(true),
        Some(qdisc) => {
            let owner = match bridge.alias.as_deref() {
                Some(alias) if alias.starts_with(ALIAS) => format!("belongs to another network (its alias is {alias})"),
                // One that was claimed this very moment has no alias yet.
                _ => format!("belongs to another network or tool, by its {} qdisc", qdisc.kind),
            };
            Err(refused(bridge, &owner))
        }
    }
}

/// What the alias of a claimed bridge starts with, for whoever reads `ip link`.
const ALIAS: &str = "simple-ebpf-cni:";

/// Anchors the network's blocks on the bridge. The kernel lets one caller create the qdisc, so of two networks that
/// name one bridge, one has it.
fn claim(host: &Socket, network: &NetworkName, bridge: &Link) -> Result<(), PluginError> {
    match host.create_clsact(bridge.index, blocks(network)) {
        Err(netlink::Error::Exists { .. }) => is_claimed(host, network, bridge).map(drop),
        claimed => Ok(claimed?),
    }
}

/// Fixes the MAC of a claimed bridge and writes the network's name on it. Returns the MAC.
fn mark(host: &Socket, network: &NetworkName, bridge: &Link) -> netlink::Result<MacAddr> {
    // A bridge whose MAC was never set takes the MAC of its lowest port, so ports that come and go
    // change it. Pods keep the gateway's MAC in their neighbor tables, and the programs use it too.
    let other = MacAddr::derived_from(&format!("{network}/adopted-bridge"));
    // Linux 5.10 has no MAC on a bridge that lost its last port.
    let mac = bridge.mac.filter(|mac| mac.octets() != [0; 6]).unwrap_or(other);
    if mac != other && !is_made_for(network, bridge) {
        // Linux 5.10 adds the forwarding entry of the bridge's own MAC when the MAC changes. A bridge
        // without ports lacks the entry, and would flood packets for the gateway to the pods.
        let links = host.links()?;
        if !links.iter().any(|link| link.master == Some(bridge.index)) {
            host.set_mac(bridge.index, other)?;
        }
    }
    host.set_mac(bridge.index, mac)?;
    if bridge.alias.is_none() {
        host.set_alias(bridge.index, &alias(network))?;
    }
    Ok(mac)
}

/// Makes the host deaf to routers among the pods (CVE-2020-10749), and able to ask for neighbours as soon as the bridge
/// is up. Where the settings cannot be written, the network works all the same, and that is said.
///
/// A bridge that was there before and has a wire to other machines is left as it is: the node may have its addresses and
/// its way out from a router on that wire.
fn set_ipv6(host: &Socket, network: &NetworkName, bridge: &Link) -> netlink::Result<()> {
    let differs = |(setting, value): &(Ipv6Conf, i32)| bridge.ipv6_conf(*setting) != Some(*value);
    let wanted = [(Ipv6Conf::AcceptRa, 0), (Ipv6Conf::AcceptDad, 0)];
    if !wanted.iter().any(differs) || (!is_made_for(network, bridge) && gateway::is_wired(bridge, &host.links()?)) {
        return Ok(());
    }
    for (setting, value) in wanted.into_iter().filter(differs) {
        set_or_warn(Sysctl::Ipv6Conf(&bridge.name, setting), value);
    }
    Ok(())
}

/// Sets what a network works without.
fn set_or_warn(setting: Sysctl<'_>, value: i32) {
    match setting.ensure(value) {
        // A kernel without IPv6.
        Ok(_) | Err(netlink::Error::SysctlMissing { .. }) => {}
        Err(error) => warn!("{error}: set it to {value} by hand"),
    }
}

/// What [`mark`] writes on the bridge.
pub(crate) fn alias(network: &NetworkName) -> String {
    // The kernel takes 255 bytes.
    format!("{ALIAS}{network}").chars().take(255).collect()
}

/// Whether [`create`] made a bridge for the network, rather than that it was found. One that was made this very moment has
/// no alias yet.
pub(crate) fn is_made_for(network: &NetworkName, bridge: &Link) -> bool {
    bridge.mac == Some(own_mac(network)) && bridge.alias.as_ref().is_none_or(|found| *found == alias(network))
}

/// The MAC of a bridge that the network makes.
fn own_mac(network: &NetworkName) -> MacAddr {
    MacAddr::derived_from(&format!("{network}/bridge"))
}

/// Makes the bridge.
fn create(host: &Socket, network: &NetworkName, config: &Config) -> Result<Found, PluginError> {
    let mac = own_mac(network);
    let mtu = match config.mtu {
        Some(mtu) => mtu,
        None => host.uplink()?.map_or(DEFAULT_MTU, |uplink| uplink.mtu),
    };
    // Nobody asks who listens to multicast, so all of it goes to all ports in any case.
    let spec = BridgeSpec::new(config.bridge.clone()).mac(mac).mtu(mtu).mcast_snooping(false).up();
    unless_exists(host.create_bridge(&spec).map(drop))?;
    notify_of_macs(&config.bridge);
    look(host, network, config)?.ok_or_else(|| {
        PluginError::new(ErrorCode::TRY_AGAIN, format!("{} went away as soon as it was made: try again", config.bridge))
    })
}

/// Announces the bridge's MAC to the pods, whose neighbor tables would keep another one for half a minute. The bridge must
/// have its ports and the gateways' addresses.
pub(crate) fn announce(host: &Socket, bridge: &Link) -> netlink::Result<()> {
    let _span = info_span!("announce").entered();
    let Some(mac) = bridge.mac else { return Ok(()) };
    notify_of_macs(&bridge.name);
    // A bridge that does not run yet drops what it sends. One without ports that run has no pod to tell.
    host.wait_running(bridge.index, PATIENCE)?;
    // The kernel announces a MAC that is set, also one that stays the same.
    host.set_mac(bridge.index, mac)
}

/// Has the kernel announce each MAC that the bridge is given, also by an operator.
fn notify_of_macs(bridge: &IfName) {
    set_or_warn(Sysctl::Ipv4Conf(bridge, Ipv4Conf::ArpNotify), 1);
    set_or_warn(Sysctl::Ipv6Conf(bridge, Ipv6Conf::NdiscNotify), 1);
}

/// Makes the network's pods that lost their bridge ports of this one. A link that has a row is a pod's of this network,
/// whoever gave it the address.
pub(crate) fn adopt_ports(
    host: &Socket,
    config: &Config,
    datapath: &Datapath,
    bridge: &Link,
) -> Result<(), PluginError> {
    let rows = Rows::open(datapath)?;
    let is_orphan = |link: &Link| link.master.is_none() && Attachment::is_host_ifname(&link.name);
    for port in host.links()?.into_iter().filter(is_orphan) {
        if let Some(PortConfig { mac, .. }) = rows.link(port.index)? {
            let port = Endpoint { ifindex: port.index, mac };
            let adopted = host.set_master(port.ifindex, bridge.index).and_then(|()| prepare_port(host, port, config));
            // One that is being deleted needs no bridge.
            if adopted.is_err() && host.link_by_index(port.ifindex)?.is_some() {
                adopted?;
            }
        }
    }
    Ok(())
}

/// Sets the ports of the network's pods up, with the flags and the forwarding entry that an ADD gives them. `at_work` are
/// the ports of pods that other calls attach or detach: an ADD sets its port up when the pod is guarded.
pub(crate) fn set_ports_up(
    host: &Socket,
    config: &Config,
    datapath: &Datapath,
    bridge: &Link,
    at_work: &HashSet<IfName>,
) -> Result<(), PluginError> {
    let rows = Rows::open(datapath)?;
    for port in pod_ports(bridge, &host.links()?).filter(|port| !at_work.contains(&port.name)) {
        if let Some(PortConfig { mac, .. }) = rows.link(port.index)? {
            let prepared = prepare_port(host, Endpoint { ifindex: port.index, mac }, config);
            let set = prepared.and_then(|()| if port.up { Ok(()) } else { host.set_up(port.index) });
            // A port that is deleted meanwhile needs nothing.
            if set.is_err() && host.link_by_index(port.index)?.is_some() {
                set?;
            }
        }
    }
    Ok(())
}

/// Refuses an address of the bridge that a pod would be given as well.
fn gives_away(bridge: &Link, address: IpNetwork, range: &Range) -> PluginError {
    PluginError::new(
        ErrorCode::INVALID_CONFIG,
        format!(
            "{} has the address {address}, which subnet {} would give to a pod: make it the \"gateway\", \"exclude\" \
             it, or choose another subnet",
            bridge.name,
            range.subnet()
        ),
    )
}

/// Refuses subnets that the host reaches by another link: one of the two would be cut off.
pub(crate) fn refuse_overlap(host: &Socket, bridge: &IfName, gateways: &[IpNetwork]) -> Result<(), PluginError> {
    if gateways.is_empty() {
        return Ok(());
    }
    for (index, other) in host.all_addresses()?.into_iter().filter(|(_, other)| !is_link_local(other.ip())) {
        let Some(gateway) = gateways.iter().find(|gateway| overlap(other, **gateway)) else { continue };
        let link = host.link_by_index(index)?;
        // By its name, as another ADD may have made the bridge since it was looked for.
        if link.as_ref().is_some_and(|link| link.name == *bridge) {
            continue;
        }
        let name = link.map_or_else(|| format!("link {index}"), |link| link.name.to_string());
        let subnet = network::subnet(*gateway);
        return Err(PluginError::new(
            ErrorCode::INVALID_CONFIG,
            format!("subnet {subnet} overlaps with the address {other} of {name}: choose another subnet"),
        ));
    }
    Ok(())
}

/// Whether two prefixes share an address.
pub(crate) fn overlap(one: IpNetwork, other: IpNetwork) -> bool {
    one.is_ipv4() == other.is_ipv4() && (one.contains(other.network()) || other.contains(one.network()))
}

fn refused(bridge: &Link, why: &str) -> PluginError {
    PluginError::new(ErrorCode::INVALID_CONFIG, format!("{} {why}: name another with the key \"bridge\"", bridge.name))
}

/// Somebody else, such as another ADD, may have made the thing meanwhile.
pub(crate) fn unless_exists(made: netlink::Result<()>) -> netlink::Result<()> {
    match made {
        Err(netlink::Error::Exists { .. }) => Ok(()),
        made => made,
    }
}
