//! A node with one pod, on a private host.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use cnikit::bpf::{self, Direction, TcxLink};
use cnikit::datapath::{Datapath, Peer, PeerWay, RemoteConfig, RemoteDatapath, RemoteStats, UnderlayProgram};
use cnikit::spec::{IfIndex, NetworkName};
use cnikit_testbed::{Host, Namespace as _, Pod};

use crate::network::Network;

use super::super::load::Ends;
use super::super::path::{PLUGIN_PINS, PROBE, address, forwarded};
use super::rules;
use super::way::{MTU, Way};

/// A CIDR that covers the pods of both nodes.
pub(super) const CLUSTER: &str = "10.50.0.0/16";

/// The VXLAN network identifier and the UDP port: flannel's.
const VNI: u32 = 1;
const PORT: u16 = 8472;

/// The link to the other node, and the VXLAN device.
const UPLINK: &str = "up0";
const DEVICE: &str = "vxlan0";

/// One of two nodes.
pub(super) struct Node {
    number: u8,
    way: Way,
    pod: Arc<Pod>,
    address: IpAddr,
    remote: Option<RemoteDatapath>,
    ends: Option<Ends>,
}

/// The packets that took a part of the way, on one node.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    /// Packets of the check in the forward hook of the packet filter.
    pub(super) forwarded: u64,
    /// Packets in the VXLAN device, in both directions.
    pub(super) device: u64,
    pub(super) sent_direct: u64,
    pub(super) sent_tunnel: u64,
    pub(super) received_direct: u64,
    pub(super) received_tunnel: u64,
}

/// Joins two nodes by a veth pair. Both ends have segmentation offload, as most network cards have.
pub(super) fn create_underlay(host: &Host, other: &Path) {
    let other = other.display();
    host.ip(&format!("link add {UPLINK} mtu {MTU} type veth peer name {UPLINK} mtu {MTU} netns {other}"));
}

pub(super) fn pod_cidr(node: u8) -> String {
    format!("{}/24", network_address(node))
}

fn network_address(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 50, node, 0)
}

/// The address at the uplink.
pub(super) fn node_address(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, node)
}

/// The address of the first pod: plugins use the first address for the gateway.
pub(super) fn pod_address(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 50, node, 2)
}

fn gateway(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 50, node, 1)
}

impl Node {
    /// Creates, on a new host, a pod.
    pub(super) fn new(host: &Host, way: Way, mut network: Network, number: u8) -> Self {
        // The default of most nodes with kube-proxy.
        sysctl(host, "net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1");
        network.populate(host, 1);
        let pod = Arc::new(network.take_last());
        let address = address(&pod);
        assert_eq!(address, IpAddr::from(pod_address(number)), "{}", way.name());
        Self { number, way, pod, address, remote: None, ends: None }
    }

    pub(super) fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    pub(super) fn address(&self) -> IpAddr {
        self.address
    }

    /// Sets the pod of the other node.
    pub(super) fn connect(&mut self, server: Arc<Pod>, address: IpAddr) {
        self.ends = Some(Ends { client: Arc::clone(&self.pod), server, address });
    }

    pub(super) fn ends(&self) -> &Ends {
        self.ends.as_ref().expect("the nodes are connected")
    }

    /// Configures the uplink, the rules, and the way to the pods of the other node.
    pub(super) fn join(&mut self, host: &Host) {
        host.ip(&format!("address add {}/24 dev {UPLINK}", node_address(self.number)));
        host.ip(&format!("link set {UPLINK} up"));
        host.command("iptables-restore").stdin(rules::iptables(self.number)).run();
        let other = 3 - self.number;
        let (cidr, to) = (pod_cidr(other), node_address(other));
        match self.way {
            Way::Direct => {
                host.ip(&format!("route add {cidr} via {to} dev {UPLINK}"));
                let way = PeerWay::Direct { uplink: index(host, UPLINK), next_hop: to.into() };
                self.remote = Some(self.start_programs(host, way));
            }
            Way::Tunnel => {
                let own = gateway(self.number);
                host.ip(&format!("link add {DEVICE} type vxlan external dstport {PORT} nolearning noudpcsum"));
                host.ip(&format!("link set {DEVICE} arp off addrgenmode none mtu {} up", self.way.mtu()));
                host.ip(&format!("address add {own}/32 dev {DEVICE}"));
                host.ip(&format!("route add {cidr} encap ip id {VNI} dst {to} ttl 64 dev {DEVICE} src {own}"));
                host.command("nft").stdin(rules::untracked(PORT)).words("-f -").run();
                let way = PeerWay::Tunnel { link: index(host, DEVICE), remote: to.into(), vni: VNI };
                self.remote = Some(self.start_programs(host, way));
            }
            Way::Ptp | Way::Bridge => drop(host.ip(&format!("route add {cidr} via {to} dev {UPLINK}"))),
            Way::BridgeTunnel => self.create_flannel_device(host),
        }
    }

    /// The device, the route, the neighbor and the forwarding entry that flannel creates.
    fn create_flannel_device(&self, host: &Host) {
        let mac = |node: u8| format!("02:00:00:00:00:{node:02x}");
        let (number, other) = (self.number, 3 - self.number);
        let (local, to, mtu) = (node_address(number), node_address(other), self.way.mtu());
        let options = format!("vxlan id {VNI} local {local} dev {UPLINK} dstport {PORT} nolearning");
        host.ip(&format!("link add {DEVICE} address {} mtu {mtu} type {options}", mac(number)));
        host.ip(&format!("address add {}/32 dev {DEVICE}", network_address(number)));
        host.ip(&format!("link set {DEVICE} addrgenmode none up"));
        let (cidr, gateway) = (pod_cidr(other), network_address(other));
        host.ip(&format!("route add {cidr} via {gateway} dev {DEVICE} onlink"));
        host.ip(&format!("neighbor add {gateway} lladdr {} dev {DEVICE} nud permanent", mac(other)));
        host.command("bridge").words(&format!("fdb add {} dev {DEVICE} dst {to}", mac(other))).run();
    }

    /// Attaches the programs and writes the map entries, as the node agent does.
    fn start_programs(&self, host: &Host, way: PeerWay) -> RemoteDatapath {
        let network: NetworkName = "bench".parse().expect("a name");
        let remote =
            RemoteDatapath::new("/sys/fs/bpf/simple-ebpf-agent", &network, &Datapath::new(PLUGIN_PINS, &network));
        remote.ensure().expect("the programs of this build fit the plugin's maps");
        remote.configure(RemoteConfig::new(VNI).pod_mtu(self.way.mtu())).expect("a pinned map");
        attach(host, &remote, UPLINK, UnderlayProgram::Uplink);
        if self.way.is_tunnel() {
            attach(host, &remote, DEVICE, UnderlayProgram::Tunnel);
        }
        let other = 3 - self.number;
        let node = NonZeroU32::new(other.into()).expect("a number above 0");
        let addresses = remote.open_node_addresses().expect("a pinned map");
        addresses.insert(node_address(other).into(), node).expect("an entry");
        let peers = remote.open_peers().expect("a pinned map");
        let cidr = pod_cidr(other).parse().expect("a CIDR");
        peers.insert(cidr, Peer::new(node, way, self.way.mtu())).expect("an entry");
        remote
    }

    /// Starts to count the packets of the check.
    pub(super) fn start_count(&self, host: &Host) -> Counted {
        host.command("nft").stdin(PROBE).words("-f -").run();
        self.counted(host)
    }

    /// The packets since `before`.
    pub(super) fn end_count(&self, host: &Host, before: Counted) -> Counted {
        let now = self.counted(host);
        let forwarded = forwarded(host);
        host.command("nft").words("delete table inet probe").run();
        Counted {
            forwarded,
            device: now.device - before.device,
            sent_direct: now.sent_direct - before.sent_direct,
            sent_tunnel: now.sent_tunnel - before.sent_tunnel,
            received_direct: now.received_direct - before.received_direct,
            received_tunnel: now.received_tunnel - before.received_tunnel,
        }
    }

    fn counted(&self, host: &Host) -> Counted {
        let stats = self.remote.as_ref().map_or_else(RemoteStats::default, |remote| remote.stats().expect("a map"));
        let device = if self.way.is_tunnel() { packets(host, DEVICE) } else { 0 };
        Counted {
            forwarded: 0,
            device,
            sent_direct: stats.sent_direct,
            sent_tunnel: stats.sent_tunnel,
            received_direct: stats.received_direct,
            received_tunnel: stats.received_tunnel,
        }
    }
}

/// Attaches the programs of a link, as TCX links if the kernel has them.
fn attach(host: &Host, remote: &RemoteDatapath, link: &str, ingress: UnderlayProgram) {
    let index = index(host, link);
    for (direction, hook, program) in
        [(Direction::Ingress, "ingress", ingress), (Direction::Egress, "egress", UnderlayProgram::Egress)]
    {
        let pin = remote.link_pins().join(format!("{link}-{hook}"));
        let loaded = remote.program(program).expect("a pinned program");
        match TcxLink::ensure(&loaded, index, direction, pin) {
            Err(bpf::Error::TcxUnsupported) => {
                let pin = remote.directory().join(program.as_str());
                if direction == Direction::Ingress {
                    host.tc(&format!("qdisc add dev {link} clsact"));
                }
                host.tc(&format!("filter add dev {link} {hook} bpf direct-action object-pinned {}", pin.display()));
            }
            attached => drop(attached.expect("a program of this hook")),
        }
    }
}

fn index(host: &Host, link: &str) -> IfIndex {
    let index = host.link(link).expect("a link")["ifindex"].as_u64().expect("an index");
    IfIndex::new(index.try_into().expect("32 bits")).expect("an index")
}

/// The packets of a link, in both directions.
fn packets(host: &Host, link: &str) -> u64 {
    let links = host.ip(&format!("-s link show dev {link}"));
    let count = |direction: &str| links[0]["stats64"][direction]["packets"].as_u64().expect("a number");
    count("rx") + count("tx")
}

fn sysctl(host: &Host, settings: &str) {
    host.command("sysctl").words("-q -w").words(settings).run();
}
