use std::{
    fmt::{self, Display},
    str::FromStr,
};

/// The number of a transport protocol, as in the [IANA registry].
///
/// ```
/// use cnikit::netlink::nftables::Protocol;
///
/// assert_eq!("udp".parse(), Ok(Protocol::UDP));
/// assert_eq!("132".parse(), Ok(Protocol::SCTP));
/// assert_eq!(Protocol::TCP.to_string(), "tcp");
/// ```
///
/// [IANA registry]: https://www.iana.org/assignments/protocol-numbers/protocol-numbers.xhtml
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

/// A text that is neither the name nor the number of a transport protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("protocol {0:?} is neither tcp, udp, sctp, icmp, icmpv6 nor a number below 256")]
pub struct UnknownProtocol(String);

impl Protocol {
    /// ICMP of IPv4.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP of IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);

    const NAMES: [(Self, &'static str); 5] =
        [(Self::ICMP, "icmp"), (Self::TCP, "tcp"), (Self::UDP, "udp"), (Self::ICMPV6, "icmpv6"), (Self::SCTP, "sctp")];
}

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Self::NAMES.iter().find(|(_, name)| name.eq_ignore_ascii_case(text));
        let protocol = named.map(|(protocol, _)| *protocol).or_else(|| text.parse().map(Self).ok());
        protocol.ok_or_else(|| UnknownProtocol(text.to_owned()))
    }
}

impl Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(protocol, _)| protocol == self) {
            Some((_, name)) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}
