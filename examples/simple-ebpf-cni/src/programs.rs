//! The eBPF programs at their hooks: in the shared blocks, and on the port of each pod.

use std::path::{Path, PathBuf};

use cnikit::bpf::{Direction, Program, TcxLink};
use cnikit::datapath::{self, Datapath, MapSet, PinState, ProgramName};
use cnikit::netlink::{self, BpfFilter, FilterTarget, Socket};
use cnikit::plugin::{Context as _, PluginError};
use cnikit::spec::{Attachment, IfIndex, IfName, NetworkName};
use tracing::info_span;

use crate::config::AttachMode;
use crate::naming::shared_blocks;

/// The priority and handle of the programs' filters. Filters of an operator can have a lower
/// priority number and run first. Both are fixed, so that a new program replaces the old one.
const PRIORITY: u16 = 0xc000;
const HANDLE: u32 = 1;

/// The maximum number of retries if other calls replace the running programs at the same time.
const MAX_RETRIES: usize = 5;

/// The opened programs of a network.
#[derive(Debug)]
pub struct Programs {
    network: NetworkName,
    attach_points: Vec<AttachPoint>,
    link_pins: PathBuf,
    /// Whether, at opening, the pinned programs ran in the blocks and the maps had all entries.
    is_settled: bool,
}

/// A program, and the place where it runs.
#[derive(Debug)]
struct AttachPoint {
    name: &'static str,
    program: Program,
    direction: Direction,
    block: FilterTarget,
    /// The id of the program in the block, at opening.
    running: Option<u32>,
}

impl Programs {
    /// Opens the pinned programs. If the pins are missing or of another build, first pins the
    /// programs of this build on the maps in use.
    ///
    /// # Errors
    ///
    /// Fails if the programs cannot be loaded, pinned or opened.
    pub fn ensure(host: &Socket, datapath: &Datapath, network: &NetworkName) -> Result<Self, PluginError> {
        let mut retries = MAX_RETRIES;
        loop {
            let running = running(host, network)?;
            let state = datapath.state()?;
            if state != PinState::Outdated {
                let programs = Self::open_pinned(datapath, network, &running).context("open the eBPF programs")?;
                if programs.missing().is_empty() {
                    return Ok(Self { is_settled: state == PinState::Settled, ..programs });
                }
            }
            let ids: Vec<u32> = running.iter().filter_map(|hook| hook.running).collect();
            match datapath.ensure_for(&ids) {
                Err(datapath::Error::Program { .. }) if retries > 0 => retries -= 1,
                ensured => {
                    ensured?;
                    return Self::open_pinned(datapath, network, &running).context("open the eBPF programs");
                }
            }
        }
    }

    /// Opens the pinned programs unchanged.
    ///
    /// # Errors
    ///
    /// Fails if a pin is missing, or if the kernel does not list the filters.
    pub fn open(host: &Socket, datapath: &Datapath, network: &NetworkName) -> Result<Self, cnikit::Error> {
        Ok(Self::open_pinned(datapath, network, &running(host, network)?)?)
    }

    fn open_pinned(datapath: &Datapath, network: &NetworkName, hooks: &[Hook]) -> datapath::Result<Self> {
        let _span = info_span!("programs").entered();
        let mut attach_points = Vec::new();
        for &Hook { name, direction, block, running } in hooks {
            let program = datapath.program(name)?;
            attach_points.push(AttachPoint { name: name.as_str(), program, direction, block, running });
        }
        Ok(Self { network: network.clone(), attach_points, link_pins: datapath.link_pins(), is_settled: false })
    }

    /// Whether, at opening, the pinned programs ran in the blocks and the maps had all entries.
    pub(crate) fn are_settled(&self) -> bool {
        self.is_settled
    }

    /// Makes the next set-up check the entries and programs of all pods, as for a new set.
    pub(crate) fn unsettle(&mut self) {
        self.is_settled = false;
    }

    /// Attaches the programs to the blocks, and so to all ports in them. Returns false if another
    /// caller has filled an empty block in the meantime: its programs may use other maps.
    ///
    /// Replaces the programs of another build everywhere. The blocks come last: while they hold the
    /// old programs, the next ADD finishes the work of a killed one.
    ///
    /// # Errors
    ///
    /// Fails if the kernel refuses a filter or a TCX link.
    pub fn ensure_attached(&self, host: &Socket) -> Result<bool, cnikit::Error> {
        if !self.is_settled {
            self.update_links()?;
        }
        for point in self.attach_points.iter().filter(|point| !point.is_running()) {
            let filter = BpfFilter::new(&point.program, point.name).priority(PRIORITY).handle(HANDLE);
            if point.running.is_some() {
                host.replace_filter(&point.block, &filter)?;
                continue;
            }
            match host.create_filter(&point.block, &filter) {
                Err(netlink::Error::Exists { .. }) => {
                    if running_in(host, &point.block)? != Some(point.program.id()) {
                        return Ok(false);
                    }
                }
                created => created?,
            }
        }
        Ok(true)
    }

    /// The names of the programs that did not run in their blocks, at opening.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        self.attach_points.iter().filter(|point| !point.is_running()).map(|point| point.name).collect()
    }

    /// Attaches the programs to a pod's port with the name `host_end` and the index `port`.
    ///
    /// # Errors
    ///
    /// Fails if the kernel refuses the qdisc or a TCX link.
    pub fn attach_port(
        &self,
        host: &Socket,
        host_end: &IfName,
        port: IfIndex,
        mode: AttachMode,
    ) -> Result<(), cnikit::Error> {
        if mode == AttachMode::Clsact {
            return Ok(host.create_clsact(port, shared_blocks(&self.network))?);
        }
        for point in &self.attach_points {
            let pin = link_pin(&self.link_pins, host_end, point.direction);
            TcxLink::ensure(&point.program, port, point.direction, pin)?;
        }
        Ok(())
    }

    /// Whether a port's clsact qdisc names the network's blocks.
    ///
    /// # Errors
    ///
    /// Fails if the kernel does not list the qdisc.
    pub fn uses_shared_blocks(&self, host: &Socket, port: IfIndex) -> netlink::Result<bool> {
        Ok(host.ingress_qdisc(port)?.is_some_and(|qdisc| qdisc.blocks == shared_blocks(&self.network)))
    }

    /// Whether the programs run on a port, through the blocks or by TCX.
    ///
    /// # Errors
    ///
    /// Fails if the kernel does not list the qdisc or the links.
    pub fn run_on(&self, host: &Socket, datapath: &Datapath, port: IfIndex) -> Result<bool, PluginError> {
        if self.uses_shared_blocks(host, port)? {
            return Ok(true);
        }
        match self.are_linked_to(datapath, port) {
            Err(cnikit::Error::Bpf(datapath::Error::TcxUnsupported)) => Ok(false),
            linked => Ok(linked?),
        }
    }

    /// Whether programs on the pinned maps run on a port by TCX. Any build counts, because a call
    /// with another BPF file system cannot replace them.
    ///
    /// # Errors
    ///
    /// Fails if the kernel does not list the links.
    pub fn are_linked_to(&self, datapath: &Datapath, port: IfIndex) -> Result<bool, cnikit::Error> {
        for point in &self.attach_points {
            let mut is_linked = false;
            for found in TcxLink::attached(port, point.direction)? {
                is_linked |= found.program_id == point.program.id() || datapath.is_used_by(found.program_id)?;
            }
            if !is_linked {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Replaces the programs of the pinned TCX links.
    fn update_links(&self) -> datapath::Result<()> {
        for (_, link) in TcxLink::pinned(&self.link_pins)? {
            let info = link.info()?;
            let point = self.attach_points.iter().find(|point| point.direction == info.direction);
            if let (Some(_), Some(point)) = (info.ifindex, point)
                && let Err(error) = link.update(&point.program)
                // A port that was deleted in the meantime needs no program.
                && link.info()?.ifindex.is_some()
            {
                return Err(error);
            }
        }
        Ok(())
    }
}

impl AttachPoint {
    /// Whether the block held the pinned program itself.
    fn is_running(&self) -> bool {
        self.running == Some(self.program.id())
    }
}

/// A block, the program for it, and the id of the program that runs in it.
#[derive(Clone, Copy)]
struct Hook {
    name: ProgramName,
    direction: Direction,
    block: FilterTarget,
    running: Option<u32>,
}

/// The hooks of a network, ingress first.
fn running(host: &Socket, network: &NetworkName) -> netlink::Result<Vec<Hook>> {
    let blocks = shared_blocks(network);
    let hooks = [
        (ProgramName::Main, Direction::Ingress, blocks.ingress),
        (ProgramName::Egress, Direction::Egress, blocks.egress),
    ];
    let mut found = Vec::new();
    for (name, direction, block) in hooks {
        if let Some(block) = block.map(FilterTarget::Block) {
            found.push(Hook { name, direction, block, running: running_in(host, &block)? });
        }
    }
    Ok(found)
}

/// The id of the program in a block, at the plugin's priority and handle.
fn running_in(host: &Socket, block: &FilterTarget) -> netlink::Result<Option<u32>> {
    let filters = host.filters(block)?;
    let own = filters.iter().find(|filter| (filter.priority, filter.handle) == (PRIORITY, HANDLE));
    Ok(own.and_then(|filter| filter.program_id))
}

/// The names of the programs that do not run in their blocks. Running programs count even if they
/// are not pinned.
///
/// # Errors
///
/// Fails if the kernel does not list the filters, or if a pin cannot be opened.
pub fn missing(host: &Socket, datapath: &Datapath, network: &NetworkName) -> Result<Vec<&'static str>, cnikit::Error> {
    if unpinned_maps(host, datapath, network)?.is_none() {
        return Ok(Programs::open(host, datapath, network)?.missing());
    }
    let idle = running(host, network)?.into_iter().filter(|hook| hook.running.is_none());
    Ok(idle.map(|hook| hook.name.as_str()).collect())
}

/// The ids of the programs at the ingress of a port.
pub(crate) fn at_port(host: &Socket, port: IfIndex) -> Result<Vec<u32>, cnikit::Error> {
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

/// The message for running programs with maps that are not pinned in `directory`.
#[must_use]
pub fn unpinned(directory: &Path) -> String {
    format!("the maps of the running eBPF programs are not pinned in {}", directory.display())
}

/// The maps of the running programs, if they differ from the pinned maps or no maps are pinned.
///
/// # Errors
///
/// Fails if the kernel does not list the filters or the maps.
pub fn unpinned_maps(
    host: &Socket,
    datapath: &Datapath,
    network: &NetworkName,
) -> Result<Option<MapSet>, cnikit::Error> {
    let running: Vec<u32> = running(host, network)?.into_iter().filter_map(|hook| hook.running).collect();
    match datapath.unpinned_maps(&running) {
        // Another call replaces the programs, and pins their maps.
        Err(datapath::Error::Program { .. }) => Ok(None),
        maps => Ok(maps?),
    }
}

/// The maps in use: the maps of the running programs, else the pinned maps. `None` before the first
/// pod.
///
/// # Errors
///
/// See [`unpinned_maps`] and [`Datapath::is_complete`].
pub fn maps_in_use(host: &Socket, datapath: &Datapath, network: &NetworkName) -> Result<Option<MapSet>, cnikit::Error> {
    if let Some(maps) = unpinned_maps(host, datapath, network)? {
        return Ok(Some(maps));
    }
    Ok(datapath.is_complete()?.then(|| datapath.maps()))
}

/// Removes the pins of an attachment's TCX links, if there are any. After the port's deletion, the
/// links hold nothing and the removal takes no time.
///
/// # Errors
///
/// Fails if a pin cannot be removed.
pub fn unpin_links(datapath: &Datapath, attachment: &Attachment) -> datapath::Result<()> {
    let links = datapath.link_pins();
    for direction in [Direction::Ingress, Direction::Egress] {
        TcxLink::remove(link_pin(&links, &attachment.host_ifname(), direction))?;
    }
    Ok(())
}

/// Removes the pins of TCX links of deleted ports.
///
/// # Errors
///
/// Fails if the pins cannot be listed, or a pin cannot be removed.
pub fn unpin_dead_links(datapath: &Datapath) -> datapath::Result<()> {
    TcxLink::pinned(datapath.link_pins())?.iter().try_for_each(|(pin, _)| TcxLink::remove_dead(pin))
}

fn link_pin(links: &Path, host_end: &IfName, direction: Direction) -> PathBuf {
    let direction = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    links.join(format!("{host_end}_{direction}"))
}
