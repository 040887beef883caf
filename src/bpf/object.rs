//! Pins of bpf(2): opening a pin, and pinning a descriptor.
#![expect(
    unsafe_code,
    reason = "libbpf-rs opens pins of one kind without a check, and pins only objects of its own types"
)]

use std::ffi::{CString, c_int};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use libbpf_rs::libbpf_sys as sys;

/// The kind of a pinned object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Link,
    Map,
    Program,
}

impl Kind {
    /// The name of the object, and the name of its anonymous inode.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Link => ("the pin is not a BPF link", "anon_inode:bpf-link"),
            Self::Map => ("the pin is not a map", "anon_inode:bpf-map"),
            Self::Program => ("the pin is not a program", "anon_inode:bpf-prog"),
        }
    }
}

/// Opens a pin. A pin of another kind is [`io::ErrorKind::InvalidData`].
pub(crate) fn open(path: &Path, kind: Kind) -> io::Result<OwnedFd> {
    let name = c_path(path)?;
    // SAFETY: the path ends with a NUL.
    let fd = check(unsafe { sys::bpf_obj_get(name.as_ptr()) })?;
    // SAFETY: the kernel has just returned this descriptor, and no other code owns it.
    let object = unsafe { OwnedFd::from_raw_fd(fd) };
    // One call opens objects of all kinds, and their information has no common mark of the kind.
    let (mismatch, inode) = kind.names();
    match fs::read_link(format!("/proc/self/fd/{fd}"))? {
        found if found == Path::new(inode) => Ok(object),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, mismatch)),
    }
}

/// Pins the object of a descriptor.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let name = c_path(path)?;
    // SAFETY: the descriptor is open, and the path ends with a NUL.
    check(unsafe { sys::bpf_obj_pin(object.as_raw_fd(), name.as_ptr()) }).map(drop)
}

/// libbpf returns the kernel's result, or a negative error number.
pub(crate) fn check(returned: c_int) -> io::Result<c_int> {
    if returned < 0 { Err(io::Error::from_raw_os_error(-returned)) } else { Ok(returned) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
