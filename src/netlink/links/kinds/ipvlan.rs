//! Links of kind ipvlan.

use serde::{Deserialize, Serialize};

use crate::netlink::{
    error::Result,
    operation::EncodeError,
    wire::{Attrs, attributes, short},
};
use crate::spec::IfIndex;

pub(super) const KIND: &str = "ipvlan";
const IFLA_IPVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_FLAGS: u16 = 2;

/// A link with its own addresses and the MAC of its parent.
///
/// ```
/// use cnikit::netlink::{Ipvlan, IpvlanMode, LinkSpec};
/// use cnikit::spec::IfIndex;
///
/// # fn main() -> Result<(), cnikit::spec::Error> {
/// # let parent = IfIndex::LOOPBACK;
/// let eth0 = LinkSpec::new("eth0".parse()?, Ipvlan::new(parent, IpvlanMode::L2));
/// # Ok(())
/// # }
/// ```
///
/// The kernel refuses a parent that is a bridge port or the parent of a macvlan (`EBUSY`), and
/// loopback (`EINVAL`). If the parent is an ipvlan, the kernel uses its parent.
///
/// # Kernel
///
/// Linux 3.19, the module `ipvlan` (`CONFIG_IPVLAN`). See the kernel's
/// [ipvlan](https://www.kernel.org/doc/html/latest/networking/ipvlan.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Ipvlan {
    /// The parent.
    pub parent: IfIndex,
    /// The layer. The parent has one mode: a new link changes the mode of all links of the parent.
    pub mode: IpvlanMode,
    /// The traffic between the links of one parent, which has one value for all links (Linux 4.15).
    pub flag: IpvlanFlag,
}

/// The layer at which an ipvlan processes packets. In a configuration: `l2`, `l3` or `l3s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum IpvlanMode {
    /// The link has ARP, broadcast and multicast. The namespace of the link routes its packets.
    L2,
    /// The namespace of the parent routes the packets. The link has neither ARP nor multicast.
    L3,
    /// As [`L3`](Self::L3), and netfilter in the namespace of the parent processes both directions.
    /// The kernel needs `CONFIG_IPVLAN_L3S` (Linux 4.9).
    L3s,
}

/// The traffic between the ipvlan links of one parent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum IpvlanFlag {
    /// The links reach each other directly.
    #[default]
    Bridge,
    /// The links never reach each other.
    Private,
    /// All frames leave through the parent. A switch outside must reflect them (802.1Qbg).
    Vepa,
}

impl Ipvlan {
    /// A link on this parent, in bridge mode.
    #[must_use]
    pub const fn new(parent: IfIndex, mode: IpvlanMode) -> Self {
        Self { parent, mode, flag: IpvlanFlag::Bridge }
    }

    /// Sets the traffic between the links of the parent.
    #[must_use]
    pub const fn flag(mut self, flag: IpvlanFlag) -> Self {
        self.flag = flag;
        self
    }

    pub(super) fn encode(self) -> Result<Attrs<u16>, EncodeError> {
        // Bridge mode is sent too, because the parent may have another flag from an earlier link.
        Attrs::new().put(IFLA_IPVLAN_MODE, self.mode.number())?.put(IFLA_IPVLAN_FLAGS, self.flag.number())
    }

    pub(super) fn decode(parent: IfIndex, data: &[u8]) -> Option<Self> {
        let mut mode = None;
        let mut flag = Some(IpvlanFlag::Bridge);
        for (kind, bytes) in attributes(data) {
            let number = short(bytes);
            match kind {
                IFLA_IPVLAN_MODE => mode = number.and_then(IpvlanMode::from_number),
                IFLA_IPVLAN_FLAGS => flag = number.and_then(IpvlanFlag::from_number),
                _ => (),
            }
        }
        Some(Self { parent, mode: mode?, flag: flag? })
    }
}

impl IpvlanMode {
    /// `IPVLAN_MODE_*`.
    const fn number(self) -> u16 {
        match self {
            Self::L2 => 0,
            Self::L3 => 1,
            Self::L3s => 2,
        }
    }

    fn from_number(number: u16) -> Option<Self> {
        [Self::L2, Self::L3, Self::L3s].into_iter().find(|mode| mode.number() == number)
    }
}

impl IpvlanFlag {
    /// `IPVLAN_F_*`.
    const fn number(self) -> u16 {
        match self {
            Self::Bridge => 0,
            Self::Private => 1,
            Self::Vepa => 2,
        }
    }

    fn from_number(number: u16) -> Option<Self> {
        [Self::Bridge, Self::Private, Self::Vepa].into_iter().find(|flag| flag.number() == number)
    }
}
