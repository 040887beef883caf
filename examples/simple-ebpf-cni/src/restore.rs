//! Rows for pods that are attached, in maps that know nothing of them.
//!
//! Somebody has removed the pins, or the BPF file system was unmounted with them: the programs are loaded anew, with empty maps. A port
//! without a row is served by the bridge, but nobody holds its pod to its addresses. What the rows said is known otherwise.

use cnikit::datapath::PodPort;
use cnikit::ipam::{Lease, Store};
use cnikit::netlink::{FdbEntry, FdbState, Link, Socket};
use cnikit::plugin::{Failure, Step as _};
use cnikit::spec::{Attachment, NetworkName};
use tracing::{info_span, warn};

use crate::config::{Attach, Config};
use crate::programs::Programs;
use crate::rows::Rows;
use crate::{addresses, bridge, network};

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
        let attachment = network::attachment(network, lease.owner.clone());
        match host.link_by_name(&attachment.host_ifname())? {
            Some(port) if port.master == Some(bridge.index) => {
                restore_pod(host, config, programs, rows, &attachment, &lease, &port)?;
            }
            _ => {}
        }
    }
    let is_lost = |link: &&Link| link.master == Some(bridge.index) && Attachment::is_host_ifname(&link.name);
    for port in host.links()?.iter().filter(is_lost) {
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
    let has_clsact =
        host.ingress_qdisc(port.index)?.is_some_and(|qdisc| qdisc.blocks == bridge::blocks(&attachment.network));
    let pod = PodPort { ifindex: port.index, mac };
    rows.guard(pod, !has_clsact)?;
    rows.put(&lease.addresses, pod)?;
    if !has_clsact && let Err(failure) = programs.join(host, attachment, port.index, Attach::Tcx) {
        warn!("the eBPF programs do not run at {}: {failure}", port.name);
    }
    // A DEL that has come meanwhile may have removed them before they were put.
    if host.link_by_index(port.index)?.is_none() {
        rows.remove(&lease.addresses, Some(port.index)).step("remove the map rows")?;
    }
    Ok(())
}
