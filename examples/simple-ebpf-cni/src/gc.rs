//! GC: removes what belongs to no valid attachment.

use std::collections::HashSet;

use cnikit::datapath::Datapath;
use cnikit::netlink::{Link, Socket};
use cnikit::plugin::{Failure, Failures, GcRequest, Step as _};
use cnikit::spec::{Attachment, IfName};

use crate::config::Config;
use crate::del::detach;
use crate::network;
use crate::rows::Rows;

/// Detaches whatever holds a lease and is not listed, then looks for links and map rows that no lease leads to.
///
/// Without a list, nothing is known to be invalid and nothing is removed.
pub(crate) fn gc(request: &GcRequest<Config>) -> Result<(), Failure> {
    let Some(valid) = request.valid_attachments.list() else {
        return Ok(());
    };
    let network = &request.net_conf.name;
    let attachment = |container_id, ifname| Attachment::new(network.clone(), container_id, ifname);
    let valid: HashSet<Attachment> =
        valid.iter().cloned().map(|valid| attachment(valid.container_id, valid.ifname)).collect();

    let host = Socket::open()?;
    let leases = network::leases(&request.config.data_dir, network)?;
    let mut failures = Failures::default();
    for lease in leases.leases()? {
        let Some(lease) = failures.note(lease) else { continue };
        let attachment = attachment(lease.owner.container_id, lease.owner.ifname);
        if !valid.contains(&attachment) {
            let name = format!("{} of {}", attachment.ifname, attachment.container_id);
            failures.note(detach(&attachment, &host, &leases).step(name));
        }
    }
    let kept = failures.note(delete_links(&host, &request.config.bridge, &valid).step("delete veth pairs"));
    if let Some(kept) = kept {
        failures.note(remove_rows(&network::datapath(network), &kept).step("remove map rows"));
    }
    failures.into_result()
}

/// Deletes the pairs on the bridge that bear a name of ours and are no valid attachment's. Gives the indexes of the
/// bridge's other ports.
fn delete_links(host: &Socket, bridge: &IfName, valid: &HashSet<Attachment>) -> Result<HashSet<u32>, Failure> {
    let Some(bridge) = host.link_by_name(bridge)? else {
        return Ok(HashSet::new());
    };
    let host_ends: HashSet<IfName> = valid.iter().map(Attachment::host_ifname).collect();
    let ports = host.links()?.into_iter().filter(|link| link.master == Some(bridge.index));
    let (kept, stale): (Vec<Link>, Vec<Link>) =
        ports.partition(|link| !Attachment::is_host_ifname(&link.name) || host_ends.contains(&link.name));
    let mut failures = Failures::default();
    for link in stale {
        failures.note(host.delete_link(link.index));
    }
    failures.into_result()?;
    Ok(kept.iter().map(|link| link.index).collect())
}

fn remove_rows(datapath: &Datapath, ports: &HashSet<u32>) -> Result<(), Failure> {
    if datapath.is_complete() {
        Rows::open(datapath)?.remove_where(|port| !ports.contains(&port.ifindex))?;
    }
    Ok(())
}
