//! Route messages: `struct rtmsg` and its attributes.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use neli::{consts::rtnl::RtAddrFamily, types::Buffer};

use super::{
    encap::TunnelEncap,
    next_hop::{self, Hop, RTA_GATEWAY, RTA_VIA, RTNH_F_ONLINK},
    route::{Route, everything},
};
use crate::netlink::{
    error::Result,
    operation::EncodeError,
    wire::{Attributes, attribute, attributes, family, ifindex, ip_addr, number},
};
use crate::spec::IfIndex;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_NH_ID: u16 = 30;
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;
pub(super) const RTN_UNICAST: u8 = 1;
pub(super) const RTN_LOCAL: u8 = 2;
/// A cached route, such as one with a learned path MTU. Linux before 4.20 lists these too.
const RTM_F_CLONED: u32 = 0x200;
/// The answer to an IPv4 lookup contains the table of the route. IPv6 always contains it, and
/// refuses the flag.
const RTM_F_LOOKUP_TABLE: u32 = 0x1000;

/// The families of routes, in the order of each list.
pub(super) const FAMILIES: [RtAddrFamily; 2] = [RtAddrFamily::Inet, RtAddrFamily::Inet6];

/// A received route of any type.
#[derive(Debug, Clone, Copy)]
pub(in crate::netlink) struct RouteMessage<'a> {
    family: u8,
    dst_len: u8,
    table: u8,
    pub(super) protocol: u8,
    scope: u8,
    /// The type, such as [`RTN_UNICAST`].
    pub(super) kind: u8,
    flags: u32,
    attrs: &'a [u8],
}

/// The next hops in a route message.
pub(in crate::netlink) struct Hops {
    pub(in crate::netlink) hops: Vec<Hop>,
    /// The next hop object with the hops. With `net.ipv4.nexthop_compat_mode=0` a route contains
    /// only the id of its object.
    pub(super) object: Option<u32>,
}

impl<'a> RouteMessage<'a> {
    /// `None` for a truncated header, and for a cached route.
    pub(in crate::netlink) fn parse(bytes: &'a [u8]) -> Option<Self> {
        Self::parse_any(bytes).filter(|message| message.flags & RTM_F_CLONED == 0)
    }

    /// `None` for a truncated header. The kernel marks the answer to a lookup as a cached route.
    pub(super) fn parse_any(bytes: &'a [u8]) -> Option<Self> {
        let (&[family, dst_len, _, _, table, protocol, scope, kind], rest) = bytes.split_first_chunk()?;
        let (flags, attrs) = rest.split_first_chunk()?;
        let flags = u32::from_ne_bytes(*flags);
        Some(Self { family, dst_len, table, protocol, scope, kind, flags, attrs })
    }

    pub(super) fn is_of(&self, family: RtAddrFamily) -> bool {
        self.family == u8::from(family)
    }

    pub(super) fn table(&self) -> u32 {
        self.attr(RTA_TABLE).and_then(number).unwrap_or_else(|| self.table.into())
    }

    pub(super) fn priority(&self) -> Option<u32> {
        self.attr(RTA_PRIORITY).and_then(number)
    }

    pub(super) fn dst(&self) -> Option<IpNetwork> {
        match self.attr(RTA_DST) {
            Some(bytes) => IpNetwork::new(ip_addr(bytes)?, self.dst_len).ok(),
            None => Some(everything(self.is_of(RtAddrFamily::Inet6))),
        }
    }

    pub(in crate::netlink) fn hops(&self) -> Hops {
        let mut hops = self.attr(RTA_MULTIPATH).map(next_hop::multipath).unwrap_or_default();
        let via = || self.attr(RTA_VIA).and_then(next_hop::via_addr);
        let gateway = self.attr(RTA_GATEWAY).and_then(ip_addr).or_else(via);
        let encap = TunnelEncap::decode(self.attrs);
        let hop = |oif| Hop { encap, ..Hop::new(oif, gateway, self.flags) };
        hops.extend(self.attr(RTA_OIF).and_then(ifindex).map(hop));
        Hops { hops, object: self.attr(RTA_NH_ID).and_then(number) }
    }

    /// The route through one of its hops.
    pub(in crate::netlink) fn route(&self, hop: Hop) -> Option<Route> {
        let mut route = Route::new(self.dst()?, hop.oif).scope(self.scope).protocol(self.protocol).table(self.table());
        (route.gateway, route.onlink, route.priority) = (hop.gateway, hop.onlink, self.priority());
        route.encap = hop.encap;
        route.src = self.attr(RTA_PREFSRC).and_then(ip_addr);
        for (metric, value) in self.attr(RTA_METRICS).into_iter().flat_map(attributes) {
            match metric {
                RTAX_MTU => route.mtu = number(value),
                RTAX_ADVMSS => route.advmss = number(value),
                _ => (),
            }
        }
        Some(route)
    }

    fn attr(&self, wanted: u16) -> Option<&'a [u8]> {
        attribute(self.attrs, wanted)
    }
}

/// The limits of a dump of routes. The kernel filters from Linux 4.20 on.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Filter {
    pub(super) table: Option<u32>,
    pub(super) oif: Option<IfIndex>,
}

impl Filter {
    pub(super) fn message(self, family: RtAddrFamily) -> Result<Buffer, EncodeError> {
        let mut attrs = Attributes::new();
        if let Some(table) = self.table {
            attrs = attrs.put_u32(RTA_TABLE, table);
        }
        if let Some(oif) = self.oif {
            attrs = attrs.put_u32(RTA_OIF, oif.get());
        }
        message([family.into(), 0, 0, 0, 0, 0, 0, 0], 0, attrs)
    }
}

impl Route {
    /// A request for this route. `protocol` and `scope` apply if the route has none.
    pub(super) fn message(&self, protocol: u8, scope: u8) -> Result<Buffer, EncodeError> {
        let mut attrs = Attributes::new().put_u32(RTA_OIF, self.oif.get());
        for (kind, number) in [(RTA_PRIORITY, self.priority), (RTA_TABLE, self.table)] {
            if let Some(number) = number {
                attrs = attrs.put_u32(kind, number);
            }
        }
        if self.dst.prefix() > 0 {
            attrs = attrs.put_ip(RTA_DST, self.dst.network());
        }
        if let Some(gateway) = self.gateway {
            attrs = match gateway.is_ipv4() == self.dst.is_ipv4() {
                true => attrs.put_ip(RTA_GATEWAY, gateway),
                false => attrs.put(RTA_VIA, &next_hop::via(gateway)),
            };
        }
        if let Some(src) = self.src {
            attrs = attrs.put_ip(RTA_PREFSRC, src);
        }
        if let Some(encap) = self.encap {
            attrs = encap.put(attrs);
        }
        let mut metrics = Attributes::new();
        for (kind, number) in [(RTAX_MTU, self.mtu), (RTAX_ADVMSS, self.advmss)] {
            if let Some(number) = number {
                metrics = metrics.put_u32(kind, number);
            }
        }
        if !metrics.is_empty() {
            attrs = attrs.nest(RTA_METRICS, metrics);
        }
        let flags = if self.onlink { RTNH_F_ONLINK } else { 0 };
        let (protocol, scope) = (self.protocol.unwrap_or(protocol), self.scope.unwrap_or(scope));
        let family = family(self.dst.ip()).into();
        // The attribute, which holds all 32 bits, overrides the table in the header.
        let main = Self::MAIN_TABLE as u8;
        message([family, self.dst.prefix(), 0, 0, main, protocol, scope, RTN_UNICAST], flags, attrs)
    }
}

/// A request for the route that the kernel chooses for packets to an address.
pub(super) fn lookup_message(destination: IpAddr) -> Result<Buffer, EncodeError> {
    let (bits, flags) = if destination.is_ipv4() { (32, RTM_F_LOOKUP_TABLE) } else { (128, 0) };
    let attrs = Attributes::new().put_ip(RTA_DST, destination);
    message([family(destination).into(), bits, 0, 0, 0, 0, 0, 0], flags, attrs)
}

/// `struct rtmsg`: family, lengths of destination and source, TOS, table, protocol, scope, type and
/// flags.
fn message(header: [u8; 8], flags: u32, attrs: Attributes) -> Result<Buffer, EncodeError> {
    Ok(Buffer::from([&header[..], &flags.to_ne_bytes(), &attrs.encode()?].concat()))
}
