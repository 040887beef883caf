//! GC: removes what belongs to no valid attachment.

use std::collections::HashSet;
use std::net::IpAddr;

use cnikit::datapath::Datapath;
use cnikit::ipam::{self, Store};
use cnikit::netlink::{Link, Socket};
use cnikit::plugin::{Failure, Failures, GcRequest, Step as _};
use cnikit::spec::{Attachment, IfName, NetworkName};

use crate::addresses;
use crate::bridge;
use crate::config::Config;
use crate::del::detach;
use crate::network;
use crate::rows::Rows;

/// Detaches whatever holds a lease and is not listed, then looks for ports and map rows that no lease leads to.
///
/// Without a list, nothing is known to be invalid and nothing is removed.
pub(crate) fn gc(request: &GcRequest<Config>) -> Result<(), Failure> {
    let Some(valid) = request.valid_attachments.list() else {
        return Ok(());
    };
    let network = &request.net_conf.name;
    let valid: HashSet<Attachment> =
        valid.iter().cloned().map(|valid| Attachment::new(network.clone(), valid.container_id, valid.ifname)).collect();

    let host = Socket::open()?;
    let leases = network::leases(&request.config.data_dir, network)?;
    let mut failures = Failures::default();
    for lease in leases.leases()? {
        let owner = match lease {
            Ok(lease) => lease.owner,
            // The file's name tells the owner when the file itself does not.
            Err(ipam::Error::CorruptLease { owner: Some(owner), .. }) => *owner,
            Err(error) => {
                failures.note::<()>(Err(error));
                continue;
            }
        };
        let attachment = network::attachment(network, owner);
        if !valid.contains(&attachment) {
            let name = format!("{} of {}", attachment.ifname, attachment.container_id);
            failures.note(detach(&attachment, &host, &leases).step(name));
        }
    }
    let ports = ports(&host, network, &request.config.bridge).step("look up the bridge's ports");
    if let Some(ports) = failures.note(ports) {
        let host_ends: HashSet<IfName> = valid.iter().map(Attachment::host_ifname).collect();
        let (live, stale): (Vec<Link>, Vec<Link>) = ports.into_iter().partition(|port| host_ends.contains(&port.name));
        let datapath = network::datapath(network);
        let indexes = |ports: &[Link]| ports.iter().map(|port| port.index).collect();
        failures.note(remove_rows_of(&datapath, &indexes(&stale)).step("remove map rows"));
        for port in &stale {
            failures.note(host.delete_link(port.index).step("delete the veth pair"));
        }
        failures.note(remove_rows(&datapath, &leases, &indexes(&live)).step("remove map rows"));
    }
    if let Some(delegate) = failures.note(addresses::delegate(request)).flatten() {
        failures.note(delegate.gc());
    }
    failures.into_result()
}

/// The ports of the network's bridge that bear a name of ours. A bridge that the network has not claimed is not its own,
/// and what the configuration says of it does not count.
fn ports(host: &Socket, network: &NetworkName, bridge: &IfName) -> Result<Vec<Link>, Failure> {
    let Some(bridge) = host.link_by_name(bridge)? else {
        return Ok(Vec::new());
    };
    if !bridge::is_claimed(host, network, &bridge).unwrap_or(false) {
        return Ok(Vec::new());
    }
    let ours = |link: &Link| link.master == Some(bridge.index) && Attachment::is_host_ifname(&link.name);
    Ok(host.links()?.into_iter().filter(ours).collect())
}

/// Removes the rows that lead to one of the stale ports.
fn remove_rows_of(datapath: &Datapath, stale: &HashSet<u32>) -> Result<(), Failure> {
    if stale.is_empty() || !datapath.is_complete() {
        return Ok(());
    }
    Ok(Rows::open(datapath)?.retain(|_, port| port.is_none_or(|port| !stale.contains(&port.ifindex)))?)
}

/// Removes the rows of addresses that are not leased and lead to none of the live ports.
fn remove_rows(datapath: &Datapath, leases: &Store, live: &HashSet<u32>) -> Result<(), Failure> {
    if !datapath.is_complete() {
        return Ok(());
    }
    // One lease that cannot be read, and nothing is known of any address.
    let leased: Vec<_> = leases.leases()?.collect::<Result<_, _>>()?;
    let leased: HashSet<IpAddr> =
        leased.iter().flat_map(|lease| &lease.addresses).map(|address| address.ip()).collect();
    let stays = |address: IpAddr, is_live: bool| leased.contains(&address) || is_live;
    Ok(Rows::open(datapath)?
        .retain(|address, port| stays(address, port.is_some_and(|port| live.contains(&port.ifindex))))?)
}
