use std::fmt::{self, Display};

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
        Chain { table: self.clone(), name: name.into(), base: None }
    }
}

impl Chain {
    /// The table of the chain.
    #[must_use]
    pub fn table(&self) -> Table {
        self.table.clone()
    }

    /// Hooks the chain in. Its policy is to accept packets that no rule decides.
    #[must_use]
    pub const fn hook(mut self, kind: ChainType, hook: Hook, priority: Priority) -> Self {
        self.base = Some(Base { kind, hook, priority });
        self
    }
}

impl Priority {
    /// The priority of destination translation: `dstnat`.
    pub const DSTNAT: Self = Self(-100);
    /// The priority of packet filtering: `filter`.
    pub const FILTER: Self = Self(0);
    /// The priority of source translation: `srcnat`.
    pub const SRCNAT: Self = Self(100);
}

impl Family {
    /// `NFPROTO_*`.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }
}

impl ChainType {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }

    /// The kernel module that provides it, if it is a separate module.
    pub(super) const fn module(self) -> Option<&'static str> {
        match self {
            Self::Filter => None,
            Self::Nat => Some("nft_chain_nat"),
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
}

impl Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
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
