//! Two nodes with a pod each. The nodes are network namespaces, joined by a veth pair.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cnikit::datapath::{
    Datapath, DatapathConfig, Endpoint, Peer, PeerWay, PortConfig, RemoteConfig, RemoteDatapath, RemoteStats,
};
use cnikit::spec::{IfIndex, MacAddr};
use cnikit_testbed::{Namespace, Pod, host, tool};
use ipnetwork::IpNetwork;

use crate::fixture::index;
use crate::support::datapath;

/// The port of the servers in the pods and on the nodes.
pub(crate) const PORT: u16 = 5_000;
/// The timeout of a connection that must succeed, and of a connection that must fail.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);
pub(crate) const SHORT: Duration = Duration::from_millis(300);
pub(crate) const VNI: u32 = 77;
pub(crate) const MTU: u32 = 1500;
/// The headers of VXLAN over IPv6, which are the longest.
pub(crate) const OVERHEAD: u32 = 70;

/// How the nodes reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By the uplink, to the node's address of the same family.
    Direct,
    /// As `Direct`, with IPv6 next hops for both families.
    DirectOverIpv6,
    Tunnel,
    /// As `Tunnel`, with IPv6 between the nodes.
    TunnelOverIpv6,
    /// By routes, without the programs.
    Stack,
}

/// A node with one pod.
pub(crate) struct Node {
    number: u8,
    pub(crate) netns: Pod,
    pub(crate) pod: Pod,
    pub(crate) datapath: Datapath,
    pub(crate) remote: RemoteDatapath,
}

pub(crate) struct Nodes(pub(crate) [Node; 2]);

/// Runs a test on two nodes that reach each other's pods.
pub(crate) fn on_nodes(way: Way, test: impl FnOnce(&Nodes) + Send) {
    if !tool("nft") || !tool("bpftool") {
        return;
    }
    host(|host| {
        let nodes = Nodes([1, 2].map(|number| Node::new(number, host.pod(), host.pod())));
        let [a, b] = &nodes.0;
        let other = b.netns.netns();
        a.netns.ip(&format!("link add up0 mtu {MTU} type veth peer name up0 mtu {MTU} netns {}", other.display()));
        for (node, other) in [(a, b), (b, a)] {
            node.join();
            // A process on the node needs a route to a service address, which no link has.
            for router in other.node_addresses() {
                node.netns.ip(&format!("route add default via {router}"));
            }
        }
        nodes.set_way(way);
        nodes.serve(|| test(&nodes));
        for node in &nodes.0 {
            node.remote.remove().expect("remove the pins");
            node.datapath.remove().expect("remove the pins");
        }
    });
}

impl Nodes {
    /// Changes the way to the pods of the other node, on both nodes.
    pub(crate) fn set_way(&self, way: Way) {
        for (node, other) in [(&self.0[0], &self.0[1]), (&self.0[1], &self.0[0])] {
            node.set_way(other, way);
        }
    }

    /// Writes another MTU of the way to the map entries.
    pub(crate) fn set_mtu(&self, way: Way, mtu: u32) {
        self.set_way(way);
        for node in &self.0 {
            let peers = node.remote.open_peers().expect("open");
            for (cidr, peer) in peers.entries().expect("list") {
                let peer = peer.expect("a valid entry");
                peers.insert(cidr, Peer::new(peer.node, peer.way, mtu)).expect("insert");
            }
        }
    }

    /// Runs a closure while the pods and the nodes echo streams and datagrams.
    fn serve(&self, test: impl FnOnce()) {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for netns in self.0.iter().flat_map(|node| [&node.netns, &node.pod]) {
                let (listener, socket) = netns.enter(|| {
                    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
                    (TcpListener::bind(any).expect("bind"), UdpSocket::bind(any).expect("bind"))
                });
                let stop = &stop;
                scope.spawn(move || echo_streams(&listener, stop));
                scope.spawn(move || echo_datagrams(&socket, stop));
            }
            let tested = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
            stop.store(true, Ordering::Relaxed);
            if let Err(panic) = tested {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

impl Node {
    fn new(number: u8, netns: Pod, pod: Pod) -> Self {
        let name = format!("node{number}");
        let datapath = datapath(&name);
        let network = name.parse().expect("a name");
        let remote = RemoteDatapath::new("/sys/fs/bpf/example-agent", &network, &datapath);
        datapath.ensure().expect("load");
        let node = Self { number, netns, pod, datapath, remote };
        node.create_bridge();
        node.create_pod();
        node
    }

    /// Creates the bridge with the gateways.
    fn create_bridge(&self) {
        let (netns, mac) = (&self.netns, self.gateway_mac());
        sysctl(netns, "net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.lo.disable_ipv6=0");
        netns.ip("link set lo up");
        netns.ip(&format!("link add cbr0 address {mac} type bridge mcast_snooping 0"));
        sysctl(netns, "net.ipv6.conf.cbr0.accept_dad=0");
        netns.ip("link set cbr0 up");
        let bridge = index(netns, "cbr0");
        attach(netns, "cbr0", &self.datapath.directory(), ["cni_tc_main", "cni_tc_egress"]);
        let endpoints = self.datapath.open_endpoints().expect("open");
        for (gateway, length) in self.gateway().into_iter().zip([24, 64]) {
            netns.ip(&format!("address add {gateway}/{length} dev cbr0 {}", nodad(gateway)));
            endpoints.insert(gateway, Endpoint::new(bridge, mac)).expect("insert");
        }
        self.datapath.configure(DatapathConfig::new(bridge, mac)).expect("configure");
    }

    fn create_pod(&self) {
        let (pod, mac) = (&self.pod, MacAddr::new([0x02, 0, 0, 0, self.number, 2]));
        let path = pod.netns();
        self.netns.ip(&format!("link add veth0 type veth peer name eth0 address {mac} netns {}", path.display()));
        self.netns.ip("link set veth0 addrgenmode none master cbr0 up");
        sysctl(pod, "net.ipv6.conf.eth0.accept_dad=0 net.ipv6.conf.lo.disable_ipv6=0");
        pod.ip("link set lo up");
        pod.ip(&format!("link set eth0 mtu {} up", MTU - OVERHEAD));
        attach(&self.netns, "veth0", &self.datapath.directory(), ["cni_tc_main", "cni_tc_egress"]);
        let endpoint = Endpoint::new(index(&self.netns, "veth0"), mac);
        let endpoints = self.datapath.open_endpoints().expect("open");
        for (address, (gateway, length)) in self.addresses().into_iter().zip(self.gateway().into_iter().zip([24, 64])) {
            pod.ip(&format!("address add {address}/{length} dev eth0 {}", nodad(address)));
            pod.ip(&format!("route add default via {gateway}"));
            self.datapath.open_counters().and_then(|counters| counters.insert(address)).expect("insert");
            endpoints.insert(address, endpoint).expect("insert");
        }
        endpoints.insert(mac.link_local().into(), endpoint).expect("insert");
        let ports = self.datapath.open_port_configs().expect("open");
        ports.insert(endpoint.ifindex, PortConfig::new(mac)).expect("insert");
    }

    /// Configures the uplink and the tunnel's link, with the programs.
    fn join(&self) {
        let netns = &self.netns;
        sysctl(netns, "net.ipv6.conf.up0.accept_dad=0");
        netns.ip("link set up0 up");
        for (address, length) in self.node_addresses().into_iter().zip([24, 64]) {
            netns.ip(&format!("address add {address}/{length} dev up0 {}", nodad(address)));
        }
        netns.ip("link add vx0 type vxlan external dstport 8472 nolearning noudpcsum");
        netns.ip(&format!("link set vx0 arp off addrgenmode none mtu {} up", MTU - OVERHEAD));
        for (gateway, length) in self.gateway().into_iter().zip([32, 128]) {
            netns.ip(&format!("address add {gateway}/{length} dev vx0 {}", nodad(gateway)));
        }
        self.remote.ensure().expect("load");
        self.remote.configure(RemoteConfig::new(VNI)).expect("configure");
        attach(netns, "up0", &self.remote.directory(), ["cni_up_ingress", "cni_up_egress"]);
        attach(netns, "vx0", &self.remote.directory(), ["cni_tun_ingress", "cni_up_egress"]);
    }

    /// Writes the routes and map entries for the pods of another node.
    pub(crate) fn set_way(&self, other: &Self, way: Way) {
        let (uplink, link) = (index(&self.netns, "up0"), index(&self.netns, "vx0"));
        let node = NonZeroU32::new(other.number.into()).expect("a number");
        let [v4, v6] = other.node_addresses();
        for (family, cidr) in other.pod_cidrs().into_iter().enumerate() {
            let to = match way {
                Way::DirectOverIpv6 | Way::TunnelOverIpv6 => v6,
                _ => [v4, v6][family],
            };
            let gateway = self.gateway()[family];
            let (route, entry, mtu) = match way {
                Way::Direct | Way::DirectOverIpv6 => {
                    (format!("via {}{to} dev up0", inet6(cidr, to)), PeerWay::Direct { uplink, next_hop: to }, MTU)
                }
                Way::Stack => (format!("via {to} dev up0"), PeerWay::Stack, MTU),
                Way::Tunnel | Way::TunnelOverIpv6 => {
                    // UDP over IPv6 needs a checksum: RFC 8200, section 8.1.
                    let (encap, csum) = if to.is_ipv4() { ("ip", "") } else { ("ip6", "csum") };
                    let route = format!("encap {encap} id {VNI} dst {to} {csum} dev vx0 src {gateway}");
                    (route, PeerWay::Tunnel { link, remote: to, vni: VNI }, MTU - OVERHEAD)
                }
            };
            self.netns.ip(&format!("route replace {cidr} {route}"));
            self.remote.open_peers().and_then(|peers| peers.insert(cidr, Peer::new(node, entry, mtu))).expect("insert");
        }
        let addresses = self.remote.open_node_addresses().expect("open");
        for address in other.node_addresses() {
            addresses.insert(address, node).expect("insert");
        }
    }

    pub(crate) fn pod_cidrs(&self) -> [IpNetwork; 2] {
        let number = self.number;
        [format!("10.244.{number}.0/24"), format!("fd00:244:{number}::/64")]
            .map(|text| text.parse().expect("a network"))
    }

    /// The addresses of the gateway, one of each family.
    pub(crate) fn gateway(&self) -> [IpAddr; 2] {
        self.in_cidrs(1)
    }

    /// The addresses of the pod.
    pub(crate) fn addresses(&self) -> [IpAddr; 2] {
        self.in_cidrs(2)
    }

    fn in_cidrs(&self, last: u8) -> [IpAddr; 2] {
        let number = self.number;
        let v6 = Ipv6Addr::new(0xfd00, 0x244, number.into(), 0, 0, 0, 0, last.into());
        [Ipv4Addr::new(10, 244, number, last).into(), v6.into()]
    }

    /// The addresses at the uplink.
    pub(crate) fn node_addresses(&self) -> [IpAddr; 2] {
        let last = self.number;
        [Ipv4Addr::new(192, 0, 2, last).into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).into()]
    }

    fn gateway_mac(&self) -> MacAddr {
        MacAddr::new([0x02, 0, 0, 0, self.number, 1])
    }

    /// The index of the port of the pod.
    pub(crate) fn port(&self) -> IfIndex {
        index(&self.netns, "veth0")
    }

    pub(crate) fn stats(&self) -> RemoteStats {
        self.remote.stats().expect("read")
    }

    pub(crate) fn flows(&self) -> u64 {
        self.datapath.stats().expect("read").flows_added
    }

    /// The packets that the programs have redirected, to and from other nodes.
    pub(crate) fn redirected(&self) -> u64 {
        let stats = self.stats();
        stats.sent_direct + stats.sent_tunnel + stats.received_direct + stats.received_tunnel
    }
}

/// Whether a TCP connection and a datagram are answered, each within `limit`.
pub(crate) fn answers(from: &Pod, to: SocketAddr, limit: Duration) -> [bool; 2] {
    [stream(from, to, limit), datagram(from, to, limit)]
}

pub(crate) fn stream(from: &Pod, to: SocketAddr, limit: Duration) -> bool {
    from.enter(|| TcpStream::connect_timeout(&to, limit)).is_ok_and(|mut stream| is_echoed(&mut stream, limit))
}

/// Whether an open connection still works.
pub(crate) fn is_echoed(stream: &mut TcpStream, limit: Duration) -> bool {
    let mut echo = [0; 5];
    stream.set_read_timeout(Some(limit)).expect("a limit");
    stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut echo)).is_ok() && echo == *b"hello"
}

pub(crate) fn datagram(from: &Pod, to: SocketAddr, limit: Duration) -> bool {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = from.enter(|| UdpSocket::bind((any, 0))).expect("bind");
    socket.set_read_timeout(Some(limit)).expect("a limit");
    let mut buffer = [0; 8];
    socket.connect(to).and_then(|()| socket.send(b"hello")).is_ok() && socket.recv(&mut buffer).is_ok()
}

fn echo_streams(listener: &TcpListener, stop: &AtomicBool) {
    listener.set_nonblocking(true).expect("nonblocking");
    std::thread::scope(|scope| {
        while !stop.load(Ordering::Relaxed) {
            let Ok((mut stream, _)) = listener.accept() else {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            };
            stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(SHORT))).expect("a limit");
            stream.set_write_timeout(Some(TIMEOUT)).expect("a limit");
            scope.spawn(move || {
                let mut buffer = vec![0; 65_536];
                while !stop.load(Ordering::Relaxed) {
                    match stream.read(&mut buffer) {
                        Ok(0) => return,
                        Ok(length) if stream.write_all(&buffer[..length]).is_ok() => {}
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                        _ => return,
                    }
                }
            });
        }
    });
}

fn echo_datagrams(socket: &UdpSocket, stop: &AtomicBool) {
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a limit");
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            // A test may have removed the route.
            let _ = socket.send_to(&buffer[..length], from);
        }
    }
}

/// Attaches pinned programs to the ingress and the egress of a link.
pub(crate) fn attach(netns: &impl Namespace, link: &str, pins: &std::path::Path, programs: [&str; 2]) {
    netns.tc(&format!("qdisc add dev {link} clsact"));
    for (hook, program) in ["ingress", "egress"].into_iter().zip(programs) {
        let pin = pins.join(program);
        netns.tc(&format!("filter add dev {link} {hook} bpf direct-action object-pinned {}", pin.display()));
    }
}

pub(crate) fn sysctl(netns: &impl Namespace, settings: &str) {
    netns.command("sysctl").words("-q -w").words(settings).run();
}

fn nodad(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "nodad" } else { "" }
}

/// The word that `ip route` needs before a next hop of another family.
fn inet6(cidr: IpNetwork, to: IpAddr) -> &'static str {
    if cidr.is_ipv4() && to.is_ipv6() { "inet6 " } else { "" }
}
