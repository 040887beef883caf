//! Frames, parsed as the RFCs describe them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Mac;

/// Extension headers that the programs skip: docs/datapath.md.
const MOST_EXTENSIONS: usize = 7;

/// The content of an Ethernet frame: RFC 894, RFC 2464, IEEE 802.3 and 802.1Q.
pub(crate) enum Content<'a> {
    Tagged,
    Arp(Arp),
    Ip(Packet<'a>),
    /// The EtherType is IP or ARP, but the content is not.
    Malformed,
    Other,
}

/// RFC 826, for IPv4 over Ethernet.
pub(crate) struct Arp {
    pub(crate) is_request: bool,
    pub(crate) sender: (Mac, Ipv4Addr),
    pub(crate) target: Ipv4Addr,
}

/// An IP packet without the padding after it.
pub(crate) struct Packet<'a> {
    pub(crate) header: Header,
    /// The payload of the IP header and its extensions, as much as is present.
    pub(crate) payload: &'a [u8],
}

/// RFC 791, or RFC 8200 with the extension headers.
pub(crate) struct Header {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) hops: u8,
    /// The protocol after the skipped extension headers.
    pub(crate) protocol: u8,
    pub(crate) extensions: usize,
    /// A fragment, or a packet with options or a routing header.
    pub(crate) is_special: bool,
    /// A fragment other than the first: its payload begins with no transport header.
    pub(crate) is_non_first_fragment: bool,
}

/// The message at the start of a payload, for the protocols that the programs parse.
#[derive(Clone, Copy)]
pub(crate) enum Transport<'a> {
    /// RFC 792 and RFC 4443: the type, and the whole message.
    Icmp(u8, &'a [u8]),
    Tcp(Ports, Option<u8>),
    Datagram(Ports),
    /// Another protocol, or a truncated message.
    Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports(pub(crate) u16, pub(crate) u16);

pub(crate) mod protocol {
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const ICMPV6: u8 = 58;
    pub(crate) const SCTP: u8 = 132;
    pub(crate) const UDP_LITE: u8 = 136;
}

impl<'a> Content<'a> {
    /// Parses a frame of at least 14 bytes.
    pub(crate) fn of(frame: &'a [u8]) -> Self {
        let rest = &frame[14..];
        let ip = |packet: Option<Packet<'a>>| packet.map_or(Self::Malformed, Self::Ip);
        match number(&frame[12..14]) {
            0x8100 | 0x88a8 => Self::Tagged,
            0x0806 => Arp::read(rest).map_or(Self::Malformed, Self::Arp),
            0x0800 => ip(Packet::read_v4(rest)),
            0x86dd => ip(Packet::read_v6(rest)),
            _ => Self::Other,
        }
    }
}

impl Arp {
    fn read(message: &[u8]) -> Option<Self> {
        let (head, addresses) = message.get(..28)?.split_at(8);
        let is_ours = head[..6] == [0, 1, 8, 0, 6, 4];
        is_ours.then(|| Self {
            is_request: head[6..] == [0, 1],
            sender: (mac(addresses), v4(&addresses[6..])),
            target: v4(&addresses[16..]),
        })
    }
}

impl<'a> Packet<'a> {
    fn read_v4(frame: &'a [u8]) -> Option<Self> {
        let (header, length) = Header::read_v4(frame)?;
        let packet = frame.get(..usize::from(number(&frame[2..4])))?;
        Some(Self { header, payload: packet.get(length..)? })
    }

    fn read_v6(frame: &'a [u8]) -> Option<Self> {
        let length = 40 + usize::from(number(frame.get(4..6)?));
        let (header, payload) = Header::read_v6(frame.get(..length)?)?;
        Some(Self { header, payload })
    }

    pub(crate) fn is_v4(&self) -> bool {
        self.header.source.is_ipv4()
    }

    pub(crate) fn transport(&self) -> Transport<'a> {
        self.header.transport(self.payload)
    }
}

impl Header {
    /// The header, and its length with options.
    fn read_v4(packet: &[u8]) -> Option<(Self, usize)> {
        let fixed = packet.get(..20)?;
        let length = usize::from(fixed[0] & 0x0f) * 4;
        if fixed[0] >> 4 != 4 || length < 20 {
            return None;
        }
        let (more, offset) = (fixed[6] & 0x20 != 0, number(&fixed[6..8]) & 0x1fff);
        let header = Self {
            source: v4(&fixed[12..]).into(),
            destination: v4(&fixed[16..]).into(),
            hops: fixed[8],
            protocol: fixed[9],
            extensions: 0,
            is_special: length > 20 || more || offset != 0,
            is_non_first_fragment: offset != 0,
        };
        Some((header, length))
    }

    /// The header, and the content after its extensions.
    fn read_v6(packet: &[u8]) -> Option<(Self, &[u8])> {
        let (fixed, mut rest) = packet.split_at_checked(40)?;
        if fixed[0] >> 4 != 6 {
            return None;
        }
        let mut header = Self {
            source: v6(&fixed[8..]).into(),
            destination: v6(&fixed[24..]).into(),
            hops: fixed[7],
            protocol: fixed[6],
            extensions: 0,
            is_special: false,
            is_non_first_fragment: false,
        };
        while header.has_extension() && !header.is_non_first_fragment && header.extensions < MOST_EXTENSIONS {
            let length = usize::from(*rest.get(1)?);
            let length = match header.protocol {
                44 => 8,
                51 => (length + 2) * 4,
                _ => (length + 1) * 8,
            };
            let (extension, behind) = rest.split_at_checked(length)?;
            header.is_special |= matches!(header.protocol, 43 | 44);
            header.is_non_first_fragment = header.protocol == 44 && number(&extension[2..4]) >> 3 != 0;
            header.protocol = extension[0];
            header.extensions += 1;
            rest = behind;
        }
        Some((header, rest))
    }

    /// Whether another extension header follows: hop-by-hop, routing, fragment, authentication,
    /// destination options.
    pub(crate) fn has_extension(&self) -> bool {
        self.source.is_ipv6() && matches!(self.protocol, 0 | 43 | 44 | 51 | 60)
    }

    fn transport<'a>(&self, payload: &'a [u8]) -> Transport<'a> {
        use protocol::*;
        let Some(first) = payload.get(..8).filter(|_| !self.is_non_first_fragment) else {
            return Transport::Unknown;
        };
        let ports = Ports(number(first), number(&first[2..]));
        match (self.protocol, self.source.is_ipv4()) {
            (ICMP, true) | (ICMPV6, false) => Transport::Icmp(first[0], payload),
            (TCP, _) => Transport::Tcp(ports, payload.get(13).copied()),
            (UDP | UDP_LITE | SCTP, _) => Transport::Datagram(ports),
            _ => Transport::Unknown,
        }
    }
}

/// The packet that an ICMP error quotes, as much as is present: its length fields are not valid for
/// the quote.
pub(crate) fn quoted(message: &[u8], is_v4: bool) -> Option<(Header, Transport<'_>)> {
    let quote = message.get(8..)?;
    let (header, payload) = if is_v4 {
        let (header, length) = Header::read_v4(quote)?;
        (header, quote.get(length..)?)
    } else {
        Header::read_v6(quote)?
    };
    let transport = header.transport(payload);
    Some((header, transport))
}

pub(crate) fn number(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

pub(crate) fn mac(bytes: &[u8]) -> Mac {
    std::array::from_fn(|index| bytes[index])
}

pub(crate) fn v6(bytes: &[u8]) -> Ipv6Addr {
    let octets: [u8; 16] = std::array::from_fn(|index| bytes[index]);
    octets.into()
}

fn v4(bytes: &[u8]) -> Ipv4Addr {
    Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])
}
