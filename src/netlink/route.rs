use std::{
    fmt::{self, Display},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use neli::{
    consts::{
        nl::NlmF,
        rtnl::{RtAddrFamily, RtScope, RtTable, Rta, Rtm, Rtn, Rtprot},
    },
    rtnl::{Rtmsg, RtmsgBuilder},
};
use rustix::io::Errno;

use super::{
    address::{family, ip_addr, octets},
    attrs::{Attrs, ifindex, nested, number},
    error::{EncodeError, Operation, Result},
    link::Link,
    next_hop::{self, RTA_VIA},
    socket::Socket,
};
use crate::spec::IfIndex;

const MAIN_TABLE: u32 = 254;
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;

/// A unicast route through one link. For a route with several next hops, this is the first one.
///
/// ```
/// use cnikit::netlink::{IfIndex, Route};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let link = IfIndex::try_from(2)?;
/// let default = Route::default_via("10.22.0.1".parse()?, link);
/// let services = Route::new("10.96.0.0/12".parse()?, link).via("10.22.0.1".parse()?).mtu(1450);
/// assert_eq!(default.to_string(), "0.0.0.0/0 via 10.22.0.1 by link 2");
/// assert_eq!(services.to_string(), "10.96.0.0/12 via 10.22.0.1 by link 2");
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
    pub oif: IfIndex,
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
}

impl Route {
    /// A route to a destination on the link itself.
    #[must_use]
    pub const fn new(dst: IpNetwork, ifindex: IfIndex) -> Self {
        Self { dst, gateway: None, oif: ifindex, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }

    /// The default route of the gateway's address family.
    #[must_use]
    pub fn default_via(gateway: IpAddr, ifindex: IfIndex) -> Self {
        Self::new(everything(&family(gateway)), ifindex).via(gateway)
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

    fn message(&self, protocol: Rtprot, default_scope: RtScope) -> Result<Rtmsg, EncodeError> {
        let mut metrics = Attrs::new();
        metrics = metrics.put_some(RTAX_MTU, self.mtu)?.put_some(RTAX_ADVMSS, self.advmss)?;
        let mut attrs = Attrs::new()
            .put(Rta::Oif, self.oif.get())?
            .put_some(Rta::Priority, self.priority)?
            .put_some(Rta::Table, self.table)?;
        if self.dst.prefix() > 0 {
            attrs = attrs.put(Rta::Dst, &octets(self.dst.network())[..])?;
        }
        if let Some(gateway) = self.gateway {
            attrs = if gateway.is_ipv4() == self.dst.is_ipv4() {
                attrs.put(Rta::Gateway, &octets(gateway)[..])?
            } else {
                attrs.put(Rta::from(RTA_VIA), &next_hop::via(gateway)[..])?
            };
        }
        if !metrics.is_empty() {
            attrs = attrs.nest(Rta::Metrics, metrics)?;
        }
        Ok(header(family(self.dst.ip()))
            .rtm_dst_len(self.dst.prefix())
            // The attribute, which holds all 32 bits, overrides this value.
            .rtm_table(RtTable::Main)
            .rtm_protocol(protocol)
            .rtm_scope(self.scope.map_or(default_scope, RtScope::from))
            .rtm_type(Rtn::Unicast)
            .rtattrs(attrs.into_buffer())
            .build()?)
    }

    /// A message without a link has the link `default_oif`. Without that, the result is `None`: the
    /// message of a route through a next hop object has no link if `net.ipv4.nexthop_compat_mode`
    /// is 0.
    pub(super) fn decode(message: &Rtmsg, default_oif: Option<IfIndex>) -> Option<Self> {
        let mut dst = everything(message.rtm_family());
        let mut oif = default_oif;
        let mut route = Self::new(dst, IfIndex::LOOPBACK).scope((*message.rtm_scope()).into());
        route.table = Some(u8::from(*message.rtm_table()).into());
        for attr in message.rtattrs().iter() {
            let bytes: &[u8] = attr.rta_payload().as_ref();
            match attr.rta_type() {
                Rta::Dst => dst = IpNetwork::new(ip_addr(bytes)?, *message.rtm_dst_len()).ok()?,
                Rta::Gateway => route.gateway = ip_addr(bytes),
                Rta::Oif => oif = ifindex(bytes),
                Rta::Priority => route.priority = number(bytes),
                Rta::Table => route.table = number(bytes),
                Rta::Multipath => {
                    let (first, gateway) = next_hop::multipath(bytes).into_iter().next()?;
                    (oif, route.gateway) = (Some(first), gateway);
                }
                Rta::Metrics => {
                    for (metric, value) in nested(bytes) {
                        match metric {
                            RTAX_MTU => route.mtu = number(value),
                            RTAX_ADVMSS => route.advmss = number(value),
                            _ => (),
                        }
                    }
                }
                other if u16::from(*other) == RTA_VIA => route.gateway = next_hop::via_addr(bytes),
                _ => (),
            }
        }
        Some(Self { dst, oif: oif?, ..route })
    }
}

impl Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.dst)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        write!(f, " by link {}", self.oif)
    }
}

impl Socket {
    /// Adds a route.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`](super::Error::Exists) if the table has a route with this destination and
    /// priority. [`Error::Kernel`](super::Error::Kernel) otherwise: `ENETUNREACH` or `EINVAL` if
    /// the gateway is on no subnet of the link, `ENETDOWN` if the link is down, `EPERM` without
    /// `CAP_NET_ADMIN`.
    ///
    /// # Kernel
    ///
    /// An IPv4 route through an IPv6 next hop needs Linux 5.2. Older kernels return `EINVAL`.
    #[doc(alias = "RTM_NEWROUTE")]
    pub fn add_route(&self, route: &Route) -> Result<()> {
        let operation = Operation::new("add route", route);
        let flags = NlmF::CREATE | NlmF::EXCL;
        let default_scope = if route.gateway.is_some() { RtScope::Universe } else { RtScope::Link };
        self.change(&operation, Rtm::Newroute, flags, route.message(Rtprot::Static, default_scope))
    }

    /// Deletes a route, even one that another program added. Without a scope in `route`, a route of
    /// any scope matches. Succeeds if the route is absent.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel): `EPERM` without `CAP_NET_ADMIN`.
    #[doc(alias = "RTM_DELROUTE")]
    pub fn delete_route(&self, route: &Route) -> Result<()> {
        let operation = Operation::new("delete route", route);
        let request = route.message(Rtprot::Unspec, RtScope::Nowhere);
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
        for family in [RtAddrFamily::Inet, RtAddrFamily::Inet6] {
            let routes = self.dump_routes(&operation, family, None)?;
            let defaults = routes.into_iter().filter(|route| route.dst.prefix() == 0);
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
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel) (`ENODEV` if the link is absent, on Linux 4.20 and
    /// later) and socket errors.
    #[doc(alias = "RTM_GETROUTE")]
    pub fn routes(&self, ifindex: IfIndex) -> Result<Vec<Route>> {
        let operation = Operation::on_link("list the routes by", ifindex);
        let mut routes = Vec::new();
        for family in [RtAddrFamily::Inet, RtAddrFamily::Inet6] {
            let found = self.dump_routes(&operation, family, Some(ifindex))?;
            routes.extend(found.into_iter().filter(|route| route.oif == ifindex));
        }
        Ok(routes)
    }

    /// The unicast routes through all links in the main table, IPv4 first, including the kernel's
    /// own routes. Routes through a next hop object are omitted if `net.ipv4.nexthop_compat_mode`
    /// is 0; [`Socket::routes_of_all_tables`] has them.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel) and socket errors.
    pub fn all_routes(&self) -> Result<Vec<Route>> {
        let operation = Operation::new("list", "routes");
        let mut routes = self.dump_routes(&operation, RtAddrFamily::Inet, None)?;
        routes.extend(self.dump_routes(&operation, RtAddrFamily::Inet6, None)?);
        Ok(routes)
    }

    /// The unicast routes of the main table. The kernel filters by the link from Linux 4.20 on.
    /// Without an index, the routes of all links.
    fn dump_routes(&self, operation: &Operation, family: RtAddrFamily, ifindex: Option<IfIndex>) -> Result<Vec<Route>> {
        let found: Vec<Rtmsg> = match self.dump(operation, Rtm::Getroute, || of_main_table(family, ifindex)) {
            // A namespace has no main table before its first route.
            Err(error) if error.is(Errno::NOENT) => return Ok(Vec::new()),
            found => found?,
        };
        let unicast = found
            .iter()
            .filter(|message| *message.rtm_family() == family)
            .filter(|message| *message.rtm_type() == Rtn::Unicast);
        Ok(unicast
            .filter_map(|message| Route::decode(message, None))
            .filter(|route| route.table == Some(MAIN_TABLE))
            .collect())
    }
}

/// The destination of the default route.
const fn everything(family: &RtAddrFamily) -> IpNetwork {
    const V4: Option<Ipv4Network> = Ipv4Network::new_checked(Ipv4Addr::UNSPECIFIED, 0);
    const V6: Option<Ipv6Network> = Ipv6Network::new_checked(Ipv6Addr::UNSPECIFIED, 0);
    match (family, V4, V6) {
        (RtAddrFamily::Inet6, _, Some(everything)) => IpNetwork::V6(everything),
        (_, Some(everything), _) => IpNetwork::V4(everything),
        _ => unreachable!(),
    }
}

fn of_main_table(family: RtAddrFamily, ifindex: Option<IfIndex>) -> Result<Rtmsg, EncodeError> {
    let attrs = Attrs::new().put_some(Rta::Oif, ifindex.map(IfIndex::get))?;
    Ok(header(family)
        .rtm_dst_len(0)
        .rtm_table(RtTable::Main)
        .rtm_protocol(Rtprot::Unspec)
        .rtm_scope(RtScope::Universe)
        .rtm_type(Rtn::Unspec)
        .rtattrs(attrs.into_buffer())
        .build()?)
}

fn header(family: RtAddrFamily) -> RtmsgBuilder {
    RtmsgBuilder::default().rtm_family(family).rtm_src_len(0).rtm_tos(0)
}
