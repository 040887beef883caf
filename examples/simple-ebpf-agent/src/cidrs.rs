//! A set of CIDRs that do not overlap. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// CIDRs, ordered by family and first address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cidrs(BTreeMap<(bool, u128), IpNetwork>);

impl Cidrs {
    /// Adds a CIDR that overlaps with no other one.
    pub fn insert(&mut self, cidr: IpNetwork) {
        self.0.insert(key(cidr.network()), cidr);
    }

    /// A CIDR of the set that shares an address with `cidr`.
    #[must_use]
    pub fn overlapping(&self, cidr: IpNetwork) -> Option<IpNetwork> {
        // The CIDRs do not overlap, so the last one that begins before the end of `cidr` has the
        // greatest end.
        let (_, last) = self.0.range(..=key(cidr.broadcast())).next_back()?;
        let is_same_family = last.is_ipv4() == cidr.is_ipv4();
        (is_same_family && key(last.broadcast()) >= key(cidr.network())).then_some(*last)
    }

    /// Whether a CIDR of the set contains the address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.overlapping(IpNetwork::from(address)).is_some()
    }

    /// The number of CIDRs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The CIDRs, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = &IpNetwork> {
        self.0.values()
    }
}

impl Extend<IpNetwork> for Cidrs {
    fn extend<T: IntoIterator<Item = IpNetwork>>(&mut self, cidrs: T) {
        cidrs.into_iter().for_each(|cidr| self.insert(cidr));
    }
}

fn key(address: IpAddr) -> (bool, u128) {
    match address {
        IpAddr::V4(v4) => (false, u32::from(v4).into()),
        IpAddr::V6(v6) => (true, v6.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_are_found_on_both_sides() {
        let network = |text: &str| -> IpNetwork { text.parse().expect("a network") };
        let mut cidrs = Cidrs::default();
        cidrs.extend(["10.1.0.0/16", "10.3.0.0/24", "fd00:1::/64"].map(network));
        for (cidr, found) in [
            ("10.1.2.0/24", Some("10.1.0.0/16")),
            ("10.0.0.0/8", Some("10.3.0.0/24")),
            ("10.3.0.128/25", Some("10.3.0.0/24")),
            ("10.2.0.0/16", None),
            ("10.3.1.0/24", None),
            ("9.0.0.0/8", None),
            ("fd00:1::1/128", Some("fd00:1::/64")),
            ("fd00:2::/64", None),
            ("::/64", None),
        ] {
            assert_eq!(cidrs.overlapping(network(cidr)), found.map(network), "{cidr}");
        }
        assert!(cidrs.contains("10.1.255.255".parse().expect("an address")));
        assert!(!cidrs.contains("10.2.0.0".parse().expect("an address")));
    }
}
