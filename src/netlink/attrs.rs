//! Netlink attributes: writing them in call order, reading them as bytes.

use neli::{
    Size, ToBytes,
    consts::rtnl::RtaType,
    rtnl::RtattrBuilder,
    types::{Buffer, RtBuffer},
};

use super::error::{EncodeError, Result};
use crate::spec::IfIndex;

/// The attributes of a message or of another attribute.
#[derive(Debug)]
pub(super) struct Attrs<T>(RtBuffer<T, Buffer>);

impl<T: RtaType> Attrs<T> {
    pub(super) fn new() -> Self {
        Self(RtBuffer::new())
    }

    pub(super) fn put(mut self, kind: T, payload: impl Size + ToBytes) -> Result<Self, EncodeError> {
        let attr = RtattrBuilder::default().rta_type(kind).rta_payload(payload).build()?;
        self.0.push(attr);
        Ok(self)
    }

    pub(super) fn put_some(self, kind: T, payload: Option<impl Size + ToBytes>) -> Result<Self, EncodeError> {
        match payload {
            Some(payload) => self.put(kind, payload),
            None => Ok(self),
        }
    }

    pub(super) fn nest<N: RtaType>(self, kind: T, inner: Attrs<N>) -> Result<Self, EncodeError> {
        self.put(kind, inner.0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn into_buffer(self) -> RtBuffer<T, Buffer> {
        self.0
    }
}

/// The type and payload of each attribute nested in `bytes`, up to the first truncated one.
///
/// The kernel sets flags in the upper two bits of some types. They are masked out.
pub(super) fn nested(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const HEADER: usize = 4;
    const TYPE_MASK: u16 = 0x3fff;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (header, _) = rest.split_at_checked(HEADER)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        let payload = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(HEADER)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// A string without its terminating NUL. Invalid UTF-8 becomes U+FFFD.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// A number in native byte order.
pub(super) fn number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().map(u32::from_ne_bytes).ok()
}

/// A number of 64 bits at the beginning of `bytes`, in native byte order.
pub(super) fn wide(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().copied().map(u64::from_ne_bytes)
}

/// An interface index; `None` for 0, which the kernel writes for no link.
pub(super) fn ifindex(bytes: &[u8]) -> Option<IfIndex> {
    number(bytes).and_then(IfIndex::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_attributes_end_at_the_first_truncated_one() {
        let mut bytes = Vec::new();
        bytes.extend(5u16.to_ne_bytes());
        bytes.extend((0x8000u16 | 7).to_ne_bytes());
        bytes.extend([9, 0, 0, 0]);
        bytes.extend(12u16.to_ne_bytes());
        bytes.extend(8u16.to_ne_bytes());
        bytes.extend([1, 2]);
        let read: Vec<_> = nested(&bytes).collect();
        assert_eq!(read, [(7, &[9u8][..])]);
    }

    #[test]
    fn length_below_the_header_ends_the_list() {
        assert_eq!(nested(&[0, 0, 1, 0, 0, 0, 1, 0]).count(), 0);
    }

    #[test]
    fn text_ends_at_its_nul() {
        assert_eq!(text(b"veth\0"), "veth");
        assert_eq!(text(b"veth"), "veth");
    }
}
