//! Rules as kernel expressions: they load data into a register, change it, and compare it.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use sha2::{Digest, Sha256};

use super::{
    message::{bytes, nest, number},
    rule::{Action, Field, Match, PortRandomization, Rule},
    table::Family,
    uapi::*,
};
use crate::{
    netlink::{
        address::octets,
        attrs::Attrs,
        error::{EncodeError, Operation, Result},
    },
    spec::IfName,
};

/// The size of an interface name in `oifname` and `iifname`, in bytes: the name, padded with zeros.
const IFNAMSIZ: usize = 16;

/// The expressions of a rule.
pub(super) struct Expressions {
    list: Attrs<u16>,
    /// The family of all packets that reach the next expression.
    family: Family,
}

/// The offsets of the addresses in an IP header, in bytes.
struct Addresses {
    source: u32,
    destination: u32,
    length: u32,
}

const IPV4: Addresses = Addresses { source: 12, destination: 16, length: 4 };
const IPV6: Addresses = Addresses { source: 8, destination: 24, length: 16 };

impl Rule {
    /// Sixteen hexadecimal digits, which differ between rules with different effects. In the
    /// comment, they identify the rule later, without a comparison of its kernel encoding, which
    /// depends on the version.
    ///
    /// # Errors
    ///
    /// [`Error::Message`](crate::netlink::Error::Message) if the conditions exceed the size of a
    /// message.
    pub fn digest(&self) -> Result<String> {
        let operation = Operation::new("encode", "a rule");
        let expressions = self.expressions(Family::Inet).and_then(Expressions::into_bytes);
        let digest = Sha256::digest(expressions.map_err(|error| operation.malformed(error))?);
        Ok(digest.iter().take(8).map(|octet| format!("{octet:02x}")).collect())
    }

    pub(super) fn expressions(&self, table: Family) -> Result<Expressions, EncodeError> {
        let mut expressions = Expressions::new(table);
        for condition in &self.matches {
            expressions = expressions.condition(condition)?;
        }
        expressions.action(self.action)
    }
}

impl Expressions {
    pub(super) fn new(table: Family) -> Self {
        Self { list: Attrs::new(), family: table }
    }

    pub(super) fn condition(self, Match { field, is_negated }: &Match) -> Result<Self, EncodeError> {
        let operator = if *is_negated { NFT_CMP_NEQ } else { NFT_CMP_EQ };
        match field {
            Field::Source(prefix) => self.address(*prefix, |header| header.source, operator),
            Field::Destination(prefix) => self.address(*prefix, |header| header.destination, operator),
            Field::InputLink(name) => self.meta(NFT_META_IIFNAME)?.compare(operator, &padded(name)),
            Field::OutputLink(name) => self.meta(NFT_META_OIFNAME)?.compare(operator, &padded(name)),
        }
    }

    pub(super) fn action(self, action: Action) -> Result<Self, EncodeError> {
        let (verdict, ports) = match action {
            Action::Accept => (NF_ACCEPT, None),
            Action::Drop => (NF_DROP, None),
            Action::Return => (NFT_RETURN, None),
            Action::Masquerade(ports) => (NF_ACCEPT, Some(ports)),
        };
        match ports {
            None => {
                let code = number(Attrs::new(), NFTA_VERDICT_CODE, verdict.cast_unsigned())?;
                let data = nest(Attrs::new(), NFTA_DATA_VERDICT, code)?;
                let attrs = number(Attrs::new(), NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT)?;
                self.push("immediate", nest(attrs, NFTA_IMMEDIATE_DATA, data)?)
            }
            Some(PortRandomization::Kept) => self.push("masq", Attrs::new()),
            Some(PortRandomization::Random) => self.masquerade(NF_NAT_RANGE_PROTO_RANDOM),
            Some(PortRandomization::FullyRandom) => self.masquerade(NF_NAT_RANGE_PROTO_RANDOM_FULLY),
        }
    }

    pub(super) fn into_attrs(self) -> Attrs<u16> {
        self.list
    }

    pub(super) fn into_bytes(self) -> Result<Vec<u8>, EncodeError> {
        bytes(self.list)
    }

    fn masquerade(self, flags: u32) -> Result<Self, EncodeError> {
        self.push("masq", number(Attrs::new(), NFTA_MASQ_FLAGS, flags)?)
    }

    fn address(
        self,
        prefix: IpNetwork,
        offset: impl FnOnce(&Addresses) -> u32,
        operator: u32,
    ) -> Result<Self, EncodeError> {
        let (family, header) = if prefix.is_ipv4() { (Family::Ip, IPV4) } else { (Family::Ip6, IPV6) };
        let loaded = self.only(family)?.payload(offset(&header), header.length)?;
        let is_host = prefix.prefix() == if prefix.is_ipv4() { 32 } else { 128 };
        let masked = if is_host { loaded } else { loaded.mask(prefix.mask())? };
        masked.compare(operator, &octets(prefix.network()))
    }

    /// Continues only for packets of this family.
    fn only(self, family: Family) -> Result<Self, EncodeError> {
        if self.family == family {
            return Ok(self);
        }
        let mut only = self.meta(NFT_META_NFPROTO)?.compare(NFT_CMP_EQ, &[family.number()])?;
        only.family = family;
        Ok(only)
    }

    fn meta(self, key: u32) -> Result<Self, EncodeError> {
        let attrs = number(Attrs::new(), NFTA_META_DREG, NFT_REG_1)?;
        self.push("meta", number(attrs, NFTA_META_KEY, key)?)
    }

    fn payload(self, offset: u32, length: u32) -> Result<Self, EncodeError> {
        let mut attrs = number(Attrs::new(), NFTA_PAYLOAD_DREG, NFT_REG_1)?;
        attrs = number(attrs, NFTA_PAYLOAD_BASE, NFT_PAYLOAD_NETWORK_HEADER)?;
        attrs = number(attrs, NFTA_PAYLOAD_OFFSET, offset)?;
        self.push("payload", number(attrs, NFTA_PAYLOAD_LEN, length)?)
    }

    fn mask(self, mask: IpAddr) -> Result<Self, EncodeError> {
        let mask = octets(mask);
        let length = if mask.len() == 4 { IPV4.length } else { IPV6.length };
        let mut attrs = number(Attrs::new(), NFTA_BITWISE_SREG, NFT_REG_1)?;
        attrs = number(attrs, NFTA_BITWISE_DREG, NFT_REG_1)?;
        attrs = number(attrs, NFTA_BITWISE_LEN, length)?;
        attrs = nest(attrs, NFTA_BITWISE_MASK, value(&mask)?)?;
        self.push("bitwise", nest(attrs, NFTA_BITWISE_XOR, value(&vec![0; mask.len()])?)?)
    }

    fn compare(self, operator: u32, with: &[u8]) -> Result<Self, EncodeError> {
        let mut attrs = number(Attrs::new(), NFTA_CMP_SREG, NFT_REG_1)?;
        attrs = number(attrs, NFTA_CMP_OP, operator)?;
        self.push("cmp", nest(attrs, NFTA_CMP_DATA, value(with)?)?)
    }

    fn push(self, name: &str, data: Attrs<u16>) -> Result<Self, EncodeError> {
        let expression = nest(Attrs::new().put(NFTA_EXPR_NAME, name)?, NFTA_EXPR_DATA, data)?;
        Ok(Self { list: nest(self.list, NFTA_LIST_ELEM, expression)?, ..self })
    }
}

fn value(bytes: &[u8]) -> Result<Attrs<u16>, EncodeError> {
    Attrs::new().put(NFTA_DATA_VALUE, bytes)
}

/// The name in the form that the kernel loads.
fn padded(name: &IfName) -> [u8; IFNAMSIZ] {
    let mut padded = [0; IFNAMSIZ];
    // A name is at least one byte shorter, because of the NUL.
    padded.iter_mut().zip(name.as_str().bytes()).for_each(|(to, from)| *to = from);
    padded
}
