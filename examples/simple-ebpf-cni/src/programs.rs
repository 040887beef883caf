//! The programs where they run: in the blocks that the bridge anchors, and on each pod's port.

use std::path::{Path, PathBuf};

use cnikit::datapath::{self, Datapath, Direction, Program, ProgramName, TcxLink};
use cnikit::netlink::{self, BpfFilter, FilterTarget, Socket};
use cnikit::plugin::Failure;
use cnikit::spec::{Attachment, NetworkName};
use tracing::info_span;

use crate::bridge;
use crate::config::Attach;

/// Where the programs stand among the filters of a block: behind whatever an operator puts in front,
/// and fixed, so that they are replaced in place and never doubled.
const PRIORITY: u16 = 0xc000;
const HANDLE: u32 = 1;

/// The programs of a network, opened.
pub(crate) struct Programs {
    network: NetworkName,
    placed: Vec<Placed>,
    links: PathBuf,
}

/// A program, the direction of packets that it sees, and the block that it belongs in.
struct Placed {
    name: &'static str,
    program: Program,
    direction: Direction,
    target: FilterTarget,
}

impl Programs {
    pub(crate) fn open(datapath: &Datapath, network: &NetworkName) -> datapath::Result<Self> {
        let _span = info_span!("programs").entered();
        let blocks = bridge::blocks(network);
        let places = [
            (ProgramName::Main, Direction::Ingress, blocks.ingress),
            (ProgramName::Egress, Direction::Egress, blocks.egress),
        ];
        let mut placed = Vec::new();
        for (name, direction, block) in places {
            if let Some(block) = block {
                let (program, target) = (datapath.program(name)?, FilterTarget::Block(block));
                placed.push(Placed { name: name.as_str(), program, direction, target });
            }
        }
        Ok(Self { network: network.clone(), placed, links: datapath.link_pins() })
    }

    /// Has the programs run in the blocks, and so on all ports that joined them.
    ///
    /// Those of another build are replaced everywhere. The blocks come last: as long as they hold the old ones, the next
    /// ADD finishes what a killed one has left.
    pub(crate) fn ensure_attached(&self, host: &Socket) -> Result<(), cnikit::Error> {
        let mut missing = Vec::new();
        for placed in &self.placed {
            if !placed.is_in_block(host)? {
                missing.push(placed);
            }
        }
        if !missing.is_empty() {
            self.renew_links()?;
        }
        for placed in missing {
            let filter = BpfFilter::new(&placed.program, placed.name).priority(PRIORITY).handle(HANDLE);
            host.replace_filter(&placed.target, &filter)?;
        }
        Ok(())
    }

    /// The programs that are not in their blocks, by name.
    pub(crate) fn missing(&self, host: &Socket) -> netlink::Result<Vec<&'static str>> {
        let mut missing = Vec::new();
        for placed in &self.placed {
            if !placed.is_in_block(host)? {
                missing.push(placed.name);
            }
        }
        Ok(missing)
    }

    /// Has the programs run on a pod's port.
    pub(crate) fn join(
        &self,
        host: &Socket,
        attachment: &Attachment,
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
                link_pin(&self.links, attachment, placed.direction),
            )?;
        }
        Ok(())
    }

    /// Whether a port's clsact qdisc names the network's blocks.
    pub(crate) fn share_blocks_with(&self, host: &Socket, port: u32) -> netlink::Result<bool> {
        Ok(host.ingress_qdisc(port)?.is_some_and(|qdisc| qdisc.blocks == bridge::blocks(&self.network)))
    }

    /// Whether the programs run on a port, in either way.
    pub(crate) fn run_on(&self, host: &Socket, port: u32) -> Result<bool, Failure> {
        if self.share_blocks_with(host, port)? {
            return Ok(true);
        }
        for placed in &self.placed {
            match TcxLink::attached(port, placed.direction) {
                Ok(programs) if programs.iter().any(|found| found.program_id == placed.program.id()) => {}
                Ok(_) | Err(datapath::Error::TcxUnsupported) => return Ok(false),
                Err(error) => return Err(error.into()),
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
    /// Whether the block holds the very program that is pinned.
    fn is_in_block(&self, host: &Socket) -> netlink::Result<bool> {
        Ok(host.filters(&self.target)?.iter().any(|filter| {
            (filter.priority, filter.handle, filter.program_id) == (PRIORITY, HANDLE, Some(self.program.id()))
        }))
    }
}

/// Removes the pins of an attachment's TCX links, where it has some. Once the port is gone, they hold nothing and that
/// takes no time.
pub(crate) fn forget_links(datapath: &Datapath, attachment: &Attachment) -> datapath::Result<()> {
    let links = datapath.link_pins();
    for direction in [Direction::Ingress, Direction::Egress] {
        TcxLink::remove(link_pin(&links, attachment, direction))?;
    }
    Ok(())
}

/// Removes the pins of TCX links whose ports are gone.
pub(crate) fn sweep_links(datapath: &Datapath) -> datapath::Result<()> {
    TcxLink::pinned(datapath.link_pins())?.iter().try_for_each(|(pin, _)| TcxLink::remove_dead(pin))
}

fn link_pin(links: &Path, attachment: &Attachment, direction: Direction) -> PathBuf {
    let direction = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    links.join(format!("{}_{direction}", attachment.host_ifname()))
}
