//! The lower bound for any plugin: an empty process, and the messages to the kernel that create a
//! pair.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cnikit::netlink::{BridgeSpec, IfIndex, Netns, Route, Socket, VethEnd, VethPair};
use cnikit::spec::MacAddr;
use cnikit_testbed::{Host, Namespace as _, Pod};

use crate::call;

/// Built by build.rs.
const EMPTY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/empty"));

/// A bridge, and the empty program.
pub(crate) struct Floor {
    empty: PathBuf,
    bridge: IfIndex,
    /// The remaining pods: the kernel's work for a port depends on the number of ports.
    pods: Vec<Pod>,
    spent: Vec<Pod>,
}

/// The minimum times.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FloorTimes {
    /// The time to start a static program, write its input, read its output and wait for its end.
    pub(crate) exec: Duration,
    /// The time to create and address a pair with one end on a bridge and the other in a pod.
    pub(crate) messages: Duration,
    /// The time of `ip link del`, which waits for the kernel.
    pub(crate) link_del: Duration,
}

impl Floor {
    pub(crate) fn new(host: &Host) -> Self {
        let empty = host.scratch().join("empty");
        fs::write(&empty, EMPTY).expect("room");
        fs::set_permissions(&empty, fs::Permissions::from_mode(0o755)).expect("a file of ours");
        let mac = MacAddr::new([0x02, 0, 0, 0, 0, 1]);
        let spec = BridgeSpec::new("bridge0".parse().expect("a name")).mac(mac).mcast_snooping(false);
        let socket = Socket::open().expect("a socket");
        let bridge = socket.create_bridge(&spec).expect("a bridge");
        socket.set_up(bridge).expect("a bridge");
        Self { empty, bridge, pods: Vec::new(), spent: Vec::new() }
    }

    /// The empty program.
    pub(crate) fn empty(&self) -> &Path {
        &self.empty
    }

    /// Creates pods that stay, until there are this many.
    pub(crate) fn populate(&mut self, host: &Host, count: usize) {
        for number in self.pods.len()..count {
            let pod = host.pod();
            self.attach(&pod, number + 1);
            self.pods.push(pod);
        }
    }

    pub(crate) fn call_times(&mut self, host: &Host) -> FloorTimes {
        let (exec, _) = call::run(Command::new(&self.empty), b"{}");
        let pod = host.pod();
        let start = Instant::now();
        self.attach(&pod, 0);
        let messages = start.elapsed();
        assert_eq!(pod.addresses("eth0"), ["10.50.0.2/16"]);
        let mut delete = Command::new("ip");
        delete.args(["link", "del", "floor0"]);
        let (link_del, _) = call::run(delete, b"");
        assert!(host.link("floor0").is_none());
        self.spent.push(pod);
        FloorTimes { exec, messages, link_del }
    }

    pub(crate) fn settle(&mut self) {
        self.spent.clear();
    }

    /// No lookups, checks, leases or programs: only the messages and their sockets.
    fn attach(&self, pod: &Pod, number: usize) {
        let host = Socket::open().expect("a socket");
        let netns = Netns::open(pod.netns()).expect("a namespace");
        let inside = netns.socket().expect("a socket in the pod");
        let [.., high, low] = number.to_be_bytes();
        let end =
            |name: &str, side| VethEnd::new(name.parse().expect("a name"), MacAddr::new([0x02, 0, 0, side, high, low]));
        let (outer, inner) = (end(&format!("floor{number}"), 2), end("eth0", 3));
        let pair = VethPair::new(outer, inner, &netns).mtu(1_500).master(self.bridge).host_up();
        let eth0 = host.create_veth(&pair).expect("a pair").peer;
        inside.set_up(IfIndex::LOOPBACK).expect("lo");
        inside.add_address(eth0, "10.50.0.2/16".parse().expect("an address")).expect("an address");
        inside.set_up(eth0).expect("eth0");
        let gateway = "10.50.0.1".parse().expect("an address");
        inside.add_route(&Route::default_via(gateway, eth0)).expect("a route");
    }
}
