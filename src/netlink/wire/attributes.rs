//! Netlink attributes: writing them in call order, reading them as bytes.

use std::net::IpAddr;

use neli::{
    Size, ToBytes,
    consts::rtnl::RtaType,
    rtnl::RtattrBuilder,
    types::{Buffer, RtBuffer},
};

use crate::netlink::{
    error::Result,
    operation::{EncodeError, Operation},
};
use crate::spec::{IfIndex, MacAddr};

/// `struct nlattr`: the length with this header, then the type.
const HEADER: usize = 4;
/// Attributes begin at multiples of this.
const ALIGNMENT: usize = 4;
/// The type bits. The other two bits are [`NLA_F_NESTED`] and `NLA_F_NET_BYTEORDER`.
const TYPE_MASK: u16 = 0x3fff;
const NLA_F_NESTED: u16 = 0x8000;

/// An encoder of netlink attributes: each has a type of 16 bits and a payload.
///
/// The encoder writes the attributes in call order, and pads each to 4 bytes. Numbers have the
/// byte order of the host.
///
/// A payload has at most 65,531 bytes, because the length field has 16 bits. A longer one makes the
/// encoder return an error at the end, in [`Attributes::into_bytes`] or in
/// [`Socket::raw_request`](crate::netlink::Socket::raw_request).
///
/// ```
/// use cnikit::netlink::raw::{Attributes, attributes};
///
/// let kind = Attributes::new().put_text(1, "dummy");
/// let bytes = Attributes::new().put_u32(4, 1400).nest(18, kind).into_bytes()?;
/// let read: Vec<_> = attributes(&bytes).map(|(kind, payload)| (kind, payload.len())).collect();
/// assert_eq!(read, [(4, 4), (18, 12)]);
/// assert!(Attributes::new().put(1, &[0; 65_532]).into_bytes().is_err());
/// # Ok::<(), cnikit::netlink::Error>(())
/// ```
#[doc(alias = "nlattr")]
#[doc(alias = "rtattr")]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    bytes: Vec<u8>,
    /// The first attribute that does not fit.
    too_long: Option<TooLong>,
}

impl Attributes {
    /// No attributes.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), too_long: None }
    }

    /// Appends an attribute with this payload. An empty payload is a flag.
    #[must_use]
    pub fn put(mut self, kind: u16, payload: &[u8]) -> Self {
        let Ok(length) = u16::try_from(HEADER + payload.len()) else {
            self.too_long.get_or_insert(TooLong { kind, length: payload.len() });
            return self;
        };
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(payload);
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        self
    }

    /// Appends an attribute with one byte.
    #[must_use]
    pub fn put_u8(self, kind: u16, number: u8) -> Self {
        self.put(kind, &[number])
    }

    /// Appends an attribute with a number of 16 bits.
    #[must_use]
    pub fn put_u16(self, kind: u16, number: u16) -> Self {
        self.put(kind, &number.to_ne_bytes())
    }

    /// Appends an attribute with a number of 32 bits.
    #[must_use]
    pub fn put_u32(self, kind: u16, number: u32) -> Self {
        self.put(kind, &number.to_ne_bytes())
    }

    /// Appends an attribute with an address in network byte order: 4 or 16 bytes.
    #[must_use]
    pub fn put_ip(self, kind: u16, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.put(kind, &address.octets()),
            IpAddr::V6(address) => self.put(kind, &address.octets()),
        }
    }

    /// Appends an attribute with a text and its terminating NUL.
    #[must_use]
    pub fn put_text(self, kind: u16, text: &str) -> Self {
        self.put(kind, &[text.as_bytes(), &[0]].concat())
    }

    /// Appends an attribute that contains other attributes. Its type gets the flag `NLA_F_NESTED`.
    #[must_use]
    pub fn nest(mut self, kind: u16, inner: Self) -> Self {
        self.too_long = self.too_long.or(inner.too_long);
        self.put(kind | NLA_F_NESTED, &inner.bytes)
    }

    /// Whether no attribute was appended.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.too_long.is_none()
    }

    /// The encoded attributes.
    ///
    /// # Errors
    ///
    /// [`Error::Message`](crate::netlink::Error::Message) if a payload has more than 65,531 bytes.
    pub fn into_bytes(self) -> Result<Vec<u8>> {
        self.encode().map_err(|error| Operation::new("encode", "netlink attributes").malformed(error))
    }

    pub(in crate::netlink) fn encode(self) -> Result<Vec<u8>, EncodeError> {
        self.too_long.map_or(Ok(self.bytes), |error| Err(EncodeError::new(error)))
    }
}

/// A payload that does not fit into an attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("attribute {kind} has {length} bytes, the maximum is 65531")]
struct TooLong {
    kind: u16,
    length: usize,
}

/// The attributes of a message with a header of neli, or of another attribute. neli encodes such a
/// message as a whole, header included. [`Attributes`] encodes all others.
#[derive(Debug)]
pub(in crate::netlink) struct Attrs<T>(RtBuffer<T, Buffer>);

impl<T: RtaType> Attrs<T> {
    pub(in crate::netlink) fn new() -> Self {
        Self(RtBuffer::new())
    }

    pub(in crate::netlink) fn put(mut self, kind: T, payload: impl Size + ToBytes) -> Result<Self, EncodeError> {
        // neli truncates a length of more than 16 bits. The kernel would then read the rest of the
        // payload as further attributes.
        let length = payload.unpadded_size();
        if u16::try_from(HEADER + length).is_err() {
            return Err(EncodeError::new(TooLong { kind: kind.into(), length }));
        }
        let attr = RtattrBuilder::default().rta_type(kind).rta_payload(payload).build()?;
        self.0.push(attr);
        Ok(self)
    }

    pub(in crate::netlink) fn put_some(
        self,
        kind: T,
        payload: Option<impl Size + ToBytes>,
    ) -> Result<Self, EncodeError> {
        match payload {
            Some(payload) => self.put(kind, payload),
            None => Ok(self),
        }
    }

    pub(in crate::netlink) fn nest<N: RtaType>(self, kind: T, inner: Attrs<N>) -> Result<Self, EncodeError> {
        self.put(kind, inner.0)
    }

    pub(in crate::netlink) fn into_buffer(self) -> RtBuffer<T, Buffer> {
        self.0
    }
}

/// The type and payload of each attribute in `bytes`, up to the first truncated one.
///
/// The kernel sets flags in the upper two bits of some types. They are masked out. The payload of
/// an attribute that contains attributes is decoded by another call.
///
/// ```
/// use cnikit::netlink::raw::{Attributes, attributes};
///
/// let bytes = Attributes::new().put_text(3, "eth0").into_bytes()?;
/// assert_eq!(attributes(&bytes).next(), Some((3, &b"eth0\0"[..])));
/// # Ok::<(), cnikit::netlink::Error>(())
/// ```
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (header, _) = rest.split_at_checked(HEADER)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & TYPE_MASK;
        let payload = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// The payload of the first attribute of this type.
pub(in crate::netlink) fn attribute(bytes: &[u8], wanted: impl Into<u16>) -> Option<&[u8]> {
    let wanted = wanted.into();
    attributes(bytes).find_map(|(kind, payload)| (kind == wanted).then_some(payload))
}

/// A string without its terminating NUL. Invalid UTF-8 becomes U+FFFD.
pub(in crate::netlink) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// A number of 32 bits in native byte order.
pub(in crate::netlink) fn number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().map(u32::from_ne_bytes).ok()
}

/// A number of 16 bits in native byte order.
pub(in crate::netlink) fn short(bytes: &[u8]) -> Option<u16> {
    bytes.try_into().map(u16::from_ne_bytes).ok()
}

/// A number of 64 bits at the beginning of `bytes`, in native byte order.
pub(in crate::netlink) fn wide(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().copied().map(u64::from_ne_bytes)
}

/// The number of 32 bits at this offset of a structure, in native byte order.
pub(in crate::netlink) fn number_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

/// An interface index; `None` for 0, which the kernel writes for no link.
pub(in crate::netlink) fn ifindex(bytes: &[u8]) -> Option<IfIndex> {
    number(bytes).and_then(IfIndex::new)
}

/// An Ethernet address; `None` for any other length.
pub(in crate::netlink) fn mac_addr(bytes: &[u8]) -> Option<MacAddr> {
    bytes.try_into().map(MacAddr::new).ok()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn attributes_have_the_layout_of_nlattr() {
        let inner = Attributes::new().put_u8(1, 7);
        let bytes = Attributes::new().put_u16(2, 0x0102).nest(3, inner).encode().expect("short");
        let half = |number: u16| number.to_ne_bytes();
        let expected = [
            [half(6), half(2), half(0x0102), [0, 0]].concat(),
            [half(12), half(0x8003), half(5), half(1), [7, 0], [0, 0]].concat(),
        ];
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn payload_over_the_maximum_is_an_error() {
        let of = |length: usize| Attributes::new().put(9, &vec![1; length]);
        assert_eq!(of(65_531).encode().expect("the maximum").len(), 65_536);
        let error = of(65_532).put_u32(1, 1).into_bytes().expect_err("too long");
        assert!(error.to_string().ends_with(": attribute 9 has 65532 bytes, the maximum is 65531"), "{error}");
        for outer in [Attributes::new().nest(3, of(65_532)), Attributes::new().nest(3, of(65_531))] {
            outer.into_bytes().expect_err("the inner or the outer payload is too long");
        }
    }

    proptest! {
        #[test]
        fn attributes_are_decoded_as_encoded(
            all in vec((0..=TYPE_MASK, vec(any::<u8>(), 0..40), any::<bool>()), 0..8)
        ) {
            let encoded = all.iter().fold(Attributes::new(), |attributes, (kind, payload, is_nested)| {
                match is_nested {
                    true => attributes.nest(*kind, Attributes::new().put(*kind, payload)),
                    false => attributes.put(*kind, payload),
                }
            });
            let bytes = encoded.encode().expect("short");
            prop_assert_eq!(bytes.len() % 4, 0);
            let mut read = Vec::new();
            for ((kind, payload), (_, _, is_nested)) in attributes(&bytes).zip(&all) {
                let inner = attributes(payload).next().map(|(_, inner)| inner);
                let payload = if *is_nested { inner.expect("the inner attribute") } else { payload };
                read.push((kind, payload.to_vec(), *is_nested));
            }
            prop_assert_eq!(read, all);
        }

        #[test]
        fn any_bytes_are_decoded(bytes in vec(any::<u8>(), 0..100)) {
            let length: usize = attributes(&bytes).map(|(_, payload)| HEADER + payload.len()).sum();
            prop_assert!(length <= bytes.len());
        }
    }

    #[test]
    fn nested_attributes_end_at_the_first_truncated_one() {
        let mut bytes = Vec::new();
        bytes.extend(5u16.to_ne_bytes());
        bytes.extend((0x8000u16 | 7).to_ne_bytes());
        bytes.extend([9, 0, 0, 0]);
        bytes.extend(12u16.to_ne_bytes());
        bytes.extend(8u16.to_ne_bytes());
        bytes.extend([1, 2]);
        let read: Vec<_> = attributes(&bytes).collect();
        assert_eq!(read, [(7, &[9u8][..])]);
    }

    #[test]
    fn length_below_the_header_ends_the_list() {
        assert_eq!(attributes(&[0, 0, 1, 0, 0, 0, 1, 0]).count(), 0);
    }

    #[test]
    fn text_ends_at_its_nul() {
        assert_eq!(text(b"veth\0"), "veth");
        assert_eq!(text(b"veth"), "veth");
    }
}
