//! The expressions that search for fields of a packet in a set or map.

use super::{
    error::Invalid,
    expression::{DESTINATION_MAC, DESTINATION_PORT, Destination, Expressions, IPV4, IPV6, SOURCE_MAC, SOURCE_PORT},
    message::number,
    set::{Data, Lookup, PacketField},
    table::Family,
    uapi::*,
    value::DataType,
};
use crate::netlink::{error::Result, operation::EncodeError, wire::Attrs};

impl Expressions {
    pub(super) fn lookup(self, lookup: &Lookup, destination: Destination) -> Result<Self, EncodeError> {
        let Lookup { key, set } = lookup;
        if key.len() != set.keys.len() {
            return Err(Invalid::Count { wanted: set.keys.len(), found: key.len() }.into());
        }
        if key.iter().any(|field| field.is_port()) && !self.knows_protocol() && !key.contains(&PacketField::Protocol) {
            return Err(Invalid::NoProtocol.into());
        }
        let mut loaded = self;
        // A condition uses the first register, so all conditions come before the loads.
        for (field, kind) in key.iter().zip(&set.keys) {
            loaded = loaded.narrow(*field, *kind)?;
        }
        let mut register = NFT_REG32_00;
        for (field, kind) in key.iter().zip(&set.keys) {
            loaded = loaded.load(*field, *kind, register)?;
            register += kind.registers();
        }
        let attrs = number(Attrs::new().put(NFTA_LOOKUP_SET, set.name.as_str())?, NFTA_LOOKUP_SREG, NFT_REG_1)?;
        let attrs = match destination {
            Destination::Test { is_negated: false } => attrs,
            Destination::Test { is_negated: true } => number(attrs, NFTA_LOOKUP_FLAGS, NFT_LOOKUP_F_INV)?,
            Destination::Verdict if set.data == Data::Verdict => number(attrs, NFTA_LOOKUP_DREG, NFT_REG_VERDICT)?,
            Destination::Verdict => return Err(Invalid::NotVerdicts(set.to_string()).into()),
            Destination::Value => number(attrs, NFTA_LOOKUP_DREG, NFT_REG_1)?,
        };
        loaded.push("lookup", attrs)
    }

    /// Continues only for packets that have the field.
    fn narrow(self, field: PacketField, kind: DataType) -> Result<Self, EncodeError> {
        match (field, kind) {
            (PacketField::Source | PacketField::Destination, DataType::Ipv4) => self.only(Family::Ip),
            (PacketField::Source | PacketField::Destination, DataType::Ipv6) => self.only(Family::Ip6),
            (PacketField::SourceMac | PacketField::DestinationMac, DataType::Mac) => self.only_ethernet(),
            _ => Ok(self),
        }
    }

    fn load(self, field: PacketField, kind: DataType, register: u32) -> Result<Self, EncodeError> {
        match (field, kind) {
            (PacketField::Source, DataType::Ipv4) => self.payload(IPV4.source, register),
            (PacketField::Source, DataType::Ipv6) => self.payload(IPV6.source, register),
            (PacketField::Destination, DataType::Ipv4) => self.payload(IPV4.destination, register),
            (PacketField::Destination, DataType::Ipv6) => self.payload(IPV6.destination, register),
            (PacketField::SourceMac, DataType::Mac) => self.payload(SOURCE_MAC, register),
            (PacketField::DestinationMac, DataType::Mac) => self.payload(DESTINATION_MAC, register),
            (PacketField::SourcePort, DataType::Port) => self.payload(SOURCE_PORT, register),
            (PacketField::DestinationPort, DataType::Port) => self.payload(DESTINATION_PORT, register),
            (PacketField::Protocol, DataType::Protocol) => self.meta(NFT_META_L4PROTO, register),
            (PacketField::Mark, DataType::Mark) => self.meta(NFT_META_MARK, register),
            (PacketField::InputLink, DataType::Link) => self.meta(NFT_META_IIFNAME, register),
            (PacketField::OutputLink, DataType::Link) => self.meta(NFT_META_OIFNAME, register),
            _ => Err(Invalid::of_type(field, kind).into()),
        }
    }
}
