//! Loading a set and pinning it.
//!
//! The programs that run are the truth, and pins are names for them and their maps. A mount namespace may have a BPF
//! file system of its own, one may be mounted over another, and pins may be removed under running programs. So the maps
//! that running programs use count, and the pins follow them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use libbpf_rs::ProgramHandle;
use tracing::{info, info_span};

use super::error::io_error;
use super::in_use::{InUse, map_id};
use super::map::{Map, Maps};
use super::maps::{FILTER_SIZE, FLOW_FILTER, MAPS, PORT_FILTER};
use super::pins::{BUILD_MARK, Datapath, PinState, names, remove_tree};
use super::program::ProgramName;
use super::{Error, MapSet, Result, bpffs, migrate, port_xdp, skeleton};

impl Datapath {
    /// As [`ensure_for`](Self::ensure_for), when no programs of the network run.
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

    /// Pins programs of this build and the maps that the running programs use; `running` are the ids of these programs,
    /// the most important first.
    ///
    /// Costs some tens of microseconds when the pins are right, some 20 ms when programs are loaded. Callers that race
    /// load once.
    ///
    /// | pinned | this call |
    /// |---|---|
    /// | nothing, and nothing runs | loads programs with new maps; copies the entries of an older layout that is pinned |
    /// | other maps than the running programs use, or not all of them | pins the maps in use, loads this build's programs onto them, and pins the running programs instead if their code is the same |
    /// | programs of another build | loads this build's programs onto the maps |
    /// | not all maps | creates the missing ones |
    /// | programs with the code of the running ones | pins the running ones |
    ///
    /// Counters and entries survive, except when the maps in use cannot be opened. The set is then [`Unsettled`]: its
    /// maps may lack entries, or have too many. The caller attaches the pinned programs in the place of the running ones
    /// ([`Program::id`](super::Program::id) differs), and calls [`remove_outdated`](Self::remove_outdated).
    ///
    /// Running programs of another layout, or that this process may not open, are passed over: the pinned maps are used,
    /// or new ones.
    ///
    /// [`Unsettled`]: PinState::Unsettled
    ///
    /// # Errors
    ///
    /// [`Error::Mount`] and [`Error::NotBpffs`] for the file system, [`Error::Load`] and
    /// [`Error::Rejected`] when the kernel refuses the programs, [`Error::Locked`] when another
    /// loader hangs, [`Error::NewerLayout`] after a downgrade, [`Error::Layout`] for maps that do not
    /// fit, [`Error::Program`] when a running program was replaced meanwhile, [`Error::Pin`] for the rest.
    ///
    /// # Kernel
    ///
    /// 5.10; `CAP_BPF` and `CAP_NET_ADMIN`, before 6.12 with `CAP_PERFMON`; `CAP_SYS_ADMIN` to open the maps of running
    /// programs, and where the BPF file system has to be mounted.
    pub fn ensure_for(&self, running: &[u32]) -> Result<()> {
        if self.serves(running)? {
            return Ok(());
        }
        let _span = info_span!("load", pins = %self.network.display()).entered();
        bpffs::ensure_directory(&self.root)?;
        let _lock = self.lock()?;
        if self.serves(running)? {
            return Ok(());
        }
        let in_use = self.in_use(running)?;

        // Pins are collected aside and published by renames. What a killed loader left is removed by the next one.
        let loading = self.network.join("loading");
        remove_tree(&loading)?;
        let published = self.publish(&loading, in_use.as_ref());
        // The error to report is the load's. The network's directory goes only if it is empty.
        let removed = remove_tree(&loading);
        if published.is_err() {
            let _ = fs::remove_dir(&self.network);
        }
        published.and(removed)
    }

    /// Whether the maps that running programs use are pinned here.
    pub(super) fn pins_all(&self, in_use: &InUse) -> Result<bool> {
        let pinned = match self.pinned_ids() {
            // A map of other sizes is another map.
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
                // Without the lock, another caller may remove the pins meanwhile.
                Err(error) if error.is_missing_pin() => return Ok(false),
                program => pinned.push(program?.id()),
            }
        }
        Ok(running.iter().all(|id| pinned.contains(id)))
    }

    /// Whether nothing is to be done.
    fn serves(&self, running: &[u32]) -> Result<bool> {
        Ok(self.state()? != PinState::Outdated && self.are_pinned(running)?)
    }

    /// The running programs. If none are known to run, the pinned ones lead to maps whose pins are missing.
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

    /// The pinned maps; a missing pin is left out.
    fn pinned(&self) -> Result<Maps> {
        let mut maps = Maps::new();
        for shape in &MAPS {
            match Map::open(&self.directory(), shape) {
                Err(error) if error.is_missing_pin() => {}
                map => {
                    maps.insert(shape.name, map?.into_handle());
                }
            }
        }
        Ok(maps)
    }

    /// The ids of the pinned maps, by name.
    fn pinned_ids(&self) -> Result<BTreeMap<&'static str, u32>> {
        ids(&self.pinned()?)
    }

    /// Collects in `loading` what is to be pinned, and puts it in place.
    fn publish(&self, loading: &Path, in_use: Option<&InUse>) -> Result<()> {
        // Linux before 5.16 refuses to open pins, too, and that would not tell which capability is missing.
        skeleton::probe()?;
        bpffs::create_directories(loading)?;
        let in_use_maps = in_use.map(InUse::open).transpose()?.unwrap_or_default();
        let in_use = if skeleton::takes(&in_use_maps)? { in_use } else { None };
        let is_pinned = in_use.map_or(Ok(true), |in_use| self.pins_all(in_use))?;
        if is_pinned && self.state()? != PinState::Outdated {
            return in_use.map_or(Ok(()), |in_use| self.pin_twins(loading, in_use));
        }

        let (mut maps, has_misfit) = match self.pinned() {
            Err(Error::Layout { .. }) if in_use.is_some() => (Maps::new(), true),
            pinned => (pinned?, false),
        };
        // Maps of another set are of no use, also those that the running programs do not have.
        let pinned = ids(&maps)?;
        let is_other = has_misfit || in_use.is_some_and(|in_use| is_other(&pinned, in_use));
        if is_other {
            maps.clear();
        }
        if in_use.is_some() {
            maps.extend(in_use_maps);
        }
        let older = self.layout(1);
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
            // An upgrade puts its own programs in the place of the running ones.
            let twin = in_use.filter(|_| !is_pinned).and_then(|in_use| in_use.twin(program, &ids));
            runs_on |= twin.is_some();
            pin_program(twin.unwrap_or(program), &loading.join(name.as_str()))?;
        }
        // Until all of them are replaced, older programs add flows and older builds add flags without the filters.
        if !is_new && !self.keeps_filters(in_use, &ids)? {
            let set = MapSet::pinned(loading);
            [FLOW_FILTER, PORT_FILTER].iter().try_for_each(|shape| set.open(shape)?.fill(FILTER_SIZE))?;
        }
        if is_migration {
            migrate::from_layout_1(&older, &MapSet::pinned(loading))?;
        }
        // Before the set is in place, as nothing repeats it for a call that is killed.
        match (reads_xdp, runs_on) {
            (true, _) => port_xdp::follow(loading)?,
            (false, false) => port_xdp::forget_all(loading, &self.directory())?,
            // The programs that go on running may read kernel memory, though this call cannot look up its layout.
            (false, true) => {}
        }
        bpffs::create_directories(&loading.join(self.unsettled()))?;
        self.put_in_place(loading, is_other)
    }

    /// Whether the programs that use the set so far keep its filters complete. If no running programs are known, the
    /// pinned ones count. `false` if this process cannot open them.
    fn keeps_filters(&self, in_use: Option<&InUse>, maps: &BTreeMap<&'static str, u32>) -> Result<bool> {
        let pinned = if in_use.is_none() { InUse::look(&self.pinned_programs())? } else { None };
        // cni_tc_egress does not use the filter of ports. No build has one filter without the other.
        Ok(in_use
            .or(pinned.as_ref())
            .is_some_and(|programs| programs.all_use(FLOW_FILTER.name, maps.get(FLOW_FILTER.name))))
    }

    /// Renames what was collected into the place of what is pinned.
    fn put_in_place(&self, loading: &Path, is_other: bool) -> Result<()> {
        let published = self.directory();
        let replaced = |path: &Path, error| Error::pin("replace the pin", path, error);
        if !published.try_exists().map_err(|error| Error::pin("look for the pins in", &published, error))? {
            return fs::rename(loading, &published)
                .map_err(|error| Error::pin("publish the pins as", &published, error));
        }
        // The mark goes first and comes last: meanwhile the set is outdated, and callers wait for the lock.
        let collected = names(loading)?;
        for name in names(&published)? {
            let path = published.join(&name);
            if is_mark(&name) {
                remove_tree(&path)?;
            } else if is_other && !collected.contains(&name) {
                fs::remove_file(&path).map_err(|error| replaced(&path, error))?;
            }
        }
        let (marks, pins): (Vec<_>, Vec<_>) = collected.iter().partition(|name| is_mark(name));
        for name in pins.into_iter().chain(marks) {
            let path = published.join(name);
            fs::rename(loading.join(name), &path).map_err(|error| replaced(&path, error))?;
        }
        Ok(())
    }

    /// Pins running programs in the place of pinned ones with the same code. So the pins of several BPF file systems come
    /// to agree, and calls by turns do not replace each other's programs.
    fn pin_twins(&self, loading: &Path, in_use: &InUse) -> Result<()> {
        let ids = self.pinned_ids()?;
        for name in ProgramName::ALL {
            let (new, path) = (loading.join(name.as_str()), self.directory().join(name.as_str()));
            let pinned = ProgramHandle::from_pinned_path(&path)
                .map_err(|error| Error::pin("open the pinned program", &path, io_error(error)))?;
            if let Some(twin) = in_use.twin(&pinned, &ids).filter(|twin| twin.id() != pinned.id()) {
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

fn is_mark(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(BUILD_MARK.as_bytes())
}

/// The ids of maps, by name.
fn ids(maps: &Maps) -> Result<BTreeMap<&'static str, u32>> {
    maps.iter().map(|(name, map)| Ok((*name, map_id(map)?))).collect()
}

/// Whether pins of maps that running programs use lead to others.
fn is_other(pinned: &BTreeMap<&'static str, u32>, in_use: &InUse) -> bool {
    in_use.maps.iter().any(|(name, id)| pinned.get(name).is_some_and(|pinned| pinned != id))
}
