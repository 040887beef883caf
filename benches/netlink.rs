//! The cost of rtnetlink operations: through the library, with raw messages, and with the command
//! `ip`.
//!
//! ```sh
//! cargo bench --no-default-features --features netlink --bench netlink
//! ```
//!
//! Names are `netlink/<verb>/<implementation>`:
//!
//! * `cnikit`: the library.
//! * `raw`: the same message, encoded beforehand, with plain system calls.
//! * `ip`: a process of iproute2, as in a shell script.
//!
//! The benchmark needs root, and runs on a private host with 200 links.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use cnikit::netlink::{IfIndex, Netns, SharedBlocks, Socket, VethEnd, VethPair};
use cnikit::spec::MacAddr;
use cnikit_testbed::{Host, Namespace as _, Pod};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType};

/// Existing pairs.
const PAIRS: usize = 100;

const NEWLINK: u16 = 16;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const ERROR: u16 = 2;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE_EXCLUSIVE: u16 = 0x600;

/// A socket without a library.
struct Raw(OwnedFd);

impl Raw {
    fn open() -> Self {
        let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None).expect("a socket");
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 0)).expect("an address");
        Self(socket)
    }

    /// Sends a message and receives the answer. Returns its type and error number.
    fn ask(&self, message: &[u8]) -> (u16, i32) {
        rustix::net::send(&self.0, message, SendFlags::empty()).expect("a message");
        let mut answer = [0_u8; 32 << 10];
        let (length, _) = rustix::net::recv(&self.0, &mut answer, RecvFlags::empty()).expect("an answer");
        assert!(length >= 20, "an answer of {length} octets");
        let kind = u16::from_ne_bytes([answer[4], answer[5]]);
        let number = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
        (kind, number)
    }

    fn acknowledged(&self, message: &[u8]) {
        assert_eq!(self.ask(message), (ERROR, 0));
    }
}

/// A message: header and payload.
fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let length = 16 + payload.len() as u32;
    let flags = REQUEST | flags;
    [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[1, 0, 0, 0], &[0; 4], payload].concat()
}

/// `struct ifinfomsg` of a link; `change` is the mask of the flags.
fn ifinfo(index: u32, flags: u32, change: u32) -> Vec<u8> {
    [&[0; 4][..], &index.to_ne_bytes(), &flags.to_ne_bytes(), &change.to_ne_bytes()].concat()
}

/// An attribute, padded to a multiple of four octets.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len() as u16;
    let hole = vec![0; value.len().next_multiple_of(4) - value.len()];
    [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value, &hole].concat()
}

fn netlink(criterion: &mut Criterion, host: &Host) {
    for number in 0..PAIRS {
        host.ip(&format!("link add b{number} type veth peer name c{number}"));
    }
    let (socket, raw) = (Socket::open().expect("a socket"), Raw::open());
    sockets(&mut group(criterion, "socket-open"), host);
    look_up_link(&mut group(criterion, "link-by-name"), host, &socket, &raw);
    list(&mut group(criterion, "links-of-200"), host, &socket);
    set_up(&mut group(criterion, "set-up"), host, &socket, &raw);
    address(&mut group(criterion, "address-add-delete"), host, &socket, &raw);
    veth(&mut group(criterion, "veth-create"), host, &socket);
    for number in 0..PAIRS {
        host.ip(&format!("link delete b{number}"));
    }
}

fn group<'a>(criterion: &'a mut Criterion, verb: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(format!("netlink/{verb}"));
    group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    group
}

/// Runs `ip` on the calling thread's namespace.
fn ip(line: &str) -> String {
    let output = std::process::Command::new("ip").args(line.split(' ')).output().expect("ip is installed");
    assert!(output.status.success(), "ip {line}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn sockets(group: &mut BenchmarkGroup<'_, WallTime>, host: &Host) {
    let pod = host.pod();
    let netns = Netns::open(pod.netns()).expect("a namespace");
    group.bench_function("cnikit", |bencher| bencher.iter(|| Socket::open().expect("a socket")));
    group.bench_function("cnikit-in-pod", |bencher| bencher.iter(|| netns.socket().expect("a socket")));
    group.bench_function("raw", |bencher| bencher.iter(Raw::open));
}

fn look_up_link(group: &mut BenchmarkGroup<'_, WallTime>, host: &Host, socket: &Socket, raw: &Raw) {
    let name = "b50".parse().expect("a name");
    let index = host.link("b50").expect("a link")["ifindex"].as_u64();
    group.bench_function("cnikit", |bencher| {
        bencher.iter(|| {
            let link = socket.link_by_name(&name).expect("a lookup").expect("a link");
            assert_eq!(Some(u64::from(link.index.get())), index);
        });
    });
    let asked = message(GETLINK, 0, &[ifinfo(0, 0, 0), attribute(3, b"b50\0")].concat());
    group.bench_function("raw", |bencher| bencher.iter(|| assert_eq!(raw.ask(&asked).0, NEWLINK)));
    group.bench_function("ip", |bencher| bencher.iter(|| assert!(ip("link show b50").contains("b50@c50"))));
}

fn list(group: &mut BenchmarkGroup<'_, WallTime>, host: &Host, socket: &Socket) {
    let count = host.links().len();
    group.bench_function("cnikit", |bencher| {
        bencher.iter(|| assert_eq!(socket.links().expect("links").len(), count));
    });
    group.bench_function("ip", |bencher| bencher.iter(|| assert_eq!(ip("-o link show").lines().count(), count)));
}

fn set_up(group: &mut BenchmarkGroup<'_, WallTime>, host: &Host, socket: &Socket, raw: &Raw) {
    group.bench_function("cnikit", |bencher| bencher.iter(|| socket.set_up(IfIndex::LOOPBACK).expect("lo")));
    let asked = message(NEWLINK, ACK, &ifinfo(IfIndex::LOOPBACK.get(), 1, 1));
    group.bench_function("raw", |bencher| bencher.iter(|| raw.acknowledged(&asked)));
    group.bench_function("ip", |bencher| bencher.iter(|| ip("link set lo up")));
    let flags = &host.link("lo").expect("lo")["flags"];
    assert!(flags.as_array().is_some_and(|flags| flags.contains(&"UP".into())), "{flags}");
}

fn address(group: &mut BenchmarkGroup<'_, WallTime>, host: &Host, socket: &Socket, raw: &Raw) {
    let address = "10.9.0.1/24".parse().expect("an address");
    group.bench_function("cnikit", |bencher| {
        bencher.iter(|| {
            socket.add_address(IfIndex::LOOPBACK, address).expect("a new address");
            socket.delete_address(IfIndex::LOOPBACK, address).expect("an address");
        });
    });
    let octets = [10, 9, 0, 1];
    let head = [&[2, 24, 0, 0][..], &IfIndex::LOOPBACK.get().to_ne_bytes()].concat();
    let payload = [head, attribute(1, &octets), attribute(2, &octets)].concat();
    let (add, delete) = (message(NEWADDR, ACK | CREATE_EXCLUSIVE, &payload), message(DELADDR, ACK, &payload));
    group.bench_function("raw", |bencher| {
        bencher.iter(|| {
            raw.acknowledged(&add);
            raw.acknowledged(&delete);
        });
    });
    group.bench_function("ip", |bencher| {
        bencher.iter(|| {
            ip("address add 10.9.0.1/24 dev lo");
            ip("address delete 10.9.0.1/24 dev lo");
        });
    });
    assert!(!host.addresses("lo").contains(&"10.9.0.1/24".to_owned()));
}

/// A pair with one end on a bridge and the other in a pod. The deletion takes far longer, and is
/// not measured.
fn veth(group: &mut BenchmarkGroup<'_, WallTime>, host: &Host, socket: &Socket) {
    host.ip("link add br0 type bridge");
    let bridge = socket.link_by_name(&"br0".parse().expect("a name")).expect("a lookup").expect("a link").index;
    let pod = host.pod();
    let netns = Netns::open(pod.netns()).expect("a namespace");
    let end = |name: &str, last| VethEnd::new(name.parse().expect("a name"), MacAddr::new([2, 0, 0, 0, 0, last]));
    let pair = VethPair::new(end("veth0", 1), end("eth0", 2), &netns).mtu(1_500).master(bridge);
    let cnikit = || socket.create_veth(&pair).map(drop).expect("a new pair");
    // This name refers to a descriptor of this process. `ip` needs a path.
    let netns = pod.netns();
    let ip = || create_by_ip(&netns);
    let block = || {
        let index = socket.create_veth(&pair).expect("a new pair").host;
        socket.create_clsact(index, SharedBlocks::from_name("bench")).expect("a qdisc");
    };
    group.sample_size(10);
    for (name, create) in [("cnikit", &cnikit as &dyn Fn()), ("cnikit-with-clsact", &block), ("ip", &ip)] {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| (0..iterations).map(|_| create_once(create, &pod, socket)).sum());
        });
    }
    host.ip("link delete br0");
}

fn create_by_ip(netns: &Path) {
    let netns = netns.display();
    ip(&format!(
        "link add veth0 address 02:00:00:00:00:01 mtu 1500 master br0 type veth \
         peer name eth0 address 02:00:00:00:00:02 mtu 1500 netns {netns}"
    ));
}

fn create_once(create: &dyn Fn(), pod: &Pod, socket: &Socket) -> Duration {
    let start = Instant::now();
    create();
    let taken = start.elapsed();
    assert_eq!(pod.links().len(), 2, "lo and eth0 are in the pod");
    socket.delete_link_by_name(&"veth0".parse().expect("a name")).expect("a pair");
    // The kernel continues for a while, and a pair that is created in that time waits for it.
    thread::sleep(Duration::from_millis(30));
    taken
}

fn main() {
    // Without privileges, the benchmark prints a skip line and ends.
    cnikit_testbed::host(|host| {
        netlink(&mut Criterion::default().configure_from_args(), host);
        Criterion::default().configure_from_args().final_summary();
    });
}
