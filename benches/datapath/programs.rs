//! The programs on frames with `BPF_PROG_TEST_RUN`: the kernel runs them without a network, as if
//! the frames had arrived at `lo`.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::Instant;

use cnikit::datapath::{Datapath, DatapathConfig, Endpoint, PortConfig, ProgramName};
use cnikit::spec::{IfIndex, MacAddr};
use criterion::Criterion;

use crate::raw;

/// Verdicts of `linux/pkt_cls.h`.
const UNSPEC: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;

const MAC_A: MacAddr = MacAddr::new([0x02, 0, 0, 0, 0, 0x0a]);
const MAC_B: MacAddr = MacAddr::new([0x02, 0, 0, 0, 0, 0x0b]);
const GATEWAY: MacAddr = MacAddr::new([0x02, 0, 0, 0, 0, 0xfe]);
const A: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);
const B: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 3);
const WORLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// An index without a link.
const BRIDGE: u32 = 99;
const OTHER_PORT: u32 = 77;

/// The runs in one system call, which other processes wait for.
const MAX_RUNS: u64 = 10_000;

/// Runs the benchmarks on a datapath without map entries.
pub(crate) fn bench(criterion: &mut Criterion, datapath: &Datapath) {
    add_pods(datapath);
    let main = datapath.program(ProgramName::Main).expect("a pin");
    let egress = datapath.program(ProgramName::Egress).expect("a pin");
    let cases = [
        ("ingress-tcp-direct", &main, tcp(MAC_B, MAC_A, A, B), REDIRECT),
        ("ingress-to-world", &main, tcp(GATEWAY, MAC_A, A, WORLD), UNSPEC),
        ("ingress-spoofed", &main, tcp(MAC_B, MAC_A, WORLD, B), SHOT),
        ("egress-from-world", &egress, tcp(MAC_A, GATEWAY, WORLD, A), UNSPEC),
    ];
    // The kernel's share alone.
    let (empty, _) = cnikit_testbed::classifier(UNSPEC);
    for (case, program, frame, verdict) in cases {
        let mut group = criterion.benchmark_group(format!("datapath/{case}"));
        let mut measure = |name: &str, program: &dyn Fn(u32) -> i32, verdict: i32| {
            group.bench_function(name, |bencher| {
                // Measured here, because the kernel returns the mean in whole nanoseconds, and the
                // empty program takes less.
                bencher.iter_custom(|iterations| {
                    let (mut left, start) = (iterations, Instant::now());
                    while left > 0 {
                        let runs = left.min(MAX_RUNS);
                        assert_eq!(program(runs as u32), verdict, "{case}");
                        left -= runs;
                    }
                    start.elapsed()
                });
            });
        };
        measure("cnikit", &|repeat| raw::test_run(&program.as_fd(), &frame, repeat), verdict);
        measure("empty-program", &|repeat| raw::test_run(&empty, &frame, repeat), UNSPEC);
        group.finish();
    }
}

fn ifindex(number: u32) -> IfIndex {
    IfIndex::new(number).expect("an index")
}

/// Pod A on the port that receives the frames, pod B on another port, both with spoof check.
fn add_pods(datapath: &Datapath) {
    datapath.configure(DatapathConfig::new(ifindex(BRIDGE), GATEWAY)).expect("an entry");
    let (ports, links, counters) = (datapath.open_endpoints(), datapath.open_port_configs(), datapath.open_counters());
    let (ports, links, counters) = (ports.expect("a pin"), links.expect("a pin"), counters.expect("a pin"));
    for (address, ifindex, mac) in [(A, IfIndex::LOOPBACK, MAC_A), (B, ifindex(OTHER_PORT), MAC_B)] {
        ports.insert(address.into(), Endpoint::new(ifindex, mac)).expect("an entry");
        counters.insert(address.into()).expect("an entry");
        links.insert(ifindex, PortConfig::new(mac)).expect("an entry");
    }
}

/// A TCP segment of 8 bytes without SYN, in IPv4 and Ethernet.
fn tcp(to: MacAddr, from: MacAddr, source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    let segment = [&[0x03, 0xe8, 0x07, 0xd0][..], &[0; 8], &[0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0], &[0x55; 8]].concat();
    let length = (20 + segment.len()) as u8;
    let mut header =
        [&[0x45, 0, 0, length, 0, 1, 0, 0, 64, 6, 0, 0][..], &source.octets(), &destination.octets()].concat();
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    [&to.octets()[..], &from.octets(), &[0x08, 0x00], &header, &segment].concat()
}
