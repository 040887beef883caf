//! The bridge that the pods of a network are ports of.

use cnikit::ipam::Store;
use cnikit::netlink::{self, Blocks, BridgeSpec, Link, Socket};
use cnikit::plugin::Failure;
use cnikit::spec::{ErrorCode, MacAddr, NetworkName};
use ipnetwork::IpNetwork;

use crate::config::Config;
use crate::network;

/// What there is under the bridge's name.
pub(crate) struct Found {
    bridge: Link,
    is_claimed: bool,
    has_gateway: bool,
}

/// Looks at what has the bridge's name, and refuses what the network cannot use. Changes nothing.
pub(crate) fn look(host: &Socket, network: &NetworkName, config: &Config) -> Result<Option<Found>, Failure> {
    let Some(bridge) = host.link_by_name(&config.bridge)? else {
        refuse_overlap(host, None, config)?;
        return Ok(None);
    };
    refuse_other_kind(&bridge)?;
    let is_claimed = is_claimed(host, network, &bridge)?;
    let has_gateway = has_gateway(host, &bridge, config)?;
    if !has_gateway {
        refuse_overlap(host, Some(&bridge), config)?;
    }
    Ok(Some(Found { bridge, is_claimed, has_gateway }))
}

/// Makes the bridge, or mends what is missing of it. A bridge serves one network: it is claimed before anything of it
/// is changed.
pub(crate) fn ensure(
    host: &Socket,
    network: &NetworkName,
    config: &Config,
    leases: &Store,
    found: Option<Found>,
) -> Result<Link, Failure> {
    let Found { bridge, is_claimed, has_gateway } = match found {
        Some(found) => found,
        None => create(host, network, config, leases)?,
    };
    if !is_claimed {
        claim(host, network, &bridge)?;
    }
    if !has_gateway {
        unless_exists(host.add_address(bridge.index, gateway(config)))?;
    }
    if !bridge.up {
        host.set_up(bridge.index)?;
    }
    Ok(bridge)
}

/// The bridge's address, with the subnet's prefix length.
pub(crate) fn gateway(config: &Config) -> IpNetwork {
    config.range.with_prefix(config.range.gateway())
}

/// The shared blocks of a network's filters: anchored by the bridge, joined by each port. They derive from the network
/// alone, so that ports outlive their bridge in them.
pub(crate) fn blocks(network: &NetworkName) -> Blocks {
    Blocks::derived_from(&format!("simple-ebpf-cni/{network}"))
}

/// Refuses a link that has the bridge's name and is none.
fn refuse_other_kind(bridge: &Link) -> Result<(), Failure> {
    match bridge.kind.as_deref() {
        Some("bridge") => Ok(()),
        kind => Err(refused(bridge, &format!("exists and is no bridge but a {} link", kind.unwrap_or("physical")))),
    }
}

/// Whether the bridge's qdisc names the network's blocks. A qdisc that names others is another network's, or somebody
/// else's.
pub(crate) fn is_claimed(host: &Socket, network: &NetworkName, bridge: &Link) -> Result<bool, Failure> {
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
fn claim(host: &Socket, network: &NetworkName, bridge: &Link) -> Result<(), Failure> {
    match host.create_clsact(bridge.index, blocks(network)) {
        Err(netlink::Error::Exists { .. }) => return is_claimed(host, network, bridge).map(drop),
        claimed => claimed?,
    }
    // A bridge whose MAC was never set takes over that of its lowest port, as ports come and go. Pods keep the
    // gateway's in their neighbour tables, and the programs know it too.
    if let Some(mac) = bridge.mac {
        host.set_mac(bridge.index, mac)?;
    }
    if bridge.alias.is_none() {
        host.set_alias(bridge.index, &alias(network))?;
    }
    Ok(())
}

/// What [`claim`] writes on the bridge.
fn alias(network: &NetworkName) -> String {
    // The kernel takes 255 bytes.
    format!("{ALIAS}{network}").chars().take(255).collect()
}

/// Makes the bridge, and the pods its ports that were those of one of this name before.
fn create(host: &Socket, network: &NetworkName, config: &Config, leases: &Store) -> Result<Found, Failure> {
    let mac = MacAddr::derived_from(&format!("{network}/bridge"));
    let spec = BridgeSpec::new(config.bridge.clone()).mac(mac).mtu(config.mtu).up();
    unless_exists(host.create_bridge(&spec).map(drop))?;
    let made = look(host, network, config)?.ok_or_else(|| {
        Failure::new(ErrorCode::TRY_AGAIN, format!("{} went away as soon as it was made: try again", config.bridge))
    })?;
    for lease in leases.leases()?.flatten() {
        let port = host.link_by_name(&network::attachment(network, lease.owner).host_ifname())?;
        if let Some(port) = port.filter(|port| port.master.is_none()) {
            host.set_master(port.index, made.bridge.index)?;
        }
    }
    Ok(made)
}

/// Whether the bridge has the gateway's address. Another one of the subnet would be given to a pod as well.
fn has_gateway(host: &Socket, bridge: &Link, config: &Config) -> Result<bool, Failure> {
    let gateway = gateway(config);
    let addresses = host.addresses(bridge.index)?;
    match addresses.iter().find(|other| config.pool.contains(other.ip())) {
        Some(other) => Err(Failure::new(
            ErrorCode::INVALID_CONFIG,
            format!(
                "{} has the address {other}, which \"subnet\" {} would give to a pod: make it the \"gateway\", or \
                 choose another subnet",
                bridge.name,
                config.range.subnet()
            ),
        )),
        None => Ok(addresses.contains(&gateway)),
    }
}

/// Refuses a subnet that the host reaches by another link: one of the two would be cut off.
fn refuse_overlap(host: &Socket, bridge: Option<&Link>, config: &Config) -> Result<(), Failure> {
    let subnet = config.range.subnet();
    let overlaps = |other: &IpNetwork| {
        other.is_ipv4() == subnet.is_ipv4() && (other.contains(subnet.network()) || subnet.contains(other.network()))
    };
    let mut others = host.all_addresses()?.into_iter().filter(|(link, _)| Some(*link) != bridge.map(|link| link.index));
    let Some((index, other)) = others.find(|(_, other)| overlaps(other)) else {
        return Ok(());
    };
    let name = host.link_by_index(index)?.map_or_else(|| format!("link {index}"), |link| link.name.to_string());
    Err(Failure::new(
        ErrorCode::INVALID_CONFIG,
        format!("\"subnet\" {subnet} overlaps with the address {other} of {name}: choose another subnet"),
    ))
}

fn refused(bridge: &Link, why: &str) -> Failure {
    Failure::new(ErrorCode::INVALID_CONFIG, format!("{} {why}: name another with the key \"bridge\"", bridge.name))
}

/// Somebody else, such as another ADD, may have made the thing meanwhile.
fn unless_exists(made: netlink::Result<()>) -> netlink::Result<()> {
    match made {
        Err(netlink::Error::Exists { .. }) => Ok(()),
        made => made,
    }
}
