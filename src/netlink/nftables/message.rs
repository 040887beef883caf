//! Messages of the nfnetlink family: a header of four bytes, and attributes.

use std::io::Cursor;

use neli::{ToBytes as _, types::Buffer};

use super::{rule::RuleInfo, uapi::*};
use crate::netlink::{
    attrs::{Attrs, nested},
    error::{EncodeError, Result},
};

/// `struct nfgenmsg`, in bytes.
const HEADER: usize = 4;

/// A message on what belongs to tables of this family.
pub(super) fn message(family: u8, attrs: Attrs<u16>) -> Result<Buffer, EncodeError> {
    const VERSION: u8 = 0;
    let mut message = vec![family, VERSION, 0, 0];
    message.extend(bytes(attrs)?);
    Ok(Buffer::from(message))
}

/// The message that begins or ends a batch: the subsystem stands where others have nothing.
pub(super) fn delimiter() -> Buffer {
    let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    Buffer::from(vec![0, 0, high, low])
}

/// The rule in a message of the kernel's.
pub(in crate::netlink) fn rule(message: &[u8]) -> RuleInfo {
    let (mut handle, mut user_data) = (0, &[][..]);
    for (kind, payload) in nested(message.get(HEADER..).unwrap_or_default()) {
        match kind {
            NFTA_RULE_HANDLE => handle = payload.try_into().map_or(0, u64::from_be_bytes),
            NFTA_RULE_USERDATA => user_data = payload,
            _ => (),
        }
    }
    RuleInfo::new(handle, user_data)
}

/// Adds a number, in the byte order of this family.
pub(super) fn number(attrs: Attrs<u16>, kind: u16, number: u32) -> Result<Attrs<u16>, EncodeError> {
    attrs.put(kind, &number.to_be_bytes()[..])
}

/// Adds attributes in an attribute.
pub(super) fn nest(attrs: Attrs<u16>, kind: u16, inner: Attrs<u16>) -> Result<Attrs<u16>, EncodeError> {
    attrs.nest(kind | NLA_F_NESTED, inner)
}

pub(super) fn bytes(attrs: Attrs<u16>) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = Cursor::new(Vec::new());
    attrs.into_buffer().to_bytes(&mut bytes).map_err(EncodeError::new)?;
    Ok(bytes.into_inner())
}
