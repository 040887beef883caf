use std::iter::Sum;
use std::net::IpAddr;

use super::pool::Pool;

/// The usage of one range, or the sum of several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// The number of taken addresses.
    pub used: u128,
    /// The number of addresses.
    pub total: u128,
}

impl Usage {
    /// The number of free addresses.
    #[must_use]
    pub fn free(&self) -> u128 {
        self.total.saturating_sub(self.used)
    }

    /// The ranges of a pool with no address taken.
    pub(super) fn empty(pool: &Pool) -> Vec<Self> {
        pool.ranges().iter().map(|range| Self { used: 0, total: range.capacity() }).collect()
    }

    /// Counts a taken address if the pool contains it.
    pub(super) fn count(usage: &mut [Self], pool: &Pool, address: IpAddr) {
        if let Some(index) = pool.ranges().iter().position(|range| range.contains(address)) {
            usage[index].used += 1;
        }
    }
}

impl Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(usages: I) -> Self {
        usages.fold(Self::default(), |sum, one| Self {
            used: sum.used.saturating_add(one.used),
            total: sum.total.saturating_add(one.total),
        })
    }
}
