//! Links of kind tap.

use crate::netlink::wire::{attributes, number};

/// The kernel's name for both kinds of the driver, tun and tap.
pub(super) const KIND: &str = "tun";
const IFLA_TUN_OWNER: u16 = 1;
const IFLA_TUN_GROUP: u16 = 2;
const IFLA_TUN_TYPE: u16 = 3;
const IFLA_TUN_MULTI_QUEUE: u16 = 7;
/// `IFF_TAP`: Ethernet frames. `IFF_TUN` is 1: IP packets.
const TAP: u8 = 2;

/// A persistent link for a program that reads and writes frames, such as a virtual machine monitor.
///
/// ```
/// use cnikit::netlink::{LinkSpec, Tap};
///
/// # fn main() -> Result<(), cnikit::spec::Error> {
/// let tap = LinkSpec::new("tap0".parse()?, Tap::new().owner(107).multi_queue()).up();
/// # Ok(())
/// # }
/// ```
///
/// # Kernel
///
/// The module `tun` (`CONFIG_TUN`) and `/dev/net/tun` in the mount namespace of the caller. See
/// the kernel's [tuntap](https://www.kernel.org/doc/html/latest/networking/tuntap.html).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Tap {
    /// The user that may open the link without `CAP_NET_ADMIN`, as a number in the caller's user
    /// namespace.
    #[doc(alias = "TUNSETOWNER")]
    pub owner: Option<u32>,
    /// The group that may open the link without `CAP_NET_ADMIN`. With an owner, both must match.
    #[doc(alias = "TUNSETGROUP")]
    pub group: Option<u32>,
    /// The link has a queue for each descriptor that a program attaches. A program must open the
    /// link with the same choice.
    #[doc(alias = "IFF_MULTI_QUEUE")]
    pub multi_queue: bool,
}

impl Tap {
    /// A link with one queue, which only `CAP_NET_ADMIN` may open.
    #[must_use]
    pub const fn new() -> Self {
        Self { owner: None, group: None, multi_queue: false }
    }

    /// Sets the user that may open the link.
    #[must_use]
    pub const fn owner(mut self, uid: u32) -> Self {
        self.owner = Some(uid);
        self
    }

    /// Sets the group that may open the link.
    #[must_use]
    pub const fn group(mut self, gid: u32) -> Self {
        self.group = Some(gid);
        self
    }

    /// Gives the link a queue for each descriptor.
    #[must_use]
    pub const fn multi_queue(mut self) -> Self {
        self.multi_queue = true;
        self
    }

    /// `None` for a tun link.
    pub(super) fn decode(data: &[u8]) -> Option<Self> {
        let mut tap = Self::new();
        let mut is_tap = false;
        for (kind, bytes) in attributes(data) {
            match kind {
                IFLA_TUN_OWNER => tap.owner = number(bytes),
                IFLA_TUN_GROUP => tap.group = number(bytes),
                IFLA_TUN_TYPE => is_tap = bytes == [TAP],
                IFLA_TUN_MULTI_QUEUE => tap.multi_queue = bytes != [0],
                _ => (),
            }
        }
        is_tap.then_some(tap)
    }
}
