//! Comparison of routes, with the kernel's defaults for missing values.

use std::net::IpAddr;

use super::route::{RT_SCOPE_LINK, RT_SCOPE_UNIVERSE, Route};
use crate::spec::IfIndex;

/// The metric of an IPv6 route without one.
const IPV6_PRIORITY: u32 = 1024;

/// The greatest MTU and MSS that the kernel stores in a route (`ip_metrics_convert`).
const MAX_MTU: u32 = 65_535 - 15;
const MAX_ADVMSS: u32 = 65_535 - 40;

impl Route {
    /// Whether the kernel treats two routes as the same, as [`Socket::ensure_route`] requires. A
    /// missing value equals the kernel's default.
    ///
    /// The comparison ignores bits beyond the prefix, and the scope of IPv6 routes. A missing `src`
    /// or `protocol` equals every value, because both are left to others then.
    ///
    /// ```
    /// use cnikit::netlink::{IfIndex, Route};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let route = Route::new("fd00:96::/48".parse()?, IfIndex::try_from(2)?).via("fd00::1".parse()?);
    /// assert!(route.is_same_as(&route.clone().table(Route::MAIN_TABLE).priority(1024)));
    /// assert!(!route.is_same_as(&route.clone().mtu(1400)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`Socket::ensure_route`]: crate::netlink::Socket::ensure_route
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        let values = |route: &Self| {
            (
                route.table_id(),
                route.effective_priority(),
                route.effective_scope(),
                route.onlink,
                route.encap,
                route.effective_mtu(),
                route.effective_advmss(),
            )
        };
        self.has_same_path_as(other)
            && values(self) == values(other)
            && agree(self.src, other.src)
            && agree(self.protocol, other.protocol)
    }

    /// Whether two routes have the same destination, link and gateway.
    #[must_use]
    pub fn has_same_path_as(&self, other: &Self) -> bool {
        let path = |route: &Self| -> ((IpAddr, u8), IfIndex, Option<IpAddr>) {
            ((route.dst.network(), route.dst.prefix()), route.oif, route.gateway)
        };
        path(self) == path(other)
    }

    /// The table of the route: the main table if it names none.
    #[must_use]
    pub fn table_id(&self) -> u32 {
        self.table.filter(|table| *table != 0).unwrap_or(Self::MAIN_TABLE)
    }

    /// The scope without an explicit one. IPv6 routes have no scope.
    pub(super) const fn default_scope(&self) -> u8 {
        if self.gateway.is_some() { RT_SCOPE_UNIVERSE } else { RT_SCOPE_LINK }
    }

    /// The kernel stores a lower value than a very high one, and takes 0 for a missing value.
    pub(in crate::netlink) fn effective_mtu(&self) -> Option<u32> {
        self.mtu.filter(|mtu| *mtu != 0).map(|mtu| mtu.min(MAX_MTU))
    }

    /// As [`effective_mtu`](Self::effective_mtu).
    pub(in crate::netlink) fn effective_advmss(&self) -> Option<u32> {
        self.advmss.filter(|advmss| *advmss != 0).map(|advmss| advmss.min(MAX_ADVMSS))
    }

    fn effective_priority(&self) -> u32 {
        match self.priority.unwrap_or_default() {
            0 if self.dst.is_ipv6() => IPV6_PRIORITY,
            priority => priority,
        }
    }

    fn effective_scope(&self) -> u8 {
        if self.dst.is_ipv6() { RT_SCOPE_UNIVERSE } else { self.scope.unwrap_or_else(|| self.default_scope()) }
    }
}

fn agree<T: PartialEq>(a: Option<T>, b: Option<T>) -> bool {
    a.is_none() || b.is_none() || a == b
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::TunnelEncap;

    fn route(dst: &str) -> Route {
        Route::new(dst.parse().expect("a network"), IfIndex::new(2).expect("an index"))
    }

    #[test]
    fn missing_value_equals_the_default_of_the_kernel() {
        let gateway = "10.0.0.1".parse().expect("an address");
        let same = [
            (route("10.1.0.7/16"), route("10.1.0.0/16").table(254).priority(0).scope(253)),
            (route("10.1.0.0/16").via(gateway), route("10.1.0.0/16").via(gateway).scope(0).table(0)),
            (route("fd00::/64"), route("fd00::/64").priority(1024).scope(7)),
            (route("10.1.0.0/16"), route("10.1.0.0/16").src(gateway).protocol(2)),
            (route("10.1.0.0/16"), route("10.1.0.0/16").mtu(0).advmss(0)),
            (route("fd00::/64").mtu(65_535).advmss(65_500), route("fd00::/64").mtu(65_520).advmss(65_495)),
        ];
        for (a, b) in same {
            assert!(a.is_same_as(&b) && b.is_same_as(&a), "{a} and {b}");
        }
    }

    #[test]
    fn each_field_distinguishes_routes() {
        let address = |text: &str| text.parse().expect("an address");
        let encap = || TunnelEncap::new(77, address("192.0.2.2"));
        let base = || route("10.1.0.0/16").via(address("10.0.0.1")).src(address("10.0.0.2")).protocol(4);
        let others = [
            Route { dst: route("10.1.0.0/17").dst, ..base() },
            Route { oif: IfIndex::new(3).expect("an index"), ..base() },
            Route { gateway: None, ..base() }.scope(0),
            base().via(address("10.0.0.9")),
            base().table(255),
            base().priority(1),
            base().scope(254),
            base().mtu(1400),
            base().advmss(1300),
            base().src(address("10.0.0.3")),
            base().protocol(5),
            base().onlink(),
            base().encap(encap()),
            base().encap(encap().ttl(64)),
            base().encap(encap().checksum(true)),
        ];
        assert!(base().encap(encap()).is_same_as(&base().encap(encap())));
        for other in others {
            assert!(!base().is_same_as(&other) && !other.is_same_as(&base()), "{other}");
        }
    }
}
