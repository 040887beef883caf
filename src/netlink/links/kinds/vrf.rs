//! Links of kind vrf.

use crate::netlink::{
    error::Result,
    operation::EncodeError,
    wire::{Attrs, attribute, number},
};

pub(super) const KIND: &str = "vrf";
const IFLA_VRF_TABLE: u16 = 1;

/// A virtual routing and forwarding domain: its ports use its routing table.
/// [`Socket::set_master`](crate::netlink::Socket::set_master) makes a link a port.
///
/// ```
/// use cnikit::netlink::{LinkSpec, Vrf};
///
/// # fn main() -> Result<(), cnikit::spec::Error> {
/// let red = LinkSpec::new("red".parse()?, Vrf::new(1001)).up();
/// # Ok(())
/// # }
/// ```
///
/// # Kernel
///
/// Linux 4.3, the module `vrf` (`CONFIG_NET_VRF`). See the kernel's
/// [VRF](https://www.kernel.org/doc/html/latest/networking/vrf.html).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Vrf {
    /// The number of the routing table. The kernel refuses 0.
    pub table: u32,
}

impl Vrf {
    /// A domain with this routing table.
    #[must_use]
    pub const fn new(table: u32) -> Self {
        Self { table }
    }

    pub(super) fn encode(self) -> Result<Attrs<u16>, EncodeError> {
        Attrs::new().put(IFLA_VRF_TABLE, self.table)
    }

    pub(super) fn decode(data: &[u8]) -> Option<Self> {
        attribute(data, IFLA_VRF_TABLE).and_then(number).map(Self::new)
    }
}
