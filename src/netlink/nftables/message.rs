//! Parts of messages: numbers, nested attributes and comments.

use neli::types::Buffer;

use super::uapi::*;
pub(super) use crate::netlink::wire::nfnetlink::{HEADER, bytes, message};
use crate::netlink::{
    error::Result,
    operation::EncodeError,
    wire::{Attrs, text},
};

/// The message that begins or ends a batch. It carries the subsystem in a field that other messages
/// leave zero.
pub(super) fn delimiter() -> Buffer {
    let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    Buffer::from(vec![0, 0, high, low])
}

/// Adds a number in network byte order.
pub(super) fn number(attrs: Attrs<u16>, kind: u16, number: u32) -> Result<Attrs<u16>, EncodeError> {
    attrs.put(kind, &number.to_be_bytes()[..])
}

/// Adds attributes nested in an attribute.
pub(super) fn nest(attrs: Attrs<u16>, kind: u16, inner: Attrs<u16>) -> Result<Attrs<u16>, EncodeError> {
    attrs.nest(kind | NLA_F_NESTED, inner)
}

/// A comment in the user data of nft(8).
pub(super) fn user_data(kind: u8, comment: &str) -> Option<Vec<u8>> {
    let length = u8::try_from(comment.len() + 1).ok()?;
    let mut bytes = vec![kind, length];
    bytes.extend(comment.bytes().chain([0]));
    Some(bytes)
}

/// The longest start of the comment that nft(8) can read.
pub(super) fn truncated(mut comment: String) -> String {
    while comment.len() >= NFTNL_UDATA_COMMENT_MAXLEN {
        comment.pop();
    }
    comment
}

/// The comment in user data written by nft(8) or this library.
pub(super) fn comment(wanted: u8, mut user_data: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = user_data {
        let (value, others) = rest.split_at_checked(usize::from(*length))?;
        if *kind == wanted {
            return Some(text(value));
        }
        user_data = others;
    }
    None
}
