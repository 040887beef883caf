//! Rows for pods that are attached, in maps that know nothing of them.
//!
//! Somebody has removed the pins, or the BPF file system was unmounted with them: the programs are loaded anew, with empty maps. A port
//! without a row is served by the bridge, but nobody holds its pod to its addresses. What the rows said is known otherwise.

use std::collections::HashSet;
use std::time::Duration;

use cnikit::datapath::PodPort;
use cnikit::ipam::{Lease, Store};
use cnikit::netlink::{FdbEntry, FdbState, Link, Socket};
use cnikit::plugin::Failure;
use cnikit::spec::{Attachment, IfName, NetworkName};
use tracing::{info_span, warn};

use crate::config::{Attach, Config};
use crate::programs::Programs;
use crate::rows::Rows;
use crate::{addresses, network};

/// The alias of the host end of a pair whose packets are never delivered directly.
pub(crate) const STACK_ONLY: &str = "simple-ebpf-cni:stack-only";

/// Puts the rows of all pods that hold a lease and are ports of the bridge. It is to be done before the programs are told
/// of their network, as that is what tells whether it was.
pub(crate) fn restore(
    host: &Socket,
    network: &NetworkName,
    config: &Config,
    leases: &Store,
    programs: &Programs,
    rows: &Rows,
    bridge: &Link,
) -> Result<(), Failure> {
    let _span = info_span!("restore").entered();
    for lease in leases.leases()?.filter_map(Result::ok) {
        // Whoever is at work on it puts its rows, or removes them.
        let Ok(_turn) = leases.lock_owner(&lease.owner, Duration::ZERO) else { continue };
        let attachment = network::attachment(network, lease.owner.clone());
        let port = host.link_by_name(&attachment.host_ifname())?;
        let Some(port) = port.filter(|port| port.master == Some(bridge.index)) else { continue };
        let restored = restore_pod(host, config, programs, rows, &attachment, &lease, &port);
        // A pod whose namespace has ended meanwhile needs none.
        if restored.is_err() && host.link_by_index(port.index)?.is_none() {
            rows.remove(&lease.addresses, Some(port.index))?;
            continue;
        }
        restored?;
    }
    let at_work: HashSet<IfName> =
        leases.owners_at_work()?.into_iter().map(|owner| network::attachment(network, owner).host_ifname()).collect();
    let is_pod = |link: &&Link| link.master == Some(bridge.index) && Attachment::is_host_ifname(&link.name);
    for port in host.links()?.iter().filter(is_pod).filter(|port| !at_work.contains(&port.name)) {
        if rows.link(port.index)?.is_none() {
            // Another plugin gave it the address, or its lease is lost, too.
            warn!("nothing is known of the pod at {}, which is not guarded: attach it anew", port.name);
        }
    }
    Ok(())
}

fn restore_pod(
    host: &Socket,
    config: &Config,
    programs: &Programs,
    rows: &Rows,
    attachment: &Attachment,
    lease: &Lease,
    port: &Link,
) -> Result<(), Failure> {
    // The MAC that the pod asked for stands with the bridge, unless that learns it.
    let of_bridge = |entry: &FdbEntry| (entry.state == FdbState::Static).then_some(entry.mac);
    let known = host.fdb(port.index)?.iter().find_map(of_bridge);
    let mac = known.unwrap_or_else(|| addresses::mac(attachment, config, &lease.addresses));
    // Links of TCX went with their pins. Whether limits were the reason to have them is not known: they are kept to.
    let has_clsact = programs.share_blocks_with(host, port.index)?;
    let pod = PodPort { ifindex: port.index, mac };
    rows.guard(pod, !has_clsact || port.alias.as_deref() == Some(STACK_ONLY))?;
    rows.put(&lease.addresses, pod)?;
    if !has_clsact && let Err(failure) = programs.join(host, attachment, port.index, Attach::Tcx) {
        warn!("the eBPF programs do not run at {}: {failure}", port.name);
    }
    Ok(())
}
