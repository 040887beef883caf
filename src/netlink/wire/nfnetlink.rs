//! Messages of the nfnetlink family: a header of four bytes, and attributes.

use std::io::Cursor;

use neli::{ToBytes as _, types::Buffer};

use super::attributes::Attrs;
use crate::netlink::{error::Result, operation::EncodeError};

/// `struct nfgenmsg`, in bytes.
pub(in crate::netlink) const HEADER: usize = 4;

/// A message for an object of this family.
pub(in crate::netlink) fn message(family: u8, attrs: Attrs<u16>) -> Result<Buffer, EncodeError> {
    const VERSION: u8 = 0;
    let mut message = vec![family, VERSION, 0, 0];
    message.extend(bytes(attrs)?);
    Ok(Buffer::from(message))
}

pub(in crate::netlink) fn bytes(attrs: Attrs<u16>) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = Cursor::new(Vec::new());
    attrs.into_buffer().to_bytes(&mut bytes).map_err(EncodeError::new)?;
    Ok(bytes.into_inner())
}
