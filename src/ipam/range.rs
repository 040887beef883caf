use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use serde::Deserialize;

use super::config::RangeKeys;
use super::error::{Error, Result};

/// The addresses of a subnet that may be handed out.
///
/// These are all but the network address (of IPv6: the [subnet-router anycast address]), the gateway and, of IPv4,
/// the broadcast address; [`with_bounds`](Self::with_bounds) and [`exclude`](Self::exclude) leave out more. Everything but
/// a whole iteration takes a time that does not depend on the prefix length.
///
/// ```
/// use cnikit::ipam::Range;
///
/// let range = Range::new("10.244.1.0/24".parse()?, None)?;
/// assert_eq!(range.gateway().to_string(), "10.244.1.1");
/// assert_eq!(range.capacity(), 253);
///
/// let range = range.between(Some("10.244.1.16".parse()?), None)?.excluding(&["10.244.1.64/26".parse()?])?;
/// assert_eq!(range.to_string(), "10.244.1.16-10.244.1.254 of 10.244.1.0/24");
/// assert_eq!(range.capacity(), 239 - 64);
///
/// let error = Range::new("10.244.1.7/24".parse()?, None).unwrap_err();
/// assert_eq!(error.to_string(), "10.244.1.7/24 has host bits set; write 10.244.1.0/24");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// In JSON it has the keys of [`RangeKeys`], those that `host-local` reads.
///
/// [subnet-router anycast address]: https://www.rfc-editor.org/rfc/rfc4291#section-2.6.1
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "RangeKeys")]
pub struct Range {
    subnet: IpNetwork,
    gateway: IpAddr,
    bounds: Span,
    /// What is left out of the bounds: sorted, apart from each other, none reaching outside.
    reserved: Vec<Span>,
}

/// The addresses of a [`Range`], each once; made by [`Range::iter_from`].
#[derive(Debug, Clone)]
pub struct Addresses<'a> {
    range: &'a Range,
    next: u128,
    /// How many numbers are still to be looked at, those left out included.
    left: u128,
}

/// Addresses in a row, as numbers, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Span {
    first: u128,
    last: u128,
}

impl Range {
    /// All of `subnet`; without a `gateway`, the subnet's first address is taken for it.
    ///
    /// # Errors
    ///
    /// [`Error::HostBits`], [`Error::SubnetTooSmall`] (an IPv4 prefix over /30, an IPv6 one over /126),
    /// [`Error::GatewayOutside`], [`Error::GatewayReserved`].
    pub fn new(subnet: IpNetwork, gateway: Option<IpAddr>) -> Result<Self> {
        refuse_host_bits(subnet)?;
        let bounds = Span::usable(subnet).ok_or(Error::SubnetTooSmall { subnet })?;
        let gateway = gateway.unwrap_or_else(|| address(bounds.first, subnet));
        if !subnet.contains(gateway) {
            return Err(Error::GatewayOutside { gateway, subnet });
        }
        let at = number(gateway);
        if !bounds.contains(at) {
            return Err(Error::GatewayReserved { gateway, subnet });
        }
        Ok(Self { subnet, gateway, bounds, reserved: vec![Span { first: at, last: at }] })
    }

    /// Only the addresses from `first` to `last`, both included; what is not given stays.
    ///
    /// # Errors
    ///
    /// [`Error::BoundOutside`], [`Error::Reversed`], [`Error::NothingLeft`].
    pub fn with_bounds(mut self, first: Option<IpAddr>, last: Option<IpAddr>) -> Result<Self> {
        for bound in [first, last].into_iter().flatten() {
            if !self.is_within_bounds(bound) {
                return Err(Error::BoundOutside { bound, range: Box::new(self) });
            }
        }
        let bounds =
            Span { first: first.map_or(self.bounds.first, number), last: last.map_or(self.bounds.last, number) };
        if bounds.first > bounds.last {
            let (first, last) = (address(bounds.first, self.subnet), address(bounds.last, self.subnet));
            return Err(Error::Reversed { first, last, subnet: self.subnet });
        }
        self.bounds = bounds;
        self.reserve(Vec::new())
    }

    /// The addresses but those of `reserved`: prefixes, or single addresses as such of full length.
    ///
    /// # Errors
    ///
    /// [`Error::HostBits`], [`Error::ExcludeOutside`] for one that has nothing to do with the subnet,
    /// [`Error::NothingLeft`].
    pub fn exclude(self, reserved: &[IpNetwork]) -> Result<Self> {
        let mut spans = Vec::with_capacity(reserved.len());
        for exclude in reserved {
            refuse_host_bits(*exclude)?;
            if !self.intersects(*exclude) {
                return Err(Error::ExcludeOutside { exclude: *exclude, ranges: self.to_string() });
            }
            spans.push(Span::of(*exclude));
        }
        self.reserve(spans)
    }

    /// The subnet that the addresses are of.
    pub fn subnet(&self) -> IpNetwork {
        self.subnet
    }

    /// The lowest address within the bounds; it may be the gateway's, or be left out.
    pub fn first(&self) -> IpAddr {
        address(self.bounds.first, self.subnet)
    }

    /// The highest address within the bounds; it may be the gateway's, or be left out.
    pub fn last(&self) -> IpAddr {
        address(self.bounds.last, self.subnet)
    }

    /// The gateway, never handed out.
    pub fn gateway(&self) -> IpAddr {
        self.gateway
    }

    /// How many addresses can be handed out; at least 1.
    pub fn capacity(&self) -> u128 {
        self.bounds.count() - self.reserved.iter().map(Span::count).sum::<u128>()
    }

    /// Whether `address` is one that can be handed out.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.is_within_bounds(address) && self.reserved_at(number(address)).is_none()
    }

    /// `address` with the subnet's prefix length, as an interface wants it; an address of the other family gets the
    /// prefix length of a single host.
    ///
    /// ```
    /// # use cnikit::ipam::Range;
    /// let range = Range::new("fd00:1::/64".parse()?, None)?;
    /// assert_eq!(range.with_prefix(range.gateway()).to_string(), "fd00:1::1/64");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_prefix(&self, address: IpAddr) -> IpNetwork {
        if address.is_ipv4() != self.subnet.is_ipv4() {
            return address.into();
        }
        // A prefix length that came from a network of the same family is always accepted.
        IpNetwork::new(address, self.subnet.prefix()).unwrap_or_else(|_| address.into())
    }

    /// Every address that can be handed out, each once, from the one after `cursor` around to `cursor` itself.
    /// Without a cursor, or with one from elsewhere, from the first to the last.
    ///
    /// ```
    /// # use cnikit::ipam::Range;
    /// let range = Range::new("10.0.0.0/29".parse()?, None)?;
    /// let order: Vec<_> = range.after(Some("10.0.0.4".parse()?)).map(|a| a.to_string()).collect();
    /// assert_eq!(order, ["10.0.0.5", "10.0.0.6", "10.0.0.2", "10.0.0.3", "10.0.0.4"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn iter_from(&self, cursor: Option<IpAddr>) -> Addresses<'_> {
        let next = match cursor {
            Some(cursor) if self.is_within_bounds(cursor) && cursor != self.last() => number(cursor) + 1,
            _ => self.bounds.first,
        };
        Addresses { range: self, next, left: self.bounds.count() }
    }

    /// Whether an address of `other` could be handed out by both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.subnet.is_ipv4() == other.subnet.is_ipv4() && self.bounds.clipped_to(other.bounds).is_some()
    }

    /// Whether `prefix` and the subnet have addresses in common.
    pub(super) fn intersects(&self, prefix: IpNetwork) -> bool {
        prefix.contains(self.subnet.network()) || self.subnet.contains(prefix.network())
    }

    /// Whether `address` lies between the bounds, left out or not.
    pub(super) fn is_within_bounds(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.subnet.is_ipv4() && self.bounds.contains(number(address))
    }

    /// Leaves out `more`, and brings what is left out in order.
    fn reserve(mut self, mut more: Vec<Span>) -> Result<Self> {
        more.append(&mut self.reserved);
        more.sort_unstable_by_key(|span| span.first);
        for span in more.into_iter().filter_map(|span| span.clipped_to(self.bounds)) {
            match self.reserved.last_mut() {
                Some(before) if before.last >= span.first => before.last = before.last.max(span.last),
                _ => self.reserved.push(span),
            }
        }
        if self.capacity() == 0 {
            return Err(Error::NothingLeft { range: Box::new(self) });
        }
        Ok(self)
    }

    /// What is left out around a number.
    fn reserved_at(&self, number: u128) -> Option<Span> {
        let index = self.reserved.partition_point(|span| span.last < number);
        self.reserved.get(index).copied().filter(|span| span.contains(number))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if Span::usable(self.subnet) != Some(self.bounds) {
            write!(f, "{}-{} of ", self.first(), self.last())?;
        }
        self.subnet.fmt(f)
    }
}

impl Iterator for Addresses<'_> {
    type Item = IpAddr;

    fn next(&mut self) -> Option<IpAddr> {
        while self.left > 0 {
            let start = self.next;
            let reserved = self.range.reserved_at(start);
            let end = reserved.map_or(start, |span| span.last);
            // The walk ends where it began, which may be in the middle of what is left out.
            self.left -= (end - start + 1).min(self.left);
            self.next = if end == self.range.bounds.last { self.range.bounds.first } else { end + 1 };
            if reserved.is_none() {
                return Some(address(start, self.range.subnet));
            }
        }
        None
    }
}

impl std::iter::FusedIterator for Addresses<'_> {}

impl Span {
    fn of(prefix: IpNetwork) -> Self {
        Self { first: number(prefix.network()), last: number(prefix.broadcast()) }
    }

    /// What of a subnet can be given to an interface; nothing if that is no more than the gateway's address.
    fn usable(subnet: IpNetwork) -> Option<Self> {
        let whole = Self::of(subnet);
        if whole.last - whole.first < 3 {
            return None;
        }
        // IPv6 has no broadcast: the last address is like any other.
        Some(Self { first: whole.first + 1, last: whole.last - u128::from(subnet.is_ipv4()) })
    }

    /// How many there are. Bounds never hold all 2^128 addresses: the network address of ::/0 is outside.
    fn count(&self) -> u128 {
        self.last - self.first + 1
    }

    fn contains(self, number: u128) -> bool {
        (self.first..=self.last).contains(&number)
    }

    fn clipped_to(self, other: Self) -> Option<Self> {
        let both = Self { first: self.first.max(other.first), last: self.last.min(other.last) };
        (both.first <= both.last).then_some(both)
    }
}

fn refuse_host_bits(prefix: IpNetwork) -> Result<()> {
    if prefix.ip() == prefix.network() { Ok(()) } else { Err(Error::HostBits { subnet: prefix }) }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address of a number that was made from an address of the family of `subnet`.
fn address(number: u128, subnet: IpNetwork) -> IpAddr {
    match subnet {
        IpNetwork::V4(_) => Ipv4Addr::from_bits(number as u32).into(),
        IpNetwork::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}
