//! Links of kind vlan.

use crate::netlink::{
    error::Result,
    operation::EncodeError,
    wire::{Attrs, attributes, short},
};
use crate::spec::{IfIndex, VlanId};

pub(super) const KIND: &str = "vlan";
const IFLA_VLAN_ID: u16 = 1;
const IFLA_VLAN_PROTOCOL: u16 = 5;

/// The frames of a parent with one VLAN tag.
///
/// ```
/// use cnikit::netlink::{LinkSpec, Vlan};
/// use cnikit::spec::{IfIndex, VlanId};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let parent = IfIndex::LOOPBACK;
/// let vlan = LinkSpec::new("eth0.5".parse()?, Vlan::new(parent, VlanId::try_from(5)?));
/// # Ok(())
/// # }
/// ```
///
/// The kernel refuses a second link with the same parent, id and protocol (`EEXIST`), also in
/// another namespace. A listed link with the id 0, for frames with a priority alone, is an
/// [`OtherKind`](crate::netlink::OtherKind).
///
/// # Kernel
///
/// The module `8021q` (`CONFIG_VLAN_8021Q`). [`VlanProtocol::Dot1ad`] needs Linux 3.10.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Vlan {
    /// The parent.
    pub parent: IfIndex,
    /// The VLAN id.
    pub id: VlanId,
    /// The EtherType of the tag.
    pub protocol: VlanProtocol,
}

/// The EtherType of a VLAN tag.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VlanProtocol {
    /// 802.1Q, 0x8100.
    #[default]
    Dot1q,
    /// 802.1ad, 0x88a8: the outer tag of a provider.
    Dot1ad,
}

impl Vlan {
    /// The frames of this parent with this id in a tag of 802.1Q.
    #[must_use]
    pub const fn new(parent: IfIndex, id: VlanId) -> Self {
        Self { parent, id, protocol: VlanProtocol::Dot1q }
    }

    /// Sets the EtherType of the tag.
    #[must_use]
    pub const fn protocol(mut self, protocol: VlanProtocol) -> Self {
        self.protocol = protocol;
        self
    }

    pub(super) fn encode(self) -> Result<Attrs<u16>, EncodeError> {
        Attrs::new().put(IFLA_VLAN_PROTOCOL, self.protocol.ethertype().to_be())?.put(IFLA_VLAN_ID, self.id.get())
    }

    pub(super) fn decode(parent: IfIndex, data: &[u8]) -> Option<Self> {
        let mut id = None;
        // Kernels before 3.10 have 802.1Q alone, and do not send the protocol.
        let mut protocol = Some(VlanProtocol::Dot1q);
        for (kind, bytes) in attributes(data) {
            match kind {
                IFLA_VLAN_ID => id = short(bytes).and_then(VlanId::new),
                IFLA_VLAN_PROTOCOL => {
                    let ethertype = bytes.try_into().map(u16::from_be_bytes).ok();
                    protocol = ethertype.and_then(VlanProtocol::from_ethertype);
                }
                _ => (),
            }
        }
        Some(Self { parent, id: id?, protocol: protocol? })
    }
}

impl VlanProtocol {
    const fn ethertype(self) -> u16 {
        match self {
            Self::Dot1q => 0x8100,
            Self::Dot1ad => 0x88a8,
        }
    }

    fn from_ethertype(ethertype: u16) -> Option<Self> {
        [Self::Dot1q, Self::Dot1ad].into_iter().find(|protocol| protocol.ethertype() == ethertype)
    }
}
