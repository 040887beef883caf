//! Operations on routes.

use neli::consts::{nl::NlmF, rtnl::Rtm};
use rustix::io::Errno;

use super::{
    message::Filter,
    route::{RTPROT_STATIC, Route},
};
use crate::netlink::{error::Result, links::Link, operation::Operation, socket::Socket};
use crate::spec::IfIndex;

const RTPROT_UNSPEC: u8 = 0;
/// In a deletion, this scope matches every scope.
const RT_SCOPE_NOWHERE: u8 = 255;

impl Socket {
    /// Adds a route.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`](crate::netlink::Error::Exists) if the table has a route with this
    /// destination and priority, even one through another link or gateway.
    /// [`Error::Kernel`](crate::netlink::Error::Kernel) otherwise:
    ///
    /// * `ENETUNREACH`, `EHOSTUNREACH` or `EINVAL` if the gateway is on no subnet of the link. A
    ///   route with [`onlink`](Route::onlink) needs no such subnet.
    /// * `EINVAL` if the host does not have the address [`src`](Route::src).
    /// * `ENETDOWN` if the link is down, `EPERM` without `CAP_NET_ADMIN`.
    /// * `EOPNOTSUPP` if the kernel has no [tunnel headers](Route::encap) in routes.
    ///
    /// # Kernel
    ///
    /// An IPv4 route through an IPv6 next hop needs Linux 5.2. Older kernels return `EINVAL`. A
    /// route with a tunnel header needs Linux 4.3 and `CONFIG_LWTUNNEL`.
    #[doc(alias = "RTM_NEWROUTE")]
    pub fn add_route(&self, route: &Route) -> Result<()> {
        self.new_route("add route", route, NlmF::EXCL)
    }

    /// Adds a route, or replaces the route with the same table, destination and priority in one
    /// step. Packets always find one of the two.
    ///
    /// The replaced route may belong to another program. Its link, gateway, scope, protocol and
    /// metrics need not match.
    ///
    /// * IPv4: the kernel replaces the first such route with all its next hops.
    /// * IPv6: routes with and without a gateway can have the same destination and priority. The
    ///   kernel first looks for one of the same kind. It replaces a route of the other kind only if
    ///   there is none. After the replacement, a route of the other kind can therefore remain.
    /// * IPv6: gateways with the same destination and priority are the next hops of one multipath
    ///   route. One replacement removes all of them, also those that other programs appended.
    ///
    /// Without a priority, IPv6 uses 1024 and IPv4 uses 0. A route with another priority stays.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel) as for [`Socket::add_route`].
    ///
    /// # Kernel
    ///
    /// As for [`Socket::add_route`].
    #[doc(alias = "RTM_NEWROUTE")]
    pub fn replace_route(&self, route: &Route) -> Result<()> {
        self.new_route("replace route", route, NlmF::REPLACE)
    }

    /// Adds a route, unless [the same route](Route::is_same_as) exists. A route with several next
    /// hops is another route.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`](crate::netlink::Error::Exists) if the table has a different route with
    /// this destination and priority. Otherwise as for [`Socket::add_route`].
    ///
    /// # Kernel
    ///
    /// As for [`Socket::add_route`].
    pub fn ensure_route(&self, route: &Route) -> Result<()> {
        const NAME: &str = "ensure route";
        let exists = match self.new_route(NAME, route, NlmF::EXCL) {
            Err(error) if error.is(Errno::EXIST) => error,
            added => return added,
        };
        let of_table = Filter { table: Some(route.table_id()), oif: None };
        let found = self.unicast_routes(&Operation::new(NAME, route), of_table)?;
        let is_same = |hops: &Vec<Route>| hops.len() == 1 && hops[0].is_same_as(route);
        if found.iter().any(is_same) { Ok(()) } else { Err(exists) }
    }

    fn new_route(&self, name: &'static str, route: &Route, mode: NlmF) -> Result<()> {
        let message = route.message(RTPROT_STATIC, route.default_scope());
        self.change(&Operation::new(name, route), Rtm::Newroute, NlmF::CREATE | mode, message)
    }

    /// Deletes a route, even one that another program added. Succeeds if the route is absent.
    ///
    /// The route matches by destination, table, link and each other field that is set. A missing
    /// field matches every value, except a missing table, which is the main table. The kernel
    /// deletes the first match.
    ///
    /// A listed route has all fields, so it matches only itself, with two exceptions. A caller that
    /// repeats such a deletion can delete another route.
    ///
    /// * IPv4: a priority of 0 counts as missing. Without a route of priority 0, the route matches
    ///   one of another priority.
    /// * IPv6: a route without a gateway also matches one with a gateway, if table, link and
    ///   priority are equal.
    ///
    /// The comparison has these limits:
    ///
    /// * `onlink` is not compared. IPv6 does not compare `src`, `mtu`, `advmss`, `scope` and
    ///   `encap`.
    /// * IPv4 compares a multipath route by its first next hop, and deletes the whole route.
    /// * IPv6 deletes only the next hop with this gateway.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `EPERM` without `CAP_NET_ADMIN`.
    #[doc(alias = "RTM_DELROUTE")]
    pub fn delete_route(&self, route: &Route) -> Result<()> {
        let operation = Operation::new("delete route", route);
        let request = route.message(RTPROT_UNSPEC, RT_SCOPE_NOWHERE);
        self.delete(&operation, Rtm::Delroute, request, &[Errno::SRCH])
    }

    /// The link of the default route, IPv4 before IPv6. The lowest metric wins. For several next
    /// hops, this is the first one.
    ///
    /// Pods that reach external networks through this link should have its MTU.
    ///
    /// # Errors
    ///
    /// As for [`Socket::links`].
    pub fn uplink(&self) -> Result<Option<Link>> {
        let operation = Operation::new("list", "default routes");
        let routes = self.main_routes(&operation, None)?;
        for is_ipv6 in [false, true] {
            let defaults = routes.iter().filter(|route| route.dst.prefix() == 0 && route.dst.is_ipv6() == is_ipv6);
            if let Some(route) = defaults.min_by_key(|route| route.priority.unwrap_or_default())
                && let Some(link) = self.link_by_index(route.oif)?
            {
                return Ok(Some(link));
            }
        }
        Ok(None)
    }

    /// The unicast routes through a link in the main table, IPv4 first. The list includes the
    /// kernel's own routes (to a subnet of the link).
    ///
    /// A route with several next hops has one entry, for the first of them.
    /// [`Socket::routes_of`] lists other tables and all next hops.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel) (`ENODEV` if the link is absent, on Linux
    /// 4.20 and later) and socket errors.
    #[doc(alias = "RTM_GETROUTE")]
    pub fn routes(&self, ifindex: IfIndex) -> Result<Vec<Route>> {
        let operation = Operation::on_link("list the routes by", ifindex);
        let mut routes = self.main_routes(&operation, Some(ifindex))?;
        routes.retain(|route| route.oif == ifindex);
        Ok(routes)
    }

    /// The unicast routes through all links in the main table, IPv4 first, including the kernel's
    /// own routes.
    ///
    /// A route with several next hops has one entry, for the first of them.
    /// [`Socket::routes_of`] lists other tables and all next hops.
    ///
    /// # Errors
    ///
    /// As for [`Socket::links`].
    pub fn all_routes(&self) -> Result<Vec<Route>> {
        self.main_routes(&Operation::new("list", "routes"), None)
    }

    /// The unicast routes of the main table, with the first next hop of each.
    fn main_routes(&self, operation: &Operation, oif: Option<IfIndex>) -> Result<Vec<Route>> {
        let of_main = Filter { table: Some(Route::MAIN_TABLE), oif };
        let routes = self.unicast_routes(operation, of_main)?;
        Ok(routes.into_iter().filter_map(|hops| hops.into_iter().next()).collect())
    }
}
