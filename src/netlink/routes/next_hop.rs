//! Next hops in route messages.

use std::net::IpAddr;

use super::encap::TunnelEncap;
use crate::netlink::wire::{attributes, family, ifindex, ip_addr, octets};
use crate::spec::IfIndex;

pub(super) const RTA_GATEWAY: u16 = 5;
/// A next hop of another family than the destination.
pub(super) const RTA_VIA: u16 = 18;
/// The gateway is on the link, even if no subnet of the link contains it.
pub(super) const RTNH_F_ONLINK: u32 = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::netlink) struct Hop {
    pub(super) oif: IfIndex,
    pub(super) gateway: Option<IpAddr>,
    pub(super) onlink: bool,
    pub(super) encap: Option<TunnelEncap>,
}

impl Hop {
    pub(super) const fn new(oif: IfIndex, gateway: Option<IpAddr>, flags: u32) -> Self {
        Self { oif, gateway, onlink: flags & RTNH_F_ONLINK != 0, encap: None }
    }
}

/// `struct rtvia`: the family of a next hop in native byte order, and its address.
pub(super) fn via(gateway: IpAddr) -> Vec<u8> {
    let family = u16::from(u8::from(family(gateway)));
    [&family.to_ne_bytes()[..], &octets(gateway)].concat()
}

/// The address in `struct rtvia`. The length determines the family; other families than IP are
/// rejected.
pub(super) fn via_addr(bytes: &[u8]) -> Option<IpAddr> {
    let (_, octets) = bytes.split_first_chunk::<2>()?;
    ip_addr(octets).filter(|gateway| via(*gateway) == bytes)
}

/// All next hops of a multipath route. Each is a `struct rtnexthop` (length, flags, hops, index)
/// and its attributes.
pub(super) fn multipath(bytes: &[u8]) -> Vec<Hop> {
    const HEADER: usize = 8;
    let mut rest = bytes;
    let mut hops = Vec::new();
    while let Some(length) = rest.first_chunk().copied().map(u16::from_ne_bytes).map(usize::from) {
        let Some((header, attrs)) = rest.get(..length).and_then(|hop| hop.split_at_checked(HEADER)) else { break };
        let gateway = attributes(attrs).find_map(|(kind, bytes)| match kind {
            RTA_GATEWAY => ip_addr(bytes),
            RTA_VIA => via_addr(bytes),
            _ => None,
        });
        let encap = TunnelEncap::decode(attrs);
        hops.extend(ifindex(&header[4..]).map(|oif| Hop { encap, ..Hop::new(oif, gateway, header[2].into()) }));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    hops
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multipath_ends_at_the_first_truncated_hop() {
        let hop = |index: u32, flags: u8, gateway: [u8; 4]| {
            let mut bytes = [16u16.to_ne_bytes(), [flags, 0]].concat();
            bytes.extend(index.to_ne_bytes());
            bytes.extend([8u16.to_ne_bytes(), 5u16.to_ne_bytes()].concat());
            bytes.extend(gateway);
            bytes
        };
        let whole = [hop(3, 4, [10, 0, 0, 1]), hop(4, 0, [10, 0, 0, 2])].concat();
        let expected = [
            Hop { oif: IfIndex::new(3).unwrap(), gateway: Some([10, 0, 0, 1].into()), onlink: true, encap: None },
            Hop { oif: IfIndex::new(4).unwrap(), gateway: Some([10, 0, 0, 2].into()), onlink: false, encap: None },
        ];
        assert_eq!(multipath(&whole), expected);
        assert_eq!(multipath(&whole[..20]), expected[..1]);
        assert_eq!(multipath(&[0; 8]), []);
    }
}
