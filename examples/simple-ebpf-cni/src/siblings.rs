//! The ports of one pod.
//!
//! A pod can have several interfaces, in one network or in several. Linux answers from any of them
//! for any of its addresses. Each port may therefore send from the addresses of its siblings, and
//! `port_addresses` has an entry for each of these addresses.
//!
//! Only data of the kernel identifies siblings. The pod's own links name the host ends, and a pod
//! can forge them. The host ends name the pod's namespace, and a pod cannot forge these. The pins
//! of a sibling in another network may be missing in this mount namespace. The programs at its port
//! lead to its maps instead.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use cnikit::datapath::{self, SharedAddress};
use cnikit::netlink::{self, Link, Socket};
use cnikit::plugin::PluginError;
use cnikit::spec::{Attachment, IfIndex};
use tracing::{info_span, warn};

use crate::endpoints::Endpoints;

/// Lets the port and its siblings send from each other's addresses.
///
/// The addresses of `port` must have their map entries: of two concurrent ADDs for one pod, the
/// later one then sees the other. Skips a sibling with unusable or full maps: the pod works,
/// except for answers through that port.
///
/// # Errors
///
/// Fails if the links or the maps of the port cannot be read.
pub fn share(host: &Socket, pod: &Socket, endpoints: &Endpoints, port: IfIndex) -> Result<(), PluginError> {
    let _span = info_span!("siblings").entered();
    let siblings = siblings_of(host, pod, port)?;
    if !siblings.is_empty() {
        share_among(&members(host, endpoints, siblings.into_iter().chain([port]))?);
    }
    Ok(())
}

/// [`share`] for every port of the network, after the loss of its maps. The host's links show which
/// ports have the same pod.
pub(crate) fn share_all(
    host: &Socket,
    endpoints: &Endpoints,
    links: &[Link],
    bridge: &Link,
) -> Result<(), cnikit::Error> {
    let _span = info_span!("siblings").entered();
    let mut pods: BTreeMap<i32, Vec<&Link>> = BTreeMap::new();
    for link in links.iter().filter(|link| Attachment::is_host_ifname(&link.name)) {
        if let Some(namespace) = link.link_netnsid {
            pods.entry(namespace).or_default().push(link);
        }
    }
    pods.retain(|_, ports| ports.len() > 1 && ports.iter().any(|port| port.master == Some(bridge.index)));
    for ports in pods.into_values() {
        share_among(&members(host, endpoints, ports.iter().map(|port| port.index))?);
    }
    Ok(())
}

/// A message for each difference from the entries of [`share`].
///
/// # Errors
///
/// Fails if the links or the maps of the port cannot be read.
pub fn differences(
    host: &Socket,
    pod: &Socket,
    endpoints: &Endpoints,
    port: IfIndex,
) -> Result<Vec<String>, PluginError> {
    let Some(shared) = endpoints.shared_addresses() else { return Ok(Vec::new()) };
    let entries = shared.entries(|index| index == port)?.into_iter();
    let mut found: HashMap<IpAddr, IfIndex> = entries.map(|entry| (entry.address, entry.sibling)).collect();
    let mut differences = Vec::new();
    for sibling in members(host, endpoints, siblings_of(host, pod, port)?.into_iter())? {
        for address in &sibling.addresses {
            if found.remove(address) != Some(sibling.port) {
                differences.push(format!("the map port_addresses has no entry for {address} at link {port}"));
            }
        }
    }
    let surplus = found.into_keys().map(|address| {
        format!("the map port_addresses lets link {port} send from {address}, which is no address of its pod")
    });
    differences.extend(surplus);
    Ok(differences)
}

/// Removes invalid entries: of links that were deleted or belong to different pods, and of
/// addresses that the other port does not have. A DEL that does not find the maps of a sibling
/// leaves such entries, and so does an older build.
///
/// # Errors
///
/// Fails if the maps of this network cannot be read or written.
pub fn prune(host: &Socket, endpoints: &Endpoints, links: &[Link]) -> Result<(), cnikit::Error> {
    let Some(shared) = endpoints.shared_addresses() else { return Ok(()) };
    let namespaces: HashMap<IfIndex, i32> =
        links.iter().filter_map(|link| Some((link.index, link.link_netnsid?))).collect();
    let mut elsewhere = HashMap::new();
    for SharedAddress { ifindex: port, address, sibling, .. } in shared.entries(|_| true)? {
        let namespace = namespaces.get(&port);
        let is_one_pod = namespace.is_some() && namespace == namespaces.get(&sibling);
        let is_valid = is_one_pod
            && if endpoints.port_config(sibling)?.is_some() {
                endpoints.is_owner(address, sibling)?
            } else {
                let foreign = match elsewhere.entry(sibling) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(unknown) => unknown.insert(Endpoints::at_port(host, sibling)?),
                };
                // If the maps of the sibling cannot be opened, the owner is unknown and the entry
                // stays.
                foreign.as_ref().map_or(Ok(true), |foreign| foreign.is_owner(address, sibling))?
            };
        if !is_valid {
            shared.remove(port, address)?;
        }
    }
    Ok(())
}

/// A port of a pod.
struct Member<'a> {
    port: IfIndex,
    addresses: Vec<IpAddr>,
    /// The maps of the network that the call serves.
    own: &'a Endpoints,
    /// The maps of the port's network, if it is another one.
    foreign: Option<Endpoints>,
}

impl Member<'_> {
    fn endpoints(&self) -> &Endpoints {
        self.foreign.as_ref().unwrap_or(self.own)
    }
}

/// The ports of a pod, except ports with unknown maps.
fn members<'a>(
    host: &Socket,
    own: &'a Endpoints,
    ports: impl Iterator<Item = IfIndex>,
) -> Result<Vec<Member<'a>>, cnikit::Error> {
    let mut members = Vec::new();
    for port in ports {
        let mut member = Member { port, addresses: Vec::new(), own, foreign: None };
        if own.port_config(port)?.is_none() {
            member.foreign = Endpoints::at_port(host, port).unwrap_or_else(|error| {
                warn!("the pod cannot send from all of its addresses by the port {port}: {error}");
                None
            });
            if member.foreign.is_none() {
                continue;
            }
        }
        member.addresses = member.endpoints().addresses_of(port)?;
        members.push(member);
    }
    Ok(members)
}

/// The host ends of the pod's other pairs.
fn siblings_of(host: &Socket, pod: &Socket, port: IfIndex) -> netlink::Result<Vec<IfIndex>> {
    let peers = pod.links()?.into_iter().filter_map(|link| link.peer_index).filter(|peer| *peer != port);
    let peers: Vec<IfIndex> = peers.collect();
    if peers.is_empty() {
        return Ok(peers);
    }
    let Some(namespace) = host.link_by_index(port)?.and_then(|link| link.link_netnsid) else { return Ok(Vec::new()) };
    let mut siblings = Vec::new();
    for peer in peers {
        let link = host.link_by_index(peer)?;
        if link.is_some_and(|link| Attachment::is_host_ifname(&link.name) && link.link_netnsid == Some(namespace)) {
            siblings.push(peer);
        }
    }
    Ok(siblings)
}

fn share_among(members: &[Member<'_>]) {
    let is_stack_only = |member: &Member<'_>| {
        let config = member.own.port_config(member.port);
        matches!(config, Ok(Some(config)) if config.stack_only)
    };
    // Linux answers from any port of a network, so traffic that is shaped at one port must not
    // bypass the stack at another.
    let stack_only = members.iter().any(is_stack_only);
    for member in members {
        if let Err(error) = share_at(member, members, stack_only && member.foreign.is_none()) {
            warn!("the pod cannot send from all of its addresses by the port {}: {error}", member.port);
        }
    }
}

fn share_at(member: &Member<'_>, members: &[Member<'_>], stack_only: bool) -> datapath::Result<()> {
    let (port, endpoints) = (member.port, member.endpoints());
    let (Some(shared), true) = (endpoints.shared_addresses(), members.len() > 1) else { return Ok(()) };
    endpoints.update_port_config(port, |config| {
        config.has_siblings = true;
        config.stack_only |= stack_only;
    })?;
    for sibling in members.iter().filter(|sibling| sibling.port != port) {
        for address in &sibling.addresses {
            shared.insert(port, *address, sibling.port)?;
            // A DEL first removes the entry of the address, and then the entries that are added
            // here.
            if !sibling.endpoints().is_owner(*address, sibling.port)? {
                shared.remove(port, *address)?;
            }
        }
    }
    Ok(())
}
