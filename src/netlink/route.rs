use std::{
    fmt::{self, Display},
    net::IpAddr,
};

use ipnetwork::IpNetwork;
use neli::consts::{nl::NlmF, rtnl::Rtm};
use rustix::io::Errno;

use super::{
    error::{Operation, Result},
    link::Link,
    route_message::{Filter, everything},
    socket::Socket,
};

/// The `proto` numbers that [`Display`] shows by name: the kernel's own routes and those of
/// administrators.
const RTPROT_UNSPEC: u8 = 0;
const RTPROT_KERNEL: u8 = 2;
const RTPROT_BOOT: u8 = 3;
const RTPROT_STATIC: u8 = 4;
/// Scopes. A deletion with [`RT_SCOPE_NOWHERE`] matches every scope.
pub(super) const RT_SCOPE_UNIVERSE: u8 = 0;
pub(super) const RT_SCOPE_LINK: u8 = 253;
const RT_SCOPE_HOST: u8 = 254;
const RT_SCOPE_NOWHERE: u8 = 255;

/// A unicast route through one link. For a route with several next hops, this is the first one.
///
/// ```
/// use cnikit::netlink::Route;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let default = Route::default_via("10.22.0.1".parse()?, 2);
/// let services = Route::new("10.96.0.0/12".parse()?, 2).via("10.22.0.1".parse()?).mtu(1450);
/// assert_eq!(default.to_string(), "0.0.0.0/0 via 10.22.0.1 by link 2");
/// assert_eq!(services.to_string(), "10.96.0.0/12 via 10.22.0.1 by link 2 mtu 1450");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Route {
    /// The destination; `0.0.0.0/0` and `::/0` are the default routes. Bits beyond the prefix are
    /// ignored.
    pub dst: IpNetwork,
    /// The next hop; `None` if the destination is on the link itself. An IPv4 route may have an
    /// IPv6 next hop ([RFC 8950](https://www.rfc-editor.org/rfc/rfc8950), Linux 5.2). An IPv6 route
    /// cannot have an IPv4 next hop.
    pub gateway: Option<IpAddr>,
    /// The index of the outgoing link.
    pub oif: u32,
    /// The path MTU in bytes.
    pub mtu: Option<u32>,
    /// The TCP segment size (MSS) to announce, in bytes.
    pub advmss: Option<u32>,
    /// The metric: the lowest wins. Without one, IPv6 uses 1024.
    pub priority: Option<u32>,
    /// The table; without one, the main table (254).
    pub table: Option<u32>,
    /// The scope of IPv4 destinations, as in
    /// [rtnetlink(7)](https://man7.org/linux/man-pages/man7/rtnetlink.7.html): `253` on the link,
    /// `0` behind a gateway. Without a value, the scope follows from `gateway`.
    pub scope: Option<u8>,
    /// The source address of packets for which the sender chose none. The host must have the
    /// address. Without one, the kernel chooses.
    #[doc(alias = "RTA_PREFSRC")]
    pub src: Option<IpAddr>,
    /// The gateway is directly on the link, even if no subnet of the link contains it. Without
    /// this, the kernel rejects such a gateway.
    #[doc(alias = "RTNH_F_ONLINK")]
    pub onlink: bool,
    /// The program or protocol that adds the route (`proto`). A plugin marks its routes with a
    /// number of its own, so that it finds them again. Without one, `static` (4).
    ///
    /// `/etc/iproute2/rt_protos` has the numbers in use. Values below 5 have a fixed meaning.
    #[doc(alias = "RTPROT_STATIC")]
    pub protocol: Option<u8>,
}

impl Route {
    /// The table of routes without a table.
    #[doc(alias = "RT_TABLE_MAIN")]
    pub const MAIN_TABLE: u32 = 254;

    /// A route to a destination on the link itself.
    #[must_use]
    pub const fn new(dst: IpNetwork, ifindex: u32) -> Self {
        Self {
            dst,
            gateway: None,
            oif: ifindex,
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
            src: None,
            onlink: false,
            protocol: None,
        }
    }

    /// The default route of the gateway's address family.
    #[must_use]
    pub fn default_via(gateway: IpAddr, ifindex: u32) -> Self {
        Self::new(everything(gateway.is_ipv6()), ifindex).via(gateway)
    }

    /// Sets the next hop.
    #[must_use]
    pub const fn via(mut self, gateway: IpAddr) -> Self {
        self.gateway = Some(gateway);
        self
    }

    /// Sets the path MTU in bytes.
    #[must_use]
    pub const fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// Sets the TCP segment size (MSS) to announce, in bytes.
    #[must_use]
    pub const fn advmss(mut self, advmss: u32) -> Self {
        self.advmss = Some(advmss);
        self
    }

    /// Sets the metric.
    #[must_use]
    pub const fn priority(mut self, priority: u32) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Sets the table.
    #[must_use]
    pub const fn table(mut self, table: u32) -> Self {
        self.table = Some(table);
        self
    }

    /// Sets the scope.
    #[must_use]
    pub const fn scope(mut self, scope: u8) -> Self {
        self.scope = Some(scope);
        self
    }

    /// Sets the source address of packets for which the sender chose none.
    #[must_use]
    pub const fn src(mut self, src: IpAddr) -> Self {
        self.src = Some(src);
        self
    }

    /// Declares the gateway to be directly on the link.
    #[must_use]
    pub const fn onlink(mut self) -> Self {
        self.onlink = true;
        self
    }

    /// Sets the number of the program that adds the route.
    #[must_use]
    pub const fn protocol(mut self, protocol: u8) -> Self {
        self.protocol = Some(protocol);
        self
    }
}

/// The order of [ip-route(8)](https://man7.org/linux/man-pages/man8/ip-route.8.html), with the
/// index of the link. The main table and the global scope are omitted.
impl Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.dst)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        write!(f, " by link {}", self.oif)?;
        if self.table_id() != Self::MAIN_TABLE {
            write!(f, " table {}", self.table_id())?;
        }
        match self.protocol {
            None => (),
            Some(RTPROT_KERNEL) => f.write_str(" proto kernel")?,
            Some(RTPROT_BOOT) => f.write_str(" proto boot")?,
            Some(RTPROT_STATIC) => f.write_str(" proto static")?,
            Some(number) => write!(f, " proto {number}")?,
        }
        match self.scope {
            None | Some(RT_SCOPE_UNIVERSE) => (),
            Some(RT_SCOPE_LINK) => f.write_str(" scope link")?,
            Some(RT_SCOPE_HOST) => f.write_str(" scope host")?,
            Some(number) => write!(f, " scope {number}")?,
        }
        if let Some(src) = self.src {
            write!(f, " src {src}")?;
        }
        if let Some(priority) = self.priority {
            write!(f, " metric {priority}")?;
        }
        if self.onlink {
            f.write_str(" onlink")?;
        }
        for (name, metric) in [("mtu", self.mtu), ("advmss", self.advmss)] {
            if let Some(metric) = metric {
                write!(f, " {name} {metric}")?;
            }
        }
        Ok(())
    }
}

impl Socket {
    /// Adds a route.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`](super::Error::Exists) if the table has a route with this destination and
    /// priority, even one through another link or gateway. [`Error::Kernel`](super::Error::Kernel)
    /// otherwise: `ENETUNREACH` or `EINVAL` if the gateway is on no subnet of the link and the
    /// route is not [`onlink`](Route::onlink), `EINVAL` if the host does not have the address
    /// [`src`](Route::src), `ENETDOWN` if the link is down, `EPERM` without `CAP_NET_ADMIN`.
    ///
    /// # Kernel
    ///
    /// An IPv4 route through an IPv6 next hop needs Linux 5.2. Older kernels return `EINVAL`.
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
    /// [`Error::Kernel`](super::Error::Kernel) as for [`Socket::add_route`].
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
    /// [`Error::Exists`](super::Error::Exists) if the table has a different route with this
    /// destination and priority. Otherwise as for [`Socket::add_route`].
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
    /// deletes the first match. A listed route has all fields, so it matches only itself.
    ///
    /// * `onlink` is not compared. IPv6 does not compare `src`, `mtu`, `advmss` and `scope`.
    /// * IPv4 compares a multipath route by its first next hop, and deletes the whole route.
    /// * IPv6 deletes only the next hop with this gateway.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel): `EPERM` without `CAP_NET_ADMIN`.
    #[doc(alias = "RTM_DELROUTE")]
    pub fn delete_route(&self, route: &Route) -> Result<()> {
        let operation = Operation::new("delete route", route);
        let request = route.message(RTPROT_UNSPEC, RT_SCOPE_NOWHERE);
        match self.change(&operation, Rtm::Delroute, NlmF::empty(), request) {
            Err(error) if error.is(Errno::SRCH) => Ok(()),
            deleted => deleted,
        }
    }

    /// The link of the default route, IPv4 before IPv6. The lowest metric wins. For several next
    /// hops, this is the first one.
    ///
    /// Pods that reach external networks through this link should have its MTU.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel) and socket errors.
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
    /// [`Error::Kernel`](super::Error::Kernel) (`ENODEV` if the link is absent, on Linux 4.20 and
    /// later) and socket errors.
    #[doc(alias = "RTM_GETROUTE")]
    pub fn routes(&self, ifindex: u32) -> Result<Vec<Route>> {
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
    /// [`Error::Kernel`](super::Error::Kernel) and socket errors.
    pub fn all_routes(&self) -> Result<Vec<Route>> {
        self.main_routes(&Operation::new("list", "routes"), None)
    }

    /// The unicast routes of the main table, with the first next hop of each.
    fn main_routes(&self, operation: &Operation, oif: Option<u32>) -> Result<Vec<Route>> {
        let of_main = Filter { table: Some(Route::MAIN_TABLE), oif };
        let routes = self.unicast_routes(operation, of_main)?;
        Ok(routes.into_iter().filter_map(|hops| hops.into_iter().next()).collect())
    }
}
