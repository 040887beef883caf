//! Dropped packets, and the reasons.

use std::fmt;

use super::map::PerCpu;

/// The reason for a dropped packet: `enum drop_reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum DropReason {
    /// A truncated header, or a header that contradicts the length of the frame.
    Malformed,
    /// A VLAN tag. The programs do not check the packet behind it.
    Vlan,
    /// An Ethernet source other than the MAC of the port.
    MacSource,
    /// An IP source that does not belong to the port.
    IpSource,
    /// An ARP sender with an address or MAC that does not belong to the port.
    ArpSender,
    /// A neighbor discovery message with an address or MAC that does not belong to the port.
    NdOwner,
    /// A message that only routers may send: an advertisement, a redirect, or an ICMP error that
    /// quotes a packet to another address.
    Router,
    /// More extension headers or neighbor discovery options than the programs check.
    Extensions,
    /// A broadcast or multicast of the port itself, reflected by its hairpin mode.
    Reflected,
}

/// The number of dropped packets per reason: `struct drops`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    packets: [u64; 16],
}

impl DropReason {
    /// All reasons, ordered by number.
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

    /// The number of the reason: its index in the array that `bpftool map dump` shows.
    #[must_use]
    pub const fn number(self) -> usize {
        self as usize
    }

    /// The name of the reason, such as `ip_source`. It is valid as a metric label.
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
    /// The number of packets dropped for one reason.
    #[must_use]
    pub const fn of(&self, reason: DropReason) -> u64 {
        self.packets[reason.number()]
    }

    /// The number of packets dropped for all reasons, including reasons that only a newer build
    /// knows.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.packets.iter().sum()
    }

    /// The number of dropped packets for each reason, ordered by number.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.into_iter().map(|reason| (reason, self.of(reason)))
    }
}

impl PerCpu for Drops {
    type Words = [u64; 16];

    fn from_words(packets: Self::Words) -> Self {
        Self { packets }
    }

    fn words(&self) -> Self::Words {
        self.packets
    }
}

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
    fn drops_are_counted_by_reason() {
        let drops = Drops { packets: std::array::from_fn(|number| 1 << number) };
        assert_eq!(drops.of(DropReason::IpSource), 8);
        assert_eq!(drops.iter().nth(1), Some((DropReason::Vlan, 2)));
        assert_eq!(drops.total(), (1 << 16) - 1);
    }
}
