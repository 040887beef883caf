//! The ports of one pod.
//!
//! A pod may have several interfaces, of one network or of several. Linux answers from any of them for any of its addresses, so
//! each port may send from the addresses of its siblings: `port_addresses` has an entry for each of these.
//!
//! Siblings are found by the kernel's word alone. The pod's own links name the host ends, which a pod can forge; the host ends
//! name the pod's namespace, which it cannot.

use std::net::IpAddr;

use cnikit::datapath::{self, Datapath};
use cnikit::netlink::{self, Link, Socket};
use cnikit::plugin::Failure;
use cnikit::spec::{Attachment, NetworkName};
use tracing::info_span;

use crate::network::{self, PINS};
use crate::rows::Rows;

/// Lets the port and its siblings send from each other's addresses. The addresses of `port` must have their map entries: of
/// two ADDs for one pod that run at once, the later one then sees the other.
pub(crate) fn share(host: &Socket, pod: &Socket, network: &NetworkName, port: u32) -> Result<(), Failure> {
    let _span = info_span!("siblings").entered();
    Ok(share_with(network, port, &of_port(host, pod, port)?)?)
}

/// The same for every port of the network, when its maps were lost. The host's own list tells which ports have one pod.
pub(crate) fn share_all(network: &NetworkName, links: &[Link], bridge: &Link) -> datapath::Result<()> {
    let _span = info_span!("siblings").entered();
    let host_ends =
        || links.iter().filter(|link| Attachment::is_host_ifname(&link.name) && link.link_netnsid.is_some());
    for port in host_ends().filter(|link| link.master == Some(bridge.index)) {
        let is_sibling = |link: &&Link| link.index != port.index && link.link_netnsid == port.link_netnsid;
        let siblings: Vec<u32> = host_ends().filter(is_sibling).map(|link| link.index).collect();
        share_with(network, port.index, &siblings)?;
    }
    Ok(())
}

/// What of the entries that [`share`] puts is missing.
pub(crate) fn differences(
    host: &Socket,
    pod: &Socket,
    network: &NetworkName,
    port: u32,
) -> Result<Vec<String>, Failure> {
    let mut differences = Vec::new();
    for Entry { place, port, address } in entries(network, port, &of_port(host, pod, port)?)? {
        if !place.datapath.shared_addresses()?.contains(port, address)? {
            differences
                .push(format!("the map port_addresses of {} has no entry for {address} at link {port}", place.network));
        }
    }
    Ok(differences)
}

/// Takes the addresses of a port from its siblings, and theirs from it. To be called as long as the addresses of the port have
/// their map entries: these tell what to delete. Costs one look for a network whose pods have one port each.
pub(crate) fn unshare(rows: &Rows, port: u32) -> datapath::Result<()> {
    let of_siblings: Vec<IpAddr> = rows
        .shared()
        .entries()?
        .into_iter()
        .filter_map(|(index, address)| (index == port).then_some(address))
        .collect();
    if of_siblings.is_empty() {
        return Ok(());
    }
    let own = rows.addresses_of(port)?;
    for place in places()? {
        let (there, shared) = (Rows::open(&place.datapath)?, place.datapath.shared_addresses()?);
        for address in &of_siblings {
            let Some(sibling) = there.owner(*address)? else { continue };
            own.iter().try_for_each(|address| shared.remove(sibling.ifindex, *address))?;
        }
    }
    // Last: these lead the next call to the siblings, if this one is killed.
    of_siblings.iter().try_for_each(|address| rows.shared().remove(port, *address))
}

/// A network with maps.
#[derive(Clone)]
struct Place {
    network: NetworkName,
    datapath: Datapath,
}

/// An entry of `port_addresses`.
struct Entry {
    place: Place,
    port: u32,
    address: IpAddr,
}

/// The networks of this node.
fn places() -> datapath::Result<Vec<Place>> {
    let mut places = Vec::new();
    for network in Datapath::networks(PINS)? {
        let datapath = network::datapath(&network);
        if datapath.is_complete()? {
            places.push(Place { network, datapath });
        }
    }
    Ok(places)
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

fn share_with(network: &NetworkName, port: u32, siblings: &[u32]) -> datapath::Result<()> {
    for Entry { place, port, address } in entries(network, port, siblings)? {
        place.datapath.shared_addresses()?.insert(port, address)?;
    }
    Ok(())
}

/// The entries by which a port and its siblings share their addresses. Those of the port itself come first: they lead
/// [`unshare`] to the others.
fn entries(network: &NetworkName, port: u32, siblings: &[u32]) -> datapath::Result<Vec<Entry>> {
    if siblings.is_empty() {
        return Ok(Vec::new());
    }
    let places = places()?;
    let Some(own) = places.iter().find(|place| place.network == *network) else { return Ok(Vec::new()) };
    let own_addresses = Rows::open(&own.datapath)?.addresses_of(port)?;
    let (mut entries, mut of_siblings) = (Vec::new(), Vec::new());
    for sibling in siblings {
        for place in &places {
            let rows = Rows::open(&place.datapath)?;
            if rows.link(*sibling)?.is_none() {
                continue;
            }
            let entry = |place: &Place, port, address| Entry { place: place.clone(), port, address };
            entries.extend(rows.addresses_of(*sibling)?.into_iter().map(|address| entry(own, port, address)));
            of_siblings.extend(own_addresses.iter().map(|address| entry(place, *sibling, *address)));
        }
    }
    entries.extend(of_siblings);
    Ok(entries)
}
