//! The values in sets and maps, and their encoding.

use std::{net::IpAddr, ops::RangeInclusive};

use ipnetwork::IpNetwork;

use super::{error::Invalid, protocol::Protocol};
use crate::{
    netlink::wire::{ip_addr, octets, text},
    spec::{IfName, MacAddr},
};

/// The size of an interface name in the kernel, in bytes: the name, padded with zeros.
const IFNAMSIZ: usize = 16;

/// The kernel stores each part of a concatenation in a multiple of this, in bytes.
const REGISTER: usize = 4;

/// The type of a part of the keys or values of a [`Set`](super::Set), as in nft(8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DataType {
    /// An IPv4 address: `ipv4_addr`.
    Ipv4,
    /// An IPv6 address: `ipv6_addr`.
    Ipv6,
    /// An Ethernet address: `ether_addr`.
    Mac,
    /// A transport protocol: `inet_proto`.
    Protocol,
    /// A port: `inet_service`.
    Port,
    /// A packet mark: `mark`.
    Mark,
    /// The name of a link: `ifname`.
    Link,
}

/// A part of a key or value in a [`Set`](super::Set).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Value {
    /// An address.
    Address(IpAddr),
    /// The addresses of a prefix. Only in the keys of sets with
    /// [intervals](super::Set::intervals).
    Prefix(IpNetwork),
    /// A range of addresses. Only in the keys of sets with [intervals](super::Set::intervals).
    Addresses(RangeInclusive<IpAddr>),
    /// An Ethernet address.
    Mac(MacAddr),
    /// A transport protocol.
    Protocol(Protocol),
    /// A port.
    Port(u16),
    /// A range of ports. Only in the keys of sets with [intervals](super::Set::intervals).
    Ports(RangeInclusive<u16>),
    /// A packet mark.
    Mark(u32),
    /// The name of a link.
    Link(IfName),
}

/// The first and the last value of an interval, in the kernel's encoding.
pub(super) type Bounds = [Vec<u8>; 2];

impl DataType {
    /// The size in bytes.
    pub(super) const fn size(self) -> usize {
        match self {
            Self::Protocol => 1,
            Self::Port => 2,
            Self::Ipv4 | Self::Mark => 4,
            Self::Mac => 6,
            Self::Ipv6 | Self::Link => 16,
        }
    }

    /// The size in registers, in bytes.
    pub(super) const fn padded_size(self) -> usize {
        self.size().next_multiple_of(REGISTER)
    }

    /// The size in registers of 4 bytes.
    pub(super) const fn registers(self) -> u32 {
        match self {
            Self::Protocol | Self::Port | Self::Ipv4 | Self::Mark => 1,
            Self::Mac => 2,
            Self::Ipv6 | Self::Link => 4,
        }
    }

    /// The number of the type in nft(8). The kernel only stores it.
    const fn number(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Mac => 9,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Mark => 19,
            Self::Link => 41,
        }
    }

    /// Whether the bytes have the order of the numbers, which intervals need.
    const fn is_ordered(self) -> bool {
        !matches!(self, Self::Mark | Self::Link)
    }

    fn bounds(self, value: &Value) -> Result<Bounds, Invalid> {
        let one = |bytes: Vec<u8>| Ok([bytes.clone(), bytes]);
        match (self, value) {
            (Self::Ipv4 | Self::Ipv6, Value::Address(address)) if self.fits(*address) => one(octets(*address)),
            (Self::Ipv4 | Self::Ipv6, Value::Prefix(prefix)) if self.fits(prefix.ip()) => {
                Ok([octets(prefix.network()), octets(last(*prefix))])
            }
            (Self::Ipv4 | Self::Ipv6, Value::Addresses(range))
                if self.fits(*range.start()) && self.fits(*range.end()) =>
            {
                Ok([octets(*range.start()), octets(*range.end())])
            }
            (Self::Mac, Value::Mac(mac)) => one(mac.octets().to_vec()),
            (Self::Protocol, Value::Protocol(protocol)) => one(vec![protocol.0]),
            (Self::Port, Value::Port(port)) => one(port.to_be_bytes().to_vec()),
            (Self::Port, Value::Ports(ports)) => {
                Ok([ports.start().to_be_bytes().to_vec(), ports.end().to_be_bytes().to_vec()])
            }
            (Self::Mark, Value::Mark(mark)) => one(mark.to_ne_bytes().to_vec()),
            (Self::Link, Value::Link(name)) => one(padded(name).to_vec()),
            _ => Err(Invalid::of_type(value, self)),
        }
    }

    const fn fits(self, address: IpAddr) -> bool {
        matches!((self, address), (Self::Ipv4, IpAddr::V4(_)) | (Self::Ipv6, IpAddr::V6(_)))
    }

    /// The value between two bounds; `None` if the bytes are no value of this type.
    fn decode(self, first: &[u8], last: &[u8]) -> Option<Value> {
        let port = |bytes: &[u8]| bytes.try_into().map(u16::from_be_bytes).ok();
        let is_one = first == last;
        Some(match self {
            Self::Ipv4 | Self::Ipv6 => addresses(ip_addr(first)?, ip_addr(last)?),
            Self::Port if is_one => Value::Port(port(first)?),
            Self::Port => Value::Ports(port(first)?..=port(last)?),
            _ if !is_one => return None,
            Self::Mac => Value::Mac(MacAddr::new(first.try_into().ok()?)),
            Self::Protocol => Value::Protocol(Protocol(*first.first()?)),
            Self::Mark => Value::Mark(u32::from_ne_bytes(first.try_into().ok()?)),
            Self::Link => Value::Link(text(first).parse().ok()?),
        })
    }
}

/// The number of a concatenation in nft(8).
pub(super) fn type_number(types: &[DataType]) -> u32 {
    const BITS: u32 = 6;
    types.iter().fold(0, |number, kind| number << BITS | kind.number())
}

/// The size of a concatenation, in bytes. The kernel pads the parts of a concatenation only.
pub(super) fn size(types: &[DataType]) -> usize {
    match types {
        [one] => one.size(),
        several => several.iter().map(|kind| kind.padded_size()).sum(),
    }
}

/// Whether keys of these types can be intervals.
pub(super) fn can_be_intervals(types: &[DataType]) -> bool {
    types.len() > 1 || types.iter().all(|kind| kind.is_ordered())
}

/// The bounds of a concatenation of values.
pub(super) fn bounds(types: &[DataType], values: &[Value]) -> Result<Bounds, Invalid> {
    if types.len() != values.len() {
        return Err(Invalid::Count { wanted: types.len(), found: values.len() });
    }
    let mut bounds = Bounds::default();
    for (kind, value) in types.iter().zip(values) {
        let [first, last] = kind.bounds(value)?;
        if first > last && kind.is_ordered() {
            return Err(Invalid::Reversed);
        }
        for (all, part) in bounds.iter_mut().zip([first, last]) {
            all.extend(part);
            if types.len() > 1 {
                all.resize(all.len().next_multiple_of(REGISTER), 0);
            }
        }
    }
    Ok(bounds)
}

/// The values between two bounds; `None` if the bytes do not have these types.
pub(super) fn decode(types: &[DataType], [first, last]: [&[u8]; 2]) -> Option<Vec<Value>> {
    let mut offset = 0;
    let part = |kind: &DataType| {
        let at = offset..offset + kind.size();
        offset += kind.padded_size();
        kind.decode(first.get(at.clone())?, last.get(at)?)
    };
    types.iter().map(part).collect()
}

/// The name in the form that the kernel compares.
pub(super) fn padded(name: &IfName) -> [u8; IFNAMSIZ] {
    let mut padded = [0; IFNAMSIZ];
    // A name is at least one byte shorter, because of the NUL.
    padded.iter_mut().zip(name.as_str().bytes()).for_each(|(to, from)| *to = from);
    padded
}

/// The last address of the prefix.
fn last(prefix: IpNetwork) -> IpAddr {
    match prefix {
        IpNetwork::V4(prefix) => prefix.broadcast().into(),
        IpNetwork::V6(prefix) => prefix.broadcast().into(),
    }
}

/// The shortest form of a range of addresses.
fn addresses(from: IpAddr, to: IpAddr) -> Value {
    if from == to {
        return Value::Address(from);
    }
    let length = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (from.to_bits() ^ to.to_bits()).leading_zeros(),
        (IpAddr::V6(from), IpAddr::V6(to)) => (from.to_bits() ^ to.to_bits()).leading_zeros(),
        _ => 0,
    };
    let prefix = u8::try_from(length).ok().and_then(|length| IpNetwork::new(from, length).ok());
    match prefix.filter(|prefix| prefix.network() == from && last(*prefix) == to) {
        Some(prefix) => Value::Prefix(prefix),
        None => Value::Addresses(from..=to),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn prefix(text: &str) -> Value {
        Value::Prefix(text.parse().expect("a prefix"))
    }

    #[test]
    fn concatenations_are_padded() {
        let types = [DataType::Ipv4, DataType::Protocol, DataType::Port];
        let values = [Value::Address(address("10.0.0.1")), Value::Protocol(Protocol::UDP), Value::Port(0x1234)];
        let [first, last] = bounds(&types, &values).expect("values");
        assert_eq!(first, [10, 0, 0, 1, 17, 0, 0, 0, 0x12, 0x34, 0, 0]);
        assert_eq!(first, last);
        assert_eq!(size(&types), 12);
        assert_eq!(decode(&types, [&first, &last]), Some(values.to_vec()));
        assert_eq!(decode(&types, [&first[..9], &last]), None);
        assert_eq!(bounds(&[DataType::Port], &[Value::Port(1)]).expect("a port")[0], [0, 1]);
        // (7 << 12) | (12 << 6) | 13, the types of nft.
        assert_eq!(type_number(&types), 29453);
    }

    #[test]
    fn ranges_have_one_form() {
        for value in [
            prefix("10.1.0.0/16"),
            prefix("0.0.0.0/0"),
            Value::Addresses(address("10.0.0.1")..=address("10.0.0.2")),
            Value::Addresses(address("10.0.0.128")..=address("10.0.1.127")),
            Value::Address(address("10.0.0.1")),
        ] {
            let [first, last] = bounds(&[DataType::Ipv4], std::slice::from_ref(&value)).expect("a value");
            assert_eq!(decode(&[DataType::Ipv4], [&first, &last]), Some(vec![value]));
        }
        let [first, last] = bounds(&[DataType::Ipv6], &[prefix("fd00::7/8")]).expect("a prefix");
        assert_eq!(decode(&[DataType::Ipv6], [&first, &last]), Some(vec![prefix("fd00::/8")]));
        let [first, last] = bounds(&[DataType::Ipv4], &[prefix("10.0.0.3/32")]).expect("a prefix");
        assert_eq!(decode(&[DataType::Ipv4], [&first, &last]), Some(vec![Value::Address(address("10.0.0.3"))]));
    }

    #[test]
    fn values_of_another_type_are_refused() {
        let v6 = Value::Address(address("fd00::1"));
        bounds(&[DataType::Ipv4], std::slice::from_ref(&v6)).expect_err("IPv6");
        bounds(&[DataType::Port], &[Value::Protocol(Protocol::TCP)]).expect_err("a protocol");
        bounds(&[DataType::Ipv6, DataType::Port], &[v6]).expect_err("one part");
        bounds(&[DataType::Port], &[Value::Ports(RangeInclusive::new(2, 1))]).expect_err("no port is in it");
    }
}
