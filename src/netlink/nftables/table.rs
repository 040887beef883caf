use std::fmt::{self, Display};

use super::{
    message::HEADER,
    uapi::{NFTA_CHAIN_NAME, NFTA_CHAIN_TABLE},
};
use crate::netlink::wire::{attribute, text};

/// The packets that a table sees.
#[doc(alias = "NFPROTO_INET")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Ethernet frames that a bridge forwards. A chain at [`Hook::Prerouting`] sees each frame that
    /// a port of a bridge receives.
    Bridge,
}

/// A table: a namespace for chains. It belongs to the program that created it.
///
/// ```
/// use cnikit::netlink::nftables::{Family, Table};
///
/// assert_eq!(Table::new(Family::Inet, "my-plugin").to_string(), "inet my-plugin");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Table {
    pub(super) family: Family,
    pub(super) name: String,
}

/// A chain of rules in a table. Its [hook](Chain::hook) determines the packets that it sees.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Chain {
    pub(super) table: Table,
    pub(super) name: String,
    pub(super) base: Option<Base>,
    pub(super) policy: Option<Policy>,
}

/// The task of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChainType {
    /// Accepts or drops packets.
    Filter,
    /// Translates addresses. Only the first packet of a connection traverses the chain; the result
    /// applies to the whole connection.
    Nat,
    /// Routes a packet of the host again if a rule changes it, for example its
    /// [mark](super::Action::SetMark). Valid only at [`Hook::Output`].
    Route,
}

/// The fate of packets that no rule of a base chain decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Policy {
    /// The packet passes to the next base chain.
    Accept,
    /// The packet is dropped.
    Drop,
}

/// The point in the packet path that runs a chain, as in
/// [nft(8)](https://man7.org/linux/man-pages/man8/nft.8.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Hook {
    /// All incoming packets, before routing.
    Prerouting,
    /// Packets to the host itself.
    Input,
    /// Forwarded packets.
    Forward,
    /// Packets from the host itself.
    Output,
    /// All outgoing packets, after routing.
    Postrouting,
}

/// The order of the chains of a hook, lowest first.
///
/// Closed: the number of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(pub i32);

/// The hook, type and priority of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Base {
    pub(super) kind: ChainType,
    pub(super) hook: Hook,
    pub(super) priority: Priority,
}

impl Table {
    /// The table with this name. nft(8) can read names that begin with a letter and contain
    /// letters, digits, `/`, `-`, `_` and `.`. The kernel accepts 255 bytes.
    pub fn new(family: Family, name: impl Into<String>) -> Self {
        Self { family, name: name.into() }
    }

    /// The chain with this name. The same rules apply to the name.
    pub fn chain(&self, name: impl Into<String>) -> Chain {
        Chain { table: self.clone(), name: name.into(), base: None, policy: None }
    }
}

impl Chain {
    /// The name of the chain in a message of the kernel; `None` for a chain of another table.
    pub(super) fn name_in(table: &Table, message: &[u8]) -> Option<String> {
        let attributes = message.get(HEADER..)?;
        let of_table = attribute(attributes, NFTA_CHAIN_TABLE).map(text)?;
        attribute(attributes, NFTA_CHAIN_NAME).filter(|_| of_table == table.name).map(text)
    }

    /// Whether the kernel can have a chain of this type at this hook with this priority.
    pub(super) fn is_possible(&self) -> bool {
        /// `NF_IP_PRI_CONNTRACK`: address translation needs a tracked connection.
        const CONNTRACK: Priority = Priority(-200);
        self.base.is_none_or(|Base { kind, hook, priority }| match kind {
            ChainType::Filter => true,
            ChainType::Nat => hook != Hook::Forward && priority > CONNTRACK,
            ChainType::Route => hook == Hook::Output,
        })
    }

    /// The table of the chain.
    #[must_use]
    pub fn table(&self) -> Table {
        self.table.clone()
    }

    /// Hooks the chain in. A new chain accepts packets that no rule decides, unless it has another
    /// [policy](Chain::policy).
    #[must_use]
    pub const fn hook(mut self, kind: ChainType, hook: Hook, priority: Priority) -> Self {
        self.base = Some(Base { kind, hook, priority });
        self
    }

    /// Sets the policy of a base chain. [`Batch::ensure_chain`](super::Batch::ensure_chain) changes
    /// the policy of an existing chain. Without this call, it keeps the policy.
    #[must_use]
    pub const fn policy(mut self, policy: Policy) -> Self {
        self.policy = Some(policy);
        self
    }
}

impl Priority {
    /// Before connection tracking: `raw`.
    pub const RAW: Self = Self(-300);
    /// The priority of changes to packets: `mangle`.
    pub const MANGLE: Self = Self(-150);
    /// The priority of destination translation: `dstnat`.
    pub const DSTNAT: Self = Self(-100);
    /// The priority of packet filtering: `filter`.
    pub const FILTER: Self = Self(0);
    /// The priority of source translation: `srcnat`.
    pub const SRCNAT: Self = Self(100);
    /// `dstnat` in tables of the family [`Bridge`](Family::Bridge): before all other chains.
    pub const BRIDGE_DSTNAT: Self = Self(-300);
    /// `filter` in tables of the family [`Bridge`](Family::Bridge).
    pub const BRIDGE_FILTER: Self = Self(-200);
}

impl Family {
    /// `NFPROTO_*`.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Bridge => 7,
            Self::Ip6 => 10,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        [Self::Inet, Self::Ip, Self::Bridge, Self::Ip6].into_iter().find(|family| family.number() == number)
    }
}

impl ChainType {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
            Self::Route => "route",
        }
    }

    /// The kernel module that provides it, if it is a separate module.
    pub(super) const fn module(self) -> Option<&'static str> {
        match self {
            Self::Filter | Self::Route => None,
            Self::Nat => Some("nft_chain_nat"),
        }
    }
}

impl Policy {
    /// `NF_*`.
    pub(super) const fn number(self) -> u32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
        }
    }
}

impl Hook {
    /// `NF_INET_*`.
    pub(super) const fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }

    pub(super) fn from_number(number: u32) -> Option<Self> {
        let all = [Self::Prerouting, Self::Input, Self::Forward, Self::Output, Self::Postrouting];
        all.into_iter().find(|hook| hook.number() == number)
    }
}

impl Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Bridge => "bridge",
        })
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}

impl Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.table, self.name)
    }
}
