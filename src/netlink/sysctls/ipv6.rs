//! The IPv6 settings of a link.

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
    pub(in crate::netlink) const fn index(self) -> usize {
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
