//! Identifies namespaces by their file system, nsfs. `readlink` is no substitute: for a namespace
//! that a mount holds, such as those below `/run/netns`, it shows the path of the mount.
#![expect(unsafe_code, reason = "rustix does not wrap the requests of ioctl_nsfs(2)")]

use std::ffi::c_void;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::ptr;

use rustix::fs::{fstatfs, statfs};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

use crate::statfs::has_magic;

/// The network namespace of the calling thread.
pub(crate) const OWN: &str = "/proc/thread-self/ns/net";

/// `NSFS_MAGIC` of `linux/magic.h`.
const NSFS: u32 = 0x6e73_6673;

/// `CLONE_NEWNET` of [clone(2)](https://man7.org/linux/man-pages/man2/clone.2.html): the value that
/// `NS_GET_NSTYPE` returns for a network namespace.
const NETWORK: i32 = 0x4000_0000;

/// Whether a path refers to a namespace of any kind. Opens nothing.
pub(crate) fn leads_to_namespace(path: &Path) -> io::Result<bool> {
    Ok(has_magic(&statfs(path)?, NSFS))
}

/// Whether a descriptor refers to a network namespace.
pub(crate) fn is_network_namespace(fd: BorrowedFd<'_>) -> bool {
    // SAFETY: `fstatfs` comes first, and on nsfs this request number means `NS_GET_NSTYPE`.
    let kind = || unsafe { ioctl(fd, TypeOfNamespace) };
    fstatfs(fd).is_ok_and(|found| has_magic(&found, NSFS)) && kind().is_ok_and(|kind| kind == NETWORK)
}

/// `NS_GET_NSTYPE` of [ioctl_nsfs(2)](https://man7.org/linux/man-pages/man2/ioctl_nsfs.2.html).
struct TypeOfNamespace;

// SAFETY: the request takes no argument and returns a number.
unsafe impl Ioctl for TypeOfNamespace {
    type Output = IoctlOutput;

    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        opcode::none(0xb7, 0x3)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        ptr::null_mut()
    }

    unsafe fn output_from_ptr(found: IoctlOutput, _: *mut c_void) -> rustix::io::Result<IoctlOutput> {
        Ok(found)
    }
}
