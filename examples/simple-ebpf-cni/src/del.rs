//! DEL: detaches a pod.

use cnikit::datapath::Datapath;
use cnikit::ipam::{self, LOCK_TIMEOUT, Lease, OwnerLock, Store};
use cnikit::netlink::{self, Link, Socket};
use cnikit::plugin::{self, Context as _, DelRequest, ErrorCollector, PluginError};
use cnikit::spec::{Args, Attachment, KubernetesPod};
use tracing::{debug, info_span};

use crate::config::{self, Config};
use crate::endpoints::Rows;
use crate::{addresses, network, programs};

pub(crate) fn del(request: &DelRequest<Config>) -> Result<(), PluginError> {
    let attachment = &request.attachment;
    let data_dir = match &request.config {
        Ok(config) => &config.data_dir,
        Err(_) => config::data_dir(&request.raw_config),
    };
    let leases = network::leases(data_dir, &attachment.network)?;
    let Some(turn) = Turn::take(attachment, &leases)? else {
        return Ok(());
    };
    name_pod(request.args.as_ref().ok(), attachment, &leases);
    let mut failures = ErrorCollector::default();
    // While the pair is there: a plugin that gives an address back to a DHCP server sends by way of it (RFC 2131, section
    // 4.4.6). Until the pair is gone, its map entries keep the address from another pod.
    if let Some(delegate) = failures.push(addresses::releasing_delegate(request)).flatten() {
        failures.push(delegate.del().context("give the address back"));
    }
    failures.push(Socket::open().map_err(PluginError::from).and_then(|host| detach(attachment, &host, &leases, &turn)));
    failures.into_result()
}

/// Has the log name the pod by its lease if `CNI_ARGS` does not name it.
pub(crate) fn name_pod(args: Option<&Args>, attachment: &Attachment, leases: &Store) {
    if args.is_none_or(|args| KubernetesPod::from_args(args).is_unnamed())
        && let Ok(Some(lease)) = leases.lease(&network::owner(attachment))
    {
        plugin::record_pod(&lease.pod);
    }
}

/// Keeps all else that would make or remove an attachment waiting.
pub(crate) struct Turn {
    /// None on a node where nothing was: nothing is made to remove it.
    lock: Option<OwnerLock>,
}

impl Turn {
    /// None for an attachment that cannot have been made, as no lease can have its name.
    pub(crate) fn take(attachment: &Attachment, leases: &Store) -> ipam::Result<Option<Self>> {
        let has_leases = leases.exists()?;
        let owner = network::owner(attachment);
        match has_leases.then(|| leases.lock_owner(&owner, LOCK_TIMEOUT)).transpose() {
            Err(ipam::Error::NameTooLong { .. }) => Ok(None),
            lock => Ok(Some(Self { lock: lock? })),
        }
    }
}

/// Removes all that an ADD made, finished or not.
///
/// Nothing here needs the pod's namespace: the pair goes with its host end, whose name derives from the attachment.
/// The addresses are given back last, and only when the pair is gone: a pod that still has them must not meet another.
/// What fails is left for the next DEL to find, by what leads to it: the lease to the rows, a row to its port.
pub(crate) fn detach(attachment: &Attachment, host: &Socket, leases: &Store, turn: &Turn) -> Result<(), PluginError> {
    let owner = network::owner(attachment);
    // A lease that cannot be read does not say which rows are the attachment's; the port does.
    let lease = leases.lease(&owner).ok().flatten();
    let pair = host_end(attachment, host).context("look up the veth pair")?.map(|pair| pair.index);
    if let Some(pair) = pair {
        let _span = info_span!("pair").entered();
        network::delete_pair(host, pair).context("delete the veth pair")?;
    }
    let mut failures = ErrorCollector::default();
    // A pair that is gone had the index that is the attachment's own, unless a link has that now.
    let own = attachment.host_ifindex();
    let port = match pair {
        None => host.link_by_index(own)?.is_none().then_some(own),
        pair => pair,
    };
    let forgotten = failures.push(forget_pair(attachment, host, port, lease.as_ref()));
    // The lease leads the next DEL to the rows that are left.
    if turn.lock.is_some() && forgotten.is_some() {
        let _span = info_span!("lease").entered();
        let freed = leases.lock(LOCK_TIMEOUT).and_then(|mut leases| leases.release(&owner));
        failures.push(freed.context("free the addresses"));
    }
    failures.into_result()
}

/// Removes what led to a pair that is deleted, and not before it is: as long as a pod can send, it is held to its
/// addresses.
pub(crate) fn forget_pair(
    attachment: &Attachment,
    host: &Socket,
    port: Option<u32>,
    lease: Option<&Lease>,
) -> Result<(), PluginError> {
    let mut failures = ErrorCollector::default();
    let datapath = network::datapath(&attachment.network);
    failures.push(programs::forget_links(&datapath, attachment).context("unpin the TCX links"));
    let removed = remove_rows(lease, port, &datapath).context("remove the map rows");
    // Maps without entries of the pod are not those that the programs use.
    if failures.push(removed) == Some(false)
        && let Err(failure) = remove_unpinned_rows(attachment, host, port, lease)
    {
        // The next ADD that pins these maps removes entries that lead to no port.
        debug!("cannot remove map entries that are not pinned here: {failure}");
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
fn remove_rows(lease: Option<&Lease>, port: Option<u32>, datapath: &Datapath) -> Result<bool, PluginError> {
    if !datapath.is_complete()? {
        return Ok(false);
    }
    remove_rows_of(lease, port, &Rows::open(datapath)?)
}

/// The same in maps that running programs use and that are not pinned here.
fn remove_unpinned_rows(
    attachment: &Attachment,
    host: &Socket,
    port: Option<u32>,
    lease: Option<&Lease>,
) -> Result<(), PluginError> {
    let datapath = network::datapath(&attachment.network);
    match programs::unpinned_maps(host, &datapath, &attachment.network)? {
        Some(maps) => remove_rows_of(lease, port, &Rows::of(&maps)?).map(drop),
        None => Ok(()),
    }
}

/// Whether there were entries.
fn remove_rows_of(lease: Option<&Lease>, port: Option<u32>, rows: &Rows) -> Result<bool, PluginError> {
    Ok(match lease {
        Some(lease) => rows.remove(&lease.addresses, port)?,
        None => rows.remove_ports(&port.into_iter().collect())?,
    })
}
