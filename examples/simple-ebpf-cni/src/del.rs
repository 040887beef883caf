//! DEL: detaches a pod.

use cnikit::datapath::Datapath;
use cnikit::ipam::{self, LOCK_TIMEOUT, Lease, Store};
use cnikit::netlink::{Link, Socket};
use cnikit::plugin::{DelRequest, Failure, Failures, Step as _};
use cnikit::spec::Attachment;

use crate::config::{self, Config};
use crate::rows::Rows;
use crate::{addresses, network};

pub(crate) fn del(request: &DelRequest<Config>) -> Result<(), Failure> {
    let attachment = &request.attachment;
    let data_dir = match &request.config {
        Ok(config) => &config.data_dir,
        Err(_) => config::data_dir(&request.raw_config),
    };
    let leases = network::leases(data_dir, &attachment.network)?;
    let mut failures = Failures::default();
    let detached = failures.note(detach(attachment, &Socket::open()?, &leases));
    // As with a lease: a pod that still has its addresses must not meet another.
    if detached.is_some()
        && let Some(delegate) = failures.note(addresses::delegate(request)).flatten()
    {
        failures.note(delegate.del());
    }
    failures.into_result()
}

/// Removes all that an ADD made, finished or not.
///
/// Nothing here needs the pod's namespace: the pair goes with its host end, whose name derives from the attachment.
/// The addresses are given back last, and only when the pair is gone: a pod that still has them must not meet another.
pub(crate) fn detach(attachment: &Attachment, host: &Socket, leases: &Store) -> Result<(), Failure> {
    let owner = network::owner(attachment);
    // On a node where nothing was, nothing is made to remove it.
    let has_leases = leases.dir().exists();
    let _turn = match has_leases.then(|| leases.lock_owner(&owner, LOCK_TIMEOUT)).transpose() {
        // No ADD of such a name can have succeeded.
        Err(ipam::Error::NameTooLong { .. }) => return Ok(()),
        turn => turn?,
    };
    let datapath = network::datapath(&attachment.network);
    let mut failures = Failures::default();

    // A lease that cannot be read does not say which rows are the attachment's; the port does.
    let lease = leases.lease(&owner).ok().flatten();
    let pair = host_end(attachment, host, lease.as_ref(), &datapath).step("look up the veth pair");
    let (pair, known) = match failures.note(pair) {
        Some(pair) => (pair, true),
        None => (None, false),
    };
    let index = pair.map(|pair| pair.index);
    failures.note(remove_rows(lease.as_ref(), index, &datapath).step("remove the map rows"));
    let gone = index.map_or(Ok(()), |index| host.delete_link(index)).step("delete the veth pair");
    if failures.note(gone).is_some() && known && has_leases {
        let freed = leases.lock(LOCK_TIMEOUT).and_then(|mut leases| leases.release(&owner));
        failures.note(freed.step("free the addresses"));
    }
    failures.into_result()
}

/// The host's end of the pair: by its name or, should somebody have given it another, by the port of the leased address.
pub(crate) fn host_end(
    attachment: &Attachment,
    host: &Socket,
    lease: Option<&Lease>,
    datapath: &Datapath,
) -> Result<Option<Link>, Failure> {
    if let Some(link) = host.link_by_name(&attachment.host_ifname())? {
        return Ok(Some(link));
    }
    let Some(lease) = lease.filter(|_| datapath.is_complete()) else { return Ok(None) };
    let rows = Rows::open(datapath)?;
    for address in &lease.addresses {
        if let Some(port) = rows.port(address.ip())?
            && let Some(link) = host.link_by_index(port.ifindex)?
            && link.mac == Some(attachment.host_mac())
        {
            return Ok(Some(link));
        }
    }
    Ok(None)
}

fn remove_rows(lease: Option<&Lease>, index: Option<u32>, datapath: &Datapath) -> Result<(), Failure> {
    if !datapath.is_complete() {
        return Ok(());
    }
    match (lease, index) {
        // As long as the lease is held, its addresses are nobody else's.
        (Some(lease), _) => Rows::open(datapath)?.remove(&lease.addresses)?,
        (None, Some(index)) => Rows::open(datapath)?.retain(|_, port| port.is_none_or(|port| port.ifindex != index))?,
        // Rows that neither a lease nor a port leads to are for GC, or overwritten when the address is leased again.
        (None, None) => {}
    }
    Ok(())
}
