//! The eBPF programs at the links between the nodes, and the entries of their maps.

use std::collections::{BTreeMap, BTreeSet};

use cnikit::bpf::{self, Direction, TcxLink};
use cnikit::datapath::{RemoteConfig, RemoteDatapath, UnderlayProgram};
use cnikit::netlink::{self, BpfFilter, FilterTarget, SharedBlocks, Socket};
use cnikit::spec::IfIndex;
use simple_ebpf_cni::agent::FILTER_PRIORITY;
use tracing::info;

use crate::desired::Desired;

/// The handle of the agent's filters, so that a new program replaces the old one.
const HANDLE: u32 = 1;

/// A failure to attach the programs or to write their maps.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused a program, a map entry or a TCX link.
    #[error("{0}")]
    Bpf(#[from] bpf::Error),

    /// The kernel refused a filter.
    #[error("{0}")]
    Netlink(#[from] netlink::Error),
}

/// A place for a program.
struct AttachPoint {
    link: IfIndex,
    direction: Direction,
    program: UnderlayProgram,
}

/// Loads the programs, and attaches them to the uplinks and to the tunnel's link. Detaches them
/// from all other links.
///
/// # Errors
///
/// Fails if the kernel refuses a program, a filter or a TCX link.
pub fn ensure_programs(
    host: &Socket,
    remote: &RemoteDatapath,
    uplinks: &BTreeSet<IfIndex>,
    tunnel: Option<IfIndex>,
) -> Result<(), Error> {
    remote.ensure()?;
    let mut points = Vec::new();
    for (link, program) in uplinks
        .iter()
        .map(|link| (*link, UnderlayProgram::Uplink))
        .chain(tunnel.map(|link| (link, UnderlayProgram::Tunnel)))
    {
        points.push(AttachPoint { link, direction: Direction::Ingress, program });
        points.push(AttachPoint { link, direction: Direction::Egress, program: UnderlayProgram::Egress });
    }
    // The egress hook first: it sees the flows that the ingress hook leaves to the stack.
    points.sort_by_key(|point| point.direction == Direction::Ingress);
    for point in &points {
        match ensure_link(remote, point) {
            Err(bpf::Error::TcxUnsupported) => ensure_filter(host, remote, point)?,
            linked => linked?,
        }
    }
    let wanted: BTreeSet<IfIndex> = points.iter().map(|point| point.link).collect();
    for (pin, link) in TcxLink::pinned(remote.link_pins())? {
        if link.info()?.ifindex.is_none_or(|link| !wanted.contains(&link)) {
            TcxLink::remove(pin)?;
        }
    }
    Ok(())
}

/// Attaches a program by TCX, before the filters of other programs.
fn ensure_link(remote: &RemoteDatapath, point: &AttachPoint) -> bpf::Result<()> {
    let hook = if point.direction == Direction::Ingress { "ingress" } else { "egress" };
    // A name can have a `.`, which the BPF file system refuses.
    let pin = remote.link_pins().join(format!("{}-{hook}", point.link));
    let program = remote.program(point.program)?;
    // Reads only, if nothing changes: `ensure` takes a lock.
    let found = TcxLink::open(&pin).and_then(|link| link.info());
    if found.is_ok_and(|info| info.ifindex == Some(point.link) && info.program_id == program.id()) {
        return Ok(());
    }
    TcxLink::ensure(&program, point.link, point.direction, pin)?;
    info!("attached {} to link {}", point.program.as_str(), point.link);
    Ok(())
}

/// Attaches a program as a filter, on a kernel without TCX. A qdisc and filters of other programs
/// stay.
fn ensure_filter(host: &Socket, remote: &RemoteDatapath, point: &AttachPoint) -> Result<(), Error> {
    let target = match point.direction {
        Direction::Ingress => FilterTarget::Ingress(point.link),
        Direction::Egress => FilterTarget::Egress(point.link),
    };
    let program = remote.program(point.program)?;
    host.ensure_clsact(point.link, SharedBlocks::default())?;
    let found = host.filters(&target)?.into_iter().find(|filter| filter.priority == FILTER_PRIORITY);
    if found.is_some_and(|filter| filter.program_id == Some(program.id())) {
        return Ok(());
    }
    let filter = BpfFilter::new(&program, point.program.as_str()).priority(FILTER_PRIORITY).handle(HANDLE);
    host.replace_filter(&target, &filter)?;
    info!("attached {} to link {}", point.program.as_str(), point.link);
    Ok(())
}

/// Deletes the entries of nodes that are gone. The number of deleted pod CIDRs is returned.
///
/// # Errors
///
/// Fails if the kernel refuses a change of a map.
pub fn delete_entries(remote: &RemoteDatapath, desired: &Desired) -> bpf::Result<usize> {
    let (peers, addresses) = (remote.open_peers()?, remote.open_node_addresses()?);
    let mut deleted = 0;
    for (cidr, _) in peers.entries()? {
        if !desired.entries.contains_key(&cidr) {
            peers.remove(cidr)?;
            deleted += 1;
        }
    }
    for (address, _) in addresses.entries()? {
        if !desired.node_addresses.contains_key(&address) {
            addresses.remove(address)?;
        }
    }
    Ok(deleted)
}

/// Writes the entries that are missing or differ. Returns the number of changed pod CIDRs.
///
/// # Errors
///
/// Fails if the kernel refuses a change of a map, for example because it is full.
pub fn write_entries(remote: &RemoteDatapath, desired: &Desired, config: RemoteConfig) -> bpf::Result<usize> {
    remote.configure(config)?;
    let (peers, addresses) = (remote.open_peers()?, remote.open_node_addresses()?);
    let found: BTreeMap<_, _> = addresses.entries()?.into_iter().collect();
    for (address, node) in &desired.node_addresses {
        if found.get(address) != Some(&node.get()) {
            addresses.insert(*address, *node)?;
        }
    }
    let found: BTreeMap<_, _> = peers.entries()?.into_iter().collect();
    let mut written = 0;
    for (cidr, peer) in &desired.entries {
        if found.get(cidr) != Some(&Some(*peer)) {
            peers.insert(*cidr, *peer)?;
            written += 1;
        }
    }
    Ok(written)
}
