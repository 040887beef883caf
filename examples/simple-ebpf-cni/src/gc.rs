//! GC: removes what belongs to no valid attachment.

use std::collections::HashSet;
use std::net::IpAddr;

use cnikit::ipam::{self, LOCK_TIMEOUT, Lease, Store};
use cnikit::netlink::{Link, Socket};
use cnikit::plugin::{Failure, Failures, GcRequest, Step as _};
use cnikit::spec::{Attachment, IfName, NetworkName};
use tracing::info_span;

use crate::addresses;
use crate::bridge;
use crate::config::Config;
use crate::del::{Turn, detach};
use crate::masquerade;
use crate::network;
use crate::programs;
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
    let ports = ports(&host, network, &request.config.bridge).step("look up the bridge's ports");
    let ports = failures.note(ports).unwrap_or_default();
    // The runtime knows nothing yet of what is being attached. Whoever has a port by now, and no result, is among these.
    let mut at_work = leases.owners_at_work()?;
    let mut held = Vec::new();
    if leases.exists()? {
        // Nobody is given a lease while they are listed: who holds one, and began after the first look, is at work still, or
        // was through before the lock was free.
        let leases = leases.lock(LOCK_TIMEOUT)?;
        at_work.extend(leases.owners_at_work()?);
        held.extend(leases.leases()?);
    }
    let at_work = at_work.into_iter().map(|owner| network::attachment(network, owner));
    let spared: HashSet<Attachment> = valid.into_iter().chain(at_work).collect();
    let mut collected = HashSet::new();
    for lease in held {
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
        if !spared.contains(&attachment) {
            let name = format!("{} of {}", attachment.ifname, attachment.container_id);
            failures.note(collect(&attachment, &host, &leases).step(name));
            collected.insert(attachment);
        }
    }
    if leases.exists()? {
        let freed = leases.lock(LOCK_TIMEOUT).and_then(|mut leases| leases.remove_orphans());
        failures.note(freed.step("free addresses without a lease"));
    }
    // A pair that was collected is gone, or its failure is noted. An ADD may have created the next one of this name.
    let host_ends: HashSet<IfName> = spared.iter().chain(&collected).map(Attachment::host_ifname).collect();
    for port in ports.iter().filter(|port| !host_ends.contains(&port.name)) {
        failures.note(network::delete_pair(&host, port.index).step("delete the veth pair"));
    }
    failures.note(remove_rows(&host, network, &leases, &spared).step("remove map rows"));
    if !request.net_conf.ip_masq {
        failures.note(masquerade::remove(network).step("remove the masquerade rules"));
    }
    failures.note(programs::sweep_links(&network::datapath(network)).step("unpin TCX links"));
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

/// Detaches what a lease is of.
fn collect(attachment: &Attachment, host: &Socket, leases: &Store) -> Result<(), Failure> {
    let Attachment { container_id, ifname, .. } = attachment;
    let _span = info_span!("collect", container = %container_id, %ifname).entered();
    match Turn::take(attachment, leases)? {
        Some(turn) => detach(attachment, host, leases, &turn),
        None => Ok(()),
    }
}

/// Removes the rows of ports that do not exist, and counters of addresses that nobody has. Rows of an attachment that is
/// spared may be those of a pair that was made anew meanwhile, with the same index.
fn remove_rows(
    host: &Socket,
    network: &NetworkName,
    leases: &Store,
    spared: &HashSet<Attachment>,
) -> Result<(), Failure> {
    let _span = info_span!("rows").entered();
    let datapath = network::datapath(network);
    if !datapath.is_complete()? {
        return Ok(());
    }
    let rows = Rows::open(&datapath)?;
    // In this order: a pair is made before its rows, so a port that has rows now and no link later is gone.
    let known = rows.indexes()?;
    let links = host.links()?.into_iter().map(|link| link.index);
    let stays: HashSet<u32> = links.chain(spared.iter().map(Attachment::host_ifindex)).collect();
    rows.remove_ports(&known.into_iter().filter(|port| !stays.contains(port)).collect())?;

    // One lease that cannot be read, and nothing is known of any address.
    let leased: Vec<Lease> = leases.leases()?.collect::<Result<_, _>>()?;
    let leased: HashSet<IpAddr> =
        leased.iter().flat_map(|lease| &lease.addresses).map(|address| address.ip()).collect();
    Ok(rows.forget_lost(|address| leased.contains(&address))?)
}
