use neli::consts::rtnl::Ifla;
use rustix::io::Errno;

use super::{
    attrs::{Attrs, nested, number},
    error::Result,
    socket::Socket,
};

/// The numbers of the family and of its attributes in a link's message: see
/// [if_link.h](https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git/tree/include/uapi/linux/if_link.h).
const AF_INET6: u16 = 10;
const IFLA_INET6_CONF: u16 = 2;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;

/// The IPv6 settings of a link, by their names below `/proc/sys/net/ipv6/conf/<link>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ipv6Conf {
    /// `accept_dad`: addresses are checked for duplicates (0 to 2).
    AcceptDad,
    /// `accept_ra`: router advertisements are heeded: not (0), unless forwarding (1), always (2).
    AcceptRa,
    /// `accept_redirects`: redirects are heeded (0 or 1).
    AcceptRedirects,
    /// `addr_gen_mode`: see [`AddrGenMode`], which has the numbers.
    AddrGenMode,
    /// `autoconf`: addresses are made from advertised prefixes (0 or 1).
    Autoconf,
    /// `disable_ipv6`: the link does without IPv6 (0 or 1).
    DisableIpv6,
    /// `forwarding`: the link behaves as a router's (0 or 1).
    Forwarding,
    /// `ndisc_notify`: the neighbours are told when the link comes up or gets another address (0 or 1).
    NdiscNotify,
    /// `proxy_ndp`: neighbours are answered for proxy entries (0 or 1).
    ProxyNdp,
}

/// Where the link-local address of a link comes from that is brought up.
#[doc(alias = "IFLA_INET6_ADDR_GEN_MODE")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddrGenMode {
    /// From its MAC.
    Eui64 = 0,
    /// It gets none: the link has the IPv6 addresses that it is given, and is silent before.
    None = 1,
    /// From a secret of the namespace, the same each time (RFC 7217).
    StablePrivacy = 2,
    /// From such a secret of the link's own.
    Random = 3,
}

/// What the kernel tells of a link's IPv6 with the link itself.
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

    /// Its place among the settings in a message: `DEVCONF_*` of `linux/ipv6.h`.
    const fn place(self) -> usize {
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
    /// Those in what a message says of the families.
    pub(super) fn decode(families: &[u8]) -> Self {
        let find = |bytes, wanted| nested(bytes).find_map(|(kind, bytes)| (kind == wanted).then_some(bytes));
        let settings = find(families, AF_INET6).and_then(|inet6| find(inet6, IFLA_INET6_CONF)).unwrap_or_default();
        Self(settings.chunks_exact(4).filter_map(number).map(u32::cast_signed).collect())
    }

    pub(super) fn value(&self, setting: Ipv6Conf) -> Option<i32> {
        self.0.get(setting.place()).copied()
    }
}

impl Socket {
    /// Says where the link-local address of a link is to come from, when it is brought up next. A link without IPv6 has
    /// none: that is success, if it is to be so.
    ///
    /// Unlike a [setting](super::Sysctl) that is written, this is one message, also where the link is in another namespace.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel): `EAFNOSUPPORT` for another mode than [`AddrGenMode::None`] where the kernel or
    /// the link has no IPv6, `ENODEV` where the link is gone, `EPERM` without `CAP_NET_ADMIN`.
    ///
    /// # Kernel
    ///
    /// Linux 3.17; 4.5 for [`AddrGenMode::Random`].
    pub fn set_addr_gen_mode(&self, index: u32, mode: AddrGenMode) -> Result<()> {
        let attrs = || {
            let inet6 = Attrs::new().put(IFLA_INET6_ADDR_GEN_MODE, mode as u8)?;
            Attrs::new().nest(Ifla::AfSpec, Attrs::new().nest(AF_INET6, inet6)?)
        };
        match self.set(index, "set the source of the link-local address of", attrs()) {
            Err(error) if mode == AddrGenMode::None && error.is(Errno::AFNOSUPPORT) => Ok(()),
            set => set,
        }
    }
}
