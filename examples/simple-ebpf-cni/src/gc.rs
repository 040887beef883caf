//! GC: removes what belongs to no valid attachment.

use std::collections::HashSet;
use std::net::IpAddr;

use cnikit::datapath::Datapath;
use cnikit::netlink::Socket;
use cnikit::plugin::{Failure, Failures, GcRequest, Step as _};
use cnikit::spec::{Attachment, IfName, MacAddr};

use crate::config::Config;
use crate::del::detach;
use crate::network;

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
    failures.note(delete_links(&host, &request.config.bridge, &valid).step("delete veth pairs"));
    failures.note(remove_rows(&network::datapath(network), &valid).step("remove map rows"));
    failures.into_result()
}

/// Deletes the pairs on the bridge that bear a name of ours and are no valid attachment's.
fn delete_links(host: &Socket, bridge: &IfName, valid: &HashSet<Attachment>) -> Result<(), Failure> {
    let Some(bridge) = host.link_by_name(bridge)? else {
        return Ok(());
    };
    let host_ends: HashSet<IfName> = valid.iter().map(Attachment::host_ifname).collect();
    let mut failures = Failures::default();
    for link in host.links()? {
        let ours = link.master == Some(bridge.index) && Attachment::is_host_ifname(&link.name);
        if ours && !host_ends.contains(&link.name) {
            failures.note(host.delete_link(link.index));
        }
    }
    failures.into_result()
}

fn remove_rows(datapath: &Datapath, valid: &HashSet<Attachment>) -> Result<(), Failure> {
    if !datapath.is_complete() {
        return Ok(());
    }
    let macs: HashSet<MacAddr> = valid.iter().map(Attachment::container_mac).collect();
    let (counters, ports) = (datapath.counters()?, datapath.ports()?);
    // Collected first: an iteration whose current row is removed starts over.
    let addresses: Vec<IpAddr> = ports.addresses().collect();
    let mut failures = Failures::default();
    for address in addresses {
        let Some(port) = failures.note(ports.read(address)).flatten() else { continue };
        if !macs.contains(&port.mac) {
            failures.note(ports.remove(address));
            failures.note(counters.forget(address));
        }
    }
    failures.into_result()
}
