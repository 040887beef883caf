//! Frames of ARP and neighbor discovery, and the packet socket that sends and receives them.
#![expect(unsafe_code, reason = "packet sockets and their filters have no safe binding")]

use std::{
    io,
    mem::size_of,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, OwnedFd},
};

use libc::{sock_filter, sock_fprog, sockaddr_ll, socklen_t};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::spec::{IfIndex, MacAddr};

const ETH_P_ALL: u16 = 0x0003;
pub(super) const ETH_P_ARP: u16 = 0x0806;
pub(super) const ETH_P_IPV6: u16 = 0x86dd;
pub(super) const ICMPV6: u8 = 58;
pub(super) const NEIGHBOR_SOLICITATION: u8 = 135;
pub(super) const NEIGHBOR_ADVERTISEMENT: u8 = 136;

/// The offsets of the frame's payload and of the neighbor discovery message.
pub(super) const ETHERNET: usize = 14;
pub(super) const ICMP: usize = ETHERNET + 40;

/// A packet socket on one link that receives ARP and neighbor discovery.
pub(super) fn open(ifindex: IfIndex) -> io::Result<OwnedFd> {
    // The socket receives nothing before the bind, because it has no protocol yet.
    let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let filter = filter();
    let program = sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    let address = sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ETH_P_ALL.to_be(),
        sll_ifindex: ifindex.get().cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let (option, length) = (libc::SO_ATTACH_FILTER, size_of::<sock_fprog>() as socklen_t);
    // SAFETY: program and filter outlive the call, which receives their sizes. The kernel copies
    // the filter.
    let filtered =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const program).cast(), length) };
    if filtered < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the address outlives the call, which receives its size.
    let bound =
        unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of::<sockaddr_ll>() as socklen_t) };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
}

/// Passes untagged ARP, neighbor solicitations and neighbor advertisements. Without the filter, a
/// busy link would fill the socket's buffer.
fn filter() -> [sock_filter; 12] {
    const SNAP: u32 = 128;
    const ANCILLARY: u32 = (libc::SKF_AD_OFF as u32).wrapping_add(libc::SKF_AD_VLAN_TAG_PRESENT as u32);
    let load = |size: u32, at: u32| instruction(libc::BPF_LD | size | libc::BPF_ABS, [0, 0], at);
    let equal = |value: u32, jumps: [u8; 2]| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, jumps, value);
    let verdict = |length: u32| instruction(libc::BPF_RET | libc::BPF_K, [0, 0], length);
    [
        load(libc::BPF_W, ANCILLARY),
        equal(0, [0, 9]),
        load(libc::BPF_H, 12),
        equal(ETH_P_ARP.into(), [6, 0]),
        equal(ETH_P_IPV6.into(), [0, 6]),
        load(libc::BPF_B, ETHERNET as u32 + 6),
        equal(ICMPV6.into(), [0, 4]),
        load(libc::BPF_B, ICMP as u32),
        equal(NEIGHBOR_SOLICITATION.into(), [1, 0]),
        equal(NEIGHBOR_ADVERTISEMENT.into(), [0, 1]),
        verdict(SNAP),
        verdict(0),
    ]
}

const fn instruction(code: u32, [jt, jf]: [u8; 2], k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

/// An ARP request ([RFC 826](https://www.rfc-editor.org/rfc/rfc826)) to all machines on the link.
pub(super) fn arp_request(mac: MacAddr, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    // The hardware type Ethernet, the protocol IPv4, their address lengths, the operation request.
    const REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
    let ethernet = ethernet([0xff; 6], mac, ETH_P_ARP);
    [&ethernet[..], &REQUEST, &mac.octets(), &sender.octets(), &[0; 6], &target.octets()].concat()
}

/// A message of neighbor discovery to a multicast group. The function sets the checksum.
pub(super) fn neighbor_discovery(mac: MacAddr, source: Ipv6Addr, group: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    const HOP_LIMIT: u8 = 255;
    let length = message.len() as u8;
    let [.., w, x, y, z] = group.octets();
    let ethernet = ethernet([0x33, 0x33, w, x, y, z], mac, ETH_P_IPV6);
    let addresses = [source.octets(), group.octets()].concat();
    let pseudo = [&addresses[..], &[0, 0, 0, length, 0, 0, 0, ICMPV6], &message].concat();
    message[2..4].copy_from_slice(&checksum(&pseudo));
    [&ethernet[..], &[0x60, 0, 0, 0, 0, length, ICMPV6, HOP_LIMIT], &addresses, &message].concat()
}

fn ethernet(destination: [u8; 6], source: MacAddr, protocol: u16) -> Vec<u8> {
    [&destination[..], &source.octets(), &protocol.to_be_bytes()].concat()
}

/// The Internet checksum (RFC 1071) of an even number of octets.
pub(super) fn checksum(bytes: &[u8]) -> [u8; 2] {
    let sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!(((folded & 0xffff) + (folded >> 16)) as u16)).to_be_bytes()
}
