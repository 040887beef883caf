//! Tunnel headers in route messages.

use std::{
    fmt::{self, Display},
    net::IpAddr,
};

use crate::netlink::wire::{Attributes, attribute, attributes, ip_addr, short};

pub(super) const RTA_ENCAP_TYPE: u16 = 21;
pub(super) const RTA_ENCAP: u16 = 22;
/// `LWTUNNEL_ENCAP_IP` and `LWTUNNEL_ENCAP_IP6`. Their attributes have the same numbers.
const ENCAP_IP: u16 = 2;
const ENCAP_IP6: u16 = 4;
const LWTUNNEL_IP_ID: u16 = 1;
const LWTUNNEL_IP_DST: u16 = 2;
const LWTUNNEL_IP_TTL: u16 = 4;
const LWTUNNEL_IP_FLAGS: u16 = 6;
/// `TUNNEL_CSUM`, in network byte order.
const TUNNEL_CSUM: u16 = 0x01;

/// The tunnel header that an [external](crate::netlink::Vxlan::external) link adds to the packets
/// of a [route](crate::netlink::Route::encap).
///
/// The tunnel and the packets in it can be of different address families.
///
/// ```
/// use cnikit::netlink::{IfIndex, Route, TunnelEncap};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let tunnel = IfIndex::try_from(7)?;
/// let encap = TunnelEncap::new(77, "192.0.2.2".parse()?).ttl(64);
/// let route = Route::new("10.244.2.0/24".parse()?, tunnel).encap(encap);
/// let shown = "10.244.2.0/24 encap ip id 77 dst 192.0.2.2 ttl 64 by link 7";
/// assert_eq!(route.to_string(), shown);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "RTA_ENCAP")]
#[doc(alias = "lwtunnel")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct TunnelEncap {
    /// The id of the network in the tunnel. For VXLAN, this is the VNI.
    pub id: u64,
    /// The address of the other end of the tunnel. Its family is the family of the outer packets.
    pub destination: IpAddr,
    /// The TTL or hop limit of the outer packets. With 0, the kernel uses the default of routes.
    pub ttl: u8,
    /// The outer UDP header has a checksum. The setting of the link does not apply to packets of
    /// the route. [`TunnelEncap::new`] sets it for IPv6 only: the kernel drops UDP packets over
    /// IPv6 without a checksum, unless the receiving link accepts them.
    #[doc(alias = "TUNNEL_CSUM")]
    pub checksum: bool,
}

impl TunnelEncap {
    /// A header with this id for the tunnel to this address.
    #[must_use]
    pub const fn new(id: u64, destination: IpAddr) -> Self {
        Self { id, destination, ttl: 0, checksum: destination.is_ipv6() }
    }

    /// Sets the TTL or hop limit of the outer packets.
    #[must_use]
    pub const fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets whether the outer UDP header has a checksum.
    #[must_use]
    pub const fn checksum(mut self, on: bool) -> Self {
        self.checksum = on;
        self
    }

    /// Appends the header to the attributes of a route.
    pub(super) fn put(self, attrs: Attributes) -> Attributes {
        let kind = if self.destination.is_ipv4() { ENCAP_IP } else { ENCAP_IP6 };
        let mut header = Attributes::new()
            .put(LWTUNNEL_IP_ID, &self.id.to_be_bytes())
            .put_ip(LWTUNNEL_IP_DST, self.destination)
            .put_u8(LWTUNNEL_IP_TTL, self.ttl);
        if self.checksum {
            header = header.put(LWTUNNEL_IP_FLAGS, &TUNNEL_CSUM.to_be_bytes());
        }
        attrs.put_u16(RTA_ENCAP_TYPE, kind).nest(RTA_ENCAP, header)
    }

    /// The header in the attributes of a route or next hop. `None` without one, and for an
    /// encapsulation of another type.
    pub(super) fn decode(attrs: &[u8]) -> Option<Self> {
        let kind = attribute(attrs, RTA_ENCAP_TYPE).and_then(short)?;
        let (mut id, mut destination, mut ttl, mut flags) = (0, None, 0, 0);
        for (kind, bytes) in attributes(attribute(attrs, RTA_ENCAP)?) {
            match kind {
                LWTUNNEL_IP_ID => id = u64::from_be_bytes(bytes.try_into().ok()?),
                LWTUNNEL_IP_DST => destination = ip_addr(bytes),
                LWTUNNEL_IP_TTL => ttl = *bytes.first()?,
                LWTUNNEL_IP_FLAGS => flags = u16::from_be_bytes(bytes.try_into().ok()?),
                _ => (),
            }
        }
        let destination = destination.filter(|address| match kind {
            ENCAP_IP => address.is_ipv4(),
            ENCAP_IP6 => address.is_ipv6(),
            _ => false,
        })?;
        Some(Self { id, destination, ttl, checksum: flags & TUNNEL_CSUM != 0 })
    }
}

/// The order of [ip-route(8)](https://man7.org/linux/man-pages/man8/ip-route.8.html), without
/// values that are 0.
impl Display for TunnelEncap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, destination, ttl, checksum } = self;
        let (family, limit) = if destination.is_ipv4() { ("ip", "ttl") } else { ("ip6", "hoplimit") };
        write!(f, "encap {family} id {id} dst {destination}")?;
        if *ttl != 0 {
            write!(f, " {limit} {ttl}")?;
        }
        if *checksum {
            f.write_str(" csum")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(encap: TunnelEncap) -> Vec<u8> {
        encap.put(Attributes::new()).encode().expect("short")
    }

    #[test]
    fn header_has_the_layout_of_lwtunnel() {
        let half = |number: u16| number.to_ne_bytes();
        let bytes = encoded(TunnelEncap::new(0x01_02_03, [192, 0, 2, 2].into()).ttl(64));
        let expected = [
            // RTA_ENCAP_TYPE, LWTUNNEL_ENCAP_IP.
            [half(6), half(21), half(2), [0, 0]].concat(),
            // RTA_ENCAP, nested.
            [half(32), half(0x8000 | 22)].concat(),
            [&[half(12), half(1)].concat()[..], &[0, 0, 0, 0, 0, 1, 2, 3]].concat(),
            [&[half(8), half(2)].concat()[..], &[192, 0, 2, 2]].concat(),
            [&[half(5), half(4)].concat()[..], &[64, 0, 0, 0]].concat(),
        ];
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn header_is_decoded_as_encoded() {
        for (destination, checksum) in [("192.0.2.2", false), ("2001:db8::2", true)] {
            let encap = TunnelEncap::new(u64::MAX - 7, destination.parse().expect("an address")).ttl(9);
            assert_eq!(encap.checksum, checksum);
            for encap in [encap, encap.checksum(!checksum)] {
                assert_eq!(TunnelEncap::decode(&encoded(encap)), Some(encap));
            }
        }
    }

    #[test]
    fn other_encapsulations_are_none() {
        // LWTUNNEL_ENCAP_SEG6, and an address of the other family.
        for (kind, address) in [(5, "192.0.2.2"), (ENCAP_IP6, "192.0.2.2"), (ENCAP_IP, "2001:db8::2")] {
            let header = Attributes::new().put_ip(LWTUNNEL_IP_DST, address.parse().expect("an address"));
            let attrs = Attributes::new().put_u16(RTA_ENCAP_TYPE, kind).nest(RTA_ENCAP, header);
            assert_eq!(TunnelEncap::decode(&attrs.encode().expect("short")), None);
        }
        assert_eq!(TunnelEncap::decode(&[]), None);
    }
}
