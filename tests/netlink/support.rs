//! A private host namespace with a pod namespace, and iproute2 inside both.

use std::{
    net::IpAddr,
    os::fd::AsFd,
    process::{Command, Output},
};

use cnikit::{
    netlink::{BridgeSpec, IfIndex, Netns, Socket, VethEnd, VethIndexes, VethPair},
    spec::{IfName, MacAddr},
};
use ipnetwork::IpNetwork;
use serde_json::Value;

pub(crate) const BRIDGE_MAC: MacAddr = MacAddr::new([0x02, 0, 0, 0, 0, 0xb0]);

/// The two namespaces of a test. They disappear with this value.
pub(crate) struct Fixture {
    pub(crate) host: Netns,
    pub(crate) pod: Netns,
    pub(crate) on_host: Socket,
    pub(crate) in_pod: Socket,
}

impl Fixture {
    /// `None`, with the reason on stderr, if the process may not create namespaces.
    pub(crate) fn new() -> Option<Self> {
        let host = match Netns::create() {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                let demanded = std::env::var("CNIKIT_REQUIRE_PRIVILEGED").is_ok_and(|v| v == "1");
                assert!(!demanded, "CNIKIT_REQUIRE_PRIVILEGED=1 demands privileges: {error}");
                eprintln!("SKIP {error}");
                return None;
            }
            host => host.expect("create the host's namespace"),
        };
        let pod = Netns::create().expect("create the pod's namespace");
        let on_host = host.socket().expect("open a socket on the host");
        let in_pod = pod.socket().expect("open a socket in the pod");
        Some(Self { host, pod, on_host, in_pod })
    }

    /// Creates the bridge `cbr0`, up. Returns its index.
    pub(crate) fn bridge(&self) -> IfIndex {
        let spec = BridgeSpec::new(name("cbr0")).mac(BRIDGE_MAC).up();
        self.on_host.create_bridge(&spec).expect("create cbr0")
    }

    /// Creates a pair with names that contain `number`, and with the peer in the pod.
    pub(crate) fn veth(&self, number: u8, master: Option<IfIndex>) -> VethIndexes {
        let mut pair = pair(number, &self.pod).host_up();
        pair.master = master;
        self.on_host.create_veth(&pair).expect("create a veth pair")
    }
}

/// The pair `veth<number>` and `eth<number>`.
pub(crate) fn pair(number: u8, pod: &impl AsFd) -> VethPair<'_> {
    let host = VethEnd::new(name(&format!("veth{number}")), host_mac(number));
    let peer = VethEnd::new(name(&format!("eth{number}")), peer_mac(number));
    VethPair::new(host, peer, pod)
}

pub(crate) const fn host_mac(number: u8) -> MacAddr {
    MacAddr::new([0x02, 0, 0, 0, 1, number])
}

pub(crate) const fn peer_mac(number: u8) -> MacAddr {
    MacAddr::new([0x02, 0, 0, 0, 2, number])
}

pub(crate) fn name(name: &str) -> IfName {
    name.parse().expect("an interface name")
}

pub(crate) fn ifindex(index: u32) -> IfIndex {
    IfIndex::new(index).expect("an index")
}

pub(crate) fn net(text: &str) -> IpNetwork {
    text.parse().expect("a network")
}

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Creates the pair `veth1` and `eth1` with both ends up. Returns the index of `eth1` in the pod.
pub(crate) fn up_pair(fixture: &Fixture) -> IfIndex {
    let indexes = fixture.veth(1, None);
    fixture.in_pod.set_up(indexes.peer).expect("bring the peer up");
    indexes.peer
}

/// The JSON output of an iproute2 tool inside a namespace. Arguments are split at spaces.
pub(crate) fn json(netns: &Netns, command: &str) -> Value {
    let output = run(netns, command);
    match output.as_str() {
        // `tc` prints nothing for an empty list.
        "" => Value::Array(Vec::new()),
        text => serde_json::from_str(text).expect("JSON"),
    }
}

/// Whether a command inside a namespace succeeds.
pub(crate) fn try_run(netns: &Netns, command: &str) -> bool {
    output(netns, command).status.success()
}

/// The output of a command that runs inside a namespace and must succeed.
pub(crate) fn run(netns: &Netns, command: &str) -> String {
    let output = output(netns, command);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn output(netns: &Netns, command: &str) -> Output {
    let mut words = command.split_whitespace();
    let program = words.next().expect("a program");
    let output = netns.run(|| Command::new(program).args(words).output());
    output.expect("enter the namespace").expect("start the command")
}

/// The output of `ip -d link` for one link.
pub(crate) fn link(netns: &Netns, name: &str) -> Value {
    json(netns, &format!("ip -d -j link show dev {name}"))[0].take()
}
