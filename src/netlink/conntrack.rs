//! Tracked connections: list and delete them, as [conntrack(8)] does.
//!
//! Address translation applies to a connection from its first packet on. A client that sends UDP
//! from one port keeps its entry while it sends. So a new rule does not apply to the client, and a
//! deleted rule still does. A plugin that maps UDP ports deletes such entries:
//!
//! ```no_run
//! use cnikit::netlink::{
//!     conntrack::{Filter, Socket},
//!     nftables::Protocol,
//! };
//!
//! # fn main() -> cnikit::netlink::Result<()> {
//! let mapped = Filter::new().protocol(Protocol::UDP).original_destination_port(5353);
//! let deleted = Socket::open()?.delete(&mapped)?;
//! println!("{deleted} connections begin again");
//! # Ok(())
//! # }
//! ```
//!
//! # Kernel
//!
//! The module `nf_conntrack_netlink`, which the kernel loads if permitted. All operations need
//! `CAP_NET_ADMIN`.
//!
//! [conntrack(8)]: https://manpages.debian.org/conntrack.8

use std::net::IpAddr;

use neli::{
    consts::{nl::NlmF, socket::NlFamily},
    types::Buffer,
};
use rustix::io::Errno;

use super::{
    error::Result,
    nftables::Protocol,
    operation::{EncodeError, Operation},
    wire::{
        Attrs, attribute, ip_addr,
        nfnetlink::{HEADER, message},
    },
};

/// The module that provides the messages.
const MODULE: &str = "nf_conntrack_netlink";

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = NFNL_SUBSYS_CTNETLINK << 8 | 1;
const IPCTNL_MSG_CT_DELETE: u16 = NFNL_SUBSYS_CTNETLINK << 8 | 2;

/// `AF_UNSPEC`.
const ANY_FAMILY: u8 = 0;

const NLA_F_NESTED: u16 = 1 << 15;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// A netfilter netlink socket for tracked connections.
///
/// The socket works in the namespace where it was opened.
/// [`Netns::run`](crate::netlink::Netns::run) opens one elsewhere.
#[doc(alias = "NFNL_SUBSYS_CTNETLINK")]
#[derive(Debug)]
pub struct Socket {
    netlink: super::Socket,
}

/// A tracked connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The addresses and ports of the first packet, before address translation.
    pub original: Tuple,
    /// The addresses and ports of the answers, before the reverse translation: the source is the
    /// peer that the packets reach.
    pub reply: Tuple,
    /// The attributes that identify the entry.
    identity: Identity,
}

/// The addresses and ports of the packets of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Tuple {
    /// The transport protocol.
    pub protocol: Protocol,
    /// The source address.
    pub source: IpAddr,
    /// The destination address.
    pub destination: IpAddr,
    /// The source port; `None` for protocols without ports.
    pub source_port: Option<u16>,
    /// The destination port; `None` for protocols without ports.
    pub destination_port: Option<u16>,
}

/// Conditions on connections. A filter without conditions matches all connections.
///
/// ```
/// use cnikit::netlink::{conntrack::Filter, nftables::Protocol};
///
/// let to_pod = Filter::new().protocol(Protocol::UDP).reply_source("10.244.1.7".parse()?);
/// assert_ne!(to_pod, Filter::new());
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Filter {
    protocol: Option<Protocol>,
    original_source: Option<IpAddr>,
    original_destination: Option<IpAddr>,
    original_destination_port: Option<u16>,
    reply_source: Option<IpAddr>,
    reply_source_port: Option<u16>,
}

/// Attributes as the kernel sent them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    family: u8,
    original: Vec<u8>,
    id: Option<Vec<u8>>,
    zone: Option<Vec<u8>>,
}

impl Socket {
    /// Opens a socket in the namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`](super::Error::Unsupported) if the kernel has no netfilter netlink,
    /// [`Error::Socket`](super::Error::Socket) if the socket cannot be opened.
    pub fn open() -> Result<Self> {
        let operation = Operation::new("open", "a netfilter netlink socket");
        match super::Socket::connect(&operation, NlFamily::Netfilter) {
            Err(error) if error.is(Errno::PROTONOSUPPORT) => Err(operation.unsupported(MODULE)),
            socket => Ok(Self { netlink: socket? }),
        }
    }

    /// All tracked connections of the namespace, in any order.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`](super::Error::Unsupported) if the kernel lacks
    /// `nf_conntrack_netlink`, [`Error::Kernel`](super::Error::Kernel) with `EPERM` without
    /// `CAP_NET_ADMIN`.
    #[doc(alias = "IPCTNL_MSG_CT_GET")]
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let operation = Operation::new("list", "tracked connections");
        let request = || message(ANY_FAMILY, Attrs::new());
        match self.netlink.dump::<_, Buffer>(&operation, IPCTNL_MSG_CT_GET, request) {
            Err(error) if error.is(Errno::INVAL) => Err(operation.unsupported(MODULE)),
            messages => Ok(messages?.iter().filter_map(|message| Entry::decode(message.as_ref())).collect()),
        }
    }

    /// Deletes the tracked connections that match the filter, and returns their number. The next
    /// packet of a deleted connection begins a new one, and traverses the rules for address
    /// translation.
    ///
    /// # Errors
    ///
    /// As for [`Socket::entries`].
    #[doc(alias = "IPCTNL_MSG_CT_DELETE")]
    pub fn delete(&self, filter: &Filter) -> Result<usize> {
        let mut deleted = 0;
        for entry in self.entries()?.iter().filter(|entry| filter.matches(entry)) {
            let operation = Operation::new("delete the tracked connection to", entry.original.destination);
            match self.netlink.request::<_, Buffer>(
                &operation,
                IPCTNL_MSG_CT_DELETE.into(),
                NlmF::empty(),
                entry.name(),
            ) {
                // It ended meanwhile.
                Err(error) if error.is(Errno::NOENT) => (),
                done => done.map(|_| deleted += 1)?,
            }
        }
        Ok(deleted)
    }
}

impl Entry {
    /// Reads the entry from a message of the kernel.
    pub(super) fn decode(message: &[u8]) -> Option<Self> {
        let (header, attributes) = message.split_at_checked(HEADER)?;
        let attribute = |wanted| attribute(attributes, wanted);
        let original = attribute(CTA_TUPLE_ORIG)?;
        let identity = Identity {
            family: *header.first()?,
            original: original.to_vec(),
            id: attribute(CTA_ID).map(<[u8]>::to_vec),
            zone: attribute(CTA_ZONE).map(<[u8]>::to_vec),
        };
        Some(Self { original: Tuple::decode(original)?, reply: Tuple::decode(attribute(CTA_TUPLE_REPLY)?)?, identity })
    }

    /// The message that identifies the entry, also if the same addresses and ports are used again.
    fn name(&self) -> Result<Buffer, EncodeError> {
        let Identity { family, original, id, zone } = &self.identity;
        let attrs = Attrs::new().put(CTA_TUPLE_ORIG | NLA_F_NESTED, &original[..])?;
        message(*family, attrs.put_some(CTA_ID, id.as_deref())?.put_some(CTA_ZONE, zone.as_deref())?)
    }
}

impl Tuple {
    fn decode(attributes: &[u8]) -> Option<Self> {
        let (addresses, protocol) = (attribute(attributes, CTA_TUPLE_IP)?, attribute(attributes, CTA_TUPLE_PROTO)?);
        let address = |v4, v6| attribute(addresses, v4).or_else(|| attribute(addresses, v6)).and_then(ip_addr);
        let port = |wanted| attribute(protocol, wanted)?.try_into().map(u16::from_be_bytes).ok();
        Some(Self {
            protocol: Protocol(*attribute(protocol, CTA_PROTO_NUM)?.first()?),
            source: address(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
            destination: address(CTA_IP_V4_DST, CTA_IP_V6_DST)?,
            source_port: port(CTA_PROTO_SRC_PORT),
            destination_port: port(CTA_PROTO_DST_PORT),
        })
    }
}

impl Filter {
    /// A filter without conditions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The transport protocol.
    #[must_use]
    pub const fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = Some(protocol);
        self
    }

    /// The source address of the first packet, before address translation.
    #[must_use]
    pub const fn original_source(mut self, address: IpAddr) -> Self {
        self.original_source = Some(address);
        self
    }

    /// The destination address of the first packet, before address translation.
    #[must_use]
    pub const fn original_destination(mut self, address: IpAddr) -> Self {
        self.original_destination = Some(address);
        self
    }

    /// The destination port of the first packet, before address translation: the port of the host
    /// for a mapped port.
    #[must_use]
    pub const fn original_destination_port(mut self, port: u16) -> Self {
        self.original_destination_port = Some(port);
        self
    }

    /// The source address of the answers: the pod's address for a mapped port.
    #[must_use]
    pub const fn reply_source(mut self, address: IpAddr) -> Self {
        self.reply_source = Some(address);
        self
    }

    /// The source port of the answers: the pod's port for a mapped port.
    #[must_use]
    pub const fn reply_source_port(mut self, port: u16) -> Self {
        self.reply_source_port = Some(port);
        self
    }

    fn matches(&self, Entry { original, reply, .. }: &Entry) -> bool {
        self.protocol.is_none_or(|protocol| protocol == original.protocol)
            && self.original_source.is_none_or(|address| address == original.source)
            && self.original_destination.is_none_or(|address| address == original.destination)
            && self.original_destination_port.is_none_or(|port| Some(port) == original.destination_port)
            && self.reply_source.is_none_or(|address| address == reply.source)
            && self.reply_source_port.is_none_or(|port| Some(port) == reply.source_port)
    }
}
