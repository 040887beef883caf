use std::iter::Sum;
use std::net::IpAddr;

use super::pool::Pool;

/// How full a range is, or several together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// How many of the addresses are taken.
    pub used: u128,
    /// How many addresses there are.
    pub total: u128,
}

impl Usage {
    /// How many addresses are free.
    pub fn free(&self) -> u128 {
        self.total.saturating_sub(self.used)
    }

    /// The ranges of a pool while nothing is taken.
    pub(super) fn none_of(pool: &Pool) -> Vec<Self> {
        pool.ranges().iter().map(|range| Self { used: 0, total: range.capacity() }).collect()
    }

    /// Counts an address that is taken, if it is of the pool.
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
