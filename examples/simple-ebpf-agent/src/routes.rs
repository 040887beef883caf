//! The routes of the main table as an index, and the changes of the agent's own ones. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use cnikit::netlink::{RejectRoute, Route};
use cnikit::spec::IfIndex;
use ipnetwork::IpNetwork;
use simple_ebpf_cni::agent::ROUTE_PROTOCOL;

/// The metric of a route without an own one: IPv4 and IPv6.
const DEFAULT_METRICS: [u32; 2] = [0, 1024];

/// The routes of other programs, by destination.
#[derive(Debug, Default)]
pub struct RouteIndex<'a> {
    /// The routes to each destination.
    by_destination: HashMap<IpNetwork, Vec<Entry<'a>>>,
    /// The prefix lengths in use, the longest first: IPv4 and IPv6.
    lengths: [Vec<u8>; 2],
}

#[derive(Clone, Copy, Debug)]
struct Entry<'a> {
    metric: u32,
    /// `None` for a route that rejects packets.
    route: Option<&'a Route>,
}

/// The way of the kernel to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The outgoing link.
    pub link: IfIndex,
    /// Whether the address is in a subnet of the link.
    pub is_on_link: bool,
    /// The MTU of the route, in bytes. Without one, the MTU of the link applies.
    pub mtu: Option<u32>,
}

impl<'a> RouteIndex<'a> {
    /// Indexes routes of the main table, without the agent's own ones.
    #[must_use]
    pub fn new(routes: &'a [Route], rejects: &'a [RejectRoute]) -> Self {
        let mut index = Self::default();
        for route in routes.iter().filter(|route| route.protocol != Some(ROUTE_PROTOCOL)) {
            index.insert(route.dst, Entry { metric: metric(route), route: Some(route) });
        }
        for reject in rejects.iter().filter(|reject| reject.table == Route::MAIN_TABLE) {
            let metric = reject.priority.unwrap_or(DEFAULT_METRICS[usize::from(reject.dst.is_ipv6())]);
            index.insert(reject.dst, Entry { metric, route: None });
        }
        for lengths in &mut index.lengths {
            lengths.sort_unstable_by_key(|length| std::cmp::Reverse(*length));
            lengths.dedup();
        }
        index
    }

    fn insert(&mut self, destination: IpNetwork, entry: Entry<'a>) {
        let Ok(network) = IpNetwork::new(destination.network(), destination.prefix()) else { return };
        self.lengths[usize::from(network.is_ipv6())].push(network.prefix());
        self.by_destination.entry(network).or_default().push(entry);
    }

    /// The way to an address. `None` without a route, with a route that rejects packets, and with
    /// several best routes.
    #[must_use]
    pub fn next_hop(&self, address: IpAddr) -> Option<NextHop> {
        let entries = self.lengths[usize::from(address.is_ipv6())].iter().find_map(|length| {
            let covering = IpNetwork::new(address, *length).ok()?;
            self.by_destination.get(&IpNetwork::new(covering.network(), *length).ok()?)
        })?;
        let best = entries.iter().map(|entry| entry.metric).min()?;
        let mut best = entries.iter().filter(|entry| entry.metric == best);
        let (Some(entry), None) = (best.next(), best.next()) else { return None };
        let route = entry.route?;
        // A default route without a gateway leads to a link where no address is known to be.
        let is_on_link = route.gateway.is_none() && route.dst.prefix() != 0;
        Some(NextHop { link: route.oif, is_on_link, mtu: route.mtu })
    }
}

/// The changes from the routes `found` in the main table to the routes `wanted`. The first list has
/// the routes to add or replace, the second one the routes to delete.
#[must_use]
pub fn route_changes<'a>(wanted: &'a [Route], found: &'a [Route]) -> (Vec<&'a Route>, Vec<&'a Route>) {
    let mut own: BTreeMap<(IpNetwork, u32), Vec<&Route>> = BTreeMap::new();
    for route in found.iter().filter(|route| route.protocol == Some(ROUTE_PROTOCOL)) {
        own.entry(key(route)).or_default().push(route);
    }
    let has = |wanted: &Route| own.get(&key(wanted)).is_some_and(|own| own.iter().any(|own| is_same(wanted, own)));
    let (present, missing): (Vec<&Route>, Vec<&Route>) = wanted.iter().partition(|route| has(route));
    // A replacement deletes the other routes of its destination and metric.
    let replaced: HashSet<_> = missing.iter().map(|route| key(route)).collect();
    let kept: HashMap<_, &Route> = present.iter().map(|route| (key(route), *route)).collect();
    let stale = own.values().flatten().filter(|route| match kept.get(&key(route)) {
        Some(wanted) => !is_same(wanted, route),
        None => !replaced.contains(&key(route)),
    });
    let stale = stale.copied().collect();
    (missing, stale)
}

/// Whether a listed route is the wanted one. [`Route::is_same_as`] takes a missing source for any.
fn is_same(wanted: &Route, found: &Route) -> bool {
    wanted.is_same_as(found) && (found.dst.is_ipv6() || wanted.src == found.src)
}

fn key(route: &Route) -> (IpNetwork, u32) {
    (route.dst, metric(route))
}

fn metric(route: &Route) -> u32 {
    match route.priority {
        None | Some(0) => DEFAULT_METRICS[usize::from(route.dst.is_ipv6())],
        Some(priority) => priority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(destination: &str, link: u32) -> Route {
        Route::new(destination.parse().expect("a network"), IfIndex::new(link).expect("an index"))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn longest_prefix_and_lowest_metric_decide() {
        let routes = [
            route("0.0.0.0/0", 2).via(address("192.0.2.254")),
            route("192.0.2.0/24", 2).priority(100),
            route("192.0.2.0/24", 3).priority(200).mtu(1400),
            route("192.0.2.128/25", 4).via(address("192.0.2.1")),
            route("198.51.100.0/24", 5),
            route("198.51.100.0/24", 6),
            route("2001:db8::/64", 7),
        ];
        let index = RouteIndex::new(&routes, &[]);
        let way = |text: &str| index.next_hop(address(text)).map(|hop| (hop.link.get(), hop.is_on_link));
        assert_eq!(way("192.0.2.2"), Some((2, true)));
        assert_eq!(way("192.0.2.200"), Some((4, false)), "behind a router");
        assert_eq!(way("203.0.113.1"), Some((2, false)), "by the default route");
        assert_eq!(way("198.51.100.2"), None, "two routes are equally good");
        assert_eq!(way("2001:db8::2"), Some((7, true)));
        assert_eq!(way("2001:db9::2"), None);
    }

    #[test]
    fn default_route_without_gateway_is_not_on_link() {
        let routes = [route("0.0.0.0/0", 2)];
        let index = RouteIndex::new(&routes, &[]);
        assert_eq!(index.next_hop(address("192.0.2.2")).map(|hop| hop.is_on_link), Some(false));
    }

    #[test]
    fn own_routes_do_not_count() {
        let routes = [route("192.0.2.0/24", 2), route("192.0.2.2/32", 3).protocol(ROUTE_PROTOCOL)];
        let index = RouteIndex::new(&routes, &[]);
        assert_eq!(index.next_hop(address("192.0.2.2")).map(|hop| hop.link.get()), Some(2));
    }

    #[test]
    fn changes_of_routes() {
        let own = |destination: &str, via: &str| route(destination, 2).via(address(via)).protocol(ROUTE_PROTOCOL);
        let wanted = [own("10.244.2.0/24", "192.0.2.2"), own("10.244.3.0/24", "192.0.2.33")];
        let found = [
            own("10.244.2.0/24", "192.0.2.2").table(254).scope(0),
            own("10.244.3.0/24", "192.0.2.3").table(254).scope(0),
            own("10.244.9.0/24", "192.0.2.9").table(254).scope(0),
            route("10.244.8.0/24", 2).via(address("192.0.2.8")).protocol(4).table(254),
        ];
        let (replace, delete) = route_changes(&wanted, &found);
        assert_eq!(replace, [&wanted[1]], "the node's address has changed");
        assert_eq!(delete, [&found[2]], "the node is gone; a route of an operator stays");
        // An operator's route to the same destination does not count.
        let foreign = [route("10.244.2.0/24", 2).via(address("192.0.2.2")).protocol(4)];
        assert_eq!(route_changes(&wanted[..1], &foreign).0.len(), 1);
    }

    #[test]
    fn routes_of_two_metrics_are_separate() {
        let own = |metric: u32| route("fd00::/64", 2).priority(metric).protocol(ROUTE_PROTOCOL);
        let wanted = [route("fd00::/64", 2).protocol(ROUTE_PROTOCOL), own(20_000)];
        let found = [own(1024), own(30_000)];
        let (replace, delete) = route_changes(&wanted, &found);
        assert_eq!((replace, delete), (vec![&wanted[1]], vec![&found[1]]));
        // The kernel can keep a route of the other kind beside the replacement.
        let found = [own(1024), own(1024).via(address("2001:db8::1")), own(20_000)];
        let (replace, delete) = route_changes(&wanted, &found);
        assert_eq!((replace, delete), (vec![], vec![&found[1]]));
    }
}
