use std::ops::{BitOr, Not, RangeInclusive};

use ipnetwork::IpNetwork;

use super::{
    protocol::Protocol,
    set::{Lookup, Set},
};
use crate::spec::{IfName, MacAddr};

/// A condition; `!` negates it.
///
/// A condition on an address matches only packets of the address's family, negated or not. A
/// condition on a port matches only packets of the port's protocol, negated or not.
///
/// ```
/// use cnikit::netlink::nftables::{Match, Protocol};
///
/// let web = Match::destination_port(Protocol::TCP, 80);
/// assert_eq!(!!web.clone(), web);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    pub(super) field: Field,
    pub(super) is_negated: bool,
}

/// The packet field of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Field {
    Source(IpNetwork),
    Destination(IpNetwork),
    InputLink(IfName),
    OutputLink(IfName),
    SourceMac(MacAddr),
    DestinationMac(MacAddr),
    Protocol(Protocol),
    SourcePorts(Protocol, RangeInclusive<u16>),
    DestinationPorts(Protocol, RangeInclusive<u16>),
    SourceIsLocal,
    DestinationIsLocal,
    ConnectionState(CtState),
    ConnectionStatus(CtStatus),
    Mark { value: u32, mask: u32 },
    Set(Lookup),
}

/// States of a packet in connection tracking. `|` joins them.
///
/// ```
/// use cnikit::netlink::nftables::{CtState, Match};
///
/// let replies = Match::ct_state(CtState::ESTABLISHED | CtState::RELATED);
/// assert_ne!(replies, Match::ct_state(CtState::ESTABLISHED));
/// ```
#[doc(alias = "NF_CT_STATE_BIT")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CtState(pub(super) u32);

/// Properties of the packet's connection. `|` joins them.
///
/// ```
/// use cnikit::netlink::nftables::{CtStatus, Match};
///
/// let translated = Match::ct_status(CtStatus::DNAT | CtStatus::SNAT);
/// assert_ne!(translated, Match::ct_status(CtStatus::DNAT));
/// ```
#[doc(alias = "IPS_DST_NAT")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CtStatus(pub(super) u32);

impl Match {
    /// The source address is in this prefix.
    #[must_use]
    pub const fn source(prefix: IpNetwork) -> Self {
        Self::new(Field::Source(prefix))
    }

    /// The destination address is in this prefix.
    #[must_use]
    pub const fn destination(prefix: IpNetwork) -> Self {
        Self::new(Field::Destination(prefix))
    }

    /// The packet arrived at the link with this name.
    #[must_use]
    pub const fn input_link(name: IfName) -> Self {
        Self::new(Field::InputLink(name))
    }

    /// The packet leaves through the link with this name.
    #[must_use]
    pub const fn output_link(name: IfName) -> Self {
        Self::new(Field::OutputLink(name))
    }

    /// The Ethernet frame has this source address. In tables of another family than
    /// [`Bridge`](super::Family::Bridge), the condition matches only packets from an Ethernet link.
    #[doc(alias = "ether saddr")]
    #[must_use]
    pub const fn source_mac(mac: MacAddr) -> Self {
        Self::new(Field::SourceMac(mac))
    }

    /// The Ethernet frame has this destination address. See [`Match::source_mac`].
    #[doc(alias = "ether daddr")]
    #[must_use]
    pub const fn destination_mac(mac: MacAddr) -> Self {
        Self::new(Field::DestinationMac(mac))
    }

    /// The packet has this transport protocol.
    #[doc(alias = "l4proto")]
    #[must_use]
    pub const fn protocol(protocol: Protocol) -> Self {
        Self::new(Field::Protocol(protocol))
    }

    /// The packet of this protocol has this source port.
    #[doc(alias = "sport")]
    #[must_use]
    pub const fn source_port(protocol: Protocol, port: u16) -> Self {
        Self::source_ports(protocol, port..=port)
    }

    /// The packet of this protocol has a source port in this range.
    #[must_use]
    pub const fn source_ports(protocol: Protocol, ports: RangeInclusive<u16>) -> Self {
        Self::new(Field::SourcePorts(protocol, ports))
    }

    /// The packet of this protocol has this destination port.
    #[doc(alias = "dport")]
    #[must_use]
    pub const fn destination_port(protocol: Protocol, port: u16) -> Self {
        Self::destination_ports(protocol, port..=port)
    }

    /// The packet of this protocol has a destination port in this range.
    #[must_use]
    pub const fn destination_ports(protocol: Protocol, ports: RangeInclusive<u16>) -> Self {
        Self::new(Field::DestinationPorts(protocol, ports))
    }

    /// The source is an address of the host.
    #[doc(alias = "fib saddr type local")]
    #[must_use]
    pub const fn source_is_local() -> Self {
        Self::new(Field::SourceIsLocal)
    }

    /// The destination is an address of the host.
    #[doc(alias = "fib daddr type local")]
    #[must_use]
    pub const fn destination_is_local() -> Self {
        Self::new(Field::DestinationIsLocal)
    }

    /// The packet has one of these states in connection tracking.
    #[must_use]
    pub const fn ct_state(states: CtState) -> Self {
        Self::new(Field::ConnectionState(states))
    }

    /// The connection of the packet has one of these properties.
    #[must_use]
    pub const fn ct_status(properties: CtStatus) -> Self {
        Self::new(Field::ConnectionStatus(properties))
    }

    /// The bits of `mask` in the packet's mark are equal to `value`. A `mask` of `u32::MAX`
    /// compares the whole mark.
    #[must_use]
    pub const fn mark(value: u32, mask: u32) -> Self {
        Self::new(Field::Mark { value, mask })
    }

    /// The set contains the fields of the packet.
    #[doc(alias = "lookup")]
    #[must_use]
    pub const fn in_set(lookup: Lookup) -> Self {
        Self::new(Field::Set(lookup))
    }

    const fn new(field: Field) -> Self {
        Self { field, is_negated: false }
    }

    /// The set that the condition refers to.
    pub(super) const fn set(&self) -> Option<&Set> {
        match &self.field {
            Field::Set(lookup) => Some(&lookup.set),
            _ => None,
        }
    }

    /// The kernel module that the condition needs, if it is a separate module.
    pub(super) const fn module(&self) -> Option<&'static str> {
        match self.field {
            Field::ConnectionState(_) | Field::ConnectionStatus(_) => Some("nft_ct"),
            Field::SourceIsLocal | Field::DestinationIsLocal => Some("nft_fib_inet"),
            _ => None,
        }
    }
}

impl Not for Match {
    type Output = Self;

    fn not(self) -> Self {
        Self { is_negated: !self.is_negated, ..self }
    }
}

impl CtState {
    /// The packet belongs to no connection, for example because it is malformed.
    pub const INVALID: Self = Self(1);
    /// The connection has seen packets in both directions.
    pub const ESTABLISHED: Self = Self(2);
    /// The packet begins a connection that belongs to another one, or is an ICMP error for it.
    pub const RELATED: Self = Self(4);
    /// The packet begins a connection.
    pub const NEW: Self = Self(8);
    /// A rule excluded the packet from connection tracking.
    pub const UNTRACKED: Self = Self(64);
}

impl CtStatus {
    /// The connection's source is translated.
    pub const SNAT: Self = Self(1 << 4);
    /// The connection's destination is translated.
    pub const DNAT: Self = Self(1 << 5);
}

impl BitOr for CtState {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOr for CtStatus {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
