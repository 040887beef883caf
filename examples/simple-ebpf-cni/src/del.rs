//! DEL: detaches a pod.

use std::path::{Path, PathBuf};

use cnikit::datapath::Datapath;
use cnikit::ipam::Store;
use cnikit::netlink::{Link, Socket};
use cnikit::plugin::{DelRequest, Failure, Failures, Step as _};
use cnikit::spec::{Attachment, RawConfig};

use crate::config::{Config, DEFAULT_DATA_DIR};
use crate::network::{self, LOCK_TIMEOUT};
use crate::rows::Rows;

pub(crate) fn del(request: &DelRequest<Config>) -> Result<(), Failure> {
    let attachment = &request.attachment;
    let data_dir = match &request.config {
        Ok(config) => config.data_dir.clone(),
        Err(_) => data_dir(&request.raw_config),
    };
    detach(attachment, &Socket::open()?, &network::leases(&data_dir, &attachment.network)?)
}

/// Removes all that an ADD made, finished or not.
///
/// Nothing here needs the pod's namespace: the pair goes with its host end, whose name derives from the attachment.
/// The addresses are given back last, and only when the pair is gone: a pod that still has them must not meet another.
pub(crate) fn detach(attachment: &Attachment, host: &Socket, leases: &Store) -> Result<(), Failure> {
    let mut failures = Failures::default();
    let link = failures.note(host.link_by_name(&attachment.host_ifname())).flatten();
    let gone = failures.note(host.delete_link_by_name(&attachment.host_ifname()).step("delete the veth pair"));
    let datapath = network::datapath(&attachment.network);
    failures.note(remove_rows(attachment, link, &datapath, leases).step("remove the map rows"));
    if gone.is_some() {
        failures.note(release(attachment, leases).step("free the addresses"));
    }
    failures.into_result()
}

/// Where the leases are, by a configuration that has gone bad since the ADD.
fn data_dir(config: &RawConfig) -> PathBuf {
    let dir = config.value("dataDir").and_then(|value| value.as_str()).map(Path::new);
    dir.filter(|dir| dir.is_absolute()).unwrap_or(Path::new(DEFAULT_DATA_DIR)).to_owned()
}

fn remove_rows(
    attachment: &Attachment,
    link: Option<Link>,
    datapath: &Datapath,
    leases: &Store,
) -> Result<(), Failure> {
    if !datapath.is_complete() {
        return Ok(());
    }
    let rows = Rows::open(datapath)?;
    match (leases.lease(&network::owner(attachment)), link) {
        // As long as the lease is held, its addresses are nobody else's.
        (Ok(Some(lease)), _) => lease.addresses.iter().try_for_each(|address| rows.remove(address.ip()))?,
        // A lease that is gone or cannot be read does not tell the addresses: the rows themselves do.
        (_, Some(link)) => rows.remove_where(|port| port.ifindex == link.index)?,
        (_, None) => rows.remove_where(|port| port.mac == attachment.container_mac())?,
    }
    Ok(())
}

fn release(attachment: &Attachment, leases: &Store) -> Result<(), Failure> {
    // An attachment that never was, on a node where nothing was, leaves no directory behind.
    if leases.dir().exists() {
        leases.lock(LOCK_TIMEOUT)?.release(&network::owner(attachment))?;
    }
    Ok(())
}
