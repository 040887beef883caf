//! The system calls for tap links: `/dev/net/tun` and the namespace of a socket.
#![expect(unsafe_code, reason = "the requests of the tun driver have no safe binding")]

use std::{
    ffi::{c_int, c_ulong},
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use rustix::fs::{Mode, OFlags};

use crate::spec::{IfIndex, IfName};

/// The device of the tun driver.
pub(super) const DEVICE: &str = "/dev/net/tun";

/// `SIOCGSKNS` of `linux/sockios.h`, which is the same on all architectures.
const SIOCGSKNS: u32 = 0x894c;

/// `struct ifreq`: the name, and a union of 24 bytes that starts with the flags.
#[repr(C)]
struct Ifreq {
    name: [u8; libc::IFNAMSIZ],
    flags: u16,
    rest: [u8; 22],
}

/// A setting of a tap link.
#[derive(Debug, Clone, Copy)]
pub(super) enum Setting {
    /// The user that may open the link.
    Owner(u32),
    /// The group that may open the link.
    Group(u32),
    /// The link stays after the [`Queue`].
    Persist,
}

/// A descriptor of the tun driver. Until the link is [persistent](Setting::Persist), the link
/// disappears with this value.
#[derive(Debug)]
pub(super) struct Queue(OwnedFd);

impl Queue {
    /// Opens the driver. Its links are in the namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        Ok(Self(rustix::fs::open(DEVICE, flags, Mode::empty())?))
    }

    /// Sets the index of the link that [`Queue::create`] creates.
    pub(super) fn choose_index(&self, index: IfIndex) -> io::Result<()> {
        let index = index.get();
        // SAFETY: the kernel reads an unsigned int from the pointer.
        done(unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TUNSETIFINDEX, &raw const index) })
    }

    /// Creates a tap link. Fails with `EBUSY` if a link has the name or the index.
    pub(super) fn create(&self, name: &IfName, multi_queue: bool) -> io::Result<()> {
        let queues = if multi_queue { libc::IFF_MULTI_QUEUE } else { 0 };
        // The flags fit in 16 bits.
        let flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_TUN_EXCL | queues) as u16;
        let mut request = Ifreq { name: [0; libc::IFNAMSIZ], flags, rest: [0; 22] };
        for (to, from) in request.name.iter_mut().zip(name.as_str().bytes()) {
            *to = from;
        }
        // SAFETY: the kernel reads and writes a struct ifreq, which is not larger than this one.
        done(unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })
    }

    /// Changes a setting that the driver takes as a number.
    pub(super) fn set(&self, setting: Setting) -> io::Result<()> {
        let (request, number) = match setting {
            Setting::Owner(uid) => (libc::TUNSETOWNER, uid),
            Setting::Group(gid) => (libc::TUNSETGROUP, gid),
            Setting::Persist => (libc::TUNSETPERSIST, 1),
        };
        // SAFETY: the argument of these requests is a number.
        done(unsafe { libc::ioctl(self.0.as_raw_fd(), request, c_ulong::from(number)) })
    }
}

/// The network namespace of a socket (Linux 4.10).
pub(super) fn namespace_of(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the request has no argument. The type of its number depends on the C library.
    let fd = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCGSKNS as _) };
    done(fd)?;
    // SAFETY: the kernel returned a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn done(returned: c_int) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
