//! GC: removes the remains of attachments that are not valid.

use std::collections::HashSet;
use std::net::IpAddr;

use cnikit::ipam::{self, LOCK_TIMEOUT, Lease, Store, Tenant};
use cnikit::netlink::{Link, Socket};
use cnikit::plugin::{self, Context as _, ErrorCollector, GcRequest, PluginError};
use cnikit::spec::{Attachment, AttachmentKey, IfIndex, IfName, KubernetesPod, NetworkName};
use simple_ebpf_cni::config::Config;
use simple_ebpf_cni::endpoints::Endpoints;
use simple_ebpf_cni::network::Network;
use simple_ebpf_cni::{bridge, masquerade, naming, programs, siblings, veth};
use tracing::field::Empty;
use tracing::info_span;

use super::addresses;
use super::detach::{AttachmentLock, detach};

/// Detaches each attachment with a lease that is not in the list. Then removes ports and map
/// entries without a lease.
///
/// Without a list, no attachment is known to be invalid, and GC removes nothing.
pub(crate) fn gc(request: &GcRequest<Config>) -> Result<(), PluginError> {
    let Some(valid) = request.valid_attachments.list() else {
        return Ok(());
    };
    let name = &request.net_conf.name;
    let valid: HashSet<Attachment> = valid.iter().cloned().map(|valid| valid.in_network(name)).collect();

    let host = Socket::open()?;
    let leases = naming::leases(&request.config.data_dir, name)?;
    let network = Network::new(&host, name, &request.config, &leases);
    let mut failures = ErrorCollector::default();
    // The delegate runs before any lookup, because it may take long. It runs before the pairs'
    // deletion, because it may have to send through them.
    let mut release = None;
    if let Some(delegate) = failures.push(addresses::releasing_delegate(request)).flatten() {
        // The delegate may assign an address again while the map entries of its previous pod exist.
        // Such an ADD waits for this lock.
        if leases.exists()? {
            let lock = leases.lock_owner(&naming::gc_owner(), LOCK_TIMEOUT);
            release = failures.push(lock.context("keep new pods off the released addresses"));
        }
        failures.push(delegate.gc().context("give addresses back"));
    }
    let ports = failures.push(ports(&network).context("look up the bridge's ports")).unwrap_or_default();
    // An attachment with a port and without a result is among those in progress.
    let Held { leases: held, in_progress: locked } = Held::read(&leases)?;
    let in_progress = locked.into_iter().map(|owner| network.attachment(owner));
    let spared: HashSet<Attachment> = valid.into_iter().chain(in_progress).collect();
    let mut collected = HashSet::new();
    for lease in held {
        let Tenant { owner, pod, .. } = match lease {
            Ok(Lease { owner, pod, .. }) => Tenant::new(owner, pod),
            // The name of the file contains the owner if its content does not.
            Err(ipam::Error::CorruptLease { owner: Some(owner), .. }) => (*owner).into(),
            Err(error) => {
                failures.push::<()>(Err(error));
                continue;
            }
        };
        let attachment = network.attachment(owner);
        if !spared.contains(&attachment) {
            let mut name = format!("{} of {}", attachment.ifname, attachment.container_id);
            if !pod.is_unnamed() {
                name += &format!(" ({pod})");
            }
            failures.push(collect(&network, &attachment, &pod).context(name));
            collected.insert(attachment);
        }
    }
    // A collected pair is deleted, or its failure is recorded. A new pair of this name belongs to a
    // later ADD.
    let host_ends: HashSet<IfName> = spared.iter().chain(&collected).map(Attachment::host_ifname).collect();
    for port in ports.iter().filter(|port| !host_ends.contains(&port.name)) {
        failures.push(veth::delete_pair(&host, port.index).context("delete the veth pair"));
    }
    failures.push(remove_unowned(&host, name, &leases, &spared));
    drop(release);
    if !request.net_conf.ip_masq {
        failures.push(masquerade::remove(name).context("remove the masquerade rules"));
    }
    failures.into_result()
}

/// The leases of a network, and the attachments that other calls create or remove.
pub(crate) struct Held {
    pub(crate) leases: Vec<ipam::Result<Lease>>,
    /// A list of the runtime may lack these.
    pub(crate) in_progress: Vec<AttachmentKey>,
}

impl Held {
    pub(crate) fn read(leases: &Store) -> ipam::Result<Self> {
        let mut in_progress = leases.locked_owners()?;
        let mut held = Vec::new();
        if leases.exists()? {
            // The store's lock stops new leases during the listing. An owner of a lease that
            // started after the first lookup is still in progress, or finished before this lock was
            // free.
            let leases = leases.lock(LOCK_TIMEOUT)?;
            in_progress.extend(leases.locked_owners()?);
            held.extend(leases.leases()?);
        }
        let gc_owner = naming::gc_owner();
        in_progress.retain(|owner| *owner != gc_owner);
        Ok(Self { leases: held, in_progress })
    }
}

/// Removes the remains that no lease leads to: addresses, map entries, pins of TCX links.
pub(crate) fn remove_unowned(
    host: &Socket,
    network: &NetworkName,
    leases: &Store,
    spared: &HashSet<Attachment>,
) -> Result<(), PluginError> {
    let mut failures = ErrorCollector::default();
    if leases.exists()? {
        let freed = leases.lock(LOCK_TIMEOUT).and_then(|mut leases| leases.remove_orphans());
        failures.push(freed.context("free addresses without a lease"));
    }
    failures.push(remove_entries(host, network, leases, spared).context("remove map entries"));
    failures.push(programs::unpin_dead_links(&naming::datapath(network)).context("unpin TCX links"));
    failures.into_result()
}

/// The host ends of pods on the network's bridge. A bridge that the network has not claimed is not
/// its own, even if the configuration names it.
fn ports(network: &Network<'_>) -> Result<Vec<Link>, PluginError> {
    let Network { host, name, config, .. } = network;
    let Some(bridge) = host.link_by_name(&config.bridge)? else {
        return Ok(Vec::new());
    };
    if !bridge::is_claimed(host, name, &bridge).unwrap_or(false) {
        return Ok(Vec::new());
    }
    Ok(bridge::pod_ports(&bridge, &host.links()?).cloned().collect())
}

/// Detaches the attachment of a lease.
fn collect(network: &Network<'_>, attachment: &Attachment, pod: &KubernetesPod) -> Result<(), PluginError> {
    let Attachment { container_id, ifname, .. } = attachment;
    let _span = info_span!("collect", container = %container_id, %ifname, pod = Empty, pod_uid = Empty).entered();
    plugin::record_pod(pod);
    match AttachmentLock::acquire(attachment, network.leases)? {
        Some(lock) => detach(attachment, network.host, network.leases, &lock),
        None => Ok(()),
    }
}

/// Removes the entries of ports that do not exist, and the counters of unused addresses. The
/// entries of spared attachments stay: they may belong to a new pair with the same index.
fn remove_entries(
    host: &Socket,
    name: &NetworkName,
    leases: &Store,
    spared: &HashSet<Attachment>,
) -> Result<(), PluginError> {
    let _span = info_span!("maps").entered();
    let datapath = naming::datapath(name);
    let pinned = datapath.is_complete()?.then(|| datapath.maps());
    let spared: HashSet<IfIndex> = spared.iter().map(Attachment::host_ifindex).collect();
    for maps in [pinned, programs::unpinned_maps(host, &datapath, name)?].into_iter().flatten() {
        let endpoints = Endpoints::from_maps(&maps)?;
        let links = endpoints.remove_stale_ports(host, &spared)?;
        siblings::prune(host, &endpoints, &links)?;
        // With an unreadable lease, any address may be in use.
        let leased: Vec<Lease> = leases.leases()?.collect::<Result<_, _>>()?;
        let leased: HashSet<IpAddr> =
            leased.iter().flat_map(|lease| &lease.addresses).map(|address| address.ip()).collect();
        endpoints.gc_counters(|address| leased.contains(&address))?;
    }
    Ok(())
}
