//! Plain [bpf(2)], without libbpf.
//!
//! [bpf(2)]: https://man7.org/linux/man-pages/man2/bpf.2.html
#![expect(unsafe_code, reason = "bpf(2) has no safe binding without libbpf")]

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

/// Operations on an entry, with the number of the command.
#[derive(Debug, Clone, Copy)]
#[repr(i32)]
pub(crate) enum Row {
    LookUp = 1,
    Update = 2,
    Delete = 3,
}

const OPEN: libc::c_int = 7;
const TEST_RUN: libc::c_int = 10;
const LOOKUP_BATCH: libc::c_int = 24;
const UPDATE_BATCH: libc::c_int = 26;

#[derive(Default)]
#[repr(C)]
struct PinAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

#[derive(Default)]
#[repr(C)]
struct RowAttr {
    map: u32,
    hole: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[derive(Default)]
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

#[derive(Default)]
#[repr(C)]
struct RunAttr {
    program: u32,
    verdict: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context: [u64; 3],
    flags: [u32; 4],
}

/// Opens a pin.
pub(crate) fn open(pin: &Path) -> OwnedFd {
    let path = CString::new(pin.as_os_str().as_encoded_bytes()).expect("no NUL");
    let mut attr = PinAttr { path: path.as_ptr() as u64, ..PinAttr::default() };
    let fd = bpf(OPEN, &mut attr).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    // SAFETY: the kernel has just returned this descriptor, so it has no other owner.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Runs an operation on an entry. Returns false if the entry is absent. `value` has room for all
/// CPUs, or is null if the operation needs no value.
pub(crate) fn row(command: Row, map: &OwnedFd, key: &[u8; 4], value: *mut u8) -> bool {
    let map = map.as_raw_fd() as u32;
    let mut attr = RowAttr { map, key: key.as_ptr() as u64, value: value as u64, ..RowAttr::default() };
    match bpf(command as libc::c_int, &mut attr) {
        Ok(_) => true,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => false,
        Err(error) => panic!("{command:?}: {error}"),
    }
}

/// Inserts entries with one call.
pub(crate) fn update_batch<V>(map: &OwnedFd, keys: &[[u8; 4]], values: &[V]) {
    assert_eq!(keys.len(), values.len());
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len() as u32,
        map: map.as_raw_fd() as u32,
        ..BatchAttr::default()
    };
    bpf(UPDATE_BATCH, &mut attr).expect("room for all entries");
    assert_eq!(attr.count as usize, keys.len());
}

/// Reads all entries of a hash map with one call. The buffer must have room for them. Returns their
/// number.
pub(crate) fn look_up_batch<V: Copy>(map: &OwnedFd, entries: &mut [([u8; 4], V)]) -> usize {
    let mut keys = vec![[0_u8; 4]; entries.len()];
    let mut values: Vec<V> = entries.iter().map(|(_, value)| *value).collect();
    let mut token = 0_u32;
    let mut attr = BatchAttr {
        out_batch: (&raw mut token) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: entries.len() as u32,
        map: map.as_raw_fd() as u32,
        ..BatchAttr::default()
    };
    // The kernel returns this error at the end of the map.
    let end = bpf(LOOKUP_BATCH, &mut attr).expect_err("one call reads all entries");
    assert_eq!(end.raw_os_error(), Some(libc::ENOENT), "{end}");
    let found = attr.count as usize;
    for (row, new) in entries.iter_mut().zip(keys.into_iter().zip(values)).take(found) {
        *row = new;
    }
    found
}

/// Runs a program on a frame repeatedly. Returns the last verdict.
pub(crate) fn test_run(program: &impl AsFd, frame: &[u8], repeat: u32) -> i32 {
    let mut attr = RunAttr {
        program: program.as_fd().as_raw_fd() as u32,
        size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat,
        ..RunAttr::default()
    };
    bpf(TEST_RUN, &mut attr).expect("a program that runs");
    attr.verdict.cast_signed()
}

/// Calls bpf(2) and returns its result.
fn bpf<A>(command: libc::c_int, attr: &mut A) -> io::Result<i32> {
    // SAFETY: the attribute has the kernel's layout for the command, and the call receives its
    // size. Its pointers outlive the call. The callers above pass the sizes that map and program
    // were created with.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<A>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done as i32) }
}
