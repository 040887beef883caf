//! The ports of one pod.
//!
//! A pod may have several interfaces, of one network or of several. Linux answers from any of them for any of its addresses, so
//! each port may send from the addresses of its siblings: `port_addresses` has an entry for each of these.
//!
//! Siblings are found by the kernel's word alone. The pod's own links name the host ends, which a pod can forge; the host ends
//! name the pod's namespace, which it cannot. The maps of a sibling in another network are those of the programs that run at
//! its port, because pins may be missing where this process looks.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use cnikit::datapath::{self, MapSet, SharedAddress};
use cnikit::netlink::{self, Link, Socket};
use cnikit::plugin::PluginError;
use cnikit::spec::Attachment;
use tracing::{info_span, warn};

use crate::endpoints::Rows;
use crate::programs;

/// Lets the port and its siblings send from each other's addresses. The addresses of `port` must have their map entries: of
/// two ADDs for one pod that run at once, the later one then sees the other.
///
/// A sibling whose maps cannot be used, or have no room, is passed over: the pod works, but for answers by that port.
pub(crate) fn share(host: &Socket, pod: &Socket, rows: &Rows, port: u32) -> Result<(), PluginError> {
    let _span = info_span!("siblings").entered();
    let siblings = of_port(host, pod, port)?;
    if !siblings.is_empty() {
        share_all_of(&members(host, rows, siblings.into_iter().chain([port]))?);
    }
    Ok(())
}

/// The same for every port of the network, when its maps were lost. The host's own list tells which ports have one pod.
pub(crate) fn share_all(host: &Socket, rows: &Rows, links: &[Link], bridge: &Link) -> Result<(), cnikit::Error> {
    let _span = info_span!("siblings").entered();
    let mut pods: BTreeMap<i32, Vec<&Link>> = BTreeMap::new();
    for link in links.iter().filter(|link| Attachment::is_host_ifname(&link.name)) {
        if let Some(namespace) = link.link_netnsid {
            pods.entry(namespace).or_default().push(link);
        }
    }
    pods.retain(|_, ports| ports.len() > 1 && ports.iter().any(|port| port.master == Some(bridge.index)));
    for ports in pods.into_values() {
        share_all_of(&members(host, rows, ports.iter().map(|port| port.index))?);
    }
    Ok(())
}

/// How the entries of the port differ from those that [`share`] puts.
pub(crate) fn differences(host: &Socket, pod: &Socket, rows: &Rows, port: u32) -> Result<Vec<String>, PluginError> {
    let Some(shared) = rows.shared() else { return Ok(Vec::new()) };
    let entries = shared.entries(|index| index == port)?.into_iter();
    let mut found: HashMap<IpAddr, u32> = entries.map(|entry| (entry.address, entry.sibling)).collect();
    let mut differences = Vec::new();
    for sibling in members(host, rows, of_port(host, pod, port)?.into_iter())? {
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

/// Takes the addresses of ports from their siblings, and theirs from these. To be called when the addresses of the ports have
/// no map entries any more: an ADD that shares them meanwhile sees that, and takes them back. Costs one look for a network
/// whose pods have one port each.
pub(crate) fn unshare(rows: &Rows, ports: &HashSet<u32>) -> datapath::Result<()> {
    let Some(shared) = rows.shared() else { return Ok(()) };
    let own = shared.entries(|port| ports.contains(&port))?;
    let stays = own.iter().filter(|entry| !ports.contains(&entry.sibling));
    let pairs: HashSet<(u32, u32)> = stays.map(|entry| (entry.sibling, entry.ifindex)).collect();
    for (sibling, port) in pairs {
        if rows.link(sibling)?.is_some() {
            forget(rows, sibling, port)?;
        } else if let Err(error) = forget_elsewhere(sibling, port) {
            warn!("the port {sibling} of the pod may send from addresses of the port {port}, which goes: {error}");
        }
    }
    // Last: these lead the next call to the siblings, if this one is killed.
    own.iter().try_for_each(|entry| shared.remove(entry.ifindex, entry.address))
}

/// Removes entries that are not true any more: of links that are gone or not of one pod, and of addresses that the other port
/// does not have. A DEL that did not find the maps of a sibling leaves such entries, and so does an older build.
pub(crate) fn prune(host: &Socket, rows: &Rows, links: &[Link]) -> Result<(), cnikit::Error> {
    let Some(shared) = rows.shared() else { return Ok(()) };
    let namespaces: HashMap<u32, i32> =
        links.iter().filter_map(|link| Some((link.index, link.link_netnsid?))).collect();
    let mut elsewhere = HashMap::new();
    for SharedAddress { ifindex: port, address, sibling, .. } in shared.entries(|_| true)? {
        let namespace = namespaces.get(&port);
        let is_one_pod = namespace.is_some() && namespace == namespaces.get(&sibling);
        let is_true = is_one_pod
            && if rows.link(sibling)?.is_some() {
                rows.is_owner(address, sibling)?
            } else {
                let rows = match elsewhere.entry(sibling) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(unknown) => unknown.insert(rows_at(host, sibling)?),
                };
                // Where the maps of the sibling cannot be opened, nothing is known of the address.
                rows.as_ref().map_or(Ok(true), |rows| rows.is_owner(address, sibling))?
            };
        if !is_true {
            shared.remove(port, address)?;
        }
    }
    Ok(())
}

/// A port of a pod.
struct Member<'a> {
    port: u32,
    addresses: Vec<IpAddr>,
    /// The entries of the network that the call is about.
    own: &'a Rows,
    /// Those of the port's network, if it is another one.
    other: Option<Rows>,
}

impl Member<'_> {
    fn rows(&self) -> &Rows {
        self.other.as_ref().unwrap_or(self.own)
    }
}

/// The ports of a pod whose maps are known.
fn members<'a>(
    host: &Socket,
    own: &'a Rows,
    ports: impl Iterator<Item = u32>,
) -> Result<Vec<Member<'a>>, cnikit::Error> {
    let mut members = Vec::new();
    for port in ports {
        let mut member = Member { port, addresses: Vec::new(), own, other: None };
        if own.link(port)?.is_none() {
            member.other = rows_at(host, port).unwrap_or_else(|error| {
                warn!("the pod cannot send from all of its addresses by the port {port}: {error}");
                None
            });
            if member.other.is_none() {
                continue;
            }
        }
        member.addresses = member.rows().addresses_of(port)?;
        members.push(member);
    }
    Ok(members)
}

/// The entries of the maps that the programs at a port use.
fn rows_at(host: &Socket, port: u32) -> Result<Option<Rows>, cnikit::Error> {
    let maps = MapSet::in_use(&programs::at(host, port)?)?;
    Ok(maps.map(|maps| Rows::of(&maps)).transpose()?)
}

/// The host ends of the pod's other pairs.
fn of_port(host: &Socket, pod: &Socket, port: u32) -> netlink::Result<Vec<u32>> {
    let peers = pod.links()?.into_iter().filter_map(|link| link.peer_index).filter(|peer| *peer != port);
    let peers: Vec<u32> = peers.collect();
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

fn share_all_of(members: &[Member<'_>]) {
    let is_stack_only = |member: &Member<'_>| matches!(member.own.link(member.port), Ok(Some(link)) if link.stack_only);
    // Linux answers from any port of a network: what is shaped at one port must not come by another unseen.
    let stack_only = members.iter().any(is_stack_only);
    for member in members {
        if let Err(error) = share_at(member, members, stack_only && member.other.is_none()) {
            warn!("the pod cannot send from all of its addresses by the port {}: {error}", member.port);
        }
    }
}

fn share_at(member: &Member<'_>, members: &[Member<'_>], stack_only: bool) -> datapath::Result<()> {
    let (port, rows) = (member.port, member.rows());
    let (Some(shared), true) = (rows.shared(), members.len() > 1) else { return Ok(()) };
    rows.change_link(port, |link| {
        link.has_siblings = true;
        link.stack_only |= stack_only;
    })?;
    for sibling in members.iter().filter(|sibling| sibling.port != port) {
        for address in &sibling.addresses {
            shared.insert(port, *address, sibling.port)?;
            // A DEL removes the entry of the address first, and then looks for those that are put here.
            if !sibling.rows().is_owner(*address, sibling.port)? {
                shared.remove(port, *address)?;
            }
        }
    }
    Ok(())
}

/// Takes the addresses of `port` from its sibling.
fn forget(rows: &Rows, sibling: u32, port: u32) -> datapath::Result<()> {
    let Some(shared) = rows.shared() else { return Ok(()) };
    let (gone, others): (Vec<_>, Vec<_>) =
        shared.entries(|index| index == sibling)?.into_iter().partition(|entry| entry.sibling == port);
    gone.iter().try_for_each(|entry| shared.remove(sibling, entry.address))?;
    rows.change_link(sibling, |link| link.has_siblings = !others.is_empty())
}

/// The same for a sibling of another network.
fn forget_elsewhere(sibling: u32, port: u32) -> Result<(), cnikit::Error> {
    let host = Socket::open()?;
    // The maps that go with a port need no change.
    if host.link_by_index(sibling)?.is_none() {
        return Ok(());
    }
    Ok(rows_at(&host, sibling)?.map_or(Ok(()), |rows| forget(&rows, sibling, port))?)
}
