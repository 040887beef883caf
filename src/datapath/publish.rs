//! Loads a set and pins it.
//!
//! The running programs are authoritative, and pins are names for them and their maps. A mount
//! namespace can have its own BPF file system, one mount can hide another, and pins can be removed
//! while programs run. So `ensure_for` pins the maps of the running programs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use libbpf_rs::ProgramHandle;
use tracing::info;

use super::in_use::{InUse, map_id};
use super::map::{Map, Maps};
use super::map_specs::{FILTER_SIZE, FLOW_FILTER, MAPS, PORT_FILTER};
use super::pins::{Datapath, PinState};
use super::program::ProgramName;
use super::{Error, MapSet, Result, migrate, port_xdp, skeleton};
use crate::bpf::error::io_error;
use crate::bpf::{bpffs, messages};

impl Datapath {
    /// As [`ensure_for`](Self::ensure_for), without running programs.
    ///
    /// # Errors
    ///
    /// As [`ensure_for`](Self::ensure_for).
    ///
    /// # Kernel
    ///
    /// As [`ensure_for`](Self::ensure_for).
    pub fn ensure(&self) -> Result<()> {
        self.ensure_for(&[])
    }

    /// Pins the programs of this build and the maps of the running programs. `running` contains the
    /// ids of these programs, the most important first.
    ///
    /// Takes some tens of microseconds if the pins are right, and about 20 ms if programs are
    /// loaded. Concurrent callers load once.
    ///
    /// | pinned | this call |
    /// |---|---|
    /// | nothing, and no programs run | loads programs with new maps, and copies the entries of an older pinned layout |
    /// | other maps than the maps of the running programs, or only a part of them | pins the maps in use and loads the programs of this build onto them; pins running programs instead if their code is the same |
    /// | programs of another build | loads the programs of this build onto the maps |
    /// | some maps are missing | creates the missing maps |
    /// | programs with the code of the running programs | pins the running programs |
    ///
    /// Counters and entries survive if the maps in use can be opened. A changed set is
    /// [`Unsettled`]: its maps can lack entries, or contain stale ones. The caller replaces the
    /// running programs with the pinned programs ([`Program::id`](crate::bpf::Program::id)
    /// differs), and calls [`remove_outdated`](Self::remove_outdated).
    ///
    /// Running programs of another layout, and programs that this process cannot open, are ignored.
    /// The pinned maps are used then, or new maps.
    ///
    /// [`Unsettled`]: PinState::Unsettled
    ///
    /// # Errors
    ///
    /// [`Error::Mount`] and [`Error::NotBpffs`] for the file system, [`Error::Load`] and
    /// [`Error::Rejected`] if the kernel refuses the programs. [`Error::Locked`] if another loader
    /// hangs, [`Error::NewerLayout`] after a downgrade, and [`Error::Layout`] for maps with other
    /// key or value sizes. [`Error::Program`] if a running program was replaced during the call,
    /// and [`Error::Pin`] if a pin cannot be read or changed.
    ///
    /// # Kernel
    ///
    /// 5.10. `CAP_BPF` and `CAP_NET_ADMIN`, before 6.12 also `CAP_PERFMON`. Opening the maps of
    /// running programs and mounting the BPF file system need `CAP_SYS_ADMIN`.
    pub fn ensure_for(&self, running: &[u32]) -> Result<()> {
        self.pins.update(&|| self.serves(running), &mut |loading| {
            let in_use = self.in_use(running)?;
            self.publish(loading, in_use.as_ref())
        })
    }

    /// Whether the maps of running programs are pinned here.
    pub(super) fn pins_all(&self, in_use: &InUse) -> Result<bool> {
        let pinned = match self.pinned_ids() {
            // A map with other sizes is another map.
            Err(Error::Layout { .. }) => return Ok(false),
            pinned => pinned?,
        };
        Ok(in_use.maps.iter().all(|(name, id)| pinned.get(name) == Some(id)))
    }

    /// Whether all programs are pinned here, and the running ones are among them.
    pub(super) fn are_pinned(&self, running: &[u32]) -> Result<bool> {
        let mut pinned = Vec::new();
        for name in ProgramName::ALL {
            match self.program(name) {
                // Without the lock, another caller can remove the pins during this call.
                Err(error) if error.is_missing_pin() => return Ok(false),
                program => pinned.push(program?.id()),
            }
        }
        Ok(running.iter().all(|id| pinned.contains(id)))
    }

    /// Whether the pins are complete and contain the running programs.
    fn serves(&self, running: &[u32]) -> Result<bool> {
        Ok(self.state()? != PinState::Outdated && self.are_pinned(running)?)
    }

    /// The running programs. Without running programs, the pinned programs, which lead to maps with
    /// missing pins.
    fn in_use(&self, running: &[u32]) -> Result<Option<InUse>> {
        if !running.is_empty() {
            return InUse::look(running);
        }
        let pinned = self.pinned_programs();
        if pinned.is_empty() || self.is_whole()? { Ok(None) } else { InUse::look(&pinned) }
    }

    /// The ids of the pinned programs. Without a program that has no pin.
    fn pinned_programs(&self) -> Vec<u32> {
        ProgramName::ALL.iter().filter_map(|name| Some(self.program(*name).ok()?.id())).collect()
    }

    /// The pinned maps, without missing pins.
    fn pinned(&self) -> Result<Maps> {
        let mut maps = Maps::new();
        for spec in &MAPS {
            match Map::open(&self.directory(), spec) {
                Err(error) if error.is_missing_pin() => {}
                map => {
                    maps.insert(spec.name, map?.into_handle());
                }
            }
        }
        Ok(maps)
    }

    /// The ids of the pinned maps, by name.
    fn pinned_ids(&self) -> Result<BTreeMap<&'static str, u32>> {
        ids(&self.pinned()?)
    }

    /// Creates all pins in `loading`, and publishes them.
    fn publish(&self, loading: &Path, in_use: Option<&InUse>) -> Result<()> {
        // Probe first: Linux before 5.16 also refuses to open pins, and that error does not name
        // the missing capability.
        messages::probe()?;
        bpffs::create_directories(loading)?;
        let in_use_maps = in_use.map(InUse::open).transpose()?.unwrap_or_default();
        let in_use = if skeleton::takes(&in_use_maps)? { in_use } else { None };
        let is_pinned = in_use.map_or(Ok(true), |in_use| self.pins_all(in_use))?;
        if is_pinned && self.state()? != PinState::Outdated {
            // The pins are of this build, but another build may have attached its programs since.
            let ids = self.pinned_ids()?;
            self.fill_filters(in_use, &ids, &self.maps())?;
            return in_use.map_or(Ok(()), |in_use| self.pin_twins(loading, in_use, &ids));
        }

        let (mut maps, has_misfit) = match self.pinned() {
            Err(Error::Layout { .. }) if in_use.is_some() => (Maps::new(), true),
            pinned => (pinned?, false),
        };
        // Maps of another set are not used, even if the running programs have no such map.
        let pinned = ids(&maps)?;
        let is_other = has_misfit || in_use.is_some_and(|in_use| is_other(&pinned, in_use));
        if is_other {
            maps.clear();
        }
        if in_use.is_some() {
            maps.extend(in_use_maps);
        }
        let older = self.pins.layout_directory(1);
        let is_migration = maps.is_empty() && migrate::is_layout_1(&older);
        if let (Some(in_use), false) = (in_use, is_pinned) {
            info!("pinning the eBPF maps {:?}, which the running programs use", in_use.maps);
        }

        let is_new = maps.is_empty();
        let reads_xdp = port_xdp::prepare(loading);
        let mut runs_on = false;
        let loaded = skeleton::load(&maps, reads_xdp)?;
        let ids = ids(&loaded.maps)?;
        for (name, mut map) in loaded.maps {
            let path = loading.join(name);
            map.pin(&path).map_err(|error| Error::pin("pin the map", &path, io_error(error)))?;
        }
        for (name, program) in &loaded.programs {
            // If the maps are pinned already, this is an upgrade: pin the new programs.
            let twin = in_use.filter(|_| !is_pinned).and_then(|in_use| in_use.twin(program, &ids));
            runs_on |= twin.is_some();
            pin_program(twin.unwrap_or(program), &loading.join(name.as_str()))?;
        }
        if !is_new {
            self.fill_filters(in_use, &ids, &MapSet::pinned(loading))?;
        }
        if is_migration {
            migrate::from_layout_1(&older, &MapSet::pinned(loading))?;
        }
        // Before publishing, because no later call repeats this step for a killed one.
        match (reads_xdp, runs_on) {
            (true, _) => port_xdp::follow(loading)?,
            (false, false) => port_xdp::forget_all(loading, &self.directory())?,
            // The running programs stay, and may read kernel memory even if this call cannot find
            // its layout.
            (false, true) => {}
        }
        bpffs::create_directories(&loading.join(self.unsettled()))?;
        self.pins.put_in_place(loading, is_other)
    }

    /// Sets all bytes of each filter of `set` that may lack bytes. `maps` are the ids of its maps.
    ///
    /// Programs without the filters add flows until all of them are replaced, and builds without
    /// the filters add flags. The caller replaces the programs after this call, and filter bytes
    /// are never cleared, so no entry is missed.
    ///
    /// The running programs decide, else the pinned ones. A filter is also filled if this process
    /// cannot open these programs, and if the filter is new.
    fn fill_filters(&self, in_use: Option<&InUse>, maps: &BTreeMap<&'static str, u32>, set: &MapSet) -> Result<()> {
        let pinned = if in_use.is_none() { InUse::look(&self.pinned_programs())? } else { None };
        let programs = in_use.or(pinned.as_ref());
        if !programs.is_some_and(|programs| programs.keeps_flow_filter(maps)) {
            set.open(&FLOW_FILTER)?.fill(FILTER_SIZE)?;
        }
        if !programs.is_some_and(|programs| programs.keeps_port_filter(maps)) {
            set.open(&PORT_FILTER)?.fill(FILTER_SIZE)?;
        }
        Ok(())
    }

    /// Replaces pins of programs with running programs that have the same code. So the pins on
    /// several BPF file systems become equal, and alternating calls do not replace each other's
    /// programs.
    fn pin_twins(&self, loading: &Path, in_use: &InUse, ids: &BTreeMap<&'static str, u32>) -> Result<()> {
        for name in ProgramName::ALL {
            let (new, path) = (loading.join(name.as_str()), self.directory().join(name.as_str()));
            let pinned = ProgramHandle::from_pinned_path(&path)
                .map_err(|error| Error::pin("open the pinned program", &path, io_error(error)))?;
            if let Some(twin) = in_use.twin(&pinned, ids).filter(|twin| twin.id() != pinned.id()) {
                pin_program(twin, &new)?;
                fs::rename(&new, &path).map_err(|error| Error::pin("replace the pin", &path, error))?;
            }
        }
        Ok(())
    }
}

fn pin_program(program: &ProgramHandle, path: &Path) -> Result<()> {
    program.pin(path).map_err(|error| Error::pin("pin the program", path, io_error(error)))
}

/// The ids of maps, by name.
fn ids(maps: &Maps) -> Result<BTreeMap<&'static str, u32>> {
    maps.iter().map(|(name, map)| Ok((*name, map_id(map)?))).collect()
}

/// Whether a pin of a map in use refers to another map.
fn is_other(pinned: &BTreeMap<&'static str, u32>, in_use: &InUse) -> bool {
    in_use.maps.iter().any(|(name, id)| pinned.get(name).is_some_and(|pinned| pinned != id))
}
