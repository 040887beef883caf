//! DEL: detaches a pod.

use std::path::{Path, PathBuf};

use cnikit::ipam::Store;
use cnikit::netlink::Socket;
use cnikit::plugin::{DelRequest, Failure, Failures, Step as _};
use cnikit::spec::{Attachment, RawConfig};

use crate::config::{self, Config};
use crate::network::{self, LOCK_TIMEOUT};
use crate::rows::Rows;

/// Removes all that an ADD made, finished or not.
///
/// Nothing here needs the pod's namespace: the pair goes with its host end, whose name derives from
/// the attachment. Each step is taken whether or not those before it succeeded; the addresses are
/// given back last, when nothing leads to them any more.
pub(crate) fn del(request: &DelRequest<Config>) -> Result<(), Failure> {
    let attachment = &request.attachment;
    let mut failures = Failures::default();

    let pair = Socket::open().and_then(|host| host.delete_link_by_name(&attachment.host_ifname()));
    failures.note(pair.step("delete the veth pair"));

    let data_dir = match &request.config {
        Ok(config) => config.data_dir.clone(),
        Err(_) => data_dir(&request.raw_config),
    };
    match network::leases(&data_dir, &attachment.network) {
        Ok(store) => {
            failures.note(remove_rows(attachment, &store).step("remove the map rows"));
            failures.note(release(attachment, &store).step("free the addresses"));
        }
        Err(error) => {
            failures.note::<()>(Err(error));
        }
    }
    failures.into_result()
}

/// Where the leases are, by a configuration that has gone bad since the ADD.
fn data_dir(config: &RawConfig) -> PathBuf {
    let dir = config.value("dataDir").and_then(|value| value.as_str()).map(Path::new);
    dir.filter(|dir| dir.is_absolute()).unwrap_or(Path::new(config::DEFAULT_DATA_DIR)).to_owned()
}

fn remove_rows(attachment: &Attachment, store: &Store) -> Result<(), Failure> {
    let datapath = network::datapath(&attachment.network);
    if !datapath.is_complete() {
        return Ok(());
    }
    let rows = Rows::open(&datapath, attachment)?;
    // A lease that is gone or cannot be read does not tell the addresses: the rows themselves do.
    let addresses = match store.lease(&network::owner(attachment)) {
        Ok(Some(lease)) => lease.addresses,
        Ok(None) | Err(_) => rows.addresses()?,
    };
    Ok(rows.remove(&addresses)?)
}

/// An attachment that never was, on a node where nothing was, leaves no directory behind.
fn release(attachment: &Attachment, store: &Store) -> Result<(), Failure> {
    if store.dir().exists() {
        store.lock(LOCK_TIMEOUT)?.release(&network::owner(attachment))?;
    }
    Ok(())
}
