//! Crafted packets through the loaded programs, by `BPF_PROG_TEST_RUN`.
//!
//! The kernel runs them as if they had come in by `lo`, so that index 1 stands for the port here.

use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::Duration;

use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{MapCore, MapHandle, ProgramInput};

use self::frames::{ELSEWHERE, GATEWAY, MAC_A, MAC_B, MAC_GATEWAY, MAC_SECOND, PODS, SECOND};
use super::generated::{PodSkel, PodSkelBuilder, types};
use crate::datapath::layout::RawNetConfig;
use crate::datapath::map::{Map, Shape};
use crate::datapath::maps::*;
use crate::datapath::{DropReason, Drops, NetConfig, NetStats, PodCounters, PodLink, PodPort};
use crate::spec::MacAddr;

mod cost;
mod delivery;
mod flows;
mod frames;
mod guard;
mod model;
mod neighbours;
mod scenarios;

/// Verdicts of `linux/pkt_cls.h`.
const UNSPEC: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;

const PORT: u32 = 1;
const OTHER_PORT: u32 = 77;
const SECOND_PORT: u32 = 78;
/// Of another network.
const PORT_ELSEWHERE: u32 = 79;
const BRIDGE: u32 = 99;

/// A set of its own for each test: pod A on the port that packets come in by and on a second one, pod B on another, all
/// guarded.
struct Loaded {
    skeleton: PodSkel<'static>,
    counters: CounterMap,
    ports: PortMap,
    links: LinkMap,
    shared: SharedAddressMap,
    config: Map,
    stats: Map,
    drops: Map,
    flows: Map,
}

/// Runs a test on a set of its own; skips it without privileges.
fn loaded(test: impl FnOnce(&Loaded)) {
    if cnikit_testbed::privileged() {
        test(&Loaded::new());
    }
}

impl Loaded {
    fn new() -> Self {
        let storage = Box::leak(Box::new(MaybeUninit::uninit()));
        let skeleton = PodSkelBuilder::default().open(storage).unwrap().load().unwrap();
        let map = |shape: &Shape| {
            let map = skeleton.object().maps().find(|map| map.name() == shape.name).unwrap();
            Map::new(MapHandle::try_from(&map).unwrap(), shape)
        };
        let loaded = Self {
            counters: CounterMap::new(map(&PKT_COUNT), map(&PKT_COUNT_V6)),
            ports: PortMap::new(map(&POD_IFINDEX), map(&POD_IFINDEX_V6)),
            links: LinkMap::new(map(&PORT_CONFIG), map(&PORT_DROPS), map(&PORT_FILTER)),
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
            loaded.counters.track(a).unwrap();
            loaded.counters.track(b).unwrap();
        }
        for (second, elsewhere) in SECOND.into_iter().zip(ELSEWHERE) {
            loaded.place(second, SECOND_PORT, MAC_SECOND);
            loaded.counters.track(second).unwrap();
            for (address, sibling) in [(second, SECOND_PORT), (elsewhere, PORT_ELSEWHERE)] {
                loaded.shared.insert(PORT, address, sibling).unwrap();
            }
        }
        for gateway in GATEWAY {
            loaded.place(gateway, BRIDGE, MAC_GATEWAY);
        }
        for (port, mac) in [(PORT, MAC_A), (OTHER_PORT, MAC_B)] {
            loaded.place(MacAddr::new(mac).link_local().into(), port, mac);
            loaded.links.insert(port, PodLink::new(MacAddr::new(mac))).unwrap();
        }
        loaded
    }

    /// Changes what the programs were told of their network.
    fn configure(&self, change: impl FnOnce(&mut NetConfig)) {
        let mut config = NetConfig::new(BRIDGE, MacAddr::new(MAC_GATEWAY));
        change(&mut config);
        self.config.put(&ONLY, &RawNetConfig::from(config), "the row").unwrap();
    }

    fn place(&self, address: IpAddr, ifindex: u32, mac: [u8; 6]) {
        self.ports.insert(address, PodPort { ifindex, mac: MacAddr::new(mac) }).unwrap();
    }

    fn restrict(&self, ifindex: u32, mac: [u8; 6]) {
        self.links.insert(ifindex, PodLink::new(MacAddr::new(mac)).stack_only(true)).unwrap();
    }

    /// The same for a frame that came into the host by a device.
    fn egress_from(&self, origin: u32, frame: &[u8]) -> (i32, Vec<u8>) {
        try_run(&self.skeleton.progs.cni_tc_egress, origin, frame).unwrap()
    }

    /// Whether the kernel can be told by which device a frame came into the host. Where it cannot, tests with real
    /// bridges stand for these: tests/datapath.
    fn takes_origins(&self) -> bool {
        static TAKES: OnceLock<bool> = OnceLock::new();
        *TAKES.get_or_init(|| {
            let [a, b] = PODS[0];
            try_run(&self.skeleton.progs.cni_tc_egress, BRIDGE, &frames::datagram(MAC_A, b, a, 64)).is_ok()
        })
    }

    /// The verdict on a frame, and the frame as the program left it.
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
        self.stats.sum(&ONLY, "the row").unwrap().unwrap()
    }

    fn drops(&self) -> Drops {
        self.drops.sum(&ONLY, "the row").unwrap().unwrap()
    }

    /// How many flows are remembered.
    fn flows(&self) -> usize {
        self.flows.keys::<40>().unwrap().len()
    }

    /// The frame is redirected as it is.
    #[track_caller]
    fn assert_direct(&self, frame: &[u8], what: &str) {
        assert_eq!(self.ingress(frame), (REDIRECT, frame.to_vec()), "{what}");
    }

    /// The frame is left to the stack, as it is, without anybody's drop being counted.
    #[track_caller]
    fn assert_stack(&self, frame: &[u8], what: &str) {
        let before = self.drops();
        assert_eq!(self.ingress(frame), (UNSPEC, frame.to_vec()), "{what}");
        assert_eq!(self.drops(), before, "{what}");
    }

    /// The frame is left to the stack, addressed to the gateway, which routed the packet that this one answers.
    #[track_caller]
    fn assert_led_back(&self, frame: &[u8], what: &str) {
        let before = self.drops();
        let to_gateway = [&MAC_GATEWAY[..], &frame[MAC_GATEWAY.len()..]].concat();
        assert_eq!(self.ingress(frame), (UNSPEC, to_gateway), "{what}");
        assert_eq!(self.drops(), before, "{what}");
    }

    /// The frame is dropped, for this reason, and counted for its port and for the network.
    #[track_caller]
    fn assert_dropped(&self, frame: &[u8], reason: DropReason, what: &str) {
        let counts = || (self.drops(), self.links.drops(PORT).unwrap().unwrap());
        let before = counts();
        assert_eq!(self.ingress(frame).0, SHOT, "{what}");
        let after = counts();
        for (before, after) in [(before.0, after.0), (before.1, after.1)] {
            let counted: Vec<_> = after.iter().zip(before.iter()).filter(|(after, before)| after != before).collect();
            assert_eq!(counted, [((reason, before.of(reason) + 1), (reason, before.of(reason)))], "{what}");
        }
    }
}

/// The verdict of a program on a frame, and the frame as it left it.
fn run(program: &libbpf_rs::ProgramMut<'_>, frame: &[u8]) -> (i32, Vec<u8>) {
    try_run(program, 0, frame).unwrap()
}

/// The same for a frame that came into the host by the device `origin`, 0 for none. An error if the kernel tries no program
/// on such a frame.
fn try_run(program: &libbpf_rs::ProgramMut<'_>, origin: u32, frame: &[u8]) -> libbpf_rs::Result<(i32, Vec<u8>)> {
    let mut out = vec![0; frame.len() + 64];
    let mut context = context(std::mem::offset_of!(types::__sk_buff, ingress_ifindex), origin);
    let context_in = (origin != 0).then_some(&mut context[..]);
    let input = ProgramInput { data_in: Some(frame), data_out: Some(&mut out), context_in, ..ProgramInput::default() };
    let output = program.test_run(input)?;
    let left = output.data.map(|data| data.to_vec()).unwrap();
    Ok((output.return_value.cast_signed(), left))
}

/// The verdict of a program on a frame that is segmented later, into segments of this size.
fn run_super_frame(program: &libbpf_rs::ProgramMut<'_>, frame: &[u8], segment: u32) -> i32 {
    let mut context = context(std::mem::offset_of!(types::__sk_buff, gso_size), segment);
    let input = ProgramInput { data_in: Some(frame), context_in: Some(&mut context), ..ProgramInput::default() };
    program.test_run(input).unwrap().return_value.cast_signed()
}

/// A `struct __sk_buff` with one member set, of which the kernel takes a few.
fn context(at: usize, value: u32) -> Vec<u8> {
    let mut context = vec![0; size_of::<types::__sk_buff>()];
    context[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    context
}

/// The mean time of a program on a frame.
fn time(program: &libbpf_rs::ProgramMut<'_>, frame: &[u8], repeat: u32) -> Duration {
    let input = ProgramInput { data_in: Some(frame), repeat, ..ProgramInput::default() };
    program.test_run(input).unwrap().duration
}
