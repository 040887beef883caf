//! The IPv6 settings in link messages.

use neli::consts::rtnl::Ifla;
use rustix::io::Errno;

use crate::netlink::{
    error::Result,
    socket::Socket,
    sysctls::{AddrGenMode, Ipv6Conf},
    wire::{Attrs, attribute, number},
};
use crate::spec::IfIndex;

/// The numbers of the family and its attributes in a link message: see
/// [if_link.h](https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/include/uapi/linux/if_link.h).
const AF_INET6: u16 = 10;
const IFLA_INET6_CONF: u16 = 2;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;

/// The IPv6 settings that the kernel sends in a link message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settings(Vec<i32>);

impl Settings {
    /// The settings in the family-specific part of a link message (`IFLA_AF_SPEC`).
    pub(super) fn decode(families: &[u8]) -> Self {
        let settings =
            attribute(families, AF_INET6).and_then(|inet6| attribute(inet6, IFLA_INET6_CONF)).unwrap_or_default();
        Self(settings.chunks_exact(4).filter_map(number).map(u32::cast_signed).collect())
    }

    pub(super) fn value(&self, setting: Ipv6Conf) -> Option<i32> {
        self.0.get(setting.index()).copied()
    }
}

impl Socket {
    /// Sets the source of the link-local address, which applies when the link comes up next. On a
    /// link without IPv6, [`AddrGenMode::None`] succeeds.
    ///
    /// Unlike a written [setting](crate::netlink::Sysctl), this is one message, even if the link is
    /// in another namespace.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `ENODEV` if the link is gone,
    /// `EAFNOSUPPORT` if the link has no IPv6 and the mode is not [`AddrGenMode::None`], `EPERM`
    /// without `CAP_NET_ADMIN`.
    ///
    /// # Kernel
    ///
    /// Linux 3.17; 4.5 for [`AddrGenMode::Random`].
    pub fn set_addr_gen_mode(&self, ifindex: IfIndex, mode: AddrGenMode) -> Result<()> {
        let attrs = || {
            let inet6 = Attrs::new().put(IFLA_INET6_ADDR_GEN_MODE, mode as u8)?;
            Attrs::new().nest(Ifla::AfSpec, Attrs::new().nest(AF_INET6, inet6)?)
        };
        match self.set(ifindex, "set the source of the link-local address of", attrs()) {
            Err(error) if mode == AddrGenMode::None && error.is(Errno::AFNOSUPPORT) => Ok(()),
            set => set,
        }
    }
}
