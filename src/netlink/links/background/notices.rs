//! Receiving the notification of a link deletion, while the sender of the request still waits.
#![expect(unsafe_code, reason = "a socket filter has no safe binding")]

use std::{io, mem, os::fd::AsRawFd as _};

use libc::{BPF_ABS, BPF_B, BPF_H, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, c_int, socklen_t};
use neli::utils::Groups;

use crate::netlink::socket::Socket;
use crate::spec::IfIndex;

const RTM_DELLINK: u16 = 17;
/// The notification that a link is deleted. With the family `AF_BRIDGE` it means that the link left
/// its bridge, which happens earlier.
const AF_UNSPEC: u8 = 0;

/// `RTNLGRP_LINK`: the kernel notifies this group of each link change.
const LINKS: u32 = 1;

/// While this value exists, the socket receives the notification of one link's deletion, and no
/// other notifications.
///
/// The filter keeps all other notifications out of the receive buffer, which they would overflow on
/// a busy host.
#[derive(Debug)]
pub(super) struct DeletionNotices<'s> {
    socket: &'s Socket,
}

impl<'s> DeletionNotices<'s> {
    pub(super) fn listen(socket: &'s Socket, ifindex: IfIndex) -> io::Result<Self> {
        attach_filter(socket, &filter(socket.port(), ifindex))?;
        // From here on, `drop` undoes both.
        let notices = Self { socket };
        socket.neli().add_mcast_membership(Groups::new_groups(&[LINKS]))?;
        Ok(notices)
    }
}

impl Drop for DeletionNotices<'_> {
    fn drop(&mut self) {
        // If this fails, the socket still works: it skips the notifications, but is slower.
        let _ = self.socket.neli().drop_mcast_membership(Groups::new_groups(&[LINKS]));
        detach_filter(self.socket);
    }
}

/// Whether a message is the notification that the link is gone.
pub(super) fn is_deletion(kind: u16, body: &[u8], ifindex: IfIndex) -> bool {
    // struct ifinfomsg: family, padding, type, index.
    kind == RTM_DELLINK && body.first() == Some(&AF_UNSPEC) && body.get(4..8) == Some(&ifindex.get().to_ne_bytes()[..])
}

/// Passes messages for the socket's port, and the notification that the link is gone.
fn filter(port: u32, ifindex: IfIndex) -> [libc::sock_filter; 10] {
    let instruction = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let load = |size: u32, at: u32| instruction(BPF_LD | size | BPF_ABS, at);
    let compare =
        |value: u32, jt: u8, jf: u8| libc::sock_filter { jt, jf, ..instruction(BPF_JMP | BPF_JEQ | BPF_K, value) };
    let verdict = |length: u32| instruction(BPF_RET | BPF_K, length);
    // Loads read the bytes of a packet in network order; netlink writes in native order.
    let word = |value: u32| u32::from_be_bytes(value.to_ne_bytes());
    let half = |value: u16| u16::from_be_bytes(value.to_ne_bytes()).into();
    [
        // struct nlmsghdr: the port is its last member. struct ifinfomsg begins at 16.
        load(BPF_W, 12),
        compare(word(port), 6, 0),
        load(BPF_H, 4),
        compare(half(RTM_DELLINK), 0, 5),
        load(BPF_B, 16),
        compare(AF_UNSPEC.into(), 0, 3),
        load(BPF_W, 20),
        compare(word(ifindex.get()), 0, 1),
        verdict(u32::MAX),
        verdict(0),
    ]
}

fn attach_filter(socket: &Socket, filter: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    let size = mem::size_of_val(&program) as socklen_t;
    let fd = socket.fd().as_raw_fd();
    // SAFETY: the program and its instructions outlive the call, which copies them and writes to
    // neither.
    let set =
        unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const program).cast(), size) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn detach_filter(socket: &Socket) {
    let (fd, none) = (socket.fd().as_raw_fd(), c_int::default());
    let size = size_of::<c_int>() as socklen_t;
    // SAFETY: the kernel reads an integer that outlives the call, and ignores its value.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, (&raw const none).cast(), size) };
}

#[cfg(test)]
#[cfg(cnikit_repository)]
mod tests {
    use std::{os::fd::OwnedFd, time::Duration};

    use cnikit_testbed::privileged;
    use neli::consts::rtnl::Ifla;
    use rustix::net::{
        AddressFamily, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink, sendto, socket_with,
    };

    use super::super::wait::Deletion;
    use super::*;
    use crate::netlink::{BridgeSpec, Netns, operation::Operation, wire::Attrs};

    /// A namespace with the bridge `cbr0`, the bridge `port0` (the link to delete), and a second
    /// socket that deletes.
    struct Fixture {
        netns: Netns,
        other: Socket,
        bridge: IfIndex,
        target: IfIndex,
    }

    impl Fixture {
        fn new() -> Option<Self> {
            privileged().then_some(())?;
            let netns = Netns::create().expect("a namespace");
            let other = netns.socket().expect("a socket");
            let create = |name: &str| other.create_bridge(&BridgeSpec::new(name.parse().expect("a name")));
            let (bridge, target) = (create("cbr0").expect("a bridge"), create("port0").expect("a bridge"));
            Some(Self { netns, other, bridge, target })
        }

        /// Sends more notifications than the receive buffer of a socket holds. Changes of a link
        /// that is down cause no notifications.
        fn flood(&self) {
            self.other.set_up(self.bridge).expect("bring it up");
            for round in 0..1000 {
                self.other.set_alias(self.bridge, &round.to_string()).expect("an alias");
            }
        }
    }

    /// Whether the socket receives the notification within a short time.
    fn receives_deletion(socket: &Socket, ifindex: IfIndex) -> bool {
        const MOMENT: Duration = Duration::from_millis(100);
        let (alive, _sender): (OwnedFd, _) =
            std::io::pipe().map(|(reader, writer)| (reader.into(), writer)).expect("a pipe");
        let operation = Operation::on_link("delete", ifindex);
        let deletion = Deletion { operation: &operation, sequence: socket.next_sequence(), ifindex };
        socket.await_deletion(&deletion, &alive, MOMENT).expect("a socket that can be read")
    }

    #[test]
    fn deletion_is_received_among_many_other_notifications() {
        let Some(fixture) = Fixture::new() else { return };
        let socket = fixture.netns.socket().expect("a socket");
        let notices = DeletionNotices::listen(&socket, fixture.target).expect("a filter");
        fixture.flood();
        fixture.other.delete_link(fixture.target).expect("delete");
        fixture.flood();
        assert!(receives_deletion(&socket, fixture.target));
        drop(notices);
        fixture.flood();
        assert_eq!(socket.links().expect("the socket still works").len(), 2);
    }

    #[test]
    fn other_notifications_are_ignored() {
        let Some(fixture) = Fixture::new() else { return };
        let socket = fixture.netns.socket().expect("a socket");
        let veth = "link add veth0 type veth peer name veth1".split(' ');
        let created =
            fixture.netns.run(|| std::process::Command::new("ip").args(veth).status()).expect("enter the namespace");
        assert!(created.expect("ip").success());
        let [port, peer] = ["veth0", "veth1"].map(|name| {
            fixture.other.link_by_name(&name.parse().expect("a name")).expect("look up").expect("a link").index
        });
        let _notices = DeletionNotices::listen(&socket, port).expect("a filter");
        // The kernel reports a port that leaves its bridge as deleted, in the family AF_BRIDGE.
        fixture.other.set_master(port, fixture.bridge).expect("join");
        let no_master = Attrs::new().put(Ifla::Master, 0_u32);
        fixture.other.set(port, "unset the master of", no_master).expect("leave");
        fixture.other.delete_link(fixture.target).expect("delete another link");
        // A process with CAP_NET_ADMIN in the namespace sends a forged notification.
        let forger =
            fixture.netns.run(|| socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None));
        let forger = forger.expect("enter the namespace").expect("a socket");
        let words = [32, u32::from(RTM_DELLINK), 0, 0, 0, port.get(), 0, 0];
        let forged: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let to_port = SocketAddrNetlink::new(socket.port(), 0);
        sendto(&forger, &forged, SendFlags::empty(), &to_port).expect("send");
        assert!(!receives_deletion(&socket, port));
        // The deletion of one veth end also deletes the other end.
        fixture.other.delete_link(peer).expect("delete");
        assert!(receives_deletion(&socket, port));
    }

    #[test]
    fn dropped_messages_do_not_count_as_deletion() {
        let Some(fixture) = Fixture::new() else { return };
        let socket = fixture.netns.socket().expect("a socket");
        socket.neli().add_mcast_membership(Groups::new_groups(&[LINKS])).expect("join the group");
        fixture.flood();
        fixture.other.delete_link(fixture.target).expect("delete");
        assert!(!receives_deletion(&socket, fixture.target), "the buffer is full");
    }
}
