//! Wakes the agent when the kernel's network state changes.
//!
//! The messages are not read: the agent compares the whole state, whatever has changed. A lost
//! message therefore changes nothing either.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use tokio::sync::Notify;

/// `RTMGRP_LINK`, `_TC`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV6_IFADDR`, `_IPV6_ROUTE`.
const ROUTE_GROUPS: u32 = 0x1 | 0x8 | 0x10 | 0x40 | 0x100 | 0x400;

/// `NFNLGRP_NFTABLES`, the seventh group.
const NFTABLES_GROUPS: u32 = 1 << 6;

/// Joins the multicast groups of the kernel for links, addresses, routes, filters and nftables.
/// Each message in them notifies the returned value, until the process ends.
///
/// The sockets have a thread of their own, because tokio registers a file descriptor only by an
/// unsafe function.
///
/// # Errors
///
/// Fails if the kernel has no such groups, or if no thread can be started.
pub fn start() -> io::Result<Arc<Notify>> {
    let sockets = [join(None, ROUTE_GROUPS)?, join(Some(netlink::NETFILTER), NFTABLES_GROUPS)?];
    let changed = Arc::new(Notify::new());
    let notified = Arc::clone(&changed);
    thread::Builder::new().name("monitor".to_owned()).spawn(move || {
        loop {
            let mut ready = sockets.each_ref().map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN));
            // An interrupted wait looks for messages, too.
            let _ = poll(&mut ready, None);
            sockets.iter().for_each(drain);
            notified.notify_one();
        }
    })?;
    Ok(changed)
}

fn join(protocol: Option<Protocol>, groups: u32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// Drops all messages of a socket.
fn drain(socket: &OwnedFd) {
    let mut buffer = [0; 64];
    loop {
        match recv(socket, &mut buffer[..], RecvFlags::TRUNC) {
            // ENOBUFS: messages were lost, because the queue was full.
            Ok(_) | Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
