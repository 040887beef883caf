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

fn ensure_bridge(host: &Socket, network: &NetworkName, config: &Config) -> Result<Link, Failure> {
    let name = &config.bridge;
    let bridge = match host.link_by_name(name)? {
        Some(link) => link,
        None => create_bridge(host, network, config)?,
    };
    if bridge.kind.as_deref() != Some("bridge") {
        return Err(Failure::new(
            ErrorCode::INVALID_CONFIG,
            format!(
                "{name} exists and is no bridge but {}: name another with the key \"bridge\"",
                bridge.kind.as_deref().unwrap_or("a device"),
            ),
        ));
    }
    claim(host, network, &bridge)?;

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
    // With its MAC set, a bridge does not take over that of its lowest port: pods keep the gateway in
    // their neighbour tables.
    let spec = BridgeSpec::new(config.bridge.clone()).mac(bridge_mac(network)).mtu(config.mtu).up();
    unless_exists(host.create_bridge(&spec).map(drop))?;
    host.link_by_name(&config.bridge)?.ok_or_else(|| {
        Failure::new(ErrorCode::TRY_AGAIN, format!("{} went away as soon as it was made: try again", config.bridge))
    })
}

/// A bridge carries the programs of one network. Its alias says of which, to us and to whoever reads
/// `ip link`.
fn claim(host: &Socket, network: &NetworkName, bridge: &Link) -> Result<(), Failure> {
    let mark = format!("simple-ebpf-cni:{network}");
    match bridge.alias.as_deref() {
        Some(alias) if alias == mark => Ok(()),
        Some(alias) if alias.starts_with("simple-ebpf-cni:") => Err(Failure::new(
            ErrorCode::INVALID_CONFIG,
            format!(
                "the bridge {} belongs to another network (its alias is {alias}): give network \
                 {network} one of its own with the key \"bridge\"",
                bridge.name,
            ),
        )),
        _ => Ok(host.set_alias(bridge.index, &mark)?),
    }
}

/// One filter for each direction, in blocks that live as long as the bridge's qdisc refers to them.
fn ensure_programs(host: &Socket, datapath: &Datapath, bridge: &Link) -> Result<(), Failure> {
    let blocks = blocks(bridge.index);
    match host.ingress_qdisc(bridge.index)? {
        None => unless_exists(host.create_clsact(bridge.index, blocks))?,
        Some(qdisc) if qdisc.blocks == blocks => {}
        Some(qdisc) => {
            return Err(Failure::new(
                ErrorCode::INVALID_CONFIG,
                format!(
                    "the bridge {0} has a {1} qdisc of somebody else's: remove it (tc qdisc del dev {0} \
                     {1}) or name another bridge with the key \"bridge\"",
                    bridge.name, qdisc.kind,
                ),
            ));
        }
    }
    for placed in programs(datapath, blocks)? {
        if !placed.is_attached(host)? {
            placed.attach(host)?;
        }
    }
    Ok(())
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
