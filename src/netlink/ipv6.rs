use neli::consts::rtnl::Ifla;
use rustix::io::Errno;

use super::{
    attrs::{Attrs, nested, number},
    error::Result,
    socket::Socket,
};
use crate::spec::IfIndex;

/// The numbers of the family and its attributes in a link message: see
/// [if_link.h](https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/include/uapi/linux/if_link.h).
const AF_INET6: u16 = 10;
const IFLA_INET6_CONF: u16 = 2;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;

/// The IPv6 settings of a link, with their names below `/proc/sys/net/ipv6/conf/<link>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ipv6Conf {
    /// `accept_dad`: addresses are checked for duplicates (0 to 2).
    AcceptDad,
    /// `accept_ra`: router advertisements are accepted never (0), unless forwarding is on (1),
    /// always (2).
    AcceptRa,
    /// `accept_redirects`: redirects are accepted (0 or 1).
    AcceptRedirects,
    /// `addr_gen_mode`: see [`AddrGenMode`] for the numbers.
    AddrGenMode,
    /// `autoconf`: addresses are configured from advertised prefixes (0 or 1).
    Autoconf,
    /// `disable_ipv6`: IPv6 is off on the link (0 or 1).
    DisableIpv6,
    /// `forwarding`: packets that arrive at the link are routed (0 or 1).
    Forwarding,
    /// `ndisc_notify`: the link announces itself to its neighbors when it comes up or its MAC
    /// changes (0 or 1).
    NdiscNotify,
    /// `proxy_ndp`: the link answers solicitations for proxy entries (0 or 1).
    ProxyNdp,
}

/// The source of a link's link-local address when the link comes up.
///
/// Closed: the numbers of the kernel (`IN6_ADDR_GEN_MODE_*`).
#[doc(alias = "IFLA_INET6_ADDR_GEN_MODE")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddrGenMode {
    /// The MAC of the link.
    Eui64 = 0,
    /// No address: the link has only the IPv6 addresses that are added to it, and sends nothing
    /// before.
    None = 1,
    /// A secret of the namespace. The address is the same each time (RFC 7217).
    StablePrivacy = 2,
    /// A secret of the link itself.
    Random = 3,
}

/// The IPv6 settings that the kernel sends in a link message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settings(Vec<i32>);

impl Ipv6Conf {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::AcceptDad => "accept_dad",
            Self::AcceptRa => "accept_ra",
            Self::AcceptRedirects => "accept_redirects",
            Self::AddrGenMode => "addr_gen_mode",
            Self::Autoconf => "autoconf",
            Self::DisableIpv6 => "disable_ipv6",
            Self::Forwarding => "forwarding",
            Self::NdiscNotify => "ndisc_notify",
            Self::ProxyNdp => "proxy_ndp",
        }
    }

    /// The index of the setting in a message: `DEVCONF_*` of `linux/ipv6.h`.
    const fn index(self) -> usize {
        match self {
            Self::Forwarding => 0,
            Self::AcceptRa => 3,
            Self::AcceptRedirects => 4,
            Self::Autoconf => 5,
            Self::ProxyNdp => 22,
            Self::DisableIpv6 => 26,
            Self::AcceptDad => 27,
            Self::NdiscNotify => 29,
            Self::AddrGenMode => 47,
        }
    }
}

impl Settings {
    /// The settings in the family-specific part of a link message (`IFLA_AF_SPEC`).
    pub(super) fn decode(families: &[u8]) -> Self {
        let find = |bytes, wanted| nested(bytes).find_map(|(kind, bytes)| (kind == wanted).then_some(bytes));
        let settings = find(families, AF_INET6).and_then(|inet6| find(inet6, IFLA_INET6_CONF)).unwrap_or_default();
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
    /// Unlike a written [setting](super::Sysctl), this is one message, even if the link is in
    /// another namespace.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel): `ENODEV` if the link is gone, `EAFNOSUPPORT` if the
    /// link has no IPv6 and the mode is not [`AddrGenMode::None`], `EPERM` without `CAP_NET_ADMIN`.
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
