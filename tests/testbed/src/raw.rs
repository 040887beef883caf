//! Frames that bypass the network stack: see [packet(7)].
//!
//! [packet(7)]: https://man7.org/linux/man-pages/man7/packet.7.html
#![expect(unsafe_code, reason = "packet sockets have no safe binding")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const ALL: u16 = 0x0003;

/// Sends a frame through `eth0` of the thread's namespace.
///
/// # Errors
///
/// Errors of the kernel: `EMSGSIZE` if the frame exceeds the MTU.
pub fn send(frame: &[u8]) -> io::Result<()> {
    let socket = open(0)?;
    let (address, length) = eth0(u16::from_be_bytes([frame[12], frame[13]]));
    // SAFETY: frame and address outlive the call, which receives their sizes.
    let sent = unsafe {
        libc::sendto(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, (&raw const address).cast(), length)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives all frames that arrive at `eth0` of the thread's namespace.
#[derive(Debug)]
pub struct Ear(OwnedFd);

impl Ear {
    /// Starts to receive.
    ///
    /// # Errors
    ///
    /// Errors of the kernel.
    pub fn open() -> io::Result<Self> {
        let socket = open(ALL)?;
        let ignore_own: libc::c_int = 1;
        let size = size_of_val(&ignore_own) as libc::socklen_t;
        let (level, option) = (libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING);
        // SAFETY: the value outlives the call, which receives its size.
        let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const ignore_own).cast(), size) };
        if set < 0 {
            return Err(io::Error::last_os_error());
        }
        let (address, length) = eth0(ALL);
        // SAFETY: the address outlives the call, which receives its size.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(Self(socket)) }
    }

    /// The frames since the last call.
    #[must_use]
    pub fn frames(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = vec![0_u8; 1 << 16];
        loop {
            // SAFETY: the buffer outlives the call, which receives its size.
            let length =
                unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
            let Ok(length) = usize::try_from(length) else { return frames };
            frames.push(buffer[..length].to_vec());
        }
    }
}

fn open(protocol: u16) -> io::Result<OwnedFd> {
    let (kind, protocol) = (libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(protocol.to_be()));
    // SAFETY: the call has no pointer arguments.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor, so it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn eth0(protocol: u16) -> (libc::sockaddr_ll, libc::socklen_t) {
    // SAFETY: the name is a string with a terminating NUL.
    let index = unsafe { libc::if_nametoindex(c"eth0".as_ptr()) };
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    };
    (address, size_of::<libc::sockaddr_ll>() as libc::socklen_t)
}
