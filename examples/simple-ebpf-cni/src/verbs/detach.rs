//! Detaches a pod: the steps that DEL, GC and the rollback of ADD share.

use cnikit::ipam::{self, LOCK_TIMEOUT, Lease, OwnerLock, Store};
use cnikit::netlink::Socket;
use cnikit::plugin::{Context as _, ErrorCollector, PluginError};
use cnikit::spec::{Attachment, IfIndex};
use simple_ebpf_cni::endpoints::Endpoints;
use simple_ebpf_cni::{naming, programs, veth};
use tracing::{debug, info_span};

/// The lock of an attachment. Other calls that would create or remove the attachment wait.
pub(crate) struct AttachmentLock {
    /// `None` on a node without state of the network: a DEL creates no directory.
    lock: Option<OwnerLock>,
}

impl AttachmentLock {
    /// Takes the lock. `None` for an attachment that cannot exist, because no lease can have its
    /// name.
    pub(crate) fn acquire(attachment: &Attachment, leases: &Store) -> ipam::Result<Option<Self>> {
        let has_leases = leases.exists()?;
        let owner = attachment.key();
        match has_leases.then(|| leases.lock_owner(&owner, LOCK_TIMEOUT)).transpose() {
            Err(ipam::Error::NameTooLong { .. }) => Ok(None),
            lock => Ok(Some(Self { lock: lock? })),
        }
    }
}

impl From<OwnerLock> for AttachmentLock {
    fn from(lock: OwnerLock) -> Self {
        Self { lock: Some(lock) }
    }
}

/// Removes all objects of an ADD, finished or not.
///
/// This needs no access to the pod's namespace. The attachment determines the name of the host end,
/// and the deletion of the host end deletes the pair. The lease comes last, and only after the
/// pair's deletion: two live pods must not have the same address. After an error, the next DEL
/// finds the rest by its references: the lease leads to the entries, and an entry to its port.
pub(crate) fn detach(
    attachment: &Attachment,
    host: &Socket,
    leases: &Store,
    lock: &AttachmentLock,
) -> Result<(), PluginError> {
    let owner = attachment.key();
    // An unreadable lease does not name the attachment's entries, but the port leads to them.
    let lease = leases.lease(&owner).ok().flatten();
    let pair = veth::host_end(attachment, host).context("look up the veth pair")?.map(|pair| pair.index);
    if let Some(pair) = pair {
        let _span = info_span!("pair").entered();
        veth::delete_pair(host, pair).context("delete the veth pair")?;
    }
    let mut failures = ErrorCollector::default();
    // A deleted pair had the attachment's own index, unless another link has this index now.
    let own = attachment.host_ifindex();
    let port = match pair {
        None => host.link_by_index(own)?.is_none().then_some(own),
        pair => pair,
    };
    let removed = failures.push(remove_references(attachment, host, port, lease.as_ref()));
    // The lease leads the next DEL to remaining entries.
    if lock.lock.is_some() && removed.is_some() {
        let _span = info_span!("lease").entered();
        let freed = leases.lock(LOCK_TIMEOUT).and_then(|mut leases| leases.release(&owner));
        failures.push(freed.context("free the addresses"));
    }
    failures.into_result()
}

/// Removes the pins and map entries of a deleted pair. The pair must be deleted first: the spoof
/// check applies to a pod as long as it can send.
pub(crate) fn remove_references(
    attachment: &Attachment,
    host: &Socket,
    port: Option<IfIndex>,
    lease: Option<&Lease>,
) -> Result<(), PluginError> {
    let mut failures = ErrorCollector::default();
    let datapath = naming::datapath(&attachment.network);
    failures.push(programs::unpin_links(&datapath, attachment).context("unpin the TCX links"));
    let remove_pinned = || -> Result<bool, PluginError> {
        if !datapath.is_complete()? {
            return Ok(false);
        }
        remove_entries(&Endpoints::open(&datapath)?, lease, port)
    };
    // Maps without entries of the pod are not the maps that the programs use.
    if failures.push(remove_pinned().context("remove the map entries")) == Some(false) {
        let remove_unpinned = || -> Result<(), PluginError> {
            match programs::unpinned_maps(host, &datapath, &attachment.network)? {
                Some(maps) => remove_entries(&Endpoints::from_maps(&maps)?, lease, port).map(drop),
                None => Ok(()),
            }
        };
        if let Err(failure) = remove_unpinned() {
            // The next ADD that pins these maps removes entries that lead to no port.
            debug!("cannot remove map entries that are not pinned here: {failure}");
        }
    }
    failures.into_result()
}

/// Removes the entries of the lease or, without a lease, of the port. Returns whether there were
/// any. While a lease exists, its addresses belong to no other pod.
fn remove_entries(endpoints: &Endpoints, lease: Option<&Lease>, port: Option<IfIndex>) -> Result<bool, PluginError> {
    Ok(match lease {
        Some(lease) => endpoints.remove(&lease.addresses, port)?,
        None => endpoints.remove_ports(&port.into_iter().collect())?,
    })
}
