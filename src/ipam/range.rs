use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use serde::Deserialize;

use super::error::{Error, Result};
use crate::spec::IpRange;
use crate::spec::lenient::{empty_as_none, null_as_default};

/// The addresses of a subnet that can be allocated.
///
/// The range excludes the network address, the gateway and, for IPv4, the broadcast address. The
/// network address of IPv6 is the [subnet-router anycast address].
/// [`bounds`](Self::bounds) and [`exclude`](Self::exclude) exclude more. Every operation
/// except a full iteration takes a time that does not depend on the prefix length.
///
/// ```
/// use cnikit::ipam::Range;
///
/// let range = Range::new("10.244.1.0/24".parse()?, None)?;
/// assert_eq!(range.gateway().to_string(), "10.244.1.1");
/// assert_eq!(range.capacity(), 253);
///
/// let range = range.bounds(Some("10.244.1.16".parse()?), None)?.exclude(&["10.244.1.64/26".parse()?])?;
/// assert_eq!(range.to_string(), "10.244.1.16-10.244.1.254 of 10.244.1.0/24");
/// assert_eq!(range.capacity(), 239 - 64);
///
/// let error = Range::new("10.244.1.7/24".parse()?, None).unwrap_err();
/// assert_eq!(error.to_string(), "10.244.1.7/24 has host bits set; write 10.244.1.0/24");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The JSON form has the keys of [`RangeKeys`], as in `host-local`.
///
/// [subnet-router anycast address]: https://www.rfc-editor.org/rfc/rfc4291#section-2.6.1
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "RangeKeys")]
pub struct Range {
    subnet: IpNetwork,
    gateway: IpAddr,
    bounds: Span,
    /// Excluded intervals within the bounds: sorted and disjoint.
    reserved: Vec<Span>,
}

/// The keys of a [`Range`] as received, before validation.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RangeKeys {
    /// The subnet.
    pub subnet: IpNetwork,
    /// The lowest address to allocate; the default is the first address of the subnet.
    #[serde(default, deserialize_with = "empty_as_none")]
    pub range_start: Option<IpAddr>,
    /// The highest address to allocate; the default is the last address of the subnet.
    #[serde(default, deserialize_with = "empty_as_none")]
    pub range_end: Option<IpAddr>,
    /// The gateway; the default is the first address of the subnet.
    #[serde(default, deserialize_with = "empty_as_none")]
    pub gateway: Option<IpAddr>,
    /// Excluded addresses and prefixes.
    #[serde(default, deserialize_with = "null_as_default")]
    pub exclude: Vec<IpNetwork>,
}

/// Iterator over the addresses of a [`Range`], each once; created by [`Range::iter_from`].
#[derive(Debug, Clone)]
pub struct Addresses<'a> {
    range: &'a Range,
    next: u128,
    /// The number of addresses left to visit, including the excluded ones.
    left: u128,
}

/// An interval of addresses as numbers, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Span {
    first: u128,
    last: u128,
}

impl Range {
    /// The whole `subnet`. Without a `gateway`, the first address of the subnet is the gateway.
    ///
    /// # Errors
    ///
    /// [`Error::HostBits`], [`Error::SubnetTooSmall`] (an IPv4 prefix over /30, an IPv6 one over
    /// /126), [`Error::GatewayOutside`], [`Error::GatewayReserved`].
    pub fn new(subnet: IpNetwork, gateway: Option<IpAddr>) -> Result<Self> {
        check_host_bits(subnet)?;
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

    /// Limits the range to the addresses from `first` to `last`, both included. `None` keeps a
    /// bound.
    ///
    /// # Errors
    ///
    /// [`Error::BoundOutside`], [`Error::Reversed`], [`Error::NothingLeft`].
    pub fn bounds(mut self, first: Option<IpAddr>, last: Option<IpAddr>) -> Result<Self> {
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

    /// Excludes the prefixes in `reserved`. A single address is a prefix of full length.
    ///
    /// # Errors
    ///
    /// [`Error::HostBits`], [`Error::ExcludeOutside`] for a prefix outside the subnet,
    /// [`Error::NothingLeft`].
    pub fn exclude(self, reserved: &[IpNetwork]) -> Result<Self> {
        let mut spans = Vec::with_capacity(reserved.len());
        for exclude in reserved {
            check_host_bits(*exclude)?;
            if !self.intersects(*exclude) {
                return Err(Error::ExcludeOutside { exclude: *exclude, ranges: self.to_string() });
            }
            spans.push(Span::of(*exclude));
        }
        self.reserve(spans)
    }

    /// The subnet.
    #[must_use]
    pub fn subnet(&self) -> IpNetwork {
        self.subnet
    }

    /// The lowest address within the bounds. It may be the gateway or excluded.
    #[must_use]
    pub fn first(&self) -> IpAddr {
        address(self.bounds.first, self.subnet)
    }

    /// The highest address within the bounds. It may be the gateway or excluded.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        address(self.bounds.last, self.subnet)
    }

    /// The gateway, which is never allocated.
    #[must_use]
    pub fn gateway(&self) -> IpAddr {
        self.gateway
    }

    /// The number of addresses that can be allocated; at least 1.
    pub fn capacity(&self) -> u128 {
        self.bounds.count() - self.reserved.iter().map(Span::count).sum::<u128>()
    }

    /// Whether `address` can be allocated.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.is_within_bounds(address) && self.reserved_at(number(address)).is_none()
    }

    /// `address` with the prefix length of the subnet, as for an interface. An address of the other
    /// family gets the prefix length of a single host.
    ///
    /// ```
    /// # use cnikit::ipam::Range;
    /// let range = Range::new("fd00:1::/64".parse()?, None)?;
    /// assert_eq!(range.with_prefix(range.gateway()).to_string(), "fd00:1::1/64");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_prefix(&self, address: IpAddr) -> IpNetwork {
        if address.is_ipv4() != self.subnet.is_ipv4() {
            return address.into();
        }
        // The prefix length is valid, because both addresses are of one family.
        IpNetwork::new(address, self.subnet.prefix()).unwrap_or_else(|_| address.into())
    }

    /// Every address that can be allocated, once, from the address after `cursor` around to
    /// `cursor` itself. Without a cursor, or with a cursor outside the range, from the first to the
    /// last.
    ///
    /// ```
    /// # use cnikit::ipam::Range;
    /// let range = Range::new("10.0.0.0/29".parse()?, None)?;
    /// let order: Vec<_> = range.iter_from(Some("10.0.0.4".parse()?)).map(|a| a.to_string()).collect();
    /// assert_eq!(order, ["10.0.0.5", "10.0.0.6", "10.0.0.2", "10.0.0.3", "10.0.0.4"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn iter_from(&self, cursor: Option<IpAddr>) -> Addresses<'_> {
        let next = match cursor {
            Some(cursor) if self.is_within_bounds(cursor) && cursor != self.last() => number(cursor) + 1,
            _ => self.bounds.first,
        };
        Addresses { range: self, next, left: self.bounds.count() }
    }

    /// Whether both ranges can allocate the same address.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.subnet.is_ipv4() == other.subnet.is_ipv4() && self.bounds.clipped_to(other.bounds).is_some()
    }

    /// Whether `prefix` and the subnet have a common address.
    pub(super) fn intersects(&self, prefix: IpNetwork) -> bool {
        prefix.contains(self.subnet.network()) || self.subnet.contains(prefix.network())
    }

    /// Whether `address` is within the bounds, excluded or not.
    pub(super) fn is_within_bounds(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.subnet.is_ipv4() && self.bounds.contains(number(address))
    }

    /// Adds excluded intervals, and sorts and merges all of them.
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

    /// The excluded interval that contains `number`.
    fn reserved_at(&self, number: u128) -> Option<Span> {
        let index = self.reserved.partition_point(|span| span.last < number);
        self.reserved.get(index).copied().filter(|span| span.contains(number))
    }
}

impl TryFrom<RangeKeys> for Range {
    type Error = Error;

    fn try_from(keys: RangeKeys) -> Result<Self> {
        Self::new(keys.subnet, keys.gateway)?.bounds(keys.range_start, keys.range_end)?.exclude(&keys.exclude)
    }
}

impl From<IpRange> for RangeKeys {
    fn from(range: IpRange) -> Self {
        let IpRange { subnet, range_start, range_end, gateway } = range;
        Self { subnet, range_start, range_end, gateway, exclude: Vec::new() }
    }
}

impl From<IpNetwork> for RangeKeys {
    fn from(subnet: IpNetwork) -> Self {
        Self { subnet, range_start: None, range_end: None, gateway: None, exclude: Vec::new() }
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
            // The iteration ends at its start, which may be inside an excluded interval.
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

    /// The addresses of a subnet that an interface can have. `None` if there is at most one.
    fn usable(subnet: IpNetwork) -> Option<Self> {
        let whole = Self::of(subnet);
        if whole.last - whole.first < 3 {
            return None;
        }
        // IPv6 has no broadcast address: the last address is an ordinary one.
        Some(Self { first: whole.first + 1, last: whole.last - u128::from(subnet.is_ipv4()) })
    }

    /// The number of addresses. It fits `u128`: bounds never include the network address of ::/0.
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

fn check_host_bits(prefix: IpNetwork) -> Result<()> {
    if prefix.ip() == prefix.network() { Ok(()) } else { Err(Error::HostBits { subnet: prefix }) }
}

/// The address as a number, for arithmetic within one family.
pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address with this number in the family of `subnet`.
fn address(number: u128, subnet: IpNetwork) -> IpAddr {
    match subnet {
        IpNetwork::V4(_) => Ipv4Addr::from_bits(number as u32).into(),
        IpNetwork::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}
