//! Running programs, opened by id, and their maps.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use libbpf_rs::{MapCore as _, MapHandle, ProgramHandle};
use tracing::debug;

use super::map::Maps;
use super::map_specs::{FLOW_FILTER, MAPS, PORT_FILTER};
use super::program::ProgramName;
use super::{Error, Result};
use crate::bpf::error::io_error;
use crate::bpf::prog_info::{info, map_ids};

/// The running programs of a set, and their maps.
pub(super) struct InUse {
    programs: Vec<Running>,
    /// The ids of the maps in [`MAPS`], by name.
    pub(super) maps: BTreeMap<&'static str, u32>,
}

/// One program.
struct Running {
    name: ProgramName,
    handle: ProgramHandle,
    maps: BTreeMap<&'static str, u32>,
}

impl InUse {
    /// Opens programs by id. `None` if no program belongs to this library and this layout. Also
    /// `None` without `CAP_SYS_ADMIN`, which opening by id needs.
    ///
    /// If programs use different maps with one name, the map of the first program in `ids` is used.
    pub(super) fn look(ids: &[u32]) -> Result<Option<Self>> {
        let mut found = Self { programs: Vec::new(), maps: BTreeMap::new() };
        for id in ids {
            match Running::look(*id) {
                Ok(Some(program)) => {
                    for (name, map) in &program.maps {
                        found.maps.entry(*name).or_insert(*map);
                    }
                    found.programs.push(program);
                }
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    debug!("cannot look at the eBPF program {id}: {error}");
                    return Ok(None);
                }
                Err(source) => return Err(Error::Program { id: *id, source }),
            }
        }
        Ok((!found.maps.is_empty()).then_some(found))
    }

    /// Opens the maps.
    pub(super) fn open(&self) -> Result<Maps> {
        let open = |(name, id): (&&'static str, &u32)| {
            let opened = MapHandle::from_map_id(*id);
            let failed =
                |error| Error::Map { operation: format!("open the id {id}"), map: name, source: io_error(error) };
            opened.map(|map| (*name, map)).map_err(failed)
        };
        self.maps.iter().map(open).collect()
    }

    /// Whether the programs keep `flow_filter` of the set `maps` complete: all of them use it.
    pub(super) fn keeps_flow_filter(&self, maps: &BTreeMap<&'static str, u32>) -> bool {
        self.programs.iter().all(|program| program.uses(FLOW_FILTER.name, maps))
    }

    /// Whether the build of the programs keeps `port_filter` of the set `maps` complete.
    ///
    /// Only `cni_tc_main` uses the filter. Without this program, nothing shows which filter its
    /// build has written to. A program without `flow_filter` belongs to a build without both
    /// filters, whatever the other programs use.
    pub(super) fn keeps_port_filter(&self, maps: &BTreeMap<&'static str, u32>) -> bool {
        let mut main = self.programs.iter().filter(|program| program.name == ProgramName::Main).peekable();
        self.keeps_flow_filter(maps)
            && main.peek().is_some()
            && main.all(|program| program.uses(PORT_FILTER.name, maps))
    }

    /// A running program with the code of `loaded` that uses only maps in `maps`.
    ///
    /// The tag of a program covers its code, but not the constants set before the load. A program
    /// that does not read the XDP state of pods is shorter, because the verifier removes that code.
    /// A shorter program is no twin.
    pub(super) fn twin(&self, loaded: &ProgramHandle, maps: &BTreeMap<&'static str, u32>) -> Option<&ProgramHandle> {
        let is_twin = |program: &&Running| {
            program.name.as_str() == loaded.name()
                && program.handle.tag() == loaded.tag()
                && verified_len(program.handle.as_fd()) >= verified_len(loaded.as_fd())
                && program.maps.iter().all(|(name, id)| maps.get(name) == Some(id))
        };
        self.programs.iter().find(is_twin).map(|program| &program.handle)
    }
}

impl Running {
    fn look(id: u32) -> io::Result<Option<Self>> {
        let handle = ProgramHandle::from_prog_id(id).map_err(io_error)?;
        let Some(name) = ProgramName::ALL.into_iter().find(|name| name.as_str() == handle.name()) else {
            return Ok(None);
        };
        let mut maps = BTreeMap::new();
        for id in map_ids(handle.as_fd())? {
            let map = MapHandle::from_map_id(id).map_err(io_error)?;
            let Some(spec) = MAPS.iter().find(|spec| map.name() == spec.name) else { continue };
            if (map.key_size() as usize, map.value_size() as usize) != spec.sizes {
                return Ok(None);
            }
            maps.insert(spec.name, id);
        }
        Ok(Some(Self { name, handle, maps }))
    }

    /// Whether the program uses the map `name` of the set `maps`.
    fn uses(&self, name: &str, maps: &BTreeMap<&'static str, u32>) -> bool {
        maps.get(name).is_some_and(|id| self.maps.get(name) == Some(id))
    }
}

/// The id of an open map.
pub(super) fn map_id(map: &MapHandle) -> Result<u32> {
    map.info().map(|info| info.info.id).map_err(|error| Error::Load { source: io_error(error) })
}

/// The length of a program after verification, in bytes. 0 if the kernel does not report the
/// length.
fn verified_len(program: BorrowedFd<'_>) -> u32 {
    info(program, &mut []).map_or(0, |info| info.xlated_prog_len)
}
