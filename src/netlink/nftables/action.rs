use std::net::IpAddr;

use super::{
    set::{Lookup, Set},
    table::{Chain, Table},
};

/// The action of a rule.
///
/// ```
/// use cnikit::netlink::nftables::Action;
///
/// let action = Action::Dnat { to: "10.244.1.7".parse()?, port: Some(80) };
/// assert_ne!(action, Action::Drop);
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Lets the packet pass to the next base chain.
    Accept,
    /// Drops the packet.
    Drop,
    /// Drops the packet and answers with an ICMP error: port unreachable.
    Reject,
    /// Leaves the chain; in a base chain the policy decides.
    Return,
    /// Continues with the next rule. For rules with an effect of their
    /// [expressions](super::Rule::with_expression).
    Continue,
    /// Evaluates another chain of the table, then continues with the next rule.
    Jump(Chain),
    /// Evaluates another chain of the table instead of the next rules.
    Goto(Chain),
    /// The verdict that a [verdict map](super::Table::verdict_map) has for the packet. Continues
    /// with the next rule if the map has no such key.
    VerdictMap(Lookup),
    /// Translates the source to the host's address on the outgoing link. Valid only in a
    /// [`Nat`](super::ChainType::Nat) chain at [`Postrouting`](super::Hook::Postrouting).
    Masquerade(PortRandomization),
    /// Translates the destination. Valid only in a [`Nat`](super::ChainType::Nat) chain at
    /// [`Prerouting`](super::Hook::Prerouting) or [`Output`](super::Hook::Output). Packets of the
    /// other address family continue with the next rule.
    Dnat {
        /// The new destination.
        to: IpAddr,
        /// The new destination port; `None` keeps the port.
        port: Option<u16>,
    },
    /// Translates the destination to the address, or address and port, that a
    /// [map](super::Table::map) has for the packet. Continues with the next rule if the map has no
    /// such key. Valid as [`Action::Dnat`].
    DnatMap(Lookup),
    /// Translates the source. Valid only in a [`Nat`](super::ChainType::Nat) chain at
    /// [`Postrouting`](super::Hook::Postrouting) or [`Input`](super::Hook::Input). Packets of the
    /// other address family continue with the next rule.
    Snat {
        /// The new source.
        to: IpAddr,
        /// The new source port; `None` keeps the port if it is free.
        port: Option<u16>,
    },
    /// Translates the destination to the host itself: to the address of the input link, or to
    /// loopback at [`Output`](super::Hook::Output). Valid as [`Action::Dnat`].
    Redirect {
        /// The new destination port; `None` keeps the port.
        port: Option<u16>,
    },
    /// Sets those bits of the packet's mark that `mask` has, to the bits of `value`. Continues with
    /// the next rule.
    SetMark {
        /// The bits.
        value: u32,
        /// The bits to change; `u32::MAX` replaces the mark.
        mask: u32,
    },
}

/// The choice of source ports for masqueraded connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PortRandomization {
    /// The original port if it is free, otherwise a port nearby.
    Kept,
    /// A port from a hash of the addresses, with a random offset.
    Random,
    /// A random port. Connections that start at the same time then rarely collide; a collision
    /// would cost one of them its first packet.
    #[doc(alias = "random-fully")]
    FullyRandom,
}

/// A decision about a packet, as the value of an element of a
/// [verdict map](super::Table::verdict_map).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// Lets the packet pass to the next base chain.
    Accept,
    /// Drops the packet.
    Drop,
    /// Leaves the chain; in a base chain the policy decides.
    Return,
    /// Continues with the next rule.
    Continue,
    /// Evaluates another chain of the table, then continues with the next rule.
    Jump(Chain),
    /// Evaluates another chain of the table instead of the next rules.
    Goto(Chain),
}

impl Action {
    /// The kernel module that the action needs, if it is a separate module.
    pub(super) const fn module(&self) -> Option<&'static str> {
        match self {
            Self::Masquerade(_) => Some("nft_masq"),
            Self::Dnat { .. } | Self::DnatMap(_) | Self::Snat { .. } => Some("nft_nat"),
            Self::Redirect { .. } => Some("nft_redir"),
            Self::Reject => Some("nft_reject_inet"),
            _ => None,
        }
    }

    /// The set that the action refers to.
    pub(super) const fn set(&self) -> Option<&Set> {
        match self {
            Self::VerdictMap(lookup) | Self::DnatMap(lookup) => Some(&lookup.set),
            _ => None,
        }
    }

    /// The table of the chain or set that the action refers to.
    pub(super) fn table(&self) -> Option<&Table> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(&chain.table),
            _ => self.set().map(|set| &set.table),
        }
    }
}
