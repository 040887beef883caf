//! Addresses, and their messages.

use std::time::Duration;

use ipnetwork::IpNetwork;
use neli::{
    consts::rtnl::{Ifa, RtAddrFamily, RtScope},
    rtnl::{Ifaddrmsg, IfaddrmsgBuilder},
};

use crate::netlink::{
    error::Result,
    operation::EncodeError,
    wire::{Attrs, family, ip_addr, number, number_at, octets, text},
};
use crate::spec::IfIndex;

/// `IFA_F_*` of `linux/if_addr.h`. neli knows only the flags that fit into a byte.
const NODAD: u32 = 0x02;
const DADFAILED: u32 = 0x08;
const DEPRECATED: u32 = 0x20;
const TENTATIVE: u32 = 0x40;
const NOPREFIXROUTE: u32 = 0x200;

/// An address to be added to a link.
///
/// [`Socket::add_address_with`](crate::netlink::Socket::add_address_with) adds it.
///
/// ```
/// use cnikit::netlink::AddressSpec;
///
/// let gateway = "10.22.0.1/32".parse()?;
/// let address = AddressSpec::new("10.22.0.5/32".parse()?).peer(gateway).no_prefix_route();
/// assert_eq!(address.peer, Some(gateway));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AddressSpec {
    /// The address with the prefix length of its subnet.
    pub address: IpNetwork,
    /// The address of the machine at the other end of a point-to-point link, with the prefix length
    /// of the subnet behind it. The kernel keeps one prefix length, so this one replaces the prefix
    /// length of `address`.
    pub peer: Option<IpNetwork>,
    /// The scope of an IPv4 address, as in
    /// [rtnetlink(7)](https://man7.org/linux/man-pages/man7/rtnetlink.7.html): 0 global, 253 link,
    /// 254 host. Without a value, loopback addresses have 254 and all others 0. For IPv6, the
    /// kernel derives the scope from the address.
    pub scope: Option<u8>,
    /// The label of an IPv4 address, up to 15 bytes, such as `eth0:1`. Without one, the kernel uses
    /// the name of the link.
    pub label: Option<String>,
    /// The kernel checks whether another machine on the link uses the IPv6 address (duplicate
    /// address detection).
    pub dad: bool,
    /// The kernel adds no route to the subnet of the address.
    pub no_prefix_route: bool,
}

/// An address of a link, as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Address {
    /// The link.
    pub ifindex: IfIndex,
    /// The address with the prefix length of its subnet.
    pub address: IpNetwork,
    /// The address at the other end of a point-to-point link, with the same prefix length.
    pub peer: Option<IpNetwork>,
    /// The scope: see [`AddressSpec::scope`].
    pub scope: u8,
    /// The label; `None` for IPv6.
    pub label: Option<String>,
    /// Duplicate address detection is not over, or it failed. The kernel does not use the address.
    pub tentative: bool,
    /// Another machine on the link uses the address (duplicate address detection failed).
    pub dad_failed: bool,
    /// The preferred lifetime is over: new connections use another address.
    pub deprecated: bool,
    /// The kernel added no route to the subnet of the address.
    pub no_prefix_route: bool,
    /// The time until the kernel deletes the address, in whole seconds; `None` for ever.
    pub valid_lifetime: Option<Duration>,
}

impl AddressSpec {
    /// An address without peer and without duplicate address detection.
    #[must_use]
    pub const fn new(address: IpNetwork) -> Self {
        Self { address, peer: None, scope: None, label: None, dad: false, no_prefix_route: false }
    }

    /// Sets the address at the other end of a point-to-point link. Its prefix length replaces the
    /// prefix length of the address.
    #[must_use]
    pub const fn peer(mut self, peer: IpNetwork) -> Self {
        self.peer = Some(peer);
        self
    }

    /// Sets the scope of an IPv4 address.
    #[must_use]
    pub const fn scope(mut self, scope: u8) -> Self {
        self.scope = Some(scope);
        self
    }

    /// Sets the label of an IPv4 address.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Enables duplicate address detection, which takes a second or more.
    /// [`Socket::wait_addresses_settled`](crate::netlink::Socket::wait_addresses_settled) waits for
    /// the end.
    #[must_use]
    pub const fn dad(mut self) -> Self {
        self.dad = true;
        self
    }

    /// Keeps the kernel from adding the route to the subnet.
    #[must_use]
    pub const fn no_prefix_route(mut self) -> Self {
        self.no_prefix_route = true;
        self
    }

    pub(super) fn message(&self, ifindex: IfIndex) -> Result<Ifaddrmsg, EncodeError> {
        let ip = self.address.ip();
        let far = self.peer.unwrap_or(self.address);
        if far.is_ipv4() != self.address.is_ipv4() {
            // The kernel would take the first four bytes of an IPv6 peer for an IPv4 address.
            return Err(EncodeError::new(OtherFamily(far)));
        }
        let mut attrs = Attrs::new().put(Ifa::Local, &octets(ip)[..])?.put(Ifa::Address, &octets(far.ip())[..])?;
        let mut flags = 0;
        match self.address {
            // /31 and /32 have no broadcast address (RFC 3021).
            IpNetwork::V4(v4) if v4.prefix() < 31 && self.peer.is_none() => {
                attrs = attrs.put(Ifa::Broadcast, v4.broadcast().octets())?;
            }
            IpNetwork::V6(_) if !self.dad => flags |= NODAD,
            _ => (),
        }
        if self.no_prefix_route {
            flags |= NOPREFIXROUTE;
        }
        attrs = attrs.put_some(Ifa::Label, self.label.as_deref())?.put(Ifa::Flags, flags)?;
        let default_scope = if ip.is_loopback() { RtScope::Host } else { RtScope::Universe };
        let header = header(family(ip), ifindex, far.prefix());
        let header = header.ifa_scope(self.scope.map_or(default_scope, RtScope::from));
        Ok(header.rtattrs(attrs.into_buffer()).build()?)
    }
}

/// A peer of another family than the address.
#[derive(Debug, thiserror::Error)]
#[error("the peer {0} is of another address family than the address")]
struct OtherFamily(IpNetwork);

impl From<IpNetwork> for AddressSpec {
    fn from(address: IpNetwork) -> Self {
        Self::new(address)
    }
}

impl Address {
    /// `None` for a message without address or link.
    pub(in crate::netlink) fn decode(message: &Ifaddrmsg) -> Option<Self> {
        let prefix = *message.ifa_prefixlen();
        let (mut local, mut far, mut label, mut valid_lifetime) = (None, None, None, None);
        // The attribute has all 32 bits, the header 8.
        let mut flags = u32::from(message.ifa_flags().bits());
        for attr in message.rtattrs().iter() {
            let bytes: &[u8] = attr.rta_payload().as_ref();
            match attr.rta_type() {
                Ifa::Local => local = ip_addr(bytes),
                Ifa::Address => far = ip_addr(bytes),
                Ifa::Label => label = Some(text(bytes)),
                Ifa::Flags => flags = number(bytes).unwrap_or(flags),
                Ifa::Cacheinfo => valid_lifetime = lifetime(bytes),
                _ => (),
            }
        }
        // On a point-to-point link `Address` is the peer's address. Without a peer, IPv6 omits
        // `Local`.
        let ip = local.or(far)?;
        Some(Self {
            ifindex: IfIndex::new(*message.ifa_index())?,
            address: IpNetwork::new(ip, prefix).ok()?,
            peer: far.filter(|far| *far != ip).and_then(|far| IpNetwork::new(far, prefix).ok()),
            scope: (*message.ifa_scope()).into(),
            label,
            tentative: flags & TENTATIVE != 0,
            dad_failed: flags & DADFAILED != 0,
            deprecated: flags & DEPRECATED != 0,
            no_prefix_route: flags & NOPREFIXROUTE != 0,
            valid_lifetime,
        })
    }
}

/// The valid lifetime in `struct ifa_cacheinfo`: preferred and valid lifetime in seconds, then two
/// time stamps.
fn lifetime(bytes: &[u8]) -> Option<Duration> {
    const FOREVER: u32 = u32::MAX;
    let valid = number_at(bytes, 4).filter(|seconds| *seconds != FOREVER);
    valid.map(|seconds| Duration::from_secs(seconds.into()))
}

pub(super) fn header(family: RtAddrFamily, ifindex: impl Into<Option<IfIndex>>, prefix: u8) -> IfaddrmsgBuilder {
    let ifindex = ifindex.into().map_or(0, IfIndex::get);
    IfaddrmsgBuilder::default().ifa_family(family).ifa_prefixlen(prefix).ifa_scope(RtScope::Universe).ifa_index(ifindex)
}
