//! The state of the kernel that connects this node to the others. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU32;

use cnikit::datapath::{Peer, PeerWay};
use cnikit::netlink::{Route, TunnelEncap};
use cnikit::spec::{IfIndex, MacAddr};
use ipnetwork::IpNetwork;
use simple_ebpf_cni::agent::{Mode, PeerReport, ProbeReport, ROUTE_PROTOCOL, Way};

use crate::cidrs::Cidrs;
use crate::routes::{NextHop, RouteIndex};
use crate::view::{ClusterView, PeerNode};

/// The metric of the second route to a pod CIDR. Probes use it, because their socket is bound to
/// its link. All other packets use it if the link of the first route disappears.
const SECOND_METRIC: u32 = 20_100;

/// The headers of VXLAN: Ethernet, VXLAN, UDP and IP of the outer packet.
const OVERHEAD_IPV4: u32 = 50;
const OVERHEAD_IPV6: u32 = 70;

/// The hop limit of packets between nodes, whatever the default of a node is.
const TUNNEL_HOP_LIMIT: u8 = 64;

/// The settings and the state of the kernel that the ways depend on.
#[derive(Clone, Copy, Debug)]
pub struct Underlay<'a> {
    /// The mode of nodes without an own one.
    pub mode: Mode,
    /// Whether the eBPF programs forward packets. Otherwise the stack does.
    pub bypass: bool,
    /// The routes of other programs.
    pub routes: &'a RouteIndex<'a>,
    /// The links of this node.
    pub links: &'a BTreeMap<IfIndex, LinkInfo>,
    /// The tunnel, or the reason why this node has none.
    pub tunnel: Result<TunnelLink, &'a str>,
    /// The results of the probes, by pod CIDR.
    pub verdicts: &'a BTreeMap<IpNetwork, Verdict>,
    /// The next hops of the agent's direct routes, by pod CIDR. Without a verdict, such a way
    /// stays, so that a restarted agent changes nothing.
    pub current: &'a BTreeMap<IpNetwork, IpAddr>,
}

/// The parts of a link that the ways depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkInfo {
    /// The MTU, in bytes.
    pub mtu: u32,
    /// Whether frames have MACs, which the eBPF programs expect.
    pub is_ethernet: bool,
}

/// The tunnel of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelLink {
    /// The VXLAN link.
    pub link: IfIndex,
    /// The VXLAN network identifier.
    pub vni: u32,
}

/// The result of the probes of the direct way to a pod CIDR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether packets go the direct way.
    pub is_direct: bool,
    /// The cause, such as "on-link, probes are answered".
    pub reason: String,
    /// The last answer and the lost probes.
    pub report: ProbeReport,
}

/// A direct way that needs probes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeTarget {
    /// The pod CIDR.
    pub cidr: IpNetwork,
    /// The address that answers: the gateway of the pod CIDR.
    pub gateway: IpAddr,
    /// The link of the direct way.
    pub uplink: IfIndex,
    /// The next hop of the direct way.
    pub next_hop: IpAddr,
    /// The longest IP packet of the direct way, in bytes.
    pub mtu: u32,
    /// The link of the tunnel.
    pub tunnel: IfIndex,
}

/// The state that the agent establishes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The routes to pods of other nodes.
    pub routes: Vec<Route>,
    /// The pod CIDRs of all nodes. Packets between them are not masqueraded.
    pub pod_cidrs: Cidrs,
    /// The addresses of other nodes that see the address of a pod.
    pub nodes: BTreeSet<IpAddr>,
    /// The entries of the map `peers`.
    pub entries: BTreeMap<IpNetwork, Peer>,
    /// The entries of the map `node_addresses`.
    pub node_addresses: BTreeMap<IpAddr, NonZeroU32>,
    /// The links to other nodes, without the tunnel's.
    pub uplinks: BTreeSet<IfIndex>,
    /// The direct ways to probe.
    pub targets: Vec<ProbeTarget>,
    /// The way to the pods of each node and family.
    pub peers: Vec<PeerReport>,
}

/// A possible way to a node.
struct Candidate {
    address: IpAddr,
    link: IfIndex,
    mtu: u32,
    is_ethernet: bool,
}

impl Desired {
    /// The state for a view of the cluster.
    #[must_use]
    pub fn new(view: &ClusterView, underlay: &Underlay<'_>) -> Self {
        let mut desired = Self::default();
        let own = view.own.iter();
        desired.pod_cidrs.extend(own.clone().flat_map(|own| &own.pod_cidrs).copied());
        let own_cidrs: Vec<IpNetwork> = own.clone().flat_map(|own| own.pod_cidrs.clone()).collect();
        let own: Vec<IpAddr> = own.flat_map(|own| own.addresses.clone()).collect();
        for peer in &view.peers {
            for cidr in &peer.pod_cidrs {
                // The addresses of third nodes do not count: each node sets its own ones, and must
                // not be able to cut off another.
                if let Some(node) = own.iter().chain(&peer.addresses).find(|node| cidr.contains(**node)) {
                    // The route would replace the way to the node.
                    let reason = format!("{cidr} has the address {node} of a node; choose another --cluster-cidr");
                    desired.report(peer, *cidr, Way::None, reason);
                } else if let Some(known) = desired.pod_cidrs.overlapping(*cidr) {
                    let reason =
                        format!("{cidr} overlaps with the pod CIDR {known} of another node; delete one of the nodes");
                    desired.report(peer, *cidr, Way::None, reason);
                } else {
                    desired.pod_cidrs.insert(*cidr);
                    let gateway = own_cidrs.iter().find(|own| own.is_ipv4() == cidr.is_ipv4()).and_then(first_address);
                    desired.add(peer, *cidr, gateway, underlay);
                }
            }
        }
        desired
    }

    fn report(&mut self, peer: &PeerNode, cidr: IpNetwork, way: Way, reason: String) -> &mut PeerReport {
        self.peers.push(PeerReport {
            node: peer.name.clone(),
            pod_cidr: cidr,
            address: None,
            way,
            reason,
            link: None,
            mtu: None,
            bypass: false,
            probe: None,
        });
        let last = self.peers.len() - 1;
        &mut self.peers[last]
    }

    fn add(&mut self, peer: &PeerNode, cidr: IpNetwork, gateway: Option<IpAddr>, underlay: &Underlay<'_>) {
        let mode = peer.mode.unwrap_or(underlay.mode);
        self.add_node(peer, underlay);
        let direct = self.direct(peer, cidr, underlay);
        let tunnel = self.tunnel(peer, underlay);
        let verdict = underlay.verdicts.get(&cidr);
        match (mode, direct, tunnel) {
            (Mode::Routed, ..) => {
                self.entries.insert(cidr, Peer::new(node_number(&peer.name), PeerWay::Stack, 0));
                self.report(peer, cidr, Way::Routed, "mode routed".to_owned());
            }
            (Mode::Auto, Ok(direct), Ok((tunnel, link))) => {
                let is_current = underlay.current.get(&cidr) == Some(&direct.address);
                let is_direct = verdict.map_or(is_current, |verdict| verdict.is_direct);
                if let Some(gateway) = first_address(&cidr) {
                    let (uplink, next_hop, mtu) = (direct.link, direct.address, direct.mtu);
                    self.targets.push(ProbeTarget { cidr, gateway, uplink, next_hop, mtu, tunnel: link.link });
                }
                let [first, second] = if is_direct { [None, Some(SECOND_METRIC)] } else { [Some(SECOND_METRIC), None] };
                self.routes.push(direct_route(cidr, &direct, first));
                self.routes.push(tunnel_route(cidr, &tunnel, link, gateway, second));
                let reason = verdict.map_or("on-link, and probes wait for an answer", |verdict| &verdict.reason);
                let reason = reason.to_owned();
                if is_direct {
                    self.use_direct(peer, cidr, &direct, underlay, reason);
                } else {
                    self.use_tunnel(peer, cidr, &tunnel, link, underlay, reason);
                }
                if let Some(last) = self.peers.last_mut() {
                    last.probe = Some(verdict.map(|verdict| verdict.report).unwrap_or_default());
                }
            }
            (Mode::Auto | Mode::Direct, Ok(direct), tunnel) => {
                self.routes.push(direct_route(cidr, &direct, None));
                let reason = match tunnel {
                    Err(reason) if mode == Mode::Auto => format!("on-link, without probes: {reason}"),
                    _ => "on-link".to_owned(),
                };
                self.use_direct(peer, cidr, &direct, underlay, reason);
            }
            (Mode::Auto | Mode::Vxlan, direct, Ok((tunnel, link))) => {
                self.routes.push(tunnel_route(cidr, &tunnel, link, gateway, None));
                let reason = match direct {
                    Err(reason) if mode == Mode::Auto => reason,
                    _ => "mode vxlan".to_owned(),
                };
                self.use_tunnel(peer, cidr, &tunnel, link, underlay, reason);
            }
            (Mode::Vxlan, _, Err(reason)) => {
                self.report(peer, cidr, Way::None, reason);
            }
            (Mode::Auto, Err(direct), Err(tunnel)) => {
                self.report(peer, cidr, Way::None, format!("{direct}; {tunnel}"));
            }
            (Mode::Direct, Err(reason), _) => {
                let reason = format!("{reason}: a router between the nodes must know {cidr}");
                self.report(peer, cidr, Way::None, reason);
            }
        }
    }

    /// Adds the addresses of a node, and the links to it.
    fn add_node(&mut self, peer: &PeerNode, underlay: &Underlay<'_>) {
        let number = node_number(&peer.name);
        for address in &peer.addresses {
            // The first node keeps an address that a second one claims.
            self.node_addresses.entry(*address).or_insert(number);
            if let Some(hop) = self.next_hop(*address, underlay).filter(|_| !self.pod_cidrs.contains(*address))
                && underlay.links.get(&hop.link).is_some_and(|link| link.is_ethernet)
            {
                self.uplinks.insert(hop.link);
            }
        }
    }

    /// The way to an address outside of pod CIDRs. The bridge makes each address in the own pod
    /// CIDR look on-link.
    fn next_hop(&self, address: IpAddr, underlay: &Underlay<'_>) -> Option<NextHop> {
        if self.pod_cidrs.contains(address) { None } else { underlay.routes.next_hop(address) }
    }

    /// The direct way, if the node is on-link.
    fn direct(&self, peer: &PeerNode, cidr: IpNetwork, underlay: &Underlay<'_>) -> Result<Candidate, String> {
        // An IPv4 destination can have an IPv6 next hop, but not the other way round.
        let same_family = peer.addresses.iter().filter(|address| address.is_ipv4() == cidr.is_ipv4());
        let other_family = peer.addresses.iter().filter(|address| cidr.is_ipv4() && address.is_ipv6());
        let addresses = same_family.chain(other_family).filter(|address| !self.pod_cidrs.contains(**address));
        let addresses: Vec<IpAddr> = addresses.copied().collect();
        for address in &addresses {
            let Some(hop) = self.next_hop(*address, underlay).filter(|hop| hop.is_on_link) else { continue };
            if let Some(candidate) = candidate(*address, hop, 0, underlay) {
                return Ok(candidate);
            }
        }
        Err(match addresses.first() {
            Some(first) => format!("{first} is not in a subnet of this node"),
            None => {
                let family = if cidr.is_ipv4() { "IPv4 or IPv6" } else { "IPv6" };
                format!("the node has no {family} address of type InternalIP outside of pod CIDRs")
            }
        })
    }

    /// The way through the tunnel. IPv4 has the shorter header.
    fn tunnel(&self, peer: &PeerNode, underlay: &Underlay<'_>) -> Result<(Candidate, TunnelLink), String> {
        let link = underlay.tunnel.map_err(str::to_owned)?;
        let (v4, v6) = peer.addresses.iter().partition::<Vec<IpAddr>, _>(|address| address.is_ipv4());
        for address in v4.iter().chain(&v6) {
            let overhead = if address.is_ipv4() { OVERHEAD_IPV4 } else { OVERHEAD_IPV6 };
            let hop = self.next_hop(*address, underlay);
            if let Some(candidate) = hop.and_then(|hop| candidate(*address, hop, overhead, underlay)) {
                return Ok((candidate, link));
            }
        }
        let known: Vec<String> = peer.addresses.iter().map(ToString::to_string).collect();
        Err(format!("this node has no unique route to {}", known.join(" or ")))
    }

    fn use_direct(
        &mut self,
        peer: &PeerNode,
        cidr: IpNetwork,
        way: &Candidate,
        underlay: &Underlay<'_>,
        reason: String,
    ) {
        let bypass = underlay.bypass && way.is_ethernet;
        let entry = match bypass {
            true => PeerWay::Direct { uplink: way.link, next_hop: way.address },
            false => PeerWay::Stack,
        };
        self.entries.insert(cidr, Peer::new(node_number(&peer.name), entry, way.mtu));
        self.nodes.extend(
            peer.addresses
                .iter()
                .filter(|address| underlay.routes.next_hop(**address).is_some_and(|hop| hop.is_on_link)),
        );
        let report = self.report(peer, cidr, Way::Direct, reason);
        (report.address, report.mtu, report.bypass) = (Some(way.address), Some(way.mtu), bypass);
    }

    fn use_tunnel(
        &mut self,
        peer: &PeerNode,
        cidr: IpNetwork,
        way: &Candidate,
        tunnel: TunnelLink,
        underlay: &Underlay<'_>,
        reason: String,
    ) {
        let entry = match underlay.bypass {
            true => PeerWay::Tunnel { link: tunnel.link, remote: way.address, vni: tunnel.vni },
            false => PeerWay::Stack,
        };
        self.entries.insert(cidr, Peer::new(node_number(&peer.name), entry, way.mtu));
        let report = self.report(peer, cidr, Way::Vxlan, reason);
        (report.address, report.mtu, report.bypass) = (Some(way.address), Some(way.mtu), underlay.bypass);
    }
}

/// The longest header of the tunnel for a node with these addresses.
#[must_use]
pub fn tunnel_overhead(own: &[IpAddr]) -> u32 {
    if own.iter().any(IpAddr::is_ipv4) { OVERHEAD_IPV4 } else { OVERHEAD_IPV6 }
}

/// The gateway of a pod CIDR: its first address.
#[must_use]
pub fn first_address(cidr: &IpNetwork) -> Option<IpAddr> {
    let first = match cidr.network() {
        IpAddr::V4(network) => IpAddr::from((u32::from(network)).checked_add(1)?.to_be_bytes()),
        IpAddr::V6(network) => IpAddr::from((u128::from(network)).checked_add(1)?.to_be_bytes()),
    };
    cidr.contains(first).then_some(first)
}

/// The number of a node in the maps, the same in each run.
fn node_number(name: &str) -> NonZeroU32 {
    let [_, _, a, b, c, d] = MacAddr::derived_from(&format!("{name}/node")).octets();
    NonZeroU32::new(u32::from_be_bytes([a, b, c, d])).unwrap_or(NonZeroU32::MIN)
}

fn candidate(address: IpAddr, hop: NextHop, overhead: u32, underlay: &Underlay<'_>) -> Option<Candidate> {
    let link = underlay.links.get(&hop.link)?;
    let mtu = hop.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu));
    Some(Candidate { address, link: hop.link, mtu: mtu.saturating_sub(overhead), is_ethernet: link.is_ethernet })
}

fn direct_route(cidr: IpNetwork, way: &Candidate, metric: Option<u32>) -> Route {
    let route = Route::new(cidr, way.link).via(way.address).protocol(ROUTE_PROTOCOL);
    metric.into_iter().fold(route, Route::priority)
}

/// The source is the gateway. With the address of another link, a reply would take another way.
fn tunnel_route(
    cidr: IpNetwork,
    way: &Candidate,
    tunnel: TunnelLink,
    gateway: Option<IpAddr>,
    metric: Option<u32>,
) -> Route {
    let encap = TunnelEncap::new(tunnel.vni.into(), way.address).ttl(TUNNEL_HOP_LIMIT);
    let route = Route::new(cidr, tunnel.link).encap(encap).protocol(ROUTE_PROTOCOL);
    let route = gateway.into_iter().fold(route, Route::src);
    metric.into_iter().fold(route, Route::priority)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::OwnNode;

    fn network(text: &str) -> IpNetwork {
        text.parse().expect("a network")
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn link(number: u32) -> IfIndex {
        IfIndex::new(number).expect("an index")
    }

    fn peer(name: &str, cidr: &str, node: &str) -> PeerNode {
        PeerNode { name: name.to_owned(), pod_cidrs: vec![network(cidr)], addresses: vec![address(node)], mode: None }
    }

    fn view(peers: Vec<PeerNode>) -> ClusterView {
        let own = OwnNode {
            name: "a".to_owned(),
            pod_cidrs: vec![network("10.244.1.0/24"), network("fd00:10:244:1::/64")],
            addresses: vec![address("192.0.2.1")],
        };
        ClusterView { own: Some(own), peers, problems: Vec::new() }
    }

    /// The routes of a node with one link and a default route, and a second link for pods.
    fn underlay() -> Vec<Route> {
        vec![
            Route::new(network("0.0.0.0/0"), link(2)).via(address("192.0.2.254")),
            Route::new(network("192.0.2.0/24"), link(2)),
            Route::new(network("2001:db8::/64"), link(2)),
            Route::new(network("10.244.1.0/24"), link(9)),
        ]
    }

    const TUNNEL: u32 = 7;

    struct Case {
        routes: Vec<Route>,
        mode: Mode,
        tunnel: bool,
        verdicts: BTreeMap<IpNetwork, Verdict>,
        current: BTreeMap<IpNetwork, IpAddr>,
    }

    impl Case {
        fn new(mode: Mode) -> Self {
            Self { routes: underlay(), mode, tunnel: true, verdicts: BTreeMap::new(), current: BTreeMap::new() }
        }

        fn answered(mut self, cidr: &str) -> Self {
            let report = ProbeReport { answered: Some(1), lost: 0 };
            self.verdicts.insert(network(cidr), Verdict { is_direct: true, reason: "answered".to_owned(), report });
            self
        }

        fn desired(&self, peers: Vec<PeerNode>) -> Desired {
            let index = RouteIndex::new(&self.routes, &[]);
            let info = LinkInfo { mtu: 1500, is_ethernet: true };
            let links = [2, 9, TUNNEL].map(|number| (link(number), info)).into();
            let tunnel = TunnelLink { link: link(TUNNEL), vni: 1 };
            Desired::new(
                &view(peers),
                &Underlay {
                    mode: self.mode,
                    bypass: true,
                    routes: &index,
                    links: &links,
                    tunnel: if self.tunnel { Ok(tunnel) } else { Err("the port is in use") },
                    verdicts: &self.verdicts,
                    current: &self.current,
                },
            )
        }
    }

    fn ways(desired: &Desired) -> Vec<Way> {
        desired.peers.iter().map(|peer| peer.way).collect()
    }

    fn entry(desired: &Desired, cidr: &str) -> PeerWay {
        desired.entries[&network(cidr)].way
    }

    #[test]
    fn mode_direct_uses_the_address_of_an_on_link_node() {
        let desired = Case::new(Mode::Direct).desired(vec![peer("b", "10.244.2.0/24", "192.0.2.2")]);
        let wanted = Route::new(network("10.244.2.0/24"), link(2)).via(address("192.0.2.2")).protocol(ROUTE_PROTOCOL);
        assert_eq!(desired.routes, [wanted]);
        assert!(desired.pod_cidrs.contains(address("10.244.2.9")), "pods of other nodes are not masqueraded");
        assert!(desired.nodes.contains(&address("192.0.2.2")) && desired.targets.is_empty());
        let way = PeerWay::Direct { uplink: link(2), next_hop: address("192.0.2.2") };
        assert_eq!(entry(&desired, "10.244.2.0/24"), way);
        assert_eq!(desired.uplinks, [link(2)].into());
    }

    #[test]
    fn mode_auto_uses_the_tunnel_until_a_probe_is_answered() {
        let nodes = || vec![peer("b", "10.244.2.0/24", "192.0.2.2")];
        let desired = Case::new(Mode::Auto).desired(nodes());
        assert_eq!(ways(&desired), [Way::Vxlan]);
        assert_eq!(desired.peers[0].mtu, Some(1450));
        let way = PeerWay::Tunnel { link: link(TUNNEL), remote: address("192.0.2.2"), vni: 1 };
        assert_eq!(entry(&desired, "10.244.2.0/24"), way);
        assert_eq!(desired.targets.len(), 1);
        assert_eq!((desired.targets[0].gateway, desired.targets[0].mtu), (address("10.244.2.1"), 1500));
        assert!(desired.nodes.is_empty(), "the network may drop addresses of pods");
        let by_link = |desired: &Desired, number| {
            let route = desired.routes.iter().find(|route| route.oif == link(number)).expect("a route");
            (route.priority, route.gateway, route.src)
        };
        assert_eq!(by_link(&desired, 2), (Some(SECOND_METRIC), Some(address("192.0.2.2")), None));
        assert_eq!(by_link(&desired, TUNNEL), (None, None, Some(address("10.244.1.1"))));

        let desired = Case::new(Mode::Auto).answered("10.244.2.0/24").desired(nodes());
        assert_eq!((ways(&desired), desired.peers[0].mtu), (vec![Way::Direct], Some(1500)));
        assert_eq!(by_link(&desired, 2).0, None);
        assert_eq!(by_link(&desired, TUNNEL).0, Some(SECOND_METRIC));
        assert!(desired.nodes.contains(&address("192.0.2.2")));
        assert_eq!(desired.peers[0].probe, Some(ProbeReport { answered: Some(1), lost: 0 }));
    }

    #[test]
    fn restarted_agent_keeps_a_direct_way() {
        let mut case = Case::new(Mode::Auto);
        case.current.insert(network("10.244.2.0/24"), address("192.0.2.2"));
        let nodes = |address| vec![peer("b", "10.244.2.0/24", address)];
        assert_eq!(ways(&case.desired(nodes("192.0.2.2"))), [Way::Direct]);
        assert_eq!(ways(&case.desired(nodes("192.0.2.9"))), [Way::Vxlan], "the node has another address");
    }

    #[test]
    fn node_behind_a_router_gets_the_tunnel() {
        let desired = Case::new(Mode::Auto).desired(vec![peer("b", "10.244.2.0/24", "198.51.100.2")]);
        assert_eq!(ways(&desired), [Way::Vxlan]);
        assert!(desired.peers[0].reason.contains("not in a subnet"), "{}", desired.peers[0].reason);
        assert!(desired.targets.is_empty() && desired.routes.len() == 1 && desired.nodes.is_empty());
        assert_eq!(desired.uplinks, [link(2)].into(), "packets may come directly");
    }

    #[test]
    fn node_without_a_tunnel_uses_the_direct_way_only() {
        let mut case = Case::new(Mode::Auto);
        case.tunnel = false;
        let nodes = vec![peer("b", "10.244.2.0/24", "192.0.2.2"), peer("c", "10.244.3.0/24", "198.51.100.2")];
        let desired = case.desired(nodes);
        assert_eq!(ways(&desired), [Way::Direct, Way::None]);
        assert!(desired.peers.iter().all(|peer| peer.reason.contains("the port is in use")), "{:?}", desired.peers);
    }

    #[test]
    fn modes_of_single_nodes_count() {
        let (mut routed, mut tunneled) =
            (peer("b", "10.244.2.0/24", "192.0.2.2"), peer("c", "10.244.3.0/24", "192.0.2.3"));
        (routed.mode, tunneled.mode) = (Some(Mode::Routed), Some(Mode::Vxlan));
        let desired = Case::new(Mode::Direct).desired(vec![routed, tunneled, peer("d", "10.244.4.0/24", "192.0.2.4")]);
        assert_eq!(ways(&desired), [Way::Routed, Way::Vxlan, Way::Direct]);
        assert_eq!(entry(&desired, "10.244.2.0/24"), PeerWay::Stack);
        assert!(!desired.routes.iter().any(|route| route.dst == network("10.244.2.0/24")));
    }

    #[test]
    fn unusable_nodes_have_a_reason() {
        let peers = vec![
            peer("b", "10.244.2.0/24", "198.51.100.2"),
            peer("c", "10.244.2.128/25", "192.0.2.3"),
            peer("d", "fd00:10:244:4::/64", "192.0.2.4"),
            peer("e", "192.0.0.0/16", "192.0.2.2"),
            peer("f", "10.244.6.0/24", "10.244.2.9"),
            peer("g", "10.244.7.0/24", "10.244.1.9"),
        ];
        let desired = Case::new(Mode::Direct).desired(peers);
        assert!(desired.routes.is_empty(), "{:?}", desired.routes);
        let parts =
            ["198.51.100.2", "overlaps", "no IPv6 address", "--cluster-cidr", "outside of pod", "outside of pod"];
        for (peer, part) in desired.peers.iter().zip(parts) {
            assert_eq!(peer.way, Way::None);
            assert!(peer.reason.contains(part), "{}", peer.reason);
        }
    }

    #[test]
    fn families_of_pods_and_nodes_may_differ() {
        let desired = Case::new(Mode::Direct).desired(vec![peer("b", "10.244.2.0/24", "2001:db8::2")]);
        assert_eq!(desired.routes[0].gateway, Some(address("2001:db8::2")));
        let desired = Case::new(Mode::Vxlan)
            .desired(vec![peer("b", "10.244.2.0/24", "2001:db8::2"), peer("c", "fd00:10:244:3::/64", "192.0.2.3")]);
        let mtus: Vec<_> = desired.peers.iter().map(|peer| peer.mtu).collect();
        assert_eq!((ways(&desired), mtus), (vec![Way::Vxlan; 2], vec![Some(1430), Some(1450)]));
        assert_eq!(desired.routes[1].src, Some(address("fd00:10:244:1::1")));
    }

    #[test]
    fn node_numbers_are_those_of_the_addresses() {
        let desired = Case::new(Mode::Vxlan)
            .desired(vec![peer("b", "10.244.2.0/24", "192.0.2.2"), peer("c", "10.244.3.0/24", "192.0.2.2")]);
        let number = |cidr: &str| desired.entries[&network(cidr)].node;
        assert_eq!(desired.node_addresses[&address("192.0.2.2")], number("10.244.2.0/24"), "the first node has it");
        assert_ne!(number("10.244.2.0/24"), number("10.244.3.0/24"));
    }

    /// A quadratic comparison takes minutes in a debug build.
    #[test]
    fn five_thousand_nodes_take_less_than_five_seconds() {
        let peers = (0..5_000_u32).map(|number| {
            let [_, _, high, low] = number.to_be_bytes();
            PeerNode {
                name: format!("node-{number}"),
                pod_cidrs: vec![
                    network(&format!("10.{}.{low}.0/24", 100 + high)),
                    network(&format!("fd00:1:{number:x}::/64")),
                ],
                addresses: vec![
                    address(&format!("198.18.{high}.{low}")),
                    address(&format!("2001:db8::{:x}", number + 16)),
                ],
                mode: None,
            }
        });
        let peers: Vec<_> = peers.collect();
        let began = std::time::Instant::now();
        let desired = Case::new(Mode::Auto).desired(peers);
        assert_eq!((desired.peers.len(), desired.entries.len()), (10_000, 10_000));
        let (replace, delete) = crate::routes::route_changes(&desired.routes, &desired.routes);
        assert!(replace.is_empty() && delete.is_empty());
        assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
    }
}
