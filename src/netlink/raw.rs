//! Requests that the module has no operation for.
//!
//! [`Socket::raw_request`] sends any route netlink message. Errors have the form of all other
//! operations: the kernel's extended acknowledgement, the missing capability, and the CNI code.
//! [`Attributes`] encodes the attributes of a message, and [`attributes`] decodes them.
//!
//! The numbers of messages and attributes are in `linux/rtnetlink.h` and the headers beside it.
//!
//! ```no_run
//! use cnikit::netlink::{Socket, raw::{Attributes, RawRequest}};
//!
//! # fn main() -> cnikit::netlink::Result<()> {
//! // `ip token set ::7 dev eth0`: RTM_SETLINK with IFLA_AF_SPEC { AF_INET6 { IFLA_INET6_TOKEN } }.
//! const RTM_SETLINK: u16 = 19;
//! const IFLA_AF_SPEC: u16 = 26;
//! const AF_INET6: u16 = 10;
//! const IFLA_INET6_TOKEN: u16 = 7;
//! let index: i32 = 2;
//! let token = Attributes::new().put_ip(IFLA_INET6_TOKEN, "::7".parse().expect("an address"));
//!
//! // struct ifinfomsg: family, padding, type, index, flags, changed flags.
//! let mut ifinfomsg = [0; 16];
//! ifinfomsg[4..8].copy_from_slice(&index.to_ne_bytes());
//! let request = RawRequest::new("set the token of", "link 2", RTM_SETLINK)
//!     .header(&ifinfomsg)
//!     .attributes(Attributes::new().nest(IFLA_AF_SPEC, Attributes::new().nest(AF_INET6, token)));
//! Socket::open()?.raw_request(&request)?;
//! # Ok(())
//! # }
//! ```

use std::fmt::Display;

use neli::{consts::nl::NlmF, types::Buffer};

pub use super::wire::{Attributes, attributes};
use super::{
    error::Result,
    operation::{EncodeError, Operation},
    socket::{Socket, encode, until_consistent},
    wire::Body,
};

/// Replace the object if it exists.
pub const NLM_F_REPLACE: u16 = 0x100;
/// Fail with `EEXIST` if the object exists.
pub const NLM_F_EXCL: u16 = 0x200;
/// Create the object if it is absent.
pub const NLM_F_CREATE: u16 = 0x400;
/// Append the object to the list.
pub const NLM_F_APPEND: u16 = 0x800;
/// Return the notification of the change to the sender.
pub const NLM_F_ECHO: u16 = 0x8;

/// A route netlink request, encoded by the caller.
///
/// ```
/// use cnikit::netlink::raw::{NLM_F_CREATE, NLM_F_EXCL, RawRequest};
///
/// const RTM_NEWNSID: u16 = 88;
/// let request = RawRequest::new("give an id to", "the pod's namespace", RTM_NEWNSID)
///     .flags(NLM_F_CREATE | NLM_F_EXCL)
///     .header(&[0; 4]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a request does nothing until `Socket::raw_request` sends it"]
pub struct RawRequest {
    operation: &'static str,
    object: String,
    message_type: u16,
    flags: u16,
    dump: bool,
    header: Vec<u8>,
    attributes: Attributes,
}

impl RawRequest {
    /// A request of this message type, such as `RTM_GETNSID`.
    ///
    /// The operation and its object begin the text of each error, such as `create link` and
    /// `dummy0`.
    pub fn new(operation: &'static str, object: impl Display, message_type: u16) -> Self {
        Self {
            operation,
            object: object.to_string(),
            message_type,
            flags: 0,
            dump: false,
            header: Vec::new(),
            attributes: Attributes::new(),
        }
    }

    /// Sets the flags of the message, such as [`NLM_F_CREATE`].
    ///
    /// [`Socket::raw_request`] adds `NLM_F_REQUEST` to each request, `NLM_F_DUMP` to a dump, and
    /// `NLM_F_ACK` to all others.
    pub const fn flags(mut self, flags: u16) -> Self {
        self.flags = flags;
        self
    }

    /// Requests a list of objects.
    pub const fn dump(mut self) -> Self {
        self.dump = true;
        self
    }

    /// Sets the fixed part of the body, such as `struct ifinfomsg`. The attributes follow it at the
    /// next multiple of 4 bytes.
    pub fn header(mut self, header: &[u8]) -> Self {
        self.header = header.to_vec();
        self
    }

    /// Sets the attributes of the body.
    pub fn attributes(mut self, attributes: Attributes) -> Self {
        self.attributes = attributes;
        self
    }

    fn body(&self) -> Result<Buffer, EncodeError> {
        let mut body = self.header.clone();
        body.resize(body.len().next_multiple_of(4), 0);
        body.extend(self.attributes.clone().encode()?);
        Ok(Buffer::from(body))
    }
}

/// A message that answers a request.
///
/// ```
/// use cnikit::netlink::raw::RawMessage;
///
/// const IFLA_IFNAME: u16 = 3;
/// fn name(link: &RawMessage) -> Option<&[u8]> {
///     // The attributes follow struct ifinfomsg.
///     link.attributes(16).find_map(|(kind, payload)| (kind == IFLA_IFNAME).then_some(payload))
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RawMessage {
    /// The message type, such as `RTM_NEWLINK`.
    pub message_type: u16,
    /// The content after the netlink header (`struct nlmsghdr`).
    pub body: Vec<u8>,
}

impl RawMessage {
    /// The attributes that follow a fixed header of `header` bytes; none if the body is shorter.
    pub fn attributes(&self, header: usize) -> impl Iterator<Item = (u16, &[u8])> {
        attributes(self.body.get(header.next_multiple_of(4)..).unwrap_or_default())
    }
}

impl Socket {
    /// Sends a request and returns the answers in the kernel's order, without the acknowledgement.
    ///
    /// A change has no answer, except with [`NLM_F_ECHO`]. A dump that the kernel marks as
    /// inconsistent is repeated.
    ///
    /// # Errors
    ///
    /// The variants contain the operation and the object of the request.
    /// [`Error::Exists`](super::Error::Exists) for `EEXIST`, and
    /// [`Error::Kernel`](super::Error::Kernel) for all other error numbers.
    /// [`Error::Message`](super::Error::Message) if an attribute is too long, or an answer exceeds
    /// 32 KiB. [`Error::DumpInterrupted`](super::Error::DumpInterrupted) if the list changed during
    /// each read.
    ///
    /// # Kernel
    ///
    /// The socket has `NETLINK_EXT_ACK` (Linux 4.12) and `NETLINK_GET_STRICT_CHK` (4.20). With the
    /// latter, unused fields in the header of a dump must be zero.
    #[doc(alias = "nlmsghdr")]
    pub fn raw_request(&self, request: &RawRequest) -> Result<Vec<RawMessage>> {
        let operation = Operation::new(request.operation, &request.object);
        let mode = if request.dump { NlmF::DUMP } else { NlmF::ACK };
        let flags = NlmF::from_bits_retain(request.flags) | mode;
        until_consistent(&operation, || {
            let sequence = self.next_sequence();
            self.send_encoded(&operation, &encode(&operation, sequence, request.message_type, flags, request.body())?)?;
            let (mut messages, mut is_interrupted) = (Vec::new(), false);
            self.receive_each(&operation, sequence, &mut |reply| {
                is_interrupted |= reply.interrupted;
                match reply.body {
                    Body::Done => return Ok(true),
                    Body::Refused(code, message) => return Err(operation.refused(code, message)),
                    Body::Object(body) => {
                        messages.push(RawMessage { message_type: reply.kind, body: body.to_vec() });
                    }
                }
                Ok(false)
            })?;
            Ok((messages, is_interrupted))
        })
    }
}
