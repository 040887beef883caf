//! The paths from pod to pod, and the check that packets take the expected path.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use cnikit::datapath::Datapath;
use cnikit_testbed::{Host, Namespace, Pod};

use crate::network::{Case, Contestant, Network};

use super::load::Ends;

/// The number of packets in the check.
pub(super) const PROBES: u64 = 50;

/// The directory of the plugin's pins.
pub(super) const PLUGIN_PINS: &str = "/sys/fs/bpf/simple-ebpf-cni";

/// A path that packets can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    Direct,
    DirectOff,
    BridgeNetfilter,
    Bridge,
    Ptp,
    Veth,
    Loopback,
}

/// A path with both its ends.
pub(super) struct Fixture {
    path: Path,
    /// Keeps the other pods alive.
    _network: Option<Network>,
    ends: Ends,
}

impl Path {
    pub(super) const ALL: [Self; 7] =
        [Self::Direct, Self::DirectOff, Self::BridgeNetfilter, Self::Bridge, Self::Ptp, Self::Veth, Self::Loopback];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Direct => "cnikit",
            Self::DirectOff => "cnikit, direct off",
            Self::BridgeNetfilter => "bridge, br_netfilter",
            Self::Bridge => "bridge",
            Self::Ptp => "ptp",
            Self::Veth => "veth pair",
            Self::Loopback => "loopback",
        }
    }

    /// The plugin of the path, if there is one.
    pub(super) fn contestant(self) -> Option<&'static str> {
        match self {
            Self::Direct | Self::DirectOff => Some("cnikit"),
            Self::BridgeNetfilter | Self::Bridge => Some("bridge"),
            Self::Ptp => Some("ptp"),
            Self::Veth | Self::Loopback => None,
        }
    }

    /// The network of a contestant for this path.
    pub(super) fn network(self, contestant: &Contestant) -> Network {
        let mut network = contestant.network(Case::Ipv4, std::path::Path::new(""));
        if self.contestant() == Some("cnikit") {
            network.config["directForwarding"] = (self == Self::Direct).into();
        }
        network
    }

    /// Whether iptables sees bridged packets. The packets of this plugin use the bridge with the
    /// default of most nodes.
    fn has_br_netfilter(self) -> bool {
        matches!(self, Self::Direct | Self::DirectOff | Self::BridgeNetfilter)
    }

    /// Whether packets pass the host's forward hook.
    fn is_forwarded(self) -> bool {
        matches!(self, Self::DirectOff | Self::BridgeNetfilter | Self::Ptp)
    }
}

impl Fixture {
    /// Creates, on a new host, the pods and the path between the last two of them.
    pub(super) fn new(host: &Host, path: Path, mut network: Option<Network>, pods: usize) -> Self {
        let setting = u8::from(path.has_br_netfilter());
        host.command("sysctl").arg("-q").arg(format!("net.bridge.bridge-nf-call-iptables={setting}")).run();
        let ends = match (&mut network, path) {
            (Some(network), _) => {
                network.populate(host, pods);
                network.assert_connected();
                let (client, server) = network.take_last_two();
                ends(client, server)
            }
            (None, Path::Loopback) => {
                let pod = Arc::new(host.pod());
                pod.ip("link set lo up");
                Ends { client: Arc::clone(&pod), server: pod, address: Ipv4Addr::LOCALHOST.into() }
            }
            (None, _) => pair(host),
        };
        Self { path, _network: network, ends }
    }

    pub(super) fn ends(&self) -> &Ends {
        &self.ends
    }

    /// Sends some packets and reads the counters of the host's packet filter and of the plugin's
    /// programs.
    ///
    /// # Panics
    ///
    /// If the packets take another path.
    pub(super) fn assert_path(&mut self, host: &Host) {
        let name = self.path.name();
        host.command("nft").stdin(PROBE).words("-f -").run();
        let before = self.counted();
        self.ends.probe();
        let seen = forwarded(host);
        host.command("nft").words("delete table inet probe").run();
        let expected = if self.path.is_forwarded() { PROBES } else { 0 };
        assert_eq!(seen, expected, "{name}: the host's packet filter counted {seen} of {PROBES} packets");
        if let Some(((packets, direct), (packets_after, direct_after))) = before.zip(self.counted()) {
            let expected = if self.path == Path::Direct { PROBES } else { 0 };
            assert!(packets_after - packets >= PROBES, "{name}: the programs did not count all packets");
            assert_eq!(direct_after - direct, expected, "{name}: directly forwarded packets");
        }
    }

    /// The packets that the client sent so far, and the directly forwarded packets among them.
    fn counted(&self) -> Option<(u64, u64)> {
        let is_ours = self.path.contestant() == Some("cnikit");
        is_ours.then(|| {
            let network = "bench".parse().expect("a name");
            let counters = Datapath::new(PLUGIN_PINS, &network).open_counters().expect("a pinned map");
            let sent = counters.read(address(&self.ends.client)).expect("a lookup").expect("a row");
            (sent.tx_packets, sent.tx_direct)
        })
    }
}

impl Ends {
    /// Sends the packets of the check.
    pub(super) fn probe(&self) {
        let Self { client, server, address } = self;
        let server = server.enter(|| UdpSocket::bind((*address, 0))).expect("an address of the server's");
        let any = (Ipv4Addr::UNSPECIFIED, 0);
        let client = client.enter(|| UdpSocket::bind(any)).expect("a socket");
        client.connect(server.local_addr().expect("an address")).expect("an address that is routed");
        server.set_read_timeout(Some(Duration::from_secs(2))).expect("a limit");
        for _ in 0..PROBES {
            client.send(b"probe").expect("a route");
            assert_eq!(server.recv(&mut [0; 16]).expect("a datagram"), 5);
        }
    }
}

/// Counts forwarded packets. The rule exists only during the check: the measurement has no rules.
pub(super) const PROBE: &str =
    "table inet probe { chain seen { type filter hook forward priority 0; udp length 13 counter; }; }\n";

/// The packets that [`PROBE`] has counted.
pub(super) fn forwarded(host: &Host) -> u64 {
    let text = host.command("nft").words("list chain inet probe seen").run();
    let count = text.split_whitespace().skip_while(|word| *word != "packets").nth(1);
    count.and_then(|count| count.parse().ok()).expect("a count of packets")
}

/// The IPv4 address of a pod.
pub(super) fn address(pod: &Pod) -> IpAddr {
    let addresses = pod.addresses("eth0");
    let address = addresses.iter().find_map(|address| address.split('/').next()?.parse().ok());
    address.unwrap_or_else(|| panic!("no address in {addresses:?}"))
}

/// Two pods connected only by a veth pair.
pub(super) fn pair(host: &Host) -> Ends {
    let (client, server) = (host.pod(), host.pod());
    let [one, other] = [&client, &server].map(|pod| pod.netns().display().to_string());
    host.ip(&format!("link add eth0 netns {one} type veth peer name eth0 netns {other}"));
    for (pod, address) in [(&client, "10.50.0.2/24"), (&server, "10.50.0.3/24")] {
        pod.ip(&format!("address add {address} dev eth0"));
        pod.ip("link set eth0 up");
    }
    ends(client, server)
}

fn ends(client: Pod, server: Pod) -> Ends {
    let address = address(&server);
    Ends { client: Arc::new(client), server: Arc::new(server), address }
}
