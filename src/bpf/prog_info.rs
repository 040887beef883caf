//! The kernel's information about a program.
#![expect(unsafe_code, reason = "libbpf-rs has no way to ask for the maps of one program")]

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use libbpf_rs::libbpf_sys as sys;

use super::object::check;

/// The maximum number of map ids that are read per program.
const MOST_MAPS: usize = 64;

/// The ids of the maps of a program.
pub(crate) fn map_ids(program: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; MOST_MAPS];
    // The kernel reports the number of maps, and writes only as many ids as fit.
    let found = info(program, &mut ids)?.nr_map_ids;
    ids.truncate(found as usize);
    Ok(ids)
}

/// The kernel's information about a program. Writes the ids of its maps to `ids`, as many as fit.
pub(crate) fn info(program: BorrowedFd<'_>, ids: &mut [u32]) -> io::Result<sys::bpf_prog_info> {
    let (nr_map_ids, map_ids) = (ids.len() as u32, ids.as_mut_ptr() as u64);
    let mut info = sys::bpf_prog_info { nr_map_ids, map_ids, ..Default::default() };
    let mut size = size_of::<sys::bpf_prog_info>() as u32;
    // SAFETY: the descriptor is open. The kernel writes at most `size` bytes to `info`, and at most
    // `nr_map_ids` numbers to `ids`.
    check(unsafe { sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &raw mut info, &raw mut size) })?;
    Ok(info)
}
