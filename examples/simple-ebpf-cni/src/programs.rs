//! The programs where they run: in the blocks that the bridge anchors, and on each pod's port.

use std::path::{Path, PathBuf};

use cnikit::datapath::{self, Datapath, Direction, MapSet, PinState, Program, ProgramName, TcxLink};
use cnikit::netlink::{self, BpfFilter, FilterTarget, Socket};
use cnikit::plugin::{Context as _, PluginError};
use cnikit::spec::{Attachment, IfName, NetworkName};
use tracing::info_span;

use crate::bridge;
use crate::config::Attach;

/// Where the programs stand among the filters of a block: behind whatever an operator puts in front,
/// and fixed, so that they are replaced in place and never doubled.
const PRIORITY: u16 = 0xc000;
const HANDLE: u32 = 1;

/// How often the running programs are looked at again when others replace them meanwhile.
const ATTEMPTS: usize = 5;

/// The programs of a network, opened.
pub(crate) struct Programs {
    network: NetworkName,
    placed: Vec<Placed>,
    links: PathBuf,
    /// Whether the pinned programs ran in the blocks, and the maps had all entries, when this was opened.
    is_settled: bool,
}

/// A program, the direction of packets that it sees, and the block that it belongs in.
struct Placed {
    name: &'static str,
    program: Program,
    direction: Direction,
    target: FilterTarget,
    /// The id of the program that ran in the block when this was opened.
    running: Option<u32>,
}

impl Programs {
    /// Opens the pinned programs, and first pins those of this build on the maps in use, unless they are.
    pub(crate) fn ensure(host: &Socket, datapath: &Datapath, network: &NetworkName) -> Result<Self, PluginError> {
        let mut attempts = ATTEMPTS;
        loop {
            let running = running(host, network)?;
            let state = datapath.state()?;
            if state != PinState::Outdated {
                let programs = Self::of(datapath, network, &running).context("open the eBPF programs")?;
                if programs.missing().is_empty() {
                    return Ok(Self { is_settled: state == PinState::Settled, ..programs });
                }
            }
            let ids: Vec<u32> = running.iter().filter_map(|block| block.running).collect();
            match datapath.ensure_for(&ids) {
                Err(datapath::Error::Program { .. }) if attempts > 0 => attempts -= 1,
                ensured => {
                    ensured?;
                    return Self::of(datapath, network, &running).context("open the eBPF programs");
                }
            }
        }
    }

    /// Opens the pinned programs as they are.
    pub(crate) fn open(host: &Socket, datapath: &Datapath, network: &NetworkName) -> Result<Self, cnikit::Error> {
        Ok(Self::of(datapath, network, &running(host, network)?)?)
    }

    fn of(datapath: &Datapath, network: &NetworkName, running: &[Block]) -> datapath::Result<Self> {
        let _span = info_span!("programs").entered();
        let mut placed = Vec::new();
        for &Block { name, direction, target, running } in running {
            placed.push(Placed { name: name.as_str(), program: datapath.program(name)?, direction, target, running });
        }
        Ok(Self { network: network.clone(), placed, links: datapath.link_pins(), is_settled: false })
    }

    /// Whether the pinned programs ran in the blocks, and the maps had all entries, when this was opened.
    pub(crate) fn are_settled(&self) -> bool {
        self.is_settled
    }

    /// Makes [`network::ensure`](crate::network::ensure) look at the entries and programs of all pods, as for a new set.
    pub(crate) fn unsettle(&mut self) {
        self.is_settled = false;
    }

    /// Has the programs run in the blocks, and so on all ports that joined them. False when other programs have begun to
    /// run in a block that was empty: they may use other maps.
    ///
    /// Those of another build are replaced everywhere. The blocks come last: as long as they hold the old ones, the next
    /// ADD finishes what a killed one has left.
    pub(crate) fn ensure_attached(&self, host: &Socket) -> Result<bool, cnikit::Error> {
        if !self.is_settled {
            self.renew_links()?;
        }
        for placed in self.placed.iter().filter(|placed| !placed.is_running()) {
            let filter = BpfFilter::new(&placed.program, placed.name).priority(PRIORITY).handle(HANDLE);
            if placed.running.is_some() {
                host.replace_filter(&placed.target, &filter)?;
                continue;
            }
            match host.create_filter(&placed.target, &filter) {
                Err(netlink::Error::Exists { .. }) => {
                    if running_in(host, &placed.target)? != Some(placed.program.id()) {
                        return Ok(false);
                    }
                }
                created => created?,
            }
        }
        Ok(true)
    }

    /// The programs that did not run in their blocks when this was opened, by name.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        self.placed.iter().filter(|placed| !placed.is_running()).map(|placed| placed.name).collect()
    }

    /// Has the programs run on a pod's port, which has the name `host_end`.
    pub(crate) fn join(
        &self,
        host: &Socket,
        host_end: &IfName,
        port: u32,
        attach: Attach,
    ) -> Result<(), cnikit::Error> {
        if attach == Attach::Clsact {
            return Ok(host.create_clsact(port, bridge::blocks(&self.network))?);
        }
        for placed in &self.placed {
            TcxLink::ensure(
                &placed.program,
                port,
                placed.direction,
                link_pin(&self.links, host_end, placed.direction),
            )?;
        }
        Ok(())
    }

    /// Whether a port's clsact qdisc names the network's blocks.
    pub(crate) fn share_blocks_with(&self, host: &Socket, port: u32) -> netlink::Result<bool> {
        Ok(host.ingress_qdisc(port)?.is_some_and(|qdisc| qdisc.blocks == bridge::blocks(&self.network)))
    }

    /// Whether the programs run on a port, in either way.
    pub(crate) fn run_on(&self, host: &Socket, datapath: &Datapath, port: u32) -> Result<bool, PluginError> {
        if self.share_blocks_with(host, port)? {
            return Ok(true);
        }
        match self.are_linked_to(datapath, port) {
            Err(cnikit::Error::Datapath(datapath::Error::TcxUnsupported)) => Ok(false),
            linked => Ok(linked?),
        }
    }

    /// Whether programs that use the pinned maps run on a port by TCX, of whichever build: calls that see another BPF
    /// file system cannot replace them.
    pub(crate) fn are_linked_to(&self, datapath: &Datapath, port: u32) -> Result<bool, cnikit::Error> {
        for placed in &self.placed {
            let mut is_linked = false;
            for found in TcxLink::attached(port, placed.direction)? {
                is_linked |= found.program_id == placed.program.id() || datapath.is_used_by(found.program_id)?;
            }
            if !is_linked {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Puts the programs in the place of those that TCX links hold.
    fn renew_links(&self) -> datapath::Result<()> {
        for (_, link) in TcxLink::pinned(&self.links)? {
            let info = link.info()?;
            let placed = self.placed.iter().find(|placed| placed.direction == info.direction);
            if let (Some(_), Some(placed)) = (info.ifindex, placed)
                && let Err(error) = link.update(&placed.program)
                // A port that went meanwhile needs no program.
                && link.info()?.ifindex.is_some()
            {
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Placed {
    /// Whether the block held the very program that is pinned.
    fn is_running(&self) -> bool {
        self.running == Some(self.program.id())
    }
}

/// A block, what belongs in it, and what runs in it.
#[derive(Clone, Copy)]
struct Block {
    name: ProgramName,
    direction: Direction,
    target: FilterTarget,
    running: Option<u32>,
}

/// The blocks of a network, that of the guard first.
fn running(host: &Socket, network: &NetworkName) -> netlink::Result<Vec<Block>> {
    let blocks = bridge::blocks(network);
    let places = [
        (ProgramName::Main, Direction::Ingress, blocks.ingress),
        (ProgramName::Egress, Direction::Egress, blocks.egress),
    ];
    let mut found = Vec::new();
    for (name, direction, block) in places {
        if let Some(target) = block.map(FilterTarget::Block) {
            found.push(Block { name, direction, target, running: running_in(host, &target)? });
        }
    }
    Ok(found)
}

/// The id of the program that runs in a block at the place of ours.
fn running_in(host: &Socket, target: &FilterTarget) -> netlink::Result<Option<u32>> {
    let filters = host.filters(target)?;
    let ours = filters.iter().find(|filter| (filter.priority, filter.handle) == (PRIORITY, HANDLE));
    Ok(ours.and_then(|filter| filter.program_id))
}

/// The programs that do not run in their blocks, by name. Whether those that run are pinned does not count.
pub(crate) fn missing(
    host: &Socket,
    datapath: &Datapath,
    network: &NetworkName,
) -> Result<Vec<&'static str>, cnikit::Error> {
    if unpinned_maps(host, datapath, network)?.is_none() {
        return Ok(Programs::open(host, datapath, network)?.missing());
    }
    let idle = running(host, network)?.into_iter().filter(|block| block.running.is_none());
    Ok(idle.map(|block| block.name.as_str()).collect())
}

/// The ids of the programs that run at the ingress of a port.
pub(crate) fn at(host: &Socket, port: u32) -> Result<Vec<u32>, cnikit::Error> {
    let blocks = host.ingress_qdisc(port)?.map(|qdisc| qdisc.blocks);
    let in_block = match blocks.and_then(|blocks| blocks.ingress) {
        Some(block) => running_in(host, &FilterTarget::Block(block))?,
        None => None,
    };
    if in_block.is_some() {
        return Ok(in_block.into_iter().collect());
    }
    match TcxLink::attached(port, Direction::Ingress) {
        Err(datapath::Error::TcxUnsupported) => Ok(Vec::new()),
        attached => Ok(attached?.into_iter().map(|link| link.program_id).collect()),
    }
}

/// What is wrong when programs run whose maps are not pinned in `directory`.
pub(crate) fn unpinned(directory: &Path) -> String {
    format!("the maps of the running eBPF programs are not pinned in {}", directory.display())
}

/// The maps that the running programs use, if they are others than those that are pinned, or none are pinned.
pub(crate) fn unpinned_maps(
    host: &Socket,
    datapath: &Datapath,
    network: &NetworkName,
) -> Result<Option<MapSet>, cnikit::Error> {
    let running: Vec<u32> = running(host, network)?.into_iter().filter_map(|block| block.running).collect();
    match datapath.unpinned_maps(&running) {
        // The programs are being replaced, by a call that pins their maps.
        Err(datapath::Error::Program { .. }) => Ok(None),
        maps => Ok(maps?),
    }
}

/// Removes the pins of an attachment's TCX links, where it has some. Once the port is gone, they hold nothing and that
/// takes no time.
pub(crate) fn forget_links(datapath: &Datapath, attachment: &Attachment) -> datapath::Result<()> {
    let links = datapath.link_pins();
    for direction in [Direction::Ingress, Direction::Egress] {
        TcxLink::remove(link_pin(&links, &attachment.host_ifname(), direction))?;
    }
    Ok(())
}

/// Removes the pins of TCX links whose ports are gone.
pub(crate) fn sweep_links(datapath: &Datapath) -> datapath::Result<()> {
    TcxLink::pinned(datapath.link_pins())?.iter().try_for_each(|(pin, _)| TcxLink::remove_dead(pin))
}

fn link_pin(links: &Path, host_end: &IfName, direction: Direction) -> PathBuf {
    let direction = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    links.join(format!("{host_end}_{direction}"))
}
