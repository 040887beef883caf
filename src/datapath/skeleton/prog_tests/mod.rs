//! Runs the loaded programs on crafted packets with `BPF_PROG_TEST_RUN`.
//!
//! The kernel treats the packets as received from `lo`, so index 1 is the port in these tests.

use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::Duration;

use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{MapCore, MapHandle, ProgramInput};

use self::frames::{ELSEWHERE, GATEWAY, MAC_A, MAC_B, MAC_GATEWAY, MAC_SECOND, PODS, SECOND};
use super::generated::{PodSkel, PodSkelBuilder, types};
use crate::datapath::layout::RawDatapathConfig;
use crate::datapath::map::{Map, MapSpec};
use crate::datapath::map_specs::*;
use crate::datapath::maps::*;
use crate::datapath::{DatapathConfig, DropReason, Drops, Endpoint, NetStats, PodCounters, PortConfig};
use crate::spec::{IfIndex, MacAddr};

mod cost;
mod delivery;
mod flows;
mod frames;
mod model;
mod neighbors;
mod scenarios;
mod spoof_check;
mod stages;

/// Verdicts of `linux/pkt_cls.h`.
const UNSPEC: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;

const PORT: u32 = 1;
const OTHER_PORT: u32 = 77;
const SECOND_PORT: u32 = 78;
/// A port in another network.
const PORT_ELSEWHERE: u32 = 79;
const BRIDGE: u32 = 99;

/// A separate set for each test. Pod A has the ingress port and a second port, and pod B has
/// another port. All ports have the spoof check.
struct Loaded {
    skeleton: PodSkel<'static>,
    counters: CounterMap,
    ports: EndpointMap,
    links: PortConfigMap,
    shared: SharedAddressMap,
    config: Map,
    stats: Map,
    drops: Map,
    flows: Map,
}

/// Runs a test on a separate set. Skips the test without privileges.
fn loaded(test: impl FnOnce(&Loaded)) {
    if cnikit_testbed::privileged() {
        test(&Loaded::new());
    }
}

impl Loaded {
    fn new() -> Self {
        let storage = Box::leak(Box::new(MaybeUninit::uninit()));
        let skeleton = PodSkelBuilder::default().open(storage).unwrap().load().unwrap();
        let map = |spec: &MapSpec| {
            let map = skeleton.object().maps().find(|map| map.name() == spec.name).unwrap();
            Map::new(MapHandle::try_from(&map).unwrap(), spec)
        };
        let loaded = Self {
            counters: CounterMap::new(map(&PKT_COUNT), map(&PKT_COUNT_V6)),
            ports: EndpointMap::new(map(&POD_IFINDEX), map(&POD_IFINDEX_V6)),
            links: PortConfigMap::new(map(&PORT_CONFIG), map(&PORT_DROPS), map(&PORT_FILTER)),
            shared: SharedAddressMap::new(map(&PORT_ADDRESSES)),
            config: map(&NET_CONFIG),
            stats: map(&NET_STATS),
            drops: map(&NET_DROPS),
            flows: map(&FLOWS),
            skeleton,
        };
        loaded.configure(|_| ());
        for [a, b] in PODS {
            loaded.place(a, PORT, MAC_A);
            loaded.place(b, OTHER_PORT, MAC_B);
            loaded.counters.insert(a).unwrap();
            loaded.counters.insert(b).unwrap();
        }
        for (second, elsewhere) in SECOND.into_iter().zip(ELSEWHERE) {
            loaded.place(second, SECOND_PORT, MAC_SECOND);
            loaded.counters.insert(second).unwrap();
            for (address, sibling) in [(second, SECOND_PORT), (elsewhere, PORT_ELSEWHERE)] {
                loaded.shared.insert(index(PORT), address, index(sibling)).unwrap();
            }
        }
        for gateway in GATEWAY {
            loaded.place(gateway, BRIDGE, MAC_GATEWAY);
        }
        for (port, mac) in [(PORT, MAC_A), (OTHER_PORT, MAC_B)] {
            loaded.place(MacAddr::new(mac).link_local().into(), port, mac);
            loaded.links.insert(index(port), PortConfig::new(MacAddr::new(mac))).unwrap();
        }
        loaded
    }

    /// Writes the default configuration with a change.
    fn configure(&self, change: impl FnOnce(&mut DatapathConfig)) {
        let mut config = DatapathConfig::new(index(BRIDGE), MacAddr::new(MAC_GATEWAY));
        change(&mut config);
        self.config.put(&SINGLE_KEY, &RawDatapathConfig::from(config), "the entry").unwrap();
    }

    fn place(&self, address: IpAddr, ifindex: u32, mac: [u8; 6]) {
        self.ports.insert(address, Endpoint { ifindex: index(ifindex), mac: MacAddr::new(mac) }).unwrap();
    }

    fn restrict(&self, ifindex: u32, mac: [u8; 6]) {
        self.links.insert(index(ifindex), PortConfig::new(MacAddr::new(mac)).stack_only(true)).unwrap();
    }

    /// As [`egress`](Self::egress), for a frame that the host received from the device `origin`.
    fn egress_from(&self, origin: u32, frame: &[u8]) -> (i32, Vec<u8>) {
        try_run(&self.skeleton.progs.cni_tc_egress, origin, frame).unwrap()
    }

    /// Whether `BPF_PROG_TEST_RUN` accepts an `ingress_ifindex`. Otherwise tests/datapath covers
    /// these cases with real bridges.
    fn takes_origins(&self) -> bool {
        static TAKES: OnceLock<bool> = OnceLock::new();
        *TAKES.get_or_init(|| {
            let [a, b] = PODS[0];
            try_run(&self.skeleton.progs.cni_tc_egress, BRIDGE, &frames::datagram(MAC_A, b, a, 64)).is_ok()
        })
    }

    /// The verdict for a frame, and the frame after the program.
    fn ingress(&self, frame: &[u8]) -> (i32, Vec<u8>) {
        run(&self.skeleton.progs.cni_tc_main, frame)
    }

    fn egress(&self, frame: &[u8]) -> (i32, Vec<u8>) {
        run(&self.skeleton.progs.cni_tc_egress, frame)
    }

    fn counters(&self, address: IpAddr) -> PodCounters {
        self.counters.read(address).unwrap().unwrap()
    }

    fn stats(&self) -> NetStats {
        self.stats.sum(&SINGLE_KEY, "the entry").unwrap().unwrap()
    }

    fn drops(&self) -> Drops {
        self.drops.sum(&SINGLE_KEY, "the entry").unwrap().unwrap()
    }

    /// The number of tracked flows.
    fn flows(&self) -> usize {
        self.flows.keys::<40>().unwrap().len()
    }

    /// Asserts that the frame is redirected unchanged.
    #[track_caller]
    fn assert_direct(&self, frame: &[u8], what: &str) {
        assert_eq!(self.ingress(frame), (REDIRECT, frame.to_vec()), "{what}");
    }

    /// Asserts that the frame goes to the stack unchanged, and that no drop is counted.
    #[track_caller]
    fn assert_stack(&self, frame: &[u8], what: &str) {
        let before = self.drops();
        assert_eq!(self.ingress(frame), (UNSPEC, frame.to_vec()), "{what}");
        assert_eq!(self.drops(), before, "{what}");
    }

    /// Asserts that the frame goes to the stack with the MAC of the gateway as destination. The
    /// gateway routed the packet that this frame answers.
    #[track_caller]
    fn assert_routed_back(&self, frame: &[u8], what: &str) {
        let before = self.drops();
        let to_gateway = [&MAC_GATEWAY[..], &frame[MAC_GATEWAY.len()..]].concat();
        assert_eq!(self.ingress(frame), (UNSPEC, to_gateway), "{what}");
        assert_eq!(self.drops(), before, "{what}");
    }

    /// Asserts that the frame is dropped for this reason, and counted for its port and for the
    /// network.
    #[track_caller]
    fn assert_dropped(&self, frame: &[u8], reason: DropReason, what: &str) {
        let counts = || (self.drops(), self.links.drops(index(PORT)).unwrap().unwrap());
        let before = counts();
        assert_eq!(self.ingress(frame).0, SHOT, "{what}");
        let after = counts();
        for (before, after) in [(before.0, after.0), (before.1, after.1)] {
            let counted: Vec<_> = after.iter().zip(before.iter()).filter(|(after, before)| after != before).collect();
            assert_eq!(counted, [((reason, before.of(reason) + 1), (reason, before.of(reason)))], "{what}");
        }
    }
}

/// The number of a port as an index in a map.
fn index(port: u32) -> IfIndex {
    IfIndex::new(port).unwrap()
}

/// The verdict of a program for a frame, and the frame after the program.
fn run(program: &libbpf_rs::ProgramMut<'_>, frame: &[u8]) -> (i32, Vec<u8>) {
    try_run(program, 0, frame).unwrap()
}

/// As [`run`], for a frame that the host received from the device `origin`. 0 means no device.
/// Fails if the kernel refuses the frame.
fn try_run(program: &libbpf_rs::ProgramMut<'_>, origin: u32, frame: &[u8]) -> libbpf_rs::Result<(i32, Vec<u8>)> {
    let mut out = vec![0; frame.len() + 64];
    let mut context = context(std::mem::offset_of!(types::__sk_buff, ingress_ifindex), origin);
    let context_in = (origin != 0).then_some(&mut context[..]);
    let input = ProgramInput { data_in: Some(frame), data_out: Some(&mut out), context_in, ..ProgramInput::default() };
    let output = program.test_run(input)?;
    let left = output.data.map(|data| data.to_vec()).unwrap();
    Ok((output.return_value.cast_signed(), left))
}

/// The verdict of a program for a GSO super-frame with this segment size.
fn run_super_frame(program: &libbpf_rs::ProgramMut<'_>, frame: &[u8], segment: u32) -> i32 {
    let mut context = context(std::mem::offset_of!(types::__sk_buff, gso_size), segment);
    let input = ProgramInput { data_in: Some(frame), context_in: Some(&mut context), ..ProgramInput::default() };
    program.test_run(input).unwrap().return_value.cast_signed()
}

/// A `struct __sk_buff` with one member set. The kernel accepts only some members.
fn context(at: usize, value: u32) -> Vec<u8> {
    let mut context = vec![0; size_of::<types::__sk_buff>()];
    context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    context
}

/// The mean run time of a program for a frame.
fn time(program: &libbpf_rs::ProgramMut<'_>, frame: &[u8], repeat: u32) -> Duration {
    let input = ProgramInput { data_in: Some(frame), repeat, ..ProgramInput::default() };
    program.test_run(input).unwrap().duration
}
