//! Hearing from the kernel that a link is gone, while the one who deletes it still waits.
#![expect(unsafe_code, reason = "a socket filter has no safe binding")]

use std::{io, mem, os::fd::AsRawFd as _};

use libc::{BPF_ABS, BPF_B, BPF_H, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, c_int, socklen_t};
use neli::utils::Groups;

use super::socket::Socket;

const RTM_DELLINK: u16 = 17;
/// `RTNLGRP_LINK`: each change of a link is announced to this group.
const LINKS: u32 = 1;
/// The kernel's announcement that a link is deleted. `AF_BRIDGE` would say that it left its bridge, which comes before.
const AF_UNSPEC: u8 = 0;

/// A socket that hears of the deletion of one link, and of no other change, as long as this lives.
///
/// The filter keeps all other announcements out of the receive buffer, which those of a busy host would overflow.
#[derive(Debug)]
pub(super) struct DeletionNotices<'s> {
    socket: &'s Socket,
}

impl<'s> DeletionNotices<'s> {
    pub(super) fn listen(socket: &'s Socket, index: u32) -> io::Result<Self> {
        attach_filter(socket, &filter(socket.port(), index))?;
        // From here on, `drop` undoes both.
        let notices = Self { socket };
        socket.neli().add_mcast_membership(Groups::new_groups(&[LINKS]))?;
        Ok(notices)
    }
}

impl Drop for DeletionNotices<'_> {
    fn drop(&mut self) {
        // What a socket hears beside its answers is passed over: it would only be slower.
        let _ = self.socket.neli().drop_mcast_membership(Groups::new_groups(&[LINKS]));
        detach_filter(self.socket);
    }
}

/// Whether a message is the announcement that the link is gone.
pub(super) fn is_deletion(kind: u16, body: &[u8], index: u32) -> bool {
    // struct ifinfomsg: family, padding, type, index.
    kind == RTM_DELLINK && body.first() == Some(&AF_UNSPEC) && body.get(4..8) == Some(&index.to_ne_bytes()[..])
}

/// Lets pass what is for the socket's port, and the announcement that the link is gone.
fn filter(port: u32, index: u32) -> [libc::sock_filter; 10] {
    let instruction = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let load = |size: u32, at: u32| instruction(BPF_LD | size | BPF_ABS, at);
    let compare =
        |value: u32, jt: u8, jf: u8| libc::sock_filter { jt, jf, ..instruction(BPF_JMP | BPF_JEQ | BPF_K, value) };
    let verdict = |length: u32| instruction(BPF_RET | BPF_K, length);
    // Loads take the bytes of a packet in network order; netlink writes in the machine's.
    let word = |value: u32| u32::from_be_bytes(value.to_ne_bytes());
    let half = |value: u16| u16::from_be_bytes(value.to_ne_bytes()).into();
    [
        // struct nlmsghdr: the port is its last member; struct ifinfomsg begins at 16.
        load(BPF_W, 12),
        compare(word(port), 6, 0),
        load(BPF_H, 4),
        compare(half(RTM_DELLINK), 0, 5),
        load(BPF_B, 16),
        compare(AF_UNSPEC.into(), 0, 3),
        load(BPF_W, 20),
        compare(word(index), 0, 1),
        verdict(u32::MAX),
        verdict(0),
    ]
}

fn attach_filter(socket: &Socket, filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    let size = mem::size_of_val(&program) as socklen_t;
    let fd = socket.fd().as_raw_fd();
    // SAFETY: the program and its instructions outlive the call, which copies them and writes to neither.
    let set =
        unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const program).cast(), size) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn detach_filter(socket: &Socket) {
    let (fd, none) = (socket.fd().as_raw_fd(), c_int::default());
    let size = size_of::<c_int>() as socklen_t;
    // SAFETY: the kernel reads a number that lives through the call, and does not use it.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, (&raw const none).cast(), size) };
}

#[cfg(test)]
mod tests {
    use std::{os::fd::OwnedFd, time::Duration};

    use cnikit_testbed::privileged;
    use rustix::net::{
        AddressFamily, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink, sendto, socket_with,
    };

    use super::*;
    use crate::netlink::{BridgeSpec, Netns, error::Operation, socket::Deletion};

    /// A namespace with the bridge `cbr0`, the bridge `port0` as the link that is deleted, and a socket that deletes.
    struct Bed {
        netns: Netns,
        other: Socket,
        bridge: u32,
        doomed: u32,
    }

    impl Bed {
        fn new() -> Option<Self> {
            privileged().then_some(())?;
            let netns = Netns::create().expect("a namespace");
            let other = netns.socket().expect("a socket");
            let create = |name: &str| other.create_bridge(&BridgeSpec::new(name.parse().expect("a name")));
            let (bridge, doomed) = (create("cbr0").expect("a bridge"), create("port0").expect("a bridge"));
            Some(Self { netns, other, bridge, doomed })
        }

        /// More announcements than the receive buffer of a socket holds. Changes of a link that is down are not announced.
        fn flood(&self) {
            self.other.set_up(self.bridge).expect("bring it up");
            for round in 0..1000 {
                self.other.set_alias(self.bridge, &round.to_string()).expect("an alias");
            }
        }
    }

    /// Whether the socket hears of the deletion within a moment.
    fn hears(socket: &Socket, index: u32) -> bool {
        const MOMENT: Duration = Duration::from_millis(100);
        let (alive, _sender): (OwnedFd, _) =
            std::io::pipe().map(|(reader, writer)| (reader.into(), writer)).expect("a pipe");
        let operation = Operation::on_link("delete", index);
        let deletion = Deletion { operation: &operation, sequence: socket.next_sequence(), index };
        socket.await_deletion(&deletion, &alive, MOMENT).expect("a socket that can be read")
    }

    #[test]
    fn the_deletion_is_heard_past_any_number_of_other_announcements() {
        let Some(bed) = Bed::new() else { return };
        let socket = bed.netns.socket().expect("a socket");
        let notices = DeletionNotices::listen(&socket, bed.doomed).expect("a filter");
        bed.flood();
        bed.other.delete_link(bed.doomed).expect("delete");
        bed.flood();
        assert!(hears(&socket, bed.doomed));
        drop(notices);
        bed.flood();
        assert_eq!(socket.links().expect("the socket stays of use").len(), 2);
    }

    #[test]
    fn no_other_announcement_is_taken_for_it() {
        let Some(bed) = Bed::new() else { return };
        let socket = bed.netns.socket().expect("a socket");
        let veth = "link add veth0 type veth peer name veth1".split(' ');
        let made = bed.netns.run(|| std::process::Command::new("ip").args(veth).status()).expect("the namespace");
        assert!(made.expect("ip").success());
        let [port, peer] = ["veth0", "veth1"].map(|name| {
            bed.other.link_by_name(&name.parse().expect("a name")).expect("look up").expect("a link").index
        });
        let _notices = DeletionNotices::listen(&socket, port).expect("a filter");
        // A port that leaves its bridge is announced as deleted, in the family of bridges.
        bed.other.set_master(port, bed.bridge).expect("join");
        bed.other.set_master(port, 0).expect("leave");
        bed.other.delete_link(bed.doomed).expect("delete another link");
        // A process that may administer the namespace says that it is gone.
        let forger = bed.netns.run(|| socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None));
        let forger = forger.expect("the namespace").expect("a socket");
        let words = [32, u32::from(RTM_DELLINK), 0, 0, 0, port, 0, 0];
        let forged: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let to_port = SocketAddrNetlink::new(socket.port(), 0);
        sendto(&forger, &forged, SendFlags::empty(), &to_port).expect("send");
        assert!(!hears(&socket, port));
        // The deletion of a veth is that of both ends.
        bed.other.delete_link(peer).expect("delete");
        assert!(hears(&socket, port));
    }

    #[test]
    fn messages_that_were_dropped_are_no_word_of_it() {
        let Some(bed) = Bed::new() else { return };
        let socket = bed.netns.socket().expect("a socket");
        socket.neli().add_mcast_membership(Groups::new_groups(&[LINKS])).expect("join the group");
        bed.flood();
        bed.other.delete_link(bed.doomed).expect("delete");
        assert!(!hears(&socket, bed.doomed), "the buffer is full");
    }
}
