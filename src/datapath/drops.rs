//! What the programs dropped, and why.

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::map::PerCpu;

/// Why a packet was dropped. `enum drop_reason`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum DropReason {
    /// A header cut short, or at odds with the length of the frame.
    Malformed,
    /// A VLAN tag, behind which anything could hide.
    Vlan,
    /// An Ethernet source other than the port's MAC.
    MacSource,
    /// An IP source that is not the port's.
    IpSource,
    /// An ARP sender, by address or MAC, that is not the port's.
    ArpSender,
    /// An address or a MAC in a neighbour discovery message that is not the port's.
    NdOwner,
    /// What only a router says: an advertisement, a redirect, an ICMP error about a packet that was for somebody else.
    Router,
    /// More extension headers or neighbour discovery options in a row than can be looked through.
    Extensions,
    /// What the port itself sent to all, come back by its hairpin.
    Reflected,
}

/// Packets that were dropped, by reason. `struct drops`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Drops {
    packets: [u64; 16],
}

impl DropReason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Malformed,
        Self::Vlan,
        Self::MacSource,
        Self::IpSource,
        Self::ArpSender,
        Self::NdOwner,
        Self::Router,
        Self::Extensions,
        Self::Reflected,
    ];

    /// The number of the reason: its place in the array that `bpftool map dump` shows.
    #[must_use]
    pub const fn number(self) -> usize {
        self as usize
    }

    /// The name of the reason, fit for the label of a metric, such as `ip_source`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Vlan => "vlan",
            Self::MacSource => "mac_source",
            Self::IpSource => "ip_source",
            Self::ArpSender => "arp_sender",
            Self::NdOwner => "nd_owner",
            Self::Router => "router",
            Self::Extensions => "extensions",
            Self::Reflected => "reflected",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Drops {
    /// The packets that were dropped for one reason.
    #[must_use]
    pub const fn of(&self, reason: DropReason) -> u64 {
        self.packets[reason.number()]
    }

    /// The packets that were dropped for whatever reason, also for those that only a newer build of the programs knows.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.packets.iter().sum()
    }

    /// The packets that were dropped for each reason, in the order of the reasons' numbers.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.into_iter().map(|reason| (reason, self.of(reason)))
    }
}

impl PerCpu for Drops {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_the_numbers_of_the_c_header() {
        let header = include_str!("../../bpf/abi.h");
        let named = header.lines().filter_map(|line| line.strip_prefix("\tCNI_DROP_")?.split_once(','));
        let named: Vec<String> = named.map(|(name, _)| name.to_lowercase()).collect();
        let known: Vec<_> = DropReason::ALL.iter().map(DropReason::to_string).collect();
        assert_eq!(known, named);
        for (number, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.number(), number);
        }
    }

    #[test]
    fn counts_are_told_by_reason() {
        let drops = Drops { packets: std::array::from_fn(|number| 1 << number) };
        assert_eq!(drops.of(DropReason::IpSource), 8);
        assert_eq!(drops.iter().nth(1), Some((DropReason::Vlan, 2)));
        assert_eq!(drops.total(), (1 << 16) - 1);
    }
}
