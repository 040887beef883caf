//! GC: removes what belongs to no valid attachment.

use std::collections::HashSet;
use std::net::IpAddr;

use cnikit::ipam::{self, LOCK_TIMEOUT, Lease, Store, Tenant};
use cnikit::netlink::{Link, Socket};
use cnikit::plugin::{self, Context as _, ErrorCollector, GcRequest, PluginError};
use cnikit::spec::{Attachment, IfName, KubernetesPod, NetworkName};
use tracing::field::Empty;
use tracing::info_span;

use crate::addresses;
use crate::bridge;
use crate::config::Config;
use crate::del::{Turn, detach};
use crate::endpoints::Rows;
use crate::masquerade;
use crate::network;
use crate::programs;

/// Detaches whatever holds a lease and is not listed, then looks for ports and map rows that no lease leads to.
///
/// Without a list, nothing is known to be invalid and nothing is removed.
pub(crate) fn gc(request: &GcRequest<Config>) -> Result<(), PluginError> {
    let Some(valid) = request.valid_attachments.list() else {
        return Ok(());
    };
    let network = &request.net_conf.name;
    let valid: HashSet<Attachment> =
        valid.iter().cloned().map(|valid| Attachment::new(network.clone(), valid.container_id, valid.ifname)).collect();

    let host = Socket::open()?;
    let leases = network::leases(&request.config.data_dir, network)?;
    let mut failures = ErrorCollector::default();
    // Before anything is looked at, as it may take long; and before the pairs go, which it may have to send by.
    let mut leaving = None;
    if let Some(delegate) = failures.push(addresses::releasing_delegate(request)).flatten() {
        // The plugin may give an address anew while the map entries of its last pod are there: such an ADD waits.
        if leases.exists()? {
            let lock = leases.lock_owner(&network::gc_owner(), LOCK_TIMEOUT);
            leaving = failures.push(lock.context("keep new pods off the addresses that are given back"));
        }
        failures.push(delegate.gc().context("give addresses back"));
    }
    let ports = ports(&host, network, &request.config.bridge).context("look up the bridge's ports");
    let ports = failures.push(ports).unwrap_or_default();
    // The runtime knows nothing yet of what is being attached. Whoever has a port by now, and no result, is among these.
    let mut at_work = leases.locked_owners()?;
    let mut held = Vec::new();
    if leases.exists()? {
        // Nobody is given a lease while they are listed: who holds one, and began after the first look, is at work still, or
        // was through before the lock was free.
        let leases = leases.lock(LOCK_TIMEOUT)?;
        at_work.extend(leases.locked_owners()?);
        held.extend(leases.leases()?);
    }
    let gc_owner = network::gc_owner();
    let at_work = at_work.into_iter().filter(|owner| *owner != gc_owner);
    let at_work = at_work.map(|owner| network::attachment(network, owner));
    let spared: HashSet<Attachment> = valid.into_iter().chain(at_work).collect();
    let mut collected = HashSet::new();
    for lease in held {
        let Tenant { owner, pod } = match lease {
            Ok(Lease { owner, pod, .. }) => Tenant { owner, pod },
            // The file's name tells the owner when the file itself does not.
            Err(ipam::Error::CorruptLease { owner: Some(owner), .. }) => (*owner).into(),
            Err(error) => {
                failures.push::<()>(Err(error));
                continue;
            }
        };
        let attachment = network::attachment(network, owner);
        if !spared.contains(&attachment) {
            let mut name = format!("{} of {}", attachment.ifname, attachment.container_id);
            if !pod.is_unnamed() {
                name += &format!(" ({pod})");
            }
            failures.push(collect(&attachment, &pod, &host, &leases).context(name));
            collected.insert(attachment);
        }
    }
    if leases.exists()? {
        let freed = leases.lock(LOCK_TIMEOUT).and_then(|mut leases| leases.remove_orphans());
        failures.push(freed.context("free addresses without a lease"));
    }
    // A pair that was collected is gone, or its failure is noted. An ADD may have created the next one of this name.
    let host_ends: HashSet<IfName> = spared.iter().chain(&collected).map(Attachment::host_ifname).collect();
    for port in ports.iter().filter(|port| !host_ends.contains(&port.name)) {
        failures.push(network::delete_pair(&host, port.index).context("delete the veth pair"));
    }
    failures.push(remove_rows(&host, network, &leases, &spared).context("remove map rows"));
    drop(leaving);
    if !request.net_conf.ip_masq {
        failures.push(masquerade::remove(network).context("remove the masquerade rules"));
    }
    failures.push(programs::sweep_links(&network::datapath(network)).context("unpin TCX links"));
    failures.into_result()
}

/// The ports of the network's bridge that bear a name of ours. A bridge that the network has not claimed is not its own,
/// and what the configuration says of it does not count.
fn ports(host: &Socket, network: &NetworkName, bridge: &IfName) -> Result<Vec<Link>, PluginError> {
    let Some(bridge) = host.link_by_name(bridge)? else {
        return Ok(Vec::new());
    };
    if !bridge::is_claimed(host, network, &bridge).unwrap_or(false) {
        return Ok(Vec::new());
    }
    Ok(bridge::pod_ports(&bridge, &host.links()?).cloned().collect())
}

/// Detaches what a lease is of.
fn collect(attachment: &Attachment, pod: &KubernetesPod, host: &Socket, leases: &Store) -> Result<(), PluginError> {
    let Attachment { container_id, ifname, .. } = attachment;
    let _span = info_span!("collect", container = %container_id, %ifname, pod = Empty, pod_uid = Empty).entered();
    plugin::record_pod(pod);
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
) -> Result<(), PluginError> {
    let _span = info_span!("rows").entered();
    let datapath = network::datapath(network);
    let pinned = datapath.is_complete()?.then(|| datapath.maps());
    let spared: HashSet<u32> = spared.iter().map(Attachment::host_ifindex).collect();
    for maps in [pinned, programs::unpinned_maps(host, &datapath, network)?].into_iter().flatten() {
        let rows = Rows::of(&maps)?;
        rows.remove_lost(host, &spared)?;
        // One lease that cannot be read, and nothing is known of any address.
        let leased: Vec<Lease> = leases.leases()?.collect::<Result<_, _>>()?;
        let leased: HashSet<IpAddr> =
            leased.iter().flat_map(|lease| &lease.addresses).map(|address| address.ip()).collect();
        rows.forget_lost(|address| leased.contains(&address))?;
    }
    Ok(())
}
