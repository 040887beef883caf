//! Crafted packets through the loaded programs, by `BPF_PROG_TEST_RUN`.
//!
//! The kernel runs them as if they had come in by `lo`, so that index 1 stands for the port here.

use std::mem::MaybeUninit;
use std::net::Ipv4Addr;

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, MapHandle, ProgramInput};
use zerocopy::IntoBytes;

use super::generated::{CniTcSkel, CniTcSkelBuilder};
use crate::datapath::layout::{RawNetConfig, RawPodPort};
use crate::datapath::maps::{self, CounterMap};
use crate::datapath::{NetConfig, NetStats, PodCounters, PodPort};
use crate::spec::MacAddr;

/// `TC_ACT_REDIRECT` and `TC_ACT_UNSPEC` of `linux/pkt_cls.h`.
const REDIRECT: i32 = 7;
const UNSPEC: i32 = -1;

const PORT: u32 = 1;
const OTHER_PORT: u32 = 77;
const BRIDGE: u32 = 99;

const POD_A: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);
const POD_B: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 3);
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

const MAC_A: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];
const MAC_B: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0b];
const MAC_GATEWAY: [u8; 6] = [0x02, 0, 0, 0, 0, 0xfe];
const MAC_THIRD: [u8; 6] = [0x02, 0, 0, 0, 0, 0x33];

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const HEADERS: usize = 14 + 20;

/// A loaded object of its own for each test: pod A on the port that packets come in by, pod B on
/// another.
struct Loaded {
    skeleton: CniTcSkel<'static>,
}

impl Loaded {
    fn new() -> Option<Self> {
        if !cnikit_testbed::privileged() {
            return None;
        }
        let storage = Box::leak(Box::new(MaybeUninit::uninit()));
        let skeleton = CniTcSkelBuilder::default().open(storage).unwrap().load().unwrap();
        let loaded = Self { skeleton };
        loaded.configure(BRIDGE);
        for pod in [POD_A, POD_B] {
            CounterMap::new(handle(&loaded.skeleton.maps.pkt_count)).track(pod.into()).unwrap();
        }
        loaded.place(POD_A, PORT, MAC_A);
        loaded.place(POD_B, OTHER_PORT, MAC_B);
        Some(loaded)
    }

    fn configure(&self, bridge_ifindex: u32) {
        let config = NetConfig { bridge_ifindex, gateway_mac: MacAddr::new(MAC_GATEWAY) };
        let row = RawNetConfig::from(config);
        let map = &self.skeleton.maps.net_config;
        map.update(&[0; 4], row.as_bytes(), MapFlags::ANY).unwrap();
    }

    fn place(&self, pod: Ipv4Addr, ifindex: u32, mac: [u8; 6]) {
        let row = RawPodPort::from(PodPort { ifindex, mac: MacAddr::new(mac) });
        let map = &self.skeleton.maps.pod_ifindex;
        map.update(&pod.octets(), row.as_bytes(), MapFlags::ANY).unwrap();
    }

    /// The verdict on a frame, and the frame as the program left it.
    fn ingress(&self, frame: &[u8]) -> (i32, Vec<u8>) {
        let mut out = vec![0; frame.len()];
        let input = ProgramInput { data_in: Some(frame), data_out: Some(&mut out), ..ProgramInput::default() };
        let verdict = self.skeleton.progs.cni_tc_main.test_run(input).unwrap().return_value;
        (verdict.cast_signed(), out)
    }

    fn egress(&self, frame: &[u8]) -> i32 {
        let input = ProgramInput { data_in: Some(frame), ..ProgramInput::default() };
        let output = self.skeleton.progs.cni_tc_egress.test_run(input).unwrap();
        output.return_value.cast_signed()
    }

    fn counters(&self, pod: Ipv4Addr) -> PodCounters {
        let map = CounterMap::new(handle(&self.skeleton.maps.pkt_count));
        map.read(pod.into()).unwrap().unwrap()
    }

    fn stats(&self) -> NetStats {
        maps::read_stats(&handle(&self.skeleton.maps.net_stats)).unwrap()
    }
}

fn handle(map: &libbpf_rs::MapMut<'_>) -> MapHandle {
    MapHandle::try_from(map).unwrap()
}

/// An Ethernet frame with an IPv4 header and eight bytes of payload.
fn frame(to: [u8; 6], source: Ipv4Addr, destination: Ipv4Addr, ttl: u8) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADERS + 8);
    frame.extend(to);
    frame.extend(MAC_A);
    frame.extend(ETHERTYPE_IPV4.to_be_bytes());
    frame.extend([0x45, 0, 0, 28, 0, 1, 0, 0, ttl, 17, 0, 0]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    let checksum = checksum(&frame[14..HEADERS]);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame.extend([0; 8]);
    frame
}

/// RFC 1071. Over a header that holds its own checksum the result is 0.
fn checksum(header: &[u8]) -> u16 {
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()
}

#[test]
fn a_packet_for_a_pod_is_redirected_untouched_and_counted() {
    let Some(loaded) = Loaded::new() else { return };
    let sent = frame(MAC_B, POD_A, POD_B, 64);

    assert_eq!(loaded.ingress(&sent), (REDIRECT, sent.clone()));

    let counters = loaded.counters(POD_A);
    assert_eq!((counters.tx_packets, counters.tx_direct, counters.rx_stack), (1, 1, 0));
    assert_eq!(counters.tx_bytes, sent.len() as u64);
    assert_eq!(loaded.counters(POD_B), PodCounters::default());
    assert_eq!(loaded.stats(), NetStats { direct: 1, ..NetStats::default() });
}

#[test]
fn a_packet_for_the_gateways_mac_is_routed() {
    let Some(loaded) = Loaded::new() else { return };

    let (verdict, routed) = loaded.ingress(&frame(MAC_GATEWAY, POD_A, POD_B, 64));

    assert_eq!(verdict, REDIRECT);
    assert_eq!(routed[..6], MAC_B, "to the pod");
    assert_eq!(routed[6..12], MAC_GATEWAY, "from the gateway");
    assert_eq!(routed[22], 63, "one hop less to live");
    assert_eq!(checksum(&routed[14..HEADERS]), 0, "a valid header");
}

#[test]
fn the_stack_answers_for_a_packet_that_may_not_be_routed() {
    let Some(loaded) = Loaded::new() else { return };
    for ttl in [0, 1] {
        let sent = frame(MAC_GATEWAY, POD_A, POD_B, ttl);
        assert_eq!(loaded.ingress(&sent), (UNSPEC, sent.clone()), "TTL {ttl}");
    }
    let delivered = frame(MAC_B, POD_A, POD_B, 1);
    assert_eq!(loaded.ingress(&delivered).0, REDIRECT, "on the link no hop is spent");
}

#[test]
fn the_bridge_gets_what_is_for_nobody_in_the_map() {
    let Some(loaded) = Loaded::new() else { return };
    let cases = [
        ("the world", frame(MAC_GATEWAY, POD_A, STRANGER, 64)),
        ("a pod that routes", frame(MAC_THIRD, POD_A, POD_B, 64)),
        ("the pod itself", frame(MAC_A, POD_A, POD_A, 64)),
        ("everybody", frame([0xff; 6], POD_A, Ipv4Addr::BROADCAST, 64)),
    ];
    for (who, sent) in &cases {
        assert_eq!(loaded.ingress(sent), (UNSPEC, sent.clone()), "{who}");
    }
    let counters = loaded.counters(POD_A);
    assert_eq!((counters.tx_packets, counters.tx_direct), (cases.len() as u64, 0));
    assert_eq!(loaded.stats().to_stack, cases.len() as u64);
}

#[test]
fn an_unknown_source_is_delivered_and_counted_as_such() {
    let Some(loaded) = Loaded::new() else { return };
    assert_eq!(loaded.ingress(&frame(MAC_B, STRANGER, POD_B, 64)).0, REDIRECT);
    assert_eq!(loaded.stats(), NetStats { direct: 1, unknown_source: 1, ..NetStats::default() });
}

#[test]
fn what_is_not_readable_as_ipv4_is_left_alone() {
    let Some(loaded) = Loaded::new() else { return };
    let mut version_6 = frame(MAC_B, POD_A, POD_B, 64);
    let mut arp = version_6.clone();
    version_6[14] = 0x65;
    arp[12..14].copy_from_slice(&ETHERTYPE_ARP.to_be_bytes());

    for (what, sent) in [("ARP", arp), ("version 6", version_6)] {
        assert_eq!(loaded.ingress(&sent), (UNSPEC, sent.clone()), "{what}");
        assert_eq!(loaded.egress(&sent), UNSPEC, "{what}");
    }
    assert_eq!(loaded.stats(), NetStats::default());
    assert_eq!(loaded.counters(POD_A), PodCounters::default());
}

#[test]
fn on_the_bridge_nothing_is_counted_twice_or_redirected() {
    let Some(loaded) = Loaded::new() else { return };
    loaded.configure(PORT);
    let sent = frame(MAC_B, POD_A, POD_B, 64);

    assert_eq!(loaded.ingress(&sent), (UNSPEC, sent.clone()));
    assert_eq!(loaded.egress(&sent), UNSPEC);

    assert_eq!(loaded.counters(POD_A), PodCounters::default());
    assert_eq!(loaded.stats(), NetStats { to_host: 1, ..NetStats::default() });
}

#[test]
fn what_the_bridge_delivers_is_counted_at_the_target() {
    let Some(loaded) = Loaded::new() else { return };

    assert_eq!(loaded.egress(&frame(MAC_B, STRANGER, POD_B, 64)), UNSPEC);

    assert_eq!(loaded.counters(POD_B), PodCounters { rx_stack: 1, ..PodCounters::default() });
    assert_eq!(loaded.stats(), NetStats { from_stack: 1, ..NetStats::default() });
}
