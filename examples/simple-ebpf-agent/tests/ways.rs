//! The ways between two nodes with agents that probe each other.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Parser as _;
use cnikit_testbed::{Namespace as _, Pod, host};
use ipnetwork::IpNetwork;
use simple_ebpf_agent::probe::Prober;
use simple_ebpf_agent::reconcile::Reconciler;
use simple_ebpf_agent::settings::Settings;
use simple_ebpf_agent::view::{ClusterView, OwnNode, PeerNode};
use simple_ebpf_cni::agent::{PeerReport, Report, Way, remote_datapath};
use socket2::{Domain, Socket, Type};
use tokio::sync::Notify;

/// The longest time until a blocked way is left, or a free one is used.
const LIMIT: Duration = Duration::from_secs(10);

const PORT: u16 = 5_000;

/// A node, and the last report of its agent.
struct Node {
    number: u8,
    netns: Pod,
    report: Mutex<Report>,
    is_stopped: AtomicBool,
}

impl Node {
    fn new(number: u8, netns: Pod) -> Self {
        Self { number, netns, report: Mutex::default(), is_stopped: AtomicBool::new(false) }
    }

    fn name(&self) -> String {
        format!("node{}", self.number)
    }

    fn pod_cidrs(&self) -> Vec<IpNetwork> {
        let number = self.number;
        let texts = [format!("10.244.{number}.0/24"), format!("fd00:10:244:{number}::/64")];
        texts.iter().map(|text| text.parse().expect("a network")).collect()
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let number = self.number;
        [format!("192.0.2.{number}"), format!("2001:db8::{number}")]
            .iter()
            .map(|text| text.parse().expect("an address"))
            .collect()
    }

    fn gateway(&self) -> IpAddr {
        Ipv4Addr::new(10, 244, self.number, 1).into()
    }

    fn settings(&self) -> Settings {
        let (name, conflist) = (self.name(), format!("/run/ways/{}.conflist", self.name()));
        Settings::parse_from([
            "agent",
            "--node-name",
            &name,
            "--network",
            &name,
            "--plugin-dir",
            "/run/ways",
            "--conflist",
            &conflist,
        ])
    }

    /// Runs an agent on this node, until it is stopped.
    fn run(&self, other: &Self) {
        let view = ClusterView {
            own: Some(OwnNode { name: self.name(), pod_cidrs: self.pod_cidrs(), addresses: self.addresses() }),
            peers: vec![PeerNode {
                name: other.name(),
                pod_cidrs: other.pod_cidrs(),
                addresses: other.addresses(),
                mode: None,
            }],
            problems: Vec::new(),
        };
        let changed = Arc::new(Notify::new());
        let prober = Prober::start(changed).expect("a thread");
        let mut reconciler = Reconciler::new(self.settings()).with_prober(prober);
        while !self.is_stopped.load(Ordering::Relaxed) {
            *self.report.lock().expect("no panic") = reconciler.apply(&view);
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn peers(&self) -> Vec<PeerReport> {
        self.report.lock().expect("no panic").peers.clone()
    }

    /// Waits until both families use a way.
    fn wait_for(&self, way: Way) {
        let began = Instant::now();
        while self.peers().len() != 2 || self.peers().iter().any(|peer| peer.way != way) {
            assert!(began.elapsed() < LIMIT, "{} has no way {way:?}: {:#?}", self.name(), self.report.lock());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Runs a test on two nodes in one network segment, with running agents.
fn on_nodes(test: impl FnOnce(&[Arc<Node>; 2]) + Send) {
    host(|host| {
        fs::create_dir("/run/ways").expect("create a directory");
        let nodes = [1, 2].map(|number| Arc::new(Node::new(number, host.pod())));
        let other = nodes[1].netns.netns();
        nodes[0].netns.ip(&format!("link add up0 type veth peer name up0 netns {}", other.display()));
        for node in &nodes {
            node.netns.ip("link set lo up");
            node.netns.command("sysctl").words("-q -w net.ipv6.conf.all.forwarding=1 net.ipv6.conf.up0.accept_dad=0 net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.up0.rp_filter=1").run();
            node.netns.ip("link set up0 up");
            for (address, length) in node.addresses().iter().zip([24, 64]) {
                node.netns.ip(&format!("address add {address}/{length} dev up0"));
            }
        }
        std::thread::scope(|scope| {
            for (node, other) in [(&nodes[0], &nodes[1]), (&nodes[1], &nodes[0])] {
                scope.spawn(move || node.netns.enter(|| node.run(other)));
            }
            let tested = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&nodes)));
            nodes.iter().for_each(|node| node.is_stopped.store(true, Ordering::Relaxed));
            if let Err(panic) = tested {
                std::panic::resume_unwind(panic);
            }
        });
        for node in &nodes {
            let network = node.name().parse().expect("a name");
            remote_datapath(&network).remove().expect("remove the pins");
            simple_ebpf_cni::naming::datapath(&network).remove().expect("remove the pins");
        }
        let _ = fs::remove_dir_all("/var/lib/cni/simple-ebpf-cni");
        fs::remove_dir_all("/run/ways").expect("remove the directory");
    });
}

/// A connection between the gateways of two nodes. This test has both ends.
struct Connection([TcpStream; 2]);

impl Connection {
    fn open(from: &Node, to: &Node) -> Self {
        let target = SocketAddr::from((to.gateway(), PORT));
        let listener = to.netns.enter(|| TcpListener::bind(target)).expect("bind");
        // As a pod, with an address of the pod CIDR: replies to a node address use no tunnel.
        let client = from.netns.enter(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.bind(&SocketAddr::from((from.gateway(), 0)).into()).expect("bind");
            socket.connect_timeout(&target.into(), LIMIT).expect("connect");
            TcpStream::from(socket)
        });
        let (server, _) = listener.accept().expect("accept");
        Self([client, server])
    }

    /// Sends a byte in each direction. Lost packets are sent again.
    fn assert_alive(&mut self, what: &str) {
        for (from, to) in [(0, 1), (1, 0)] {
            self.0[to].set_read_timeout(Some(LIMIT)).expect("a limit");
            self.0[from].write_all(b"x").expect("send");
            self.0[to].read_exact(&mut [0]).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }
}

/// A filter such as clouds have: packets from addresses that the machine does not own are dropped.
const BLOCK: &str = "table inet cloud {
    chain check {
        type filter hook prerouting priority raw
        iifname up0 ip saddr 10.244.0.0/16 drop
        iifname up0 ip6 saddr fd00:10:244::/48 drop
    }
    chain tunnel {
        type filter hook prerouting priority filter
        udp dport 8472 ct state untracked counter
        udp dport 8472 ct state != untracked counter
    }
}
";

/// The packets of the tunnel that the kernel does not track, and those that it tracks.
fn tunnel_packets(node: &Node) -> [u64; 2] {
    let listed = node.netns.command("nft").words("list chain inet cloud tunnel").run();
    let count = |line: &str| line.split("packets ").nth(1)?.split(' ').next()?.parse().ok();
    let counts: Vec<u64> = listed.lines().filter_map(count).collect();
    counts.try_into().expect("two rules with counters")
}

/// A network that drops long packets, without an error.
const BLOCK_LONG: &str = "table inet cloud {
    chain check {
        type filter hook prerouting priority raw
        iifname up0 meta length > 1480 drop
    }
}
";

#[test]
fn blocked_direct_way_is_left_for_the_tunnel_and_used_again() {
    on_nodes(|[a, b]| {
        a.wait_for(Way::Direct);
        b.wait_for(Way::Direct);
        let mut connection = Connection::open(a, b);
        connection.assert_alive("direct");
        for node in [a, b] {
            node.netns.command("nft").args(["-f", "-"]).stdin(BLOCK).run();
        }
        a.wait_for(Way::Vxlan);
        b.wait_for(Way::Vxlan);
        connection.assert_alive("tunnel");
        for node in [a, b] {
            let [untracked, tracked] = tunnel_packets(node);
            assert!(untracked > 0 && tracked == 0, "{untracked} packets are untracked, {tracked} are tracked");
        }
        for peer in a.peers() {
            assert!(peer.reason.contains("lost on the direct way"), "{peer:?}");
            assert_eq!(peer.mtu, Some(1450), "{peer:?}");
        }
        for node in [a, b] {
            node.netns.command("nft").words("delete table inet cloud").run();
        }
        a.wait_for(Way::Direct);
        b.wait_for(Way::Direct);
        connection.assert_alive("direct again");
    });
}

/// One direction is blocked: each node decides for its own packets.
#[test]
fn ways_of_two_nodes_can_differ() {
    on_nodes(|[a, b]| {
        a.wait_for(Way::Direct);
        b.wait_for(Way::Direct);
        let mut connection = Connection::open(a, b);
        b.netns.command("nft").args(["-f", "-"]).stdin(BLOCK).run();
        a.wait_for(Way::Vxlan);
        connection.assert_alive("tunnel there, direct back");
        // Requests of b arrive, and their answers take the direct way back, which is blocked.
        b.wait_for(Way::Vxlan);
        connection.assert_alive("tunnel");
    });
}

#[test]
fn short_packets_alone_do_not_make_a_direct_way() {
    on_nodes(|[a, b]| {
        a.wait_for(Way::Direct);
        b.netns.command("nft").args(["-f", "-"]).stdin(BLOCK_LONG).run();
        a.wait_for(Way::Vxlan);
        assert!(a.peers()[0].reason.contains("1500 bytes are lost"), "{:?}", a.peers());
    });
}
