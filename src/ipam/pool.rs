use std::fmt;
use std::net::IpAddr;

use serde::Deserialize;

use super::error::{Error, Result};
use super::range::Range;

/// A list of ranges of one family. An attachment gets one address from one of them.
///
/// A pool is an inner list of `host-local`'s `ranges`. A dual-stack network has two pools.
///
/// ```
/// use cnikit::ipam::{Pool, Range};
///
/// let range = |subnet: &str| Range::new(subnet.parse().unwrap(), None).unwrap();
/// let pool = Pool::new(vec![range("10.0.0.0/30"), range("10.9.0.0/30")])?;
/// let order: Vec<_> = pool.iter_from(None).map(|address| address.to_string()).collect();
/// assert_eq!(order, ["10.0.0.2", "10.9.0.2"]);
///
/// let error = Pool::new(vec![range("10.0.0.0/16"), range("10.0.7.0/24")]).unwrap_err();
/// assert_eq!(error.to_string(), "ranges 10.0.0.0/16 and 10.0.7.0/24 overlap; each address must be in one range only");
/// # Ok::<(), cnikit::ipam::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "Vec<Range>")]
pub struct Pool {
    ranges: Vec<Range>,
}

impl Pool {
    /// A pool of these ranges, which are used in this order.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyPool`], [`Error::MixedFamilies`], [`Error::Overlap`],
    /// [`Error::GatewayHandedOut`].
    pub fn new(ranges: Vec<Range>) -> Result<Self> {
        let Some(first) = ranges.first() else {
            return Err(Error::EmptyPool);
        };
        if let Some(other) = ranges.iter().find(|range| range.subnet().is_ipv4() != first.subnet().is_ipv4()) {
            return Err(Error::MixedFamilies { first: first.subnet(), other: other.subnet() });
        }
        check_disjoint(ranges.iter())?;
        Ok(Self { ranges })
    }

    /// The ranges. There is at least one.
    #[must_use]
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// Whether the addresses are IPv4.
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        self.ranges.iter().all(|range| range.subnet().is_ipv4())
    }

    /// The number of addresses that can be allocated; at least 1.
    pub fn capacity(&self) -> u128 {
        self.ranges.iter().map(Range::capacity).sum()
    }

    /// Whether `address` can be allocated.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|range| range.contains(address))
    }

    /// The range that contains `address` within its bounds, or else within its subnet. An address
    /// outside the bounds may come from an earlier configuration.
    ///
    /// The range determines the gateway and the prefix length of the address.
    #[must_use]
    pub fn range_of(&self, address: IpAddr) -> Option<&Range> {
        let within_bounds = self.ranges.iter().find(|range| range.is_within_bounds(address));
        within_bounds.or_else(|| self.ranges.iter().find(|range| range.subnet().contains(address)))
    }

    /// Every address that can be allocated, once, from the address after `cursor` around to
    /// `cursor` itself. Without a cursor, or with a cursor outside the pool, from the first to the
    /// last.
    pub fn iter_from(&self, cursor: Option<IpAddr>) -> impl Iterator<Item = IpAddr> + '_ {
        let place = |cursor| self.ranges.iter().position(|range| range.is_within_bounds(cursor));
        let (index, cursor) = cursor.and_then(|cursor| Some((place(cursor)?, Some(cursor)))).unwrap_or((0, None));
        let (before, from) = self.ranges.split_at(index);
        // First the addresses after the cursor in its range, then the other ranges, then the rest
        // of its range.
        let (cut, others) = from.split_at(1);
        let is_after = move |address: &IpAddr| cursor.is_none_or(|cursor| *address > cursor);
        let tail =
            cut.iter().flat_map(move |range| range.iter_from(cursor).take_while(move |address| is_after(address)));
        let head =
            cut.iter().flat_map(move |range| range.iter_from(None).take_while(move |address| !is_after(address)));
        tail.chain(others.iter().chain(before).flat_map(|range| range.iter_from(None))).chain(head)
    }
}

impl From<Range> for Pool {
    fn from(range: Range) -> Self {
        Self { ranges: vec![range] }
    }
}

impl TryFrom<Vec<Range>> for Pool {
    type Error = Error;

    fn try_from(ranges: Vec<Range>) -> Result<Self> {
        Self::new(ranges)
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.ranges.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{range}")?;
        }
        Ok(())
    }
}

/// Rejects ranges that overlap, and a range that contains the gateway of another.
pub(super) fn check_disjoint<'a>(ranges: impl Iterator<Item = &'a Range> + Clone) -> Result<()> {
    for (index, range) in ranges.clone().enumerate() {
        for (other_index, other) in ranges.clone().enumerate() {
            if index < other_index && range.overlaps(other) {
                return Err(Error::Overlap { first: Box::new(range.clone()), second: Box::new(other.clone()) });
            }
            if other.contains(range.gateway()) {
                return Err(Error::GatewayHandedOut { gateway: range.gateway(), range: Box::new(other.clone()) });
            }
        }
    }
    Ok(())
}
