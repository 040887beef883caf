//! What the pods of a network share: the bridge, the programs on it, the leases.

use std::path::Path;
use std::time::Duration;

use cnikit::datapath::{Datapath, NetConfig, Program, ProgramName};
use cnikit::ipam::{self, Owner, Store};
use cnikit::netlink::{self, Block, Blocks, BpfFilter, BridgeSpec, FilterTarget, Link, Socket};
use cnikit::plugin::{Failure, Step as _};
use cnikit::spec::{Attachment, ErrorCode, MacAddr, NetworkName};

use crate::config::Config;

/// Programs and maps are pinned below this directory, by network.
const PINS: &str = "/sys/fs/bpf/simple-ebpf-cni";

/// Where the programs stand among the filters of a block: behind whatever an operator puts in front,
/// and fixed, so that they are replaced in place and never doubled.
const PRIORITY: u16 = 0xc000;
const HANDLE: u32 = 1;

/// Blocks are numbered by whoever makes them. These lie far from the small numbers that people choose,
/// two for each bridge, by its index.
const FIRST_BLOCK: u32 = 0x4000_0000;

/// How long a call waits for its turn at the leases. Others hold them for less than a millisecond.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// What the alias of a bridge starts with that serves one of our networks.
const MARK: &str = "simple-ebpf-cni:";

/// A program and the block that it belongs in.
pub(crate) struct Placed {
    name: &'static str,
    program: Program,
    target: FilterTarget,
}

/// The network's leases, below `data_dir`.
pub(crate) fn leases(data_dir: &Path, network: &NetworkName) -> ipam::Result<Store> {
    Store::open(data_dir.join(network.as_str()))
}

/// The attachment as the leases know it.
pub(crate) fn owner(attachment: &Attachment) -> Owner {
    Owner { container_id: attachment.container_id.clone(), ifname: attachment.ifname.clone() }
}

/// The network's programs and maps.
pub(crate) fn datapath(network: &NetworkName) -> Datapath {
    Datapath::new(PINS, network)
}

/// Makes the network, or mends what is missing of it: a few looks when all is there. Gives the bridge.
///
/// Concurrent calls make one network between them: each step takes what another has made meanwhile for
/// its own.
pub(crate) fn ensure(
    host: &Socket,
    network: &NetworkName,
    config: &Config,
    datapath: &Datapath,
) -> Result<Link, Failure> {
    let bridge = ensure_bridge(host, network, config).step("set up the bridge")?;
    datapath.ensure().step("load the eBPF programs")?;
    let gateway_mac = bridge.mac.unwrap_or_else(|| bridge_mac(network));
    datapath.configure(NetConfig { bridge_ifindex: bridge.index, gateway_mac }).step("configure the eBPF programs")?;
    ensure_programs(host, datapath, &bridge).step("attach the eBPF programs")?;
    Ok(bridge)
}

/// The blocks that the ports of a bridge share, and the bridge anchors.
pub(crate) fn blocks(bridge_index: u32) -> Blocks {
    let first = FIRST_BLOCK + 2 * bridge_index;
    Blocks { ingress: Block::new(first), egress: Block::new(first + 1) }
}

/// The programs in their places on a bridge.
pub(crate) fn programs(datapath: &Datapath, blocks: Blocks) -> Result<Vec<Placed>, Failure> {
    let places = [(ProgramName::Main, blocks.ingress), (ProgramName::Egress, blocks.egress)];
    let mut placed = Vec::new();
    for (name, block) in places {
        if let Some(block) = block {
            let program = datapath.program(name)?;
            placed.push(Placed { name: name.as_str(), program, target: FilterTarget::Block(block) });
        }
    }
    Ok(placed)
}

impl Placed {
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Whether the block holds the very program that is pinned.
    pub(crate) fn is_attached(&self, host: &Socket) -> netlink::Result<bool> {
        Ok(host.filters(&self.target)?.iter().any(|filter| {
            (filter.priority, filter.handle, filter.program_id) == (PRIORITY, HANDLE, Some(self.program.id()))
        }))
    }

    fn attach(&self, host: &Socket) -> netlink::Result<()> {
        let filter = BpfFilter::new(&self.program, self.name).priority(PRIORITY).handle(HANDLE);
        host.replace_filter(&self.target, &filter)
    }
}

/// Refuses a link that is no bridge, and a bridge that serves another network.
pub(crate) fn refuse_foreign(network: &NetworkName, bridge: &Link) -> Result<(), Failure> {
    let why = match (bridge.kind.as_deref(), bridge.alias.as_deref()) {
        (Some("bridge"), Some(alias)) if alias.starts_with(MARK) && alias != mark(network) => {
            format!("belongs to another network (its alias is {alias})")
        }
        (Some("bridge"), _) => return Ok(()),
        (Some(kind), _) => format!("exists and is no bridge but a {kind} link"),
        (None, _) => "exists and is no bridge".to_owned(),
    };
    Err(refused(bridge, &why))
}

/// Whether a bridge has the qdisc that anchors the blocks. One that does not name them is somebody else's.
pub(crate) fn has_qdisc(host: &Socket, bridge: &Link) -> Result<bool, Failure> {
    match host.ingress_qdisc(bridge.index)? {
        None => Ok(false),
        Some(qdisc) if qdisc.blocks == blocks(bridge.index) => Ok(true),
        Some(qdisc) => {
            let show = format!("tc qdisc show dev {}", bridge.name);
            Err(refused(bridge, &format!("has a {} qdisc of somebody else's (see {show})", qdisc.kind)))
        }
    }
}

fn refused(bridge: &Link, why: &str) -> Failure {
    let msg = format!("{} {why}: name another with the key \"bridge\"", bridge.name);
    Failure::new(ErrorCode::INVALID_CONFIG, msg)
}

fn ensure_bridge(host: &Socket, network: &NetworkName, config: &Config) -> Result<Link, Failure> {
    let bridge = match host.link_by_name(&config.bridge)? {
        Some(link) => link,
        None => create_bridge(host, network, config)?,
    };
    refuse_foreign(network, &bridge)?;
    if bridge.alias != Some(mark(network)) {
        // A bridge whose MAC was never set takes over that of its lowest port, as ports come and go. Pods keep the
        // gateway's in their neighbour tables, and the programs know it too.
        if let Some(mac) = bridge.mac {
            host.set_mac(bridge.index, mac)?;
        }
        host.set_alias(bridge.index, &mark(network))?;
    }
    let gateway = config.range.with_prefix(config.range.gateway());
    if !host.addresses(bridge.index)?.contains(&gateway) {
        unless_exists(host.add_address(bridge.index, gateway))?;
    }
    if !bridge.up {
        host.set_up(bridge.index)?;
    }
    Ok(bridge)
}

fn create_bridge(host: &Socket, network: &NetworkName, config: &Config) -> Result<Link, Failure> {
    let spec = BridgeSpec::new(config.bridge.clone()).mac(bridge_mac(network)).mtu(config.mtu).up();
    unless_exists(host.create_bridge(&spec).map(drop))?;
    host.link_by_name(&config.bridge)?.ok_or_else(|| {
        Failure::new(ErrorCode::TRY_AGAIN, format!("{} went away as soon as it was made: try again", config.bridge))
    })
}

/// One filter for each direction, in blocks that live as long as the bridge's qdisc refers to them.
fn ensure_programs(host: &Socket, datapath: &Datapath, bridge: &Link) -> Result<(), Failure> {
    let blocks = blocks(bridge.index);
    if !has_qdisc(host, bridge)? {
        unless_exists(host.create_clsact(bridge.index, blocks))?;
    }
    for placed in programs(datapath, blocks)? {
        if !placed.is_attached(host)? {
            placed.attach(host)?;
        }
    }
    Ok(())
}

/// The alias of a bridge says whose it is, to other networks and to whoever reads `ip link`.
fn mark(network: &NetworkName) -> String {
    format!("{MARK}{network}")
}

/// The MAC of a bridge that is made for `network`.
fn bridge_mac(network: &NetworkName) -> MacAddr {
    MacAddr::derived_from(&format!("{network}/bridge"))
}

/// Somebody else, such as another ADD, may have made the thing meanwhile.
fn unless_exists(made: netlink::Result<()>) -> netlink::Result<()> {
    match made {
        Err(netlink::Error::Exists { .. }) => Ok(()),
        made => made,
    }
}
