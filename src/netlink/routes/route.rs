//! Unicast routes.

use std::{
    fmt::{self, Display},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::encap::TunnelEncap;
use crate::spec::IfIndex;

/// The `proto` numbers that [`Display`] shows by name.
const RTPROT_KERNEL: u8 = 2;
const RTPROT_BOOT: u8 = 3;
pub(in crate::netlink) const RTPROT_STATIC: u8 = 4;
pub(in crate::netlink) const RT_SCOPE_UNIVERSE: u8 = 0;
pub(super) const RT_SCOPE_LINK: u8 = 253;
const RT_SCOPE_HOST: u8 = 254;

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
    /// The tunnel header that the link adds to the packets. A listed route with an encapsulation of
    /// another type, such as MPLS, has `None`.
    #[doc(alias = "RTA_ENCAP")]
    pub encap: Option<TunnelEncap>,
}

impl Route {
    /// The table of routes without a table.
    #[doc(alias = "RT_TABLE_MAIN")]
    pub const MAIN_TABLE: u32 = 254;

    /// A route to a destination on the link itself.
    #[must_use]
    pub const fn new(dst: IpNetwork, ifindex: IfIndex) -> Self {
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
            encap: None,
        }
    }

    /// The default route of the gateway's address family.
    #[must_use]
    pub fn default_via(gateway: IpAddr, ifindex: IfIndex) -> Self {
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

    /// Sets the tunnel header that the link adds to the packets. The link must take its headers
    /// from the metadata of packets, as [`Vxlan::external`](crate::netlink::Vxlan::external) does.
    #[must_use]
    pub const fn encap(mut self, encap: TunnelEncap) -> Self {
        self.encap = Some(encap);
        self
    }
}

/// The order of [ip-route(8)](https://man7.org/linux/man-pages/man8/ip-route.8.html), with the
/// index of the link. The main table and the global scope are omitted.
impl Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.dst)?;
        if let Some(encap) = self.encap {
            write!(f, " {encap}")?;
        }
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

/// The destination of the default route.
pub(super) const fn everything(is_ipv6: bool) -> IpNetwork {
    const V4: Option<Ipv4Network> = Ipv4Network::new_checked(Ipv4Addr::UNSPECIFIED, 0);
    const V6: Option<Ipv6Network> = Ipv6Network::new_checked(Ipv6Addr::UNSPECIFIED, 0);
    match (is_ipv6, V4, V6) {
        (true, _, Some(everything)) => IpNetwork::V6(everything),
        (_, Some(everything), _) => IpNetwork::V4(everything),
        _ => unreachable!(),
    }
}
