//! Real frames between two pods, the programs hung on the hosts' ends by `tc`.

use std::io;
use std::mem::size_of;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use cnikit::datapath::{Datapath, NetConfig, NetStats, PodCounters, PodPort};
use cnikit::spec::MacAddr;
use cnikit_testbed::{Host, Namespace, Pod, eventually, host};
use serde_json::Value;

use crate::support::datapath;

const GATEWAY_MAC: MacAddr = MacAddr::new([0x02, 0, 0, 0, 0, 0xfe]);
const PORT: u16 = 5_000;
const HEADERS: usize = ETHERNET + 20;
const ETHERNET: usize = 14;

/// Two pods on a bridge, with rows in the maps.
struct Bed {
    datapath: Datapath,
    pods: [Pod; 2],
}

impl Bed {
    fn new(host: &Host) -> Self {
        let datapath = datapath("one");
        datapath.ensure().expect("load");
        // Snooping makes the bridge send IGMP reports, which are packets like any other.
        host.ip(&format!("link add cbr0 address {GATEWAY_MAC} type bridge mcast_snooping 0"));
        host.ip("link set cbr0 up");
        datapath
            .configure(NetConfig { bridge_ifindex: index(host, "cbr0"), gateway_mac: GATEWAY_MAC })
            .expect("configure");
        let pods = [0, 1].map(|number| {
            let (pod, address, mac) = (host.pod(), address(number), mac(number));
            let netns = pod.netns();
            let netns = netns.display();
            host.ip(&format!("link add veth{number} type veth peer name eth0 address {mac} netns {netns}"));
            host.ip(&format!("link set veth{number} master cbr0 up"));
            // Else IPv6 would send packets of its own, and the links count them.
            pod.ip("link set eth0 addrgenmode none up");
            pod.ip(&format!("address add {address}/24 dev eth0"));
            let other = 1 - number;
            pod.ip(&format!("neighbour add {} lladdr {} dev eth0", self::address(other), self::mac(other)));
            host.tc(&format!("qdisc add dev veth{number} clsact"));
            for (hook, program) in [("ingress", "cni_tc_main"), ("egress", "cni_tc_egress")] {
                let pin = datapath.directory().join(program);
                let pin = pin.display();
                host.tc(&format!("filter add dev veth{number} {hook} bpf direct-action object-pinned {pin}"));
            }
            datapath.counters().and_then(|counters| counters.track(address.into())).expect("track");
            let port = PodPort { ifindex: index(host, &format!("veth{number}")), mac };
            datapath.ports().and_then(|ports| ports.insert(address.into(), port)).expect("insert");
            pod
        });
        Self { datapath, pods }
    }

    fn counters(&self, number: u8) -> PodCounters {
        let counters = self.datapath.counters().expect("open");
        counters.read(address(number).into()).expect("read").expect("a row")
    }

    /// Has the first pod send a frame as it is.
    fn send(&self, frame: &[u8]) {
        self.pods[0].enter(|| send(frame)).unwrap_or_else(|error| panic!("{} bytes: {error}", frame.len()));
    }

    fn end(self, host: &Host) {
        self.datapath.remove().expect("remove");
        for link in ["veth0", "veth1", "cbr0"] {
            host.ip(&format!("link del {link}"));
        }
    }
}

#[test]
fn a_datagram_is_delivered_directly_and_counted() {
    host(|host| {
        let bed = Bed::new(host);
        let receiver = bed.pods[1].enter(|| UdpSocket::bind((address(1), PORT)).unwrap());
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let sent = frame(b"directly");
        bed.send(&sent);
        let mut buffer = [0; 64];
        let (length, from) = receiver.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from.ip()), (b"directly".as_slice(), address(0).into()));

        let counters = bed.counters(0);
        assert_eq!((counters.tx_packets, counters.tx_direct, counters.rx_stack), (1, 1, 0));
        assert_eq!(counters.tx_bytes, sent.len() as u64);
        assert_eq!(bed.counters(1), PodCounters::default());
        assert_eq!(bed.datapath.stats().unwrap().direct, 1);
        drop(receiver);
        bed.end(host);
    });
}

#[test]
fn a_truncated_header_is_neither_counted_nor_redirected() {
    host(|host| {
        let bed = Bed::new(host);
        let whole = frame(b"");
        let lengths = ETHERNET + 1..HEADERS;
        let before = received(host, "veth0");
        for length in lengths.clone() {
            bed.send(&whole[..length]);
        }
        let all = before + lengths.len() as u64;
        eventually("the frames", Duration::from_secs(5), || received(host, "veth0") == all);
        assert_eq!(bed.counters(0), PodCounters::default());
        assert_eq!(bed.datapath.stats().unwrap(), NetStats::default());

        bed.send(&whole[..HEADERS]);
        eventually("the count", Duration::from_secs(5), || bed.counters(0).tx_packets == 1);
        assert_eq!(bed.datapath.stats().unwrap().direct, 1);
        bed.end(host);
    });
}

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 1, 2 + number)
}

fn mac(number: u8) -> MacAddr {
    MacAddr::new([0x02, 0, 0, 0, 0, 2 + number])
}

fn index(namespace: &impl Namespace, link: &str) -> u32 {
    let index = namespace.link(link).expect("a link")["ifindex"].as_u64().expect("an index");
    index.try_into().expect("32 bits")
}

/// The packets that a link has received, by its own statistics.
fn received(namespace: &impl Namespace, link: &str) -> u64 {
    let shown: Value = namespace.ip(&format!("-s link show dev {link}"));
    shown[0]["stats64"]["rx"]["packets"].as_u64().expect("a number")
}

/// A UDP datagram from the first pod to the second, without a checksum of its own.
fn frame(payload: &[u8]) -> Vec<u8> {
    let udp = u16::try_from(8 + payload.len()).expect("a small payload");
    let mut header = [0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[2..4].copy_from_slice(&(20 + udp).to_be_bytes());
    header[12..16].copy_from_slice(&address(0).octets());
    header[16..20].copy_from_slice(&address(1).octets());
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&checksum.to_be_bytes());

    let mut frame = [mac(1).octets(), mac(0).octets()].concat();
    frame.extend(0x0800_u16.to_be_bytes());
    frame.extend(header);
    for word in [PORT, PORT, udp, 0] {
        frame.extend(word.to_be_bytes());
    }
    frame.extend(payload);
    frame
}

/// Sends a frame by `eth0` of the thread's namespace, past the namespace's own stack: see [packet(7)].
///
/// [packet(7)]: https://man7.org/linux/man-pages/man7/packet.7.html
#[expect(unsafe_code, reason = "packet sockets have no safe binding")]
fn send(frame: &[u8]) -> io::Result<()> {
    // SAFETY: the call takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given out this descriptor and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the name is a string that ends with a NUL.
    let index = unsafe { libc::if_nametoindex(c"eth0".as_ptr()) };
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0x0800_u16.to_be(),
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    };
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: frame and address outlive the call, which is told their sizes.
    let sent = unsafe {
        libc::sendto(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, (&raw const address).cast(), length)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
