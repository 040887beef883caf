//! Hints for the search of a free address. They follow the boot id in the lock file, which is open
//! in any case.
//!
//! ```text
//! 0c6e3b6a-1f0e-4d0a-9c0b-3a3f5a1d7b52
//! last 10.244.1.17
//! last fd00::17
//! taken 10.244.1.2 10.244.1.200
//! ```
//!
//! The hints never prove that an address is leased. Lost or wrong hints only make a search longer.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::range::number;

/// Minimum length of a stored interval. Probing a shorter run one by one is as fast.
const MIN_RUN: u128 = if cfg!(test) { 2 } else { 8 };
/// Maximum number of stored intervals, so that one system call reads them all.
const MAX_RUNS: usize = 32;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct AllocationHints {
    /// The last allocated address of each pool.
    pub(super) last: Vec<IpAddr>,
    /// Addresses that a search has seen as taken and that were not released since.
    pub(super) taken: AddressSet,
}

/// A set of addresses, stored as intervals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct AddressSet {
    /// Sorted, disjoint and not adjacent.
    intervals: Vec<Interval>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Interval {
    first: IpAddr,
    last: IpAddr,
}

impl AllocationHints {
    /// Parses the output of [`fmt::Display`]. Ignores invalid lines.
    pub(super) fn parse(text: &[u8]) -> Self {
        let mut hints = Self::default();
        for line in String::from_utf8_lossy(text).lines() {
            let mut words = line.split(' ');
            let keyword = words.next();
            let mut address = || words.next()?.parse::<IpAddr>().ok();
            match (keyword, address(), address()) {
                (Some("last"), Some(last), None) => hints.last.push(last),
                (Some("taken"), Some(first), Some(last)) => hints.taken.intervals.push(Interval { first, last }),
                _ => {}
            }
        }
        hints
            .taken
            .intervals
            .retain(|interval| interval.first <= interval.last && interval.first.is_ipv4() == interval.last.is_ipv4());
        hints.taken.intervals.sort_unstable();
        hints.taken.intervals.dedup_by(|interval, before| interval.first <= before.last);
        hints
    }

    /// The hints of an earlier boot that are still useful. No address is taken any more, but
    /// external peers may still cache the neighbor entry of an address.
    pub(super) fn from_previous_boot(text: &[u8]) -> Self {
        Self { taken: AddressSet::default(), ..Self::parse(text) }
    }
}

impl fmt::Display for AllocationHints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for last in &self.last {
            writeln!(f, "last {last}")?;
        }
        let mut intervals: Vec<&Interval> =
            self.taken.intervals.iter().filter(|interval| interval.length() >= MIN_RUN).collect();
        intervals.sort_by_key(|interval| std::cmp::Reverse(interval.length()));
        for interval in intervals.into_iter().take(MAX_RUNS) {
            writeln!(f, "taken {} {}", interval.first, interval.last)?;
        }
        Ok(())
    }
}

impl AddressSet {
    /// The number of intervals.
    pub(super) fn len(&self) -> usize {
        self.intervals.len()
    }

    /// The last address of the interval that contains `address`.
    pub(super) fn end_of_interval(&self, address: IpAddr) -> Option<IpAddr> {
        let interval = self.intervals.get(self.first_not_before(address))?;
        (interval.first <= address).then_some(interval.last)
    }

    /// Adds an address.
    pub(super) fn add(&mut self, address: IpAddr) {
        let index = self.first_not_before(address);
        let after = self.intervals.get(index).copied();
        if after.is_some_and(|interval| interval.first <= address) {
            return;
        }
        let joins_after = after.is_some_and(|interval| successor(address) == Some(interval.first));
        match index.checked_sub(1).and_then(|before| self.intervals.get_mut(before)) {
            Some(before) if successor(before.last) == Some(address) => {
                before.last = address;
                if let Some(interval) = after.filter(|_| joins_after) {
                    before.last = interval.last;
                    self.intervals.remove(index);
                }
            }
            _ if joins_after => self.intervals[index].first = address,
            _ => self.intervals.insert(index, Interval { first: address, last: address }),
        }
    }

    /// Removes an address; returns whether it was in the set.
    pub(super) fn remove(&mut self, address: IpAddr) -> bool {
        let index = self.first_not_before(address);
        let Some(interval) = self.intervals.get(index).copied().filter(|interval| interval.first <= address) else {
            return false;
        };
        let before = predecessor(address)
            .filter(|_| interval.first < address)
            .map(|last| Interval { first: interval.first, last });
        let after =
            successor(address).filter(|_| address < interval.last).map(|first| Interval { first, last: interval.last });
        self.intervals.splice(index..=index, before.into_iter().chain(after));
        true
    }

    /// Removes the intervals with a matching first address.
    pub(super) fn forget(&mut self, is_among: impl Fn(IpAddr) -> bool) {
        self.intervals.retain(|interval| !is_among(interval.first));
    }

    /// The index of the first interval that ends at or after `address`.
    fn first_not_before(&self, address: IpAddr) -> usize {
        self.intervals.partition_point(|interval| interval.last < address)
    }
}

impl Interval {
    fn length(&self) -> u128 {
        (number(self.last) - number(self.first)).saturating_add(1)
    }
}

fn successor(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().checked_add(1)?).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().checked_add(1)?).into(),
    })
}

fn predecessor(address: IpAddr) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().checked_sub(1)?).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().checked_sub(1)?).into(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn ip(number: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, number).into()
    }

    #[test]
    fn hints_are_read_back() {
        let mut hints = AllocationHints { last: vec![ip(7), "fd00::7".parse().unwrap()], ..AllocationHints::default() };
        for number in [3, 4, 5, 9, 250, 251] {
            hints.taken.add(ip(number));
        }
        let text = hints.to_string();
        assert_eq!(text, "last 10.0.0.7\nlast fd00::7\ntaken 10.0.0.3 10.0.0.5\ntaken 10.0.0.250 10.0.0.251\n");
        hints.taken.remove(ip(9));
        assert_eq!(AllocationHints::parse(text.as_bytes()), hints);
    }

    #[test]
    fn invalid_hints_are_ignored() {
        for text in [
            "last\n",
            "last 10.0.0.256\n",
            "last 10.0.0.1 10.0.0.2\n",
            "taken 10.0.0.2\n",
            "taken 10.0.0.9 10.0.0.2\n",
            "taken 10.0.0.9 fd00::1\n",
            "10.0.0.1\n",
            "\u{fffd}",
        ] {
            assert_eq!(AllocationHints::parse(text.as_bytes()), AllocationHints::default(), "{text}");
        }
        let overlap = "taken 10.0.0.5 10.0.0.9\ntaken 10.0.0.2 10.0.0.7\n";
        assert_eq!(AllocationHints::parse(overlap.as_bytes()).to_string(), "taken 10.0.0.2 10.0.0.7\n");
    }

    proptest! {
        #[test]
        fn intervals_are_a_set(changes in proptest::collection::vec((any::<bool>(), 0..24_u8), 0..200)) {
            let (mut intervals, mut set) = (AddressSet::default(), BTreeSet::new());
            for (add, number) in changes {
                if add {
                    intervals.add(ip(number));
                    set.insert(number);
                } else {
                    prop_assert_eq!(intervals.remove(ip(number)), set.remove(&number));
                }
                for number in 0..=24 {
                    let end = (number..).take_while(|number| set.contains(number)).last();
                    prop_assert_eq!(intervals.end_of_interval(ip(number)), end.map(ip));
                }
                let starts = set.iter().filter(|number| **number == 0 || !set.contains(&(**number - 1))).count();
                prop_assert_eq!(intervals.len(), starts);
            }
        }
    }
}
