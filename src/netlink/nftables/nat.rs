//! The expressions that translate addresses.

use std::net::IpAddr;

use super::{
    error::Invalid,
    expression::{Destination, Expressions},
    message::number,
    set::{Data, Lookup},
    table::Family,
    uapi::*,
    value::DataType,
};
use crate::netlink::{
    error::Result,
    operation::EncodeError,
    wire::{Attrs, octets},
};

impl Expressions {
    pub(super) fn masquerade(self, flags: u32) -> Result<Self, EncodeError> {
        self.push("masq", number(Attrs::new(), NFTA_MASQ_FLAGS, flags)?)
    }

    pub(super) fn redirect(self, port: Option<u16>) -> Result<Self, EncodeError> {
        let Some(port) = port else {
            return self.push("redir", Attrs::new());
        };
        let loaded = self.immediate(NFT_REG_1, &port.to_be_bytes())?;
        loaded.push("redir", number(Attrs::new(), NFTA_REDIR_REG_PROTO_MIN, NFT_REG_1)?)
    }

    /// Translates the source or destination to an address.
    pub(super) fn translate(self, kind: u32, to: IpAddr, port: Option<u16>) -> Result<Self, EncodeError> {
        let family = if to.is_ipv4() { Family::Ip } else { Family::Ip6 };
        let loaded = self.immediate(NFT_REG_1, &octets(to))?;
        match port {
            Some(port) => loaded.immediate(NFT_REG_2, &port.to_be_bytes())?.nat(kind, family, Some(NFT_REG_2)),
            None => loaded.nat(kind, family, None),
        }
    }

    /// Translates the source or destination to the value in a map.
    pub(super) fn translate_to_value(self, kind: u32, lookup: &Lookup) -> Result<Self, EncodeError> {
        let types = match &lookup.set.data {
            Data::Values(types) => types.as_slice(),
            Data::None | Data::Verdict => &[],
        };
        let (address, has_port) = match types {
            [address] => (*address, false),
            [address, DataType::Port] => (*address, true),
            _ => return Err(Invalid::NotAddresses(lookup.set.to_string()).into()),
        };
        let family = match address {
            DataType::Ipv4 => Family::Ip,
            DataType::Ipv6 => Family::Ip6,
            _ => return Err(Invalid::NotAddresses(lookup.set.to_string()).into()),
        };
        let found = self.lookup(lookup, Destination::Value)?;
        found.nat(kind, family, has_port.then_some(NFT_REG32_00 + address.registers()))
    }

    /// Translates to the address in the first register, and the port in the register `port`.
    fn nat(self, kind: u32, family: Family, port: Option<u32>) -> Result<Self, EncodeError> {
        let mut attrs = number(Attrs::new(), NFTA_NAT_TYPE, kind)?;
        attrs = number(attrs, NFTA_NAT_FAMILY, u32::from(family.number()))?;
        attrs = number(attrs, NFTA_NAT_REG_ADDR_MIN, NFT_REG_1)?;
        if let Some(port) = port {
            attrs = number(attrs, NFTA_NAT_REG_PROTO_MIN, port)?;
        }
        self.push("nat", attrs)
    }
}
