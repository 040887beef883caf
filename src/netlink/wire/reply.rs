//! Decoding of received bytes: a sequence of messages, each with a header that contains its type.
//! See [netlink(7)].
//!
//! [netlink(7)]: https://man7.org/linux/man-pages/man7/netlink.7.html

use super::attributes::{attribute, text};
use crate::netlink::{error::Result, operation::EncodeError};

/// `struct nlmsghdr`, in bytes.
const HEADER: usize = 16;
/// Messages, attributes and the content after a header begin at multiples of this.
const ALIGNMENT: usize = 4;

/// Message types that every family has.
const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// Flags in the header.
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;

/// The kernel's explanation in an extended acknowledgement.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::netlink) struct Reply<'a> {
    /// The type of the message, such as `RTM_NEWLINK`.
    pub(in crate::netlink) kind: u16,
    /// The sequence number of the exchange.
    pub(in crate::netlink) sequence: u32,
    /// The port of the receiving socket.
    pub(in crate::netlink) port: u32,
    /// The list changed during the dump.
    pub(in crate::netlink) interrupted: bool,
    pub(in crate::netlink) body: Body<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub(in crate::netlink) enum Body<'a> {
    /// The request succeeded, or the list is complete.
    Done,
    /// The kernel's negative error number, and its explanation if present.
    Refused(i32, Option<String>),
    Object(&'a [u8]),
}

/// A length beyond the received bytes.
#[derive(Debug, thiserror::Error)]
#[error("message length {length} is invalid, {left} bytes remain")]
struct BadLength {
    length: usize,
    left: usize,
}

/// The messages of one read. The first malformed message ends the sequence.
pub(in crate::netlink) fn replies(mut bytes: &[u8]) -> impl Iterator<Item = Result<Reply<'_>, EncodeError>> {
    std::iter::from_fn(move || {
        while !bytes.is_empty() {
            let reply = next(&mut bytes).transpose();
            if reply.is_some() {
                return reply;
            }
        }
        None
    })
}

/// Takes the next message; `None` for a message without content.
fn next<'a>(bytes: &mut &'a [u8]) -> Result<Option<Reply<'a>>, EncodeError> {
    let all = std::mem::take(bytes);
    let (header, _) = all.split_at_checked(HEADER).ok_or_else(|| bad_length(HEADER, all))?;
    let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|index| header[at + index]));
    let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let length = word(0) as usize;
    let payload = all.get(HEADER..length).ok_or_else(|| bad_length(length, all))?;
    *bytes = all.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
    let flags = half(6);
    let kind = half(4);
    let body = match kind {
        NLMSG_NOOP => return Ok(None),
        NLMSG_ERROR => outcome(payload, flags, true).ok_or_else(|| bad_length(length, all))?,
        // A list ends with its own code, which is zero or an error during the dump.
        NLMSG_DONE => outcome(payload, flags, false).unwrap_or(Body::Done),
        _ => Body::Object(payload),
    };
    let interrupted = flags & NLM_F_DUMP_INTR != 0;
    Ok(Some(Reply { kind, sequence: word(8), port: word(12), interrupted, body }))
}

/// An error number, which is 0 for success. An acknowledgement then has the header of the request,
/// and the rest of the request unless the kernel omitted it. Attributes follow.
fn outcome(payload: &[u8], flags: u16, has_request: bool) -> Option<Body<'static>> {
    let (code, rest) = payload.split_first_chunk()?;
    let code = i32::from_ne_bytes(*code);
    if code == 0 {
        return Some(Body::Done);
    }
    let request = match rest.first_chunk().copied().map(u32::from_ne_bytes) {
        _ if !has_request => 0,
        Some(length) if flags & NLM_F_CAPPED == 0 => (length as usize).checked_next_multiple_of(ALIGNMENT)?,
        _ => HEADER,
    };
    let attributes = rest.get(request..).filter(|_| flags & NLM_F_ACK_TLVS != 0).unwrap_or_default();
    Some(Body::Refused(code, attribute(attributes, NLMSGERR_ATTR_MSG).map(text)))
}

fn bad_length(length: usize, left: &[u8]) -> EncodeError {
    EncodeError::new(BadLength { length, left: left.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: u32 = 7;

    /// A message of exchange 3.
    fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + payload.len()).expect("a short message");
        let mut message = length.to_ne_bytes().to_vec();
        message.extend([kind.to_ne_bytes(), flags.to_ne_bytes()].concat());
        message.extend([3_u32.to_ne_bytes(), OURS.to_ne_bytes()].concat());
        message.extend(payload);
        message.resize(message.len().next_multiple_of(ALIGNMENT), 0);
        message
    }

    fn read(bytes: &[u8]) -> Vec<Reply<'_>> {
        replies(bytes).collect::<Result<_, _>>().expect("messages")
    }

    fn reply(kind: u16, body: Body<'_>) -> Reply<'_> {
        Reply { kind, sequence: 3, port: OURS, interrupted: false, body }
    }

    /// `struct nlmsgerr`, and the attribute with the kernel's explanation.
    fn refusal(code: i32, request: &[u8], message: &str) -> Vec<u8> {
        let length = u16::try_from(4 + message.len()).expect("a short message");
        let attribute = [&length.to_ne_bytes()[..], &NLMSGERR_ATTR_MSG.to_ne_bytes(), message.as_bytes()].concat();
        [&code.to_ne_bytes()[..], request, &attribute].concat()
    }

    #[test]
    fn message_types_are_distinguished() {
        let list = [
            message(16, 2, b"a link"),
            message(NLMSG_NOOP, 0, &[]),
            message(NLMSG_DONE, 2, &[0; 4]),
            message(NLMSG_DONE, 2, &[]),
            message(NLMSG_ERROR, NLM_F_CAPPED, &[0; 20]),
        ];
        let expected = [
            reply(16, Body::Object(b"a link")),
            reply(NLMSG_DONE, Body::Done),
            reply(NLMSG_DONE, Body::Done),
            reply(NLMSG_ERROR, Body::Done),
        ];
        assert_eq!(read(&list.concat()), expected);
    }

    #[test]
    fn inconsistent_dump_is_marked() {
        let bytes = message(16, NLM_F_DUMP_INTR, &[]);
        assert_eq!(read(&bytes), [Reply { interrupted: true, ..reply(16, Body::Object(&[])) }]);
    }

    #[test]
    fn explanation_follows_the_request() {
        let explained = || Some("Device does not exist".to_owned());
        let request = message(16, 0, &[0; 30]);
        let cases = [
            (message(NLMSG_ERROR, NLM_F_ACK_TLVS, &refusal(-19, &request, "Device does not exist\0")), explained()),
            (
                message(
                    NLMSG_ERROR,
                    NLM_F_ACK_TLVS | NLM_F_CAPPED,
                    &refusal(-19, &request[..HEADER], "Device does not exist\0"),
                ),
                explained(),
            ),
            (message(NLMSG_DONE, NLM_F_ACK_TLVS, &refusal(-19, &[], "Device does not exist\0")), explained()),
            (message(NLMSG_ERROR, 0, &refusal(-19, &request, "")), None),
            (message(NLMSG_DONE, 0, &refusal(-19, &[], "")), None),
        ];
        for (bytes, explanation) in cases {
            let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
            assert_eq!(read(&bytes), [reply(kind, Body::Refused(-19, explanation))]);
        }
    }

    #[test]
    fn invalid_length_ends_the_sequence() {
        let good = message(16, 0, b"a link");
        for length in [0, 15, 25, 1 << 20, u32::MAX] {
            let mut bad = message(16, 0, b"a link");
            bad[..4].copy_from_slice(&u32::to_ne_bytes(length));
            let bytes = [&good[..], &bad].concat();
            let read: Vec<_> = replies(&bytes).collect();
            assert_eq!(read.len(), 2);
            assert_eq!(read[0].as_ref().expect("good"), &reply(16, Body::Object(b"a link")));
            read[1].as_ref().expect_err("bad");
        }
        for length in 1..HEADER {
            assert!(replies(&good[..length]).all(|reply| reply.is_err()));
        }
        read(&[]);
    }
}
