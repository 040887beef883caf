//! Wakes the agent when the kernel's network state changes.
//!
//! The messages are not read: the agent compares the whole state, whatever has changed. A lost
//! message therefore changes nothing either. The kernel sends no message if map entries or pins
//! disappear, so the agent counts the entries twice a second.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use cnikit::datapath::{self, Datapath};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use tokio::sync::Notify;

/// `RTMGRP_LINK`, `_TC`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV6_IFADDR`, `_IPV6_ROUTE`.
const ROUTE_GROUPS: u32 = 0x1 | 0x8 | 0x10 | 0x40 | 0x100 | 0x400;

/// `NFNLGRP_NFTABLES`, the seventh group.
const NFTABLES_GROUPS: u32 = 1 << 6;

/// The time between two looks at the maps.
const LOOK: Duration = Duration::from_millis(500);

/// Joins the multicast groups of the kernel for links, addresses, routes, filters and nftables.
/// Each message in them notifies the returned value, until the process ends. So does a smaller
/// number of entries in the maps of `datapath`.
///
/// The sockets have a thread of their own, because tokio registers a file descriptor only by an
/// unsafe function.
///
/// # Errors
///
/// Fails if the kernel has no such groups, or if no thread can be started.
pub fn start(datapath: Datapath) -> io::Result<Arc<Notify>> {
    let sockets = [join(None, ROUTE_GROUPS)?, join(Some(netlink::NETFILTER), NFTABLES_GROUPS)?];
    let changed = Arc::new(Notify::new());
    let notified = Arc::clone(&changed);
    thread::Builder::new().name("monitor".to_owned()).spawn(move || {
        let (mut looked, mut known) = (Instant::now(), 0);
        let timeout = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
        loop {
            let mut ready = sockets.each_ref().map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN));
            // An interrupted wait looks for messages, too.
            let is_idle = matches!(poll(&mut ready, Some(&timeout)), Ok(0));
            sockets.iter().for_each(drain);
            let mut is_changed = !is_idle;
            if looked.elapsed() >= LOOK {
                // Without pins, there are no entries.
                let found = entries(&datapath).unwrap_or(0);
                is_changed |= found < known;
                (looked, known) = (Instant::now(), found);
            }
            if is_changed {
                notified.notify_one();
            }
        }
    })?;
    Ok(changed)
}

/// The number of addresses and ports in the maps.
fn entries(datapath: &Datapath) -> datapath::Result<usize> {
    Ok(datapath.open_endpoints()?.addresses()?.len() + datapath.open_port_configs()?.indexes()?.len())
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
