use std::fmt::{self, Display};

/// Which packets a table sees.
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

/// A table: a name space for chains. It belongs to whoever made it.
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

/// A chain of rules in a table. Packets get to it by its [hook](Chain::hook).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Chain {
    pub(super) table: Table,
    pub(super) name: String,
    pub(super) base: Option<Base>,
}

/// What a chain may do with packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChainType {
    /// Let them pass or not.
    Filter,
    /// Translate addresses. Only the first packet of a connection comes here; what is decided of it holds for all.
    Nat,
}

/// The place on a packet's way at which a chain is asked, as in [nft(8)](https://man7.org/linux/man-pages/man8/nft.8.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hook {
    /// All that comes in, before it is routed.
    Prerouting,
    /// What is for the host itself.
    Input,
    /// What is routed on.
    Forward,
    /// What the host itself sends.
    Output,
    /// All that goes out, after it was routed.
    Postrouting,
}

/// In which order the chains of a hook are asked, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(pub i32);

/// Where a chain is hooked in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Base {
    pub(super) kind: ChainType,
    pub(super) hook: Hook,
    pub(super) priority: Priority,
}

impl Table {
    /// The table of this name. nft(8) can read names back that begin with a letter and have letters, digits, `/`, `-`,
    /// `_` and `.` in them; the kernel takes 255 bytes.
    pub fn new(family: Family, name: impl Into<String>) -> Self {
        Self { family, name: name.into() }
    }

    /// The chain of this name, for which the same holds.
    pub fn chain(&self, name: impl Into<String>) -> Chain {
        Chain { table: self.clone(), name: name.into(), base: None }
    }
}

impl Chain {
    /// The table that it is of.
    #[must_use]
    pub fn table(&self) -> Table {
        self.table.clone()
    }

    /// Hooks the chain in, with the policy to accept what it does not decide.
    #[must_use]
    pub const fn hook(mut self, kind: ChainType, hook: Hook, priority: Priority) -> Self {
        self.base = Some(Base { kind, hook, priority });
        self
    }
}

impl Priority {
    /// Where destinations are translated: `dstnat`.
    pub const DSTNAT: Self = Self(-100);
    /// Where packets are let pass or not: `filter`.
    pub const FILTER: Self = Self(0);
    /// Where sources are translated: `srcnat`.
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

    /// The kernel module that brings it, where it is one of its own.
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
