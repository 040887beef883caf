//! What a descriptor of a namespace is of. Only the kernel can tell: what `readlink` shows of a namespace that a mount
//! holds, as those below `/run/netns` are, is the path of the mount.
#![expect(unsafe_code, reason = "rustix has no wrapper of the requests of ioctl_nsfs(2)")]

use std::ffi::c_void;
use std::os::fd::BorrowedFd;
use std::ptr;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};

/// The namespace of the calling thread.
pub(crate) const OWN: &str = "/proc/thread-self/ns/net";

/// `NSFS_MAGIC` of `linux/magic.h`.
const NSFS: u32 = 0x6e73_6673;

/// `CLONE_NEWNET` of [clone(2)](https://man7.org/linux/man-pages/man2/clone.2.html), which `NS_GET_NSTYPE` answers with.
const NETWORK: i32 = 0x4000_0000;

/// Whether a descriptor is one of a network namespace.
pub(crate) fn is_network_namespace(fd: BorrowedFd<'_>) -> bool {
    #[allow(clippy::unnecessary_cast, reason = "the member's type differs between architectures")]
    let is_namespace = rustix::fs::fstatfs(fd).is_ok_and(|stat| stat.f_type as u32 == NSFS);
    // SAFETY: on a file of this file system the request is what it says it is.
    let kind = || unsafe { ioctl(fd, TypeOfNamespace) };
    is_namespace && kind().is_ok_and(|kind| kind == NETWORK)
}

/// `NS_GET_NSTYPE` of [ioctl_nsfs(2)](https://man7.org/linux/man-pages/man2/ioctl_nsfs.2.html).
struct TypeOfNamespace;

// SAFETY: the request takes no argument, and what it returns is a number.
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
