//! The pins of a network.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::in_use::{InUse, map_id};
use super::map::MapSpec;
use super::map_specs::{MAPS, OPTIONAL_MAPS, STAGES};
use super::maps::{CounterMap, EndpointMap, PortConfigMap, SharedAddressMap};
use super::program::ProgramName;
use super::{DatapathConfig, Drops, Error, MapSet, NetStats, Result};
use crate::bpf::pin_set::{STAMP, list_dir};
use crate::bpf::{PinSet, Program, messages};
use crate::spec::NetworkName;

/// The layout version of the maps, and the last part of the pin path. Builds with different maps
/// pin them in separate directories.
const LAYOUT: u32 = 2;

/// The suffix of the build stamp while the set is [`PinState::Unsettled`].
const UNSETTLED_SUFFIX: &str = "-unsettled";

/// The programs and maps of one network, pinned in `<root>/<network>/v<layout>/`.
///
/// A `Datapath` holds only paths. Each method opens the pins that it needs.
#[derive(Clone, Debug)]
pub struct Datapath {
    pub(super) pins: PinSet,
    /// The name of the build stamp of a settled set.
    build: String,
}

/// The state of the pins of a network.
///
/// Closed: the caller has to handle each state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinState {
    /// A program or map is missing, or the programs come from another build.
    /// [`Datapath::ensure_for`] is needed.
    Outdated,
    /// All programs and maps of this build are pinned, but the set is new or was pinned elsewhere.
    /// The maps can lack entries of attached pods, or contain entries of deleted pods. The caller
    /// corrects the entries and then calls [`Datapath::settle`].
    Unsettled,
    /// All programs and maps of this build are pinned, and [`Datapath::settle`] was called.
    Settled,
}

impl Datapath {
    /// The set of `network` below the directory `root`, such as `/sys/fs/bpf/my-plugin`.
    ///
    /// The BPF file system allows no `.` in a name, so `root` must not contain any. A `.` in the
    /// network name becomes `:`, which network names cannot contain.
    #[must_use]
    pub fn new(root: impl AsRef<Path>, network: &NetworkName) -> Self {
        let pins = PinSet::new(root, network).layout(LAYOUT);
        Self { pins, build: format!("{STAMP}{}", env!("CNI_TC_BUILD")) }
    }

    /// The networks that have pins of any layout below `root`. A missing directory has no networks.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`] if the directory cannot be listed.
    pub fn networks(root: impl AsRef<Path>) -> Result<Vec<NetworkName>> {
        PinSet::list(root)
    }

    /// The directory that holds the pins.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        self.pins.directory()
    }

    /// The directory for the pins of [TCX links](crate::bpf::TcxLink) of the programs. The links
    /// survive a layout change. [`remove`](Self::remove) detaches them.
    #[must_use]
    pub fn link_pins(&self) -> PathBuf {
        self.pins.link_pins()
    }

    /// Whether all pins of a set exist, from any build. Maps that older builds lack may be missing.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`] if the directory cannot be listed. The state of the pins is then unknown.
    pub fn is_complete(&self) -> Result<bool> {
        let found = list_dir(&self.directory())?;
        Ok(has_all(&found, MAPS.iter().filter(|spec| !OPTIONAL_MAPS.contains(&spec.name))))
    }

    /// Whether all programs and maps of this build are pinned.
    pub(super) fn is_whole(&self) -> Result<bool> {
        Ok(is_whole(&list_dir(&self.directory())?))
    }

    /// The state of the pins. Lists two directories.
    ///
    /// # Errors
    ///
    /// [`Error::NewerLayout`] after a downgrade, [`Error::Pin`] if a directory cannot be listed.
    pub fn state(&self) -> Result<PinState> {
        self.pins.check_downgrade()?;
        let found = list_dir(&self.directory())?;
        let contains = |stamp: &str| found.iter().any(|name| name == stamp);
        Ok(match is_whole(&found) {
            true if contains(&self.build) => PinState::Settled,
            true if contains(&self.unsettled()) => PinState::Unsettled,
            _ => PinState::Outdated,
        })
    }

    /// Records that the maps contain the entries of all attached pods, and no others.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`] if the build stamp cannot be renamed.
    pub fn settle(&self) -> Result<()> {
        let (unsettled, settled) = (self.directory().join(self.unsettled()), self.directory().join(&self.build));
        match fs::rename(&unsettled, &settled) {
            // Another caller settles at the same time, or replaces the programs with another build.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed.map_err(|error| Error::pin("rename the build stamp", unsettled, error)),
        }
    }

    /// The maps of the running programs with the ids `programs`, unless the same maps are pinned
    /// here.
    ///
    /// Also `None` if the maps cannot be determined. This is the case for programs of another
    /// layout or author, and without `CAP_SYS_ADMIN`, which opening a map by id needs.
    ///
    /// # Errors
    ///
    /// [`Error::Program`] if a program was replaced during the call, [`Error::Pin`] if the pins
    /// cannot be read.
    pub fn unpinned_maps(&self, programs: &[u32]) -> Result<Option<MapSet>> {
        // Pinned programs use the maps pinned beside them, so nothing is opened by id.
        if self.is_complete()? && self.are_pinned(programs)? {
            return Ok(None);
        }
        let Some(in_use) = InUse::look(programs)? else { return Ok(None) };
        Ok((!self.pins_all(&in_use)?).then(|| MapSet::loaded(in_use.maps)))
    }

    /// Whether a running program belongs to this library and uses the pinned maps.
    ///
    /// # Errors
    ///
    /// As [`unpinned_maps`](Self::unpinned_maps).
    pub fn is_used_by(&self, program: u32) -> Result<bool> {
        InUse::look(&[program])?.map_or(Ok(false), |in_use| self.pins_all(&in_use))
    }

    /// The name of the build stamp of an unsettled set.
    pub(super) fn unsettled(&self) -> String {
        format!("{}{UNSETTLED_SUFFIX}", self.build)
    }

    /// Checks whether [`ensure`](Self::ensure) and opening the maps can succeed. Changes nothing.
    ///
    /// The pinned maps must have the layout of this build. If pins are missing or outdated, the BPF
    /// file system must be writable, or must be missing so that it can be mounted. The process must
    /// be allowed to use bpf(2).
    ///
    /// # Errors
    ///
    /// - [`Error::NewerLayout`] or [`Error::Layout`] if the pins do not fit this build,
    /// - [`Error::Mount`] if the kernel has no BPF file system,
    /// - [`Error::Pin`] if the pins cannot be read, or the file system is not writable,
    /// - [`Error::NotBpffs`] if the directory is on another file system,
    /// - [`Error::Load`] if the kernel refuses to create a map.
    pub fn probe(&self) -> Result<()> {
        self.pins.check_downgrade()?;
        if self.is_complete()? {
            MAPS.iter().try_for_each(|spec| self.maps().open_optional(spec).map(drop))?;
        }
        if self.state()? == PinState::Outdated { self.pins.probe_load() } else { messages::probe() }
    }

    /// Removes the pins of all layouts. Missing pins are success.
    ///
    /// Attached programs stay loaded, and so do their maps.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`] with the path that could not be removed, [`Error::Locked`] if another loader
    /// hangs.
    pub fn remove(&self) -> Result<()> {
        self.pins.remove()
    }

    /// Removes the pins of older layouts. Call it after all their programs were replaced. Lists one
    /// directory if there are none.
    ///
    /// # Errors
    ///
    /// As [`remove`](Self::remove).
    pub fn remove_outdated(&self) -> Result<()> {
        self.pins.remove_older_layouts()
    }

    /// Opens a pinned program.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`] if the pin is missing or cannot be opened.
    pub fn program(&self, name: ProgramName) -> Result<Program> {
        self.pins.open_program(name.as_str())
    }

    /// Whether the pinned programs call the programs in the pinned map `stages`.
    ///
    /// `false` if the kernel refuses tail calls in these programs: arm64 before 6.0, and kernels
    /// without the JIT. The map exists there too, but a program in a slot never runs. Also `false`
    /// for a set of an older build without this map.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`] if a program is not pinned, or if a pin cannot be opened. [`Error::Layout`]
    /// if key or value size of the map differ from this build.
    pub fn has_stages(&self) -> Result<bool> {
        let Some(stages) = self.maps().open_optional(&STAGES)? else { return Ok(false) };
        let stages = map_id(&stages.into_handle())?;
        for name in ProgramName::ALL {
            if !self.program(name)?.map_ids()?.contains(&stages) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The pinned maps.
    #[must_use]
    pub fn maps(&self) -> MapSet {
        MapSet::pinned(&self.directory())
    }

    /// As [`MapSet::open_counters`], for the pinned maps.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`] if a pin is missing or cannot be opened, [`Error::Layout`] if key or value
    /// size differ from this build.
    pub fn open_counters(&self) -> Result<CounterMap> {
        self.maps().open_counters()
    }

    /// As [`MapSet::open_endpoints`], for the pinned maps.
    ///
    /// # Errors
    ///
    /// As [`open_counters`](Self::open_counters).
    pub fn open_endpoints(&self) -> Result<EndpointMap> {
        self.maps().open_endpoints()
    }

    /// As [`MapSet::open_port_configs`], for the pinned maps.
    ///
    /// # Errors
    ///
    /// As [`open_counters`](Self::open_counters).
    pub fn open_port_configs(&self) -> Result<PortConfigMap> {
        self.maps().open_port_configs()
    }

    /// As [`MapSet::open_shared_addresses`], for the pinned maps.
    ///
    /// # Errors
    ///
    /// As [`open_counters`](Self::open_counters).
    pub fn open_shared_addresses(&self) -> Result<Option<SharedAddressMap>> {
        self.maps().open_shared_addresses()
    }

    /// As [`MapSet::configure`], for the pinned maps.
    ///
    /// # Errors
    ///
    /// As [`open_counters`](Self::open_counters), and [`Error::Map`] if the kernel refuses.
    pub fn configure(&self, config: DatapathConfig) -> Result<()> {
        self.maps().configure(config)
    }

    /// As [`MapSet::config`], for the pinned maps.
    ///
    /// # Errors
    ///
    /// As [`configure`](Self::configure).
    pub fn config(&self) -> Result<DatapathConfig> {
        self.maps().config()
    }

    /// As [`MapSet::stats`], for the pinned maps.
    ///
    /// # Errors
    ///
    /// As [`configure`](Self::configure).
    pub fn stats(&self) -> Result<NetStats> {
        self.maps().stats()
    }

    /// As [`MapSet::drops`], for the pinned maps.
    ///
    /// # Errors
    ///
    /// As [`configure`](Self::configure).
    pub fn drops(&self) -> Result<Drops> {
        self.maps().drops()
    }
}

/// Whether the names contain all pins of this build.
fn is_whole(names: &[OsString]) -> bool {
    has_all(names, MAPS.iter())
}

/// Whether the names of pins contain these maps and all programs. Listing the directory once is
/// cheaper than a lookup per pin.
fn has_all<'s>(names: &[OsString], maps: impl Iterator<Item = &'s MapSpec>) -> bool {
    let maps = maps.map(|spec| spec.name);
    let programs = ProgramName::ALL.map(ProgramName::as_str);
    maps.chain(programs).all(|pin| names.iter().any(|name| name == pin))
}
