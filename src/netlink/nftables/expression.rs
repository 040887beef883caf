//! Rules as kernel expressions: they load data into a register, change it, and compare it.

use std::ops::RangeInclusive;

use ipnetwork::IpNetwork;
use sha2::{Digest, Sha256};

use super::{
    action::{Action, PortRandomization, Verdict},
    condition::{Field, Match},
    error::Invalid,
    message::{bytes, nest, number},
    protocol::Protocol,
    rule::{Part, Rule},
    table::Family,
    uapi::*,
    value::padded,
};
use crate::{
    netlink::{
        error::Result,
        operation::{EncodeError, Operation},
        wire::{Attrs, octets},
    },
    spec::MacAddr,
};

/// The expressions of a rule.
pub(super) struct Expressions {
    list: Attrs<u16>,
    /// The family of the table.
    table: Family,
    /// The family of all packets that reach the next expression.
    family: Family,
    /// The transport protocol of all packets that reach the next expression, if it is known.
    protocol: Option<Protocol>,
    /// Whether all packets that reach the next expression have an Ethernet header.
    is_ethernet: bool,
}

/// The result of a lookup.
#[derive(Clone, Copy)]
pub(super) enum Destination {
    /// The rule continues if the key is in the set.
    Test { is_negated: bool },
    /// The element's verdict is executed.
    Verdict,
    /// The element's value goes to the first register.
    Value,
}

/// A part of a packet header. Offset and length are in bytes.
#[derive(Clone, Copy)]
pub(super) struct HeaderField {
    base: u32,
    offset: u32,
    length: u32,
}

/// The addresses in an IP header.
#[derive(Clone, Copy)]
pub(super) struct Addresses {
    pub(super) source: HeaderField,
    pub(super) destination: HeaderField,
}

pub(super) const IPV4: Addresses = Addresses {
    source: HeaderField { base: NFT_PAYLOAD_NETWORK_HEADER, offset: 12, length: 4 },
    destination: HeaderField { base: NFT_PAYLOAD_NETWORK_HEADER, offset: 16, length: 4 },
};
pub(super) const IPV6: Addresses = Addresses {
    source: HeaderField { base: NFT_PAYLOAD_NETWORK_HEADER, offset: 8, length: 16 },
    destination: HeaderField { base: NFT_PAYLOAD_NETWORK_HEADER, offset: 24, length: 16 },
};
pub(super) const DESTINATION_MAC: HeaderField = HeaderField { base: NFT_PAYLOAD_LL_HEADER, offset: 0, length: 6 };
pub(super) const SOURCE_MAC: HeaderField = HeaderField { base: NFT_PAYLOAD_LL_HEADER, offset: 6, length: 6 };
pub(super) const SOURCE_PORT: HeaderField = HeaderField { base: NFT_PAYLOAD_TRANSPORT_HEADER, offset: 0, length: 2 };
pub(super) const DESTINATION_PORT: HeaderField =
    HeaderField { base: NFT_PAYLOAD_TRANSPORT_HEADER, offset: 2, length: 2 };

impl Rule {
    /// Sixteen hexadecimal digits, which differ between rules with different effects. In the
    /// comment, they identify the rule later, without a comparison of its kernel encoding, which
    /// depends on the version.
    ///
    /// # Errors
    ///
    /// [`Error::Message`](crate::netlink::Error::Message) if the conditions exceed the size of a
    /// message, or if a lookup does not fit its set.
    pub fn digest(&self) -> Result<String> {
        let operation = Operation::new("encode", "a rule");
        let expressions = self.expressions(Family::Inet).and_then(Expressions::into_bytes);
        let digest = Sha256::digest(expressions.map_err(|error| operation.malformed(error))?);
        Ok(digest.iter().take(8).map(|octet| format!("{octet:02x}")).collect())
    }

    pub(super) fn expressions(&self, table: Family) -> Result<Expressions, EncodeError> {
        let mut expressions = Expressions::new(table);
        for part in &self.parts {
            expressions = match part {
                Part::Match(condition) => expressions.condition(condition)?,
                Part::Expression(expression) => {
                    let list = nest(expressions.list, NFTA_LIST_ELEM, expression.attrs()?)?;
                    Expressions { list, ..expressions }
                }
            };
        }
        expressions.action(&self.action)
    }
}

impl Expressions {
    fn new(table: Family) -> Self {
        Self { list: Attrs::new(), table, family: table, protocol: None, is_ethernet: table == Family::Bridge }
    }

    fn condition(self, Match { field, is_negated }: &Match) -> Result<Self, EncodeError> {
        let operator = if *is_negated { NFT_CMP_NEQ } else { NFT_CMP_EQ };
        match field {
            Field::Source(prefix) => self.address(*prefix, |header| header.source, operator),
            Field::Destination(prefix) => self.address(*prefix, |header| header.destination, operator),
            Field::InputLink(name) => self.meta(NFT_META_IIFNAME, NFT_REG_1)?.compare(operator, &padded(name)),
            Field::OutputLink(name) => self.meta(NFT_META_OIFNAME, NFT_REG_1)?.compare(operator, &padded(name)),
            Field::SourceMac(mac) => self.mac(SOURCE_MAC, *mac, operator),
            Field::DestinationMac(mac) => self.mac(DESTINATION_MAC, *mac, operator),
            Field::Protocol(protocol) if *is_negated => {
                self.meta(NFT_META_L4PROTO, NFT_REG_1)?.compare(NFT_CMP_NEQ, &[protocol.0])
            }
            Field::Protocol(protocol) => self.only_protocol(*protocol),
            Field::SourcePorts(protocol, ports) => self.ports(*protocol, SOURCE_PORT, ports, operator),
            Field::DestinationPorts(protocol, ports) => self.ports(*protocol, DESTINATION_PORT, ports, operator),
            Field::SourceIsLocal => self.address_type(NFTA_FIB_F_SADDR, operator),
            Field::DestinationIsLocal => self.address_type(NFTA_FIB_F_DADDR, operator),
            Field::ConnectionState(states) => self.connection(NFT_CT_STATE, states.0, *is_negated),
            Field::ConnectionStatus(bits) => self.connection(NFT_CT_STATUS, bits.0, *is_negated),
            Field::Mark { value, mask } => {
                let loaded = self.meta(NFT_META_MARK, NFT_REG_1)?;
                let masked = if *mask == u32::MAX { loaded } else { loaded.bitwise(&mask.to_ne_bytes(), None)? };
                masked.compare(operator, &value.to_ne_bytes())
            }
            Field::Set(lookup) => self.lookup(lookup, Destination::Test { is_negated: *is_negated }),
        }
    }

    fn action(self, action: &Action) -> Result<Self, EncodeError> {
        match action {
            Action::Accept => self.verdict(&Verdict::Accept),
            Action::Drop => self.verdict(&Verdict::Drop),
            Action::Return => self.verdict(&Verdict::Return),
            Action::Continue => Ok(self),
            Action::Jump(chain) => self.verdict(&Verdict::Jump(chain.clone())),
            Action::Goto(chain) => self.verdict(&Verdict::Goto(chain.clone())),
            Action::Reject => self.reject(),
            Action::VerdictMap(lookup) => self.lookup(lookup, Destination::Verdict),
            Action::Masquerade(PortRandomization::Kept) => self.push("masq", Attrs::new()),
            Action::Masquerade(PortRandomization::Random) => self.masquerade(NF_NAT_RANGE_PROTO_RANDOM),
            Action::Masquerade(PortRandomization::FullyRandom) => self.masquerade(NF_NAT_RANGE_PROTO_RANDOM_FULLY),
            Action::Dnat { to, port } => self.translate(NFT_NAT_DNAT, *to, *port),
            Action::Snat { to, port } => self.translate(NFT_NAT_SNAT, *to, *port),
            Action::DnatMap(lookup) => self.translate_to_value(NFT_NAT_DNAT, lookup),
            Action::Redirect { port } => self.redirect(*port),
            Action::SetMark { value, mask } => self.set_mark(*value, *mask),
        }
    }

    pub(super) fn into_attrs(self) -> Attrs<u16> {
        self.list
    }

    fn into_bytes(self) -> Result<Vec<u8>, EncodeError> {
        bytes(self.list)
    }

    fn verdict(self, verdict: &Verdict) -> Result<Self, EncodeError> {
        let attrs = number(Attrs::new(), NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT)?;
        self.push("immediate", nest(attrs, NFTA_IMMEDIATE_DATA, verdict_attrs(verdict)?)?)
    }

    fn reject(self) -> Result<Self, EncodeError> {
        // Bridges and tables of both families have a code that the kernel translates.
        let (kind, code) = match self.table {
            Family::Ip => (NFT_REJECT_ICMP_UNREACH, ICMP_PORT_UNREACH),
            Family::Ip6 => (NFT_REJECT_ICMP_UNREACH, ICMPV6_PORT_UNREACH),
            Family::Inet | Family::Bridge => (NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_PORT_UNREACH),
        };
        self.push("reject", number(Attrs::new(), NFTA_REJECT_TYPE, kind)?.put(NFTA_REJECT_ICMP_CODE, code)?)
    }

    fn set_mark(self, value: u32, mask: u32) -> Result<Self, EncodeError> {
        let marked = if mask == u32::MAX {
            self.immediate(NFT_REG_1, &value.to_ne_bytes())?
        } else {
            let loaded = self.meta(NFT_META_MARK, NFT_REG_1)?;
            loaded.bitwise(&(!mask).to_ne_bytes(), Some(&(value & mask).to_ne_bytes()))?
        };
        let key = number(Attrs::new(), NFTA_META_KEY, NFT_META_MARK)?;
        marked.push("meta", number(key, NFTA_META_SREG, NFT_REG_1)?)
    }

    fn address(
        self,
        prefix: IpNetwork,
        field: impl FnOnce(Addresses) -> HeaderField,
        operator: u32,
    ) -> Result<Self, EncodeError> {
        let (family, header) = if prefix.is_ipv4() { (Family::Ip, IPV4) } else { (Family::Ip6, IPV6) };
        let loaded = self.only(family)?.payload(field(header), NFT_REG_1)?;
        let is_host = prefix.prefix() == if prefix.is_ipv4() { 32 } else { 128 };
        let masked = if is_host { loaded } else { loaded.bitwise(&octets(prefix.mask()), None)? };
        masked.compare(operator, &octets(prefix.network()))
    }

    fn mac(self, field: HeaderField, mac: MacAddr, operator: u32) -> Result<Self, EncodeError> {
        self.only_ethernet()?.payload(field, NFT_REG_1)?.compare(operator, &mac.octets())
    }

    fn ports(
        self,
        protocol: Protocol,
        field: HeaderField,
        ports: &RangeInclusive<u16>,
        operator: u32,
    ) -> Result<Self, EncodeError> {
        if ports.is_empty() {
            return Err(Invalid::Reversed.into());
        }
        let loaded = self.only_protocol(protocol)?.payload(field, NFT_REG_1)?;
        let [first, last] = [ports.start(), ports.end()].map(|port| port.to_be_bytes());
        if first == last {
            return loaded.compare(operator, &first);
        }
        let operator = if operator == NFT_CMP_NEQ { NFT_RANGE_NEQ } else { NFT_RANGE_EQ };
        let mut attrs = number(Attrs::new(), NFTA_RANGE_SREG, NFT_REG_1)?;
        attrs = number(attrs, NFTA_RANGE_OP, operator)?;
        attrs = nest(attrs, NFTA_RANGE_FROM_DATA, value(&first)?)?;
        loaded.push("range", nest(attrs, NFTA_RANGE_TO_DATA, value(&last)?)?)
    }

    /// Compares whether the routing table has an address as local.
    fn address_type(self, address: u32, operator: u32) -> Result<Self, EncodeError> {
        let mut attrs = number(Attrs::new(), NFTA_FIB_DREG, NFT_REG_1)?;
        attrs = number(attrs, NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE)?;
        let loaded = self.push("fib", number(attrs, NFTA_FIB_FLAGS, address)?)?;
        loaded.compare(operator, &u32::from(libc::RTN_LOCAL).to_ne_bytes())
    }

    /// Compares whether one of these bits is set.
    fn connection(self, key: u32, bits: u32, is_negated: bool) -> Result<Self, EncodeError> {
        let attrs = number(Attrs::new(), NFTA_CT_DREG, NFT_REG_1)?;
        let loaded = self.push("ct", number(attrs, NFTA_CT_KEY, key)?)?;
        let operator = if is_negated { NFT_CMP_EQ } else { NFT_CMP_NEQ };
        loaded.bitwise(&bits.to_ne_bytes(), None)?.compare(operator, &[0; 4])
    }

    /// Continues only for packets of this family.
    pub(super) fn only(self, family: Family) -> Result<Self, EncodeError> {
        if self.family == family {
            return Ok(self);
        }
        let mut only = if self.table == Family::Bridge {
            let protocol = if family == Family::Ip { libc::ETH_P_IP } else { libc::ETH_P_IPV6 };
            let [.., high, low] = protocol.to_be_bytes();
            self.meta(NFT_META_PROTOCOL, NFT_REG_1)?.compare(NFT_CMP_EQ, &[high, low])?
        } else {
            self.meta(NFT_META_NFPROTO, NFT_REG_1)?.compare(NFT_CMP_EQ, &[family.number()])?
        };
        only.family = family;
        Ok(only)
    }

    /// Continues only for packets of this transport protocol.
    fn only_protocol(self, protocol: Protocol) -> Result<Self, EncodeError> {
        if self.protocol == Some(protocol) {
            return Ok(self);
        }
        let mut only = self.meta(NFT_META_L4PROTO, NFT_REG_1)?.compare(NFT_CMP_EQ, &[protocol.0])?;
        only.protocol = Some(protocol);
        Ok(only)
    }

    /// Continues only for packets with an Ethernet header.
    pub(super) fn only_ethernet(self) -> Result<Self, EncodeError> {
        if self.is_ethernet {
            return Ok(self);
        }
        let ethernet = libc::ARPHRD_ETHER.to_ne_bytes();
        let mut only = self.meta(NFT_META_IIFTYPE, NFT_REG_1)?.compare(NFT_CMP_EQ, &ethernet)?;
        only.is_ethernet = true;
        Ok(only)
    }

    pub(super) const fn knows_protocol(&self) -> bool {
        self.protocol.is_some()
    }

    pub(super) fn meta(self, key: u32, register: u32) -> Result<Self, EncodeError> {
        let attrs = number(Attrs::new(), NFTA_META_DREG, register)?;
        self.push("meta", number(attrs, NFTA_META_KEY, key)?)
    }

    pub(super) fn payload(self, field: HeaderField, register: u32) -> Result<Self, EncodeError> {
        let mut attrs = number(Attrs::new(), NFTA_PAYLOAD_DREG, register)?;
        attrs = number(attrs, NFTA_PAYLOAD_BASE, field.base)?;
        attrs = number(attrs, NFTA_PAYLOAD_OFFSET, field.offset)?;
        self.push("payload", number(attrs, NFTA_PAYLOAD_LEN, field.length)?)
    }

    pub(super) fn immediate(self, register: u32, bytes: &[u8]) -> Result<Self, EncodeError> {
        let attrs = number(Attrs::new(), NFTA_IMMEDIATE_DREG, register)?;
        self.push("immediate", nest(attrs, NFTA_IMMEDIATE_DATA, value(bytes)?)?)
    }

    /// Keeps the bits of `mask`, then inverts the bits of `xor`.
    fn bitwise(self, mask: &[u8], xor: Option<&[u8]>) -> Result<Self, EncodeError> {
        // Masks are at most as long as an IPv6 address.
        let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
        let zero = vec![0; mask.len()];
        let mut attrs = number(Attrs::new(), NFTA_BITWISE_SREG, NFT_REG_1)?;
        attrs = number(attrs, NFTA_BITWISE_DREG, NFT_REG_1)?;
        attrs = number(attrs, NFTA_BITWISE_LEN, length)?;
        attrs = nest(attrs, NFTA_BITWISE_MASK, value(mask)?)?;
        self.push("bitwise", nest(attrs, NFTA_BITWISE_XOR, value(xor.unwrap_or(&zero))?)?)
    }

    fn compare(self, operator: u32, with: &[u8]) -> Result<Self, EncodeError> {
        let mut attrs = number(Attrs::new(), NFTA_CMP_SREG, NFT_REG_1)?;
        attrs = number(attrs, NFTA_CMP_OP, operator)?;
        self.push("cmp", nest(attrs, NFTA_CMP_DATA, value(with)?)?)
    }

    pub(super) fn push(self, name: &str, data: Attrs<u16>) -> Result<Self, EncodeError> {
        let expression = nest(Attrs::new().put(NFTA_EXPR_NAME, name)?, NFTA_EXPR_DATA, data)?;
        Ok(Self { list: nest(self.list, NFTA_LIST_ELEM, expression)?, ..self })
    }
}

/// A verdict as data of an expression or of an element.
pub(super) fn verdict_attrs(verdict: &Verdict) -> Result<Attrs<u16>, EncodeError> {
    let (code, chain) = match verdict {
        Verdict::Accept => (NF_ACCEPT, None),
        Verdict::Drop => (NF_DROP, None),
        Verdict::Return => (NFT_RETURN, None),
        Verdict::Continue => (NFT_CONTINUE, None),
        Verdict::Jump(chain) => (NFT_JUMP, Some(chain.name.as_str())),
        Verdict::Goto(chain) => (NFT_GOTO, Some(chain.name.as_str())),
    };
    let attrs = number(Attrs::new(), NFTA_VERDICT_CODE, code.cast_unsigned())?;
    nest(Attrs::new(), NFTA_DATA_VERDICT, attrs.put_some(NFTA_VERDICT_CHAIN, chain)?)
}

fn value(bytes: &[u8]) -> Result<Attrs<u16>, EncodeError> {
    Attrs::new().put(NFTA_DATA_VALUE, bytes)
}
