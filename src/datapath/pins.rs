//! One network's pins.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::in_use::InUse;
use super::map::MapSpec;
use super::maps::{CounterMap, EndpointMap, MAPS, PortConfigMap, SharedAddressMap, YOUNGER};
use super::program::{Program, ProgramName};
use super::{DatapathConfig, Drops, Error, MapSet, NetStats, Result, bpffs, skeleton};
use crate::dir;
use crate::spec::NetworkName;

/// Version of the maps' layout, the last part of the pins' path: a build whose maps differ keeps its
/// pins beside the old ones instead of tripping over them.
const LAYOUT: u32 = 2;

/// What the name of the directory starts with that says which build the programs are of. The BPF file system holds pins
/// and directories, and nothing else.
pub(super) const BUILD_MARK: &str = "build-";

/// What follows the build's digest in that name as long as the set is [`PinState::Unsettled`].
const UNSETTLED: &str = "-unsettled";

/// One network's programs and maps, pinned in `<root>/<network>/v<layout>/`.
///
/// This is the place, not its contents: nothing is opened before it is asked for.
#[derive(Clone, Debug)]
pub struct Datapath {
    pub(super) root: PathBuf,
    pub(super) network: PathBuf,
    /// The name of the directory beside the pins that says whose the programs are.
    build: String,
}

/// What the pins of a network are good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinState {
    /// A program or map is missing, or the programs are of another build: [`Datapath::ensure_for`] is needed.
    Outdated,
    /// All programs and maps of this build are pinned. The maps may lack entries of pods that are attached, and have
    /// entries of pods that are gone: the set is new, or was in use elsewhere. The caller puts the entries right and
    /// then calls [`Datapath::settle`].
    Unsettled,
    /// All programs and maps of this build are pinned, and [`Datapath::settle`] was called.
    Settled,
}

impl Datapath {
    /// The set of `network` below the directory `root`, such as `/sys/fs/bpf/my-plugin`.
    ///
    /// The BPF file system takes no `.` in a name, so `root` must do without; one in the network's
    /// name becomes `:`, which no network's name contains.
    #[must_use]
    pub fn new(root: impl AsRef<Path>, network: &NetworkName) -> Self {
        let root = root.as_ref();
        let network = root.join(network.as_str().replace('.', ":"));
        Self { root: root.to_owned(), network, build: format!("{BUILD_MARK}{}", env!("CNI_TC_BUILD")) }
    }

    /// The networks that have pins below `root`, of whichever layout. A directory that does not exist has none.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`] when the directory cannot be listed.
    pub fn networks(root: impl AsRef<Path>) -> Result<Vec<NetworkName>> {
        let mut networks: Vec<NetworkName> =
            list_dir(root.as_ref())?.iter().filter_map(|name| name.to_str()?.replace(':', ".").parse().ok()).collect();
        networks.sort_unstable();
        Ok(networks)
    }

    /// The directory that holds the pins.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.layout(LAYOUT)
    }

    /// The directory for the pins of [links](super::TcxLink) by which the programs are attached. They outlive a change of
    /// the layout, and [`remove`](Self::remove) detaches them.
    #[must_use]
    pub fn link_pins(&self) -> PathBuf {
        self.network.join("links")
    }

    /// Whether all pins are there, of whichever build: those that older builds lack may be missing.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`] when the directory cannot be listed, and nothing is known of what is in there.
    pub fn is_complete(&self) -> Result<bool> {
        let found = list_dir(&self.directory())?;
        Ok(has_all(&found, MAPS.iter().filter(|shape| !YOUNGER.contains(&shape.name))))
    }

    /// Whether all is pinned that this build pins.
    pub(super) fn is_whole(&self) -> Result<bool> {
        Ok(is_whole(&list_dir(&self.directory())?))
    }

    /// What the pins are good for. Costs two listings of directories.
    ///
    /// # Errors
    ///
    /// [`Error::NewerLayout`] after a downgrade, [`Error::Pin`] when a directory cannot be listed.
    pub fn state(&self) -> Result<PinState> {
        self.check_downgrade()?;
        let found = list_dir(&self.directory())?;
        let has = |mark: &str| found.iter().any(|name| name == mark);
        Ok(match is_whole(&found) {
            true if has(&self.build) => PinState::Settled,
            true if has(&self.unsettled()) => PinState::Unsettled,
            _ => PinState::Outdated,
        })
    }

    /// Notes that the maps have the entries of all pods that are attached, and no others.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`].
    pub fn settle(&self) -> Result<()> {
        let (mark, settled) = (self.directory().join(self.unsettled()), self.directory().join(&self.build));
        match fs::rename(&mark, &settled) {
            // Another caller settles at the same time, or replaces the programs by those of another build.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed.map_err(|error| Error::pin("rename the mark", mark, error)),
        }
    }

    /// The maps that the running programs with the ids `programs` use, if they are not those that are pinned here.
    ///
    /// `None` also when that cannot be found out: the programs are of another layout or another author, or this process
    /// lacks `CAP_SYS_ADMIN`, which opening by id takes.
    ///
    /// # Errors
    ///
    /// [`Error::Program`] when a program was replaced meanwhile, [`Error::Pin`] for the pins.
    pub fn unpinned_maps(&self, programs: &[u32]) -> Result<Option<MapSet>> {
        // Pinned programs use the maps beside them, and need not be opened by id.
        if self.is_complete()? && self.are_pinned(programs)? {
            return Ok(None);
        }
        let Some(in_use) = InUse::look(programs)? else { return Ok(None) };
        Ok((!self.pins_all(&in_use)?).then(|| MapSet::loaded(in_use.maps)))
    }

    /// Whether a running program is one of this library's and uses the pinned maps.
    ///
    /// # Errors
    ///
    /// As [`unpinned_maps`](Self::unpinned_maps).
    pub fn is_used_by(&self, program: u32) -> Result<bool> {
        InUse::look(&[program])?.map_or(Ok(false), |in_use| self.pins_all(&in_use))
    }

    /// The name of the mark of a set that is not settled.
    pub(super) fn unsettled(&self) -> String {
        format!("{}{UNSETTLED}", self.build)
    }

    /// Whether [`ensure`](Self::ensure) could be expected to succeed, and the maps to be opened: what is pinned fits this
    /// build, or the BPF file system can be written, or has a place to be mounted; and this process may use bpf(2).
    /// Changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Mount`]; [`Error::Load`] when the kernel refuses to make a map; [`Error::NewerLayout`], [`Error::Layout`]
    /// or [`Error::Pin`] for what is pinned, and for a file system that cannot be written.
    pub fn probe(&self) -> Result<()> {
        self.check_downgrade()?;
        if self.is_complete()? {
            MAPS.iter().try_for_each(|shape| self.maps().open_younger(shape).map(drop))?;
        }
        if self.state()? == PinState::Outdated {
            bpffs::probe(&self.network)?;
        }
        skeleton::probe()
    }

    /// Removes the pins of every layout. Programs live on as long as they are attached, maps as long
    /// as their programs. Absent is success.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`] names what could not be removed, [`Error::Locked`] the lock of a loader that
    /// hangs.
    pub fn remove(&self) -> Result<()> {
        // Without the pins there may be no root either, and so nothing to lock.
        match self.network.try_exists() {
            Ok(false) => Ok(()),
            Ok(true) => {
                let _lock = self.lock()?;
                remove_tree(&self.network)
            }
            Err(error) => Err(Error::pin("look for the pins in", &self.network, error)),
        }
    }

    /// Removes the pins of older layouts, to be called when none of their programs is attached any more. Costs one look
    /// into a directory when there are none.
    ///
    /// # Errors
    ///
    /// As [`remove`](Self::remove).
    pub fn remove_outdated(&self) -> Result<()> {
        let outdated = |layouts: Vec<u32>| layouts.into_iter().filter(|layout| *layout < LAYOUT).collect::<Vec<_>>();
        if outdated(self.layouts()?).is_empty() {
            return Ok(());
        }
        let _lock = self.lock()?;
        outdated(self.layouts()?).into_iter().try_for_each(|layout| remove_tree(&self.layout(layout)))
    }

    /// Opens one of the programs.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`] when it is not there or may not be opened.
    pub fn program(&self, name: ProgramName) -> Result<Program> {
        Program::open(&self.directory(), name)
    }

    /// The pinned maps.
    #[must_use]
    pub fn maps(&self) -> MapSet {
        MapSet::pinned(&self.directory())
    }

    /// As [`MapSet::open_counters`], of the pinned maps.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`] when one is not there or may not be opened, [`Error::Layout`] when it is not
    /// this build's.
    pub fn open_counters(&self) -> Result<CounterMap> {
        self.maps().open_counters()
    }

    /// As [`MapSet::open_endpoints`], of the pinned maps.
    ///
    /// # Errors
    ///
    /// As [`open_counters`](Self::open_counters).
    pub fn open_endpoints(&self) -> Result<EndpointMap> {
        self.maps().open_endpoints()
    }

    /// As [`MapSet::open_port_configs`], of the pinned maps.
    ///
    /// # Errors
    ///
    /// As [`open_counters`](Self::open_counters).
    pub fn open_port_configs(&self) -> Result<PortConfigMap> {
        self.maps().open_port_configs()
    }

    /// As [`MapSet::open_shared_addresses`], of the pinned maps.
    ///
    /// # Errors
    ///
    /// As [`open_counters`](Self::open_counters).
    pub fn open_shared_addresses(&self) -> Result<Option<SharedAddressMap>> {
        self.maps().open_shared_addresses()
    }

    /// As [`MapSet::configure`], of the pinned maps.
    ///
    /// # Errors
    ///
    /// As [`open_counters`](Self::open_counters), and [`Error::Map`].
    pub fn configure(&self, config: DatapathConfig) -> Result<()> {
        self.maps().configure(config)
    }

    /// As [`MapSet::config`], of the pinned maps.
    ///
    /// # Errors
    ///
    /// As [`configure`](Self::configure).
    pub fn config(&self) -> Result<DatapathConfig> {
        self.maps().config()
    }

    /// As [`MapSet::stats`], of the pinned maps.
    ///
    /// # Errors
    ///
    /// As [`configure`](Self::configure).
    pub fn stats(&self) -> Result<NetStats> {
        self.maps().stats()
    }

    /// As [`MapSet::drops`], of the pinned maps.
    ///
    /// # Errors
    ///
    /// As [`configure`](Self::configure).
    pub fn drops(&self) -> Result<Drops> {
        self.maps().drops()
    }

    /// The directory of one layout.
    pub(super) fn layout(&self, layout: u32) -> PathBuf {
        self.network.join(format!("v{layout}"))
    }

    /// The layouts that are pinned, in no order.
    fn layouts(&self) -> Result<Vec<u32>> {
        let number = |name: OsString| name.to_str()?.strip_prefix('v')?.parse().ok();
        Ok(list_dir(&self.network)?.into_iter().filter_map(number).collect())
    }

    /// A newer build works by maps that this one does not know. Were this one to load its own beside them, the pods that
    /// are there would have no rows, and the programs of both would take turns.
    pub(super) fn check_downgrade(&self) -> Result<()> {
        match self.layouts()?.into_iter().max() {
            Some(found) if found > LAYOUT => Err(Error::NewerLayout { path: self.layout(found), found, known: LAYOUT }),
            _ => Ok(()),
        }
    }

    /// Loads and removals take turns. The lock is the root's, as the network's directory itself comes
    /// and goes: a lock on one that was removed would keep nobody out.
    pub(super) fn lock(&self) -> Result<File> {
        bpffs::lock(&self.root, bpffs::LOCK_TIMEOUT)
    }
}

/// Whether all that this build pins is among the names.
fn is_whole(names: &[OsString]) -> bool {
    has_all(names, MAPS.iter())
}

/// Whether these maps and all programs are among the names of pins. One list costs less than a look for each.
fn has_all<'s>(names: &[OsString], maps: impl Iterator<Item = &'s MapSpec>) -> bool {
    let maps = maps.map(|shape| shape.name);
    let programs = ProgramName::ALL.map(ProgramName::as_str);
    maps.chain(programs).all(|pin| names.iter().any(|name| name == pin))
}

/// The names in a directory; none if there is no such directory. An ADD lists three: the C library would map memory for
/// each, and unmap it.
pub(super) fn list_dir(directory: &Path) -> Result<Vec<OsString>> {
    let failed = |errno: Errno| Error::pin("list the pins in", directory, errno);
    let opened = rustix::fs::open(directory, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let directory = match opened {
        Err(Errno::NOENT) => return Ok(Vec::new()),
        opened => opened.map_err(failed)?,
    };
    let (mut names, mut buffer) = (Vec::new(), [MaybeUninit::uninit(); 2048]);
    match dir::visit_names(directory, &mut buffer, |name| names.push(name.to_owned())) {
        // The directory was removed in between, so it is empty.
        Ok(()) | Err(Errno::NOENT) => Ok(names),
        Err(errno) => Err(failed(errno)),
    }
}

pub(super) fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::pin("remove the pins in", path, error)),
        _ => Ok(()),
    }
}
