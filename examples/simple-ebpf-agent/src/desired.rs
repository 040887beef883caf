//! The state of the kernel that connects this node to the others. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use cnikit::netlink::Route;
use ipnetwork::IpNetwork;
use simple_ebpf_cni::agent::{Mode, PeerReport, ROUTE_PROTOCOL, Way};

use crate::view::{ClusterView, PeerNode};

/// The state that the agent establishes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The routes to pods of other nodes.
    pub routes: Vec<Route>,
    /// The pod CIDRs of all nodes. Packets between them are not masqueraded.
    pub pod_cidrs: BTreeSet<IpNetwork>,
    /// The addresses of other nodes that see the address of a pod.
    pub nodes: BTreeSet<IpAddr>,
    /// The way to the pods of each node and family.
    pub peers: Vec<PeerReport>,
}

impl Desired {
    /// The state for a view of the cluster. `mode` is the mode of nodes without an own one, and
    /// `routes` are the routes of the main table.
    #[must_use]
    pub fn new(view: &ClusterView, mode: Mode, routes: &[Route]) -> Self {
        let mut desired = Self::default();
        desired.pod_cidrs.extend(view.own.iter().flat_map(|own| &own.pod_cidrs));
        let own: Vec<IpAddr> = view.own.iter().flat_map(|own| own.addresses.clone()).collect();
        for peer in &view.peers {
            for cidr in &peer.pod_cidrs {
                // The addresses of third nodes do not count: each node sets its own ones, and must
                // not be able to cut off another.
                match own.iter().chain(&peer.addresses).find(|node| cidr.contains(**node)) {
                    // The route would replace the way to the node.
                    Some(node) => {
                        let reason = format!("{cidr} has the address {node} of a node; choose another --cluster-cidr");
                        desired.report(peer, *cidr, (Way::None, None, reason));
                    }
                    None => desired.add(peer, *cidr, peer.mode.unwrap_or(mode), routes),
                }
            }
        }
        desired
    }

    fn add(&mut self, peer: &PeerNode, cidr: IpNetwork, mode: Mode, routes: &[Route]) {
        let conflict = self.pod_cidrs.iter().find(|known| overlap(**known, cidr)).copied();
        let way = if let Some(known) = conflict {
            (
                Way::None,
                None,
                format!("{cidr} overlaps with the pod CIDR {known} of another node; delete one of the nodes"),
            )
        } else {
            self.pod_cidrs.insert(cidr);
            if mode == Mode::Routed {
                (Way::Routed, None, "mode routed".to_owned())
            } else {
                self.route(peer, cidr, routes)
            }
        };
        self.report(peer, cidr, way);
    }

    fn report(&mut self, peer: &PeerNode, cidr: IpNetwork, (way, address, reason): (Way, Option<IpAddr>, String)) {
        self.peers.push(PeerReport {
            node: peer.name.clone(),
            pod_cidr: cidr,
            address,
            way,
            reason,
            link: None,
            mtu: None,
        });
    }

    /// Adds the route to a pod CIDR, if the node is on-link.
    fn route(&mut self, peer: &PeerNode, cidr: IpNetwork, routes: &[Route]) -> (Way, Option<IpAddr>, String) {
        // An IPv4 destination can have an IPv6 next hop, but not the other way round.
        let same_family = peer.addresses.iter().filter(|address| address.is_ipv4() == cidr.is_ipv4());
        let other_family = peer.addresses.iter().filter(|address| cidr.is_ipv4() && address.is_ipv6());
        // The bridge makes each address in the own pod CIDR look on-link.
        let is_pod = |address: &IpAddr| self.pod_cidrs.iter().any(|cidr| cidr.contains(*address));
        let candidates = same_family.chain(other_family).copied().filter(|address| !is_pod(address));
        let candidates: Vec<IpAddr> = candidates.collect();
        let Some(first) = candidates.first().copied() else {
            let family = if cidr.is_ipv4() { "IPv4 or IPv6" } else { "IPv6" };
            return (
                Way::None,
                None,
                format!("the node has no {family} address of type InternalIP outside of pod CIDRs"),
            );
        };
        for address in candidates {
            if let Some(link) = on_link(address, routes) {
                self.routes.push(Route::new(cidr, link.oif).via(address).protocol(ROUTE_PROTOCOL));
                self.nodes.extend(peer.addresses.iter().filter(|address| on_link(**address, routes).is_some()));
                return (Way::Direct, Some(address), "on-link".to_owned());
            }
        }
        let reason = format!("{first} is not in a subnet of this node: a router between the nodes must know {cidr}");
        (Way::None, Some(first), reason)
    }
}

/// The route to an address, if it has no gateway and is the only best one.
fn on_link(address: IpAddr, routes: &[Route]) -> Option<&Route> {
    let covers = |route: &&Route| route.dst.contains(address) && route.protocol != Some(ROUTE_PROTOCOL);
    let best =
        routes.iter().filter(covers).max_by_key(|route| (route.dst.prefix(), std::cmp::Reverse(route.priority)))?;
    let is_tie = |route: &Route| route.dst == best.dst && route.priority == best.priority && route != best;
    (best.gateway.is_none() && !routes.iter().any(is_tie)).then_some(best)
}

/// Whether two networks share an address.
fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    a.is_ipv4() == b.is_ipv4() && (a.contains(b.network()) || b.contains(a.network()))
}

/// The changes from the routes `found` in the main table to the routes `wanted`. The first list has
/// the routes to add or replace, the second one the routes to delete.
#[must_use]
pub fn route_changes<'a>(wanted: &'a [Route], found: &'a [Route]) -> (Vec<&'a Route>, Vec<&'a Route>) {
    let is_own = |route: &&Route| route.protocol == Some(ROUTE_PROTOCOL);
    let missing = wanted.iter().filter(|wanted| !found.iter().filter(is_own).any(|found| wanted.is_same_as(found)));
    // A replaced route is gone already.
    let stale = found.iter().filter(is_own).filter(|found| !wanted.iter().any(|wanted| wanted.dst == found.dst));
    (missing.collect(), stale.collect())
}

#[cfg(test)]
mod tests {
    use cnikit::spec::IfIndex;

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
            pod_cidrs: vec![network("10.244.1.0/24")],
            addresses: vec![address("192.0.2.1")],
        };
        ClusterView { own: Some(own), peers, problems: Vec::new() }
    }

    /// The routes of a node with one link and a default route.
    fn underlay() -> Vec<Route> {
        vec![
            Route::new(network("0.0.0.0/0"), link(2)).via(address("192.0.2.254")),
            Route::new(network("192.0.2.0/24"), link(2)),
            Route::new(network("2001:db8::/64"), link(2)),
        ]
    }

    fn ways(desired: &Desired) -> Vec<Way> {
        desired.peers.iter().map(|peer| peer.way).collect()
    }

    #[test]
    fn on_link_node_gets_a_route() {
        let desired = Desired::new(&view(vec![peer("b", "10.244.2.0/24", "192.0.2.2")]), Mode::Direct, &underlay());
        let wanted = Route::new(network("10.244.2.0/24"), link(2)).via(address("192.0.2.2")).protocol(ROUTE_PROTOCOL);
        assert_eq!(desired.routes, [wanted]);
        assert_eq!(desired.pod_cidrs.len(), 2, "own and other pods are not masqueraded");
        assert!(desired.nodes.contains(&address("192.0.2.2")));
    }

    #[test]
    fn other_nodes_get_no_route_and_a_reason() {
        let mut routed = peer("e", "10.244.5.0/24", "192.0.2.5");
        routed.mode = Some(Mode::Routed);
        let peers = vec![
            peer("b", "10.244.2.0/24", "198.51.100.2"),
            peer("c", "10.244.2.128/25", "192.0.2.3"),
            peer("d", "fd00:10:244:4::/64", "192.0.2.4"),
            routed,
        ];
        let desired = Desired::new(&view(peers), Mode::Direct, &underlay());
        assert!(desired.routes.is_empty(), "{:?}", desired.routes);
        assert_eq!(ways(&desired), [Way::None, Way::None, Way::None, Way::Routed]);
        assert!(desired.peers[0].reason.contains("198.51.100.2"), "{}", desired.peers[0].reason);
        assert!(desired.peers[1].reason.contains("overlaps"), "{}", desired.peers[1].reason);
        assert!(desired.peers[2].reason.contains("no IPv6 address"), "{}", desired.peers[2].reason);
        assert!(!desired.nodes.contains(&address("198.51.100.2")), "a router may drop pods' addresses");
    }

    #[test]
    fn pod_cidr_with_the_address_of_a_node_gets_no_route() {
        let peers = vec![peer("b", "192.0.0.0/16", "192.0.2.2"), peer("c", "0.0.0.0/0", "192.0.2.3")];
        let desired = Desired::new(&view(peers), Mode::Direct, &underlay());
        assert!(desired.routes.is_empty() && desired.pod_cidrs.len() == 1);
        assert!(desired.peers.iter().all(|peer| peer.reason.contains("--cluster-cidr")), "{:?}", desired.peers);
        // A node that claims an address in the pod CIDR of another one.
        let peers = vec![peer("b", "10.244.2.0/24", "192.0.2.2"), peer("c", "10.244.3.0/24", "10.244.2.9")];
        let mut routes = underlay();
        routes.push(Route::new(network("10.244.1.0/24"), link(9)));
        let desired = Desired::new(&view(peers), Mode::Direct, &routes);
        assert_eq!(ways(&desired), [Way::Direct, Way::None]);
        let desired = Desired::new(&view(vec![peer("d", "10.244.4.0/24", "10.244.1.9")]), Mode::Direct, &routes);
        assert_eq!(ways(&desired), [Way::None], "the address is on the bridge of this node");
    }

    #[test]
    fn ipv4_pods_use_an_ipv6_underlay() {
        let desired = Desired::new(&view(vec![peer("b", "10.244.2.0/24", "2001:db8::2")]), Mode::Direct, &underlay());
        assert_eq!(desired.routes[0].gateway, Some(address("2001:db8::2")));
    }

    #[test]
    fn node_behind_two_equal_routes_is_not_on_link() {
        let mut routes = underlay();
        routes.push(Route::new(network("192.0.2.0/24"), link(3)));
        let desired = Desired::new(&view(vec![peer("b", "10.244.2.0/24", "192.0.2.2")]), Mode::Direct, &routes);
        assert_eq!(ways(&desired), [Way::None]);
        // With a metric, one of them is the best.
        routes[3].priority = Some(100);
        let desired = Desired::new(&view(vec![peer("b", "10.244.2.0/24", "192.0.2.2")]), Mode::Direct, &routes);
        assert_eq!(desired.routes[0].oif, link(2));
    }

    #[test]
    fn changes_of_routes() {
        let own = |cidr: &str, via: &str| Route::new(network(cidr), link(2)).via(address(via)).protocol(ROUTE_PROTOCOL);
        let wanted = [own("10.244.2.0/24", "192.0.2.2"), own("10.244.3.0/24", "192.0.2.33")];
        let found = [
            own("10.244.2.0/24", "192.0.2.2").table(254).scope(0),
            own("10.244.3.0/24", "192.0.2.3").table(254).scope(0),
            own("10.244.9.0/24", "192.0.2.9").table(254).scope(0),
            Route::new(network("10.244.8.0/24"), link(2)).via(address("192.0.2.8")).protocol(4).table(254),
        ];
        let (replace, delete) = route_changes(&wanted, &found);
        assert_eq!(replace, [&wanted[1]], "the node's address has changed");
        assert_eq!(delete, [&found[2]], "the node is gone; a route of an operator stays");
        // An operator's route to the same destination does not count.
        let foreign = [Route::new(network("10.244.2.0/24"), link(2)).via(address("192.0.2.2")).protocol(4)];
        assert_eq!(route_changes(&wanted[..1], &foreign).0.len(), 1);
    }
}
