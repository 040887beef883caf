//! DEL: detaches a pod.

use std::collections::HashSet;

use cnikit::datapath::Datapath;
use cnikit::ipam::{self, LOCK_TIMEOUT, Lease, Store};
use cnikit::netlink::{self, Link, Socket};
use cnikit::plugin::{DelRequest, Failure, Failures, Step as _};
use cnikit::spec::Attachment;

use crate::config::{self, Config};
use crate::rows::Rows;
use crate::{addresses, network, programs};

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
    let pair = host_end(attachment, host).step("look up the veth pair");
    let (pair, known) = match failures.note(pair) {
        Some(pair) => (pair, true),
        None => (None, false),
    };
    let index = pair.map(|pair| pair.index);
    // A pair that is gone had most likely the index that is the attachment's own.
    let port = index.unwrap_or_else(|| attachment.host_ifindex());
    failures.note(remove_rows(lease.as_ref(), port, &datapath).step("remove the map rows"));
    let gone = index.map_or(Ok(()), |index| host.delete_link_nowait(index)).step("delete the veth pair");
    let gone = failures.note(gone).is_some() && known;
    if gone {
        failures.note(programs::forget_links(&datapath, attachment).step("unpin the TCX links"));
    }
    if gone && has_leases {
        let freed = leases.lock(LOCK_TIMEOUT).and_then(|mut leases| leases.release(&owner));
        failures.note(freed.step("free the addresses"));
    }
    failures.into_result()
}

/// The host's end of the pair: by its name or, should somebody have given it another, by its index and MAC.
pub(crate) fn host_end(attachment: &Attachment, host: &Socket) -> netlink::Result<Option<Link>> {
    if let Some(link) = host.link_by_name(&attachment.host_ifname())? {
        return Ok(Some(link));
    }
    let link = host.link_by_index(attachment.host_ifindex())?;
    Ok(link.filter(|link| link.mac == Some(attachment.host_mac())))
}

/// As long as a lease is held, its addresses are nobody else's. Where there is none, the port tells which they are.
fn remove_rows(lease: Option<&Lease>, port: u32, datapath: &Datapath) -> Result<(), Failure> {
    if !datapath.is_complete() {
        return Ok(());
    }
    let rows = Rows::open(datapath)?;
    match lease {
        Some(lease) => rows.remove(&lease.addresses, port)?,
        None => rows.remove_ports(&HashSet::from([port]))?,
    }
    Ok(())
}
