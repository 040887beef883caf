use std::fmt::{self, Display};

use super::{
    error::Invalid,
    message::{nest, number},
    table::Table,
    uapi::*,
    value::{DataType, can_be_intervals, size, type_number},
};
use crate::netlink::{error::Result, operation::EncodeError, wire::Attrs};

/// A named set or map in a table. A rule can test whether fields of a packet are in it, and the
/// elements can change without a change of rules.
///
/// ```
/// use cnikit::netlink::nftables::{DataType, Family, Table};
///
/// let table = Table::new(Family::Inet, "my-plugin");
/// let blocked = table.set("blocked", [DataType::Ipv4]).intervals();
/// let hostports = table.map("hostports", [DataType::Protocol, DataType::Port], [DataType::Ipv4, DataType::Port]);
/// assert_eq!((blocked.to_string().as_str(), hostports.to_string().as_str()),
///     ("inet my-plugin blocked", "inet my-plugin hostports"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Set {
    pub(super) table: Table,
    pub(super) name: String,
    pub(super) keys: Vec<DataType>,
    pub(super) data: Data,
    pub(super) has_intervals: bool,
}

/// The values of a set's elements.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Data {
    None,
    Values(Vec<DataType>),
    Verdict,
}

/// A field of a packet, as a part of the key of a [`Lookup`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PacketField {
    /// The source address.
    Source,
    /// The destination address.
    Destination,
    /// The Ethernet source address.
    SourceMac,
    /// The Ethernet destination address.
    DestinationMac,
    /// The transport protocol.
    Protocol,
    /// The source port.
    SourcePort,
    /// The destination port.
    DestinationPort,
    /// The packet mark.
    Mark,
    /// The name of the link at which the packet arrived.
    InputLink,
    /// The name of the link through which the packet leaves.
    OutputLink,
}

/// The search for fields of the packet in a set or map. [`Set::lookup`] creates it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    pub(super) key: Vec<PacketField>,
    pub(super) set: Set,
}

impl Table {
    /// The set with this name, for concatenations of these types. The rules for names of tables
    /// apply.
    #[must_use]
    pub fn set(&self, name: impl Into<String>, keys: impl Into<Vec<DataType>>) -> Set {
        self.new_set(name.into(), keys.into(), Data::None)
    }

    /// The map with this name, from concatenations of `keys` to concatenations of `values`.
    #[must_use]
    pub fn map(
        &self,
        name: impl Into<String>,
        keys: impl Into<Vec<DataType>>,
        values: impl Into<Vec<DataType>>,
    ) -> Set {
        self.new_set(name.into(), keys.into(), Data::Values(values.into()))
    }

    /// The map with this name, from concatenations of these types to a
    /// [`Verdict`](super::Verdict).
    #[must_use]
    pub fn verdict_map(&self, name: impl Into<String>, keys: impl Into<Vec<DataType>>) -> Set {
        self.new_set(name.into(), keys.into(), Data::Verdict)
    }

    fn new_set(&self, name: String, keys: Vec<DataType>, data: Data) -> Set {
        Set { table: self.clone(), name, keys, data, has_intervals: false }
    }
}

impl Set {
    /// Permits prefixes and ranges as keys. Intervals of concatenations need Linux 5.6.
    #[must_use]
    pub const fn intervals(mut self) -> Self {
        self.has_intervals = true;
        self
    }

    /// The table of the set.
    #[must_use]
    pub fn table(&self) -> Table {
        self.table.clone()
    }

    /// The search for these fields of the packet. Each field must have the type of the set's key
    /// at its place.
    #[must_use]
    pub fn lookup(&self, key: impl Into<Vec<PacketField>>) -> Lookup {
        Lookup { key: key.into(), set: self.clone() }
    }

    /// Whether the kernel keeps both bounds of an interval in one element, not in two.
    pub(super) const fn has_ranges(&self) -> bool {
        self.has_intervals && self.keys.len() > 1
    }

    pub(super) fn name_attrs(&self) -> Result<Attrs<u16>, EncodeError> {
        Attrs::new().put(NFTA_SET_TABLE, self.table.name.as_str())?.put(NFTA_SET_NAME, self.name.as_str())
    }

    pub(super) fn attrs(&self) -> Result<Attrs<u16>, EncodeError> {
        // Rules find the set by its name, so all sets of a batch can have the same number.
        const ID: u32 = 1;
        if self.has_intervals && !can_be_intervals(&self.keys) {
            return Err(Invalid::Unordered(format!("{:?}", self.keys)).into());
        }
        let mut flags = 0;
        if self.has_intervals {
            flags |= NFT_SET_INTERVAL;
        }
        if self.has_ranges() {
            flags |= NFT_SET_CONCAT;
        }
        if self.data != Data::None {
            flags |= NFT_SET_MAP;
        }
        let mut attrs = number(self.name_attrs()?, NFTA_SET_FLAGS, flags)?;
        attrs = number(attrs, NFTA_SET_KEY_TYPE, type_number(&self.keys))?;
        attrs = number(attrs, NFTA_SET_KEY_LEN, length(size(&self.keys)))?;
        match &self.data {
            Data::None => (),
            Data::Values(types) => {
                attrs = number(attrs, NFTA_SET_DATA_TYPE, type_number(types))?;
                attrs = number(attrs, NFTA_SET_DATA_LEN, length(size(types)))?;
            }
            Data::Verdict => attrs = number(attrs, NFTA_SET_DATA_TYPE, NFT_DATA_VERDICT)?,
        }
        if self.has_ranges() {
            let mut fields = Attrs::new();
            for kind in &self.keys {
                let field = number(Attrs::new(), NFTA_SET_FIELD_LEN, length(kind.size()))?;
                fields = nest(fields, NFTA_LIST_ELEM, field)?;
            }
            attrs = nest(attrs, NFTA_SET_DESC, nest(Attrs::new(), NFTA_SET_DESC_CONCAT, fields)?)?;
        }
        number(attrs, NFTA_SET_ID, ID)?.put(NFTA_SET_USERDATA, &self.user_data()[..])
    }

    /// The byte orders in the format of nft(8), which needs them to show the elements.
    fn user_data(&self) -> Vec<u8> {
        let mut user_data = byte_order(NFTNL_UDATA_SET_KEYBYTEORDER, &self.keys);
        if let Data::Values(types) = &self.data {
            user_data.extend(byte_order(NFTNL_UDATA_SET_DATABYTEORDER, types));
        }
        user_data
    }
}

/// The byte order of values of these types: an attribute of user data.
fn byte_order(attribute: u8, types: &[DataType]) -> Vec<u8> {
    let order = match types {
        [DataType::Mark | DataType::Link] => BYTEORDER_HOST_ENDIAN,
        _ => BYTEORDER_BIG_ENDIAN,
    };
    let order = order.to_ne_bytes();
    [&[attribute, 4][..], &order].concat()
}

/// A size as an attribute has it. Keys are far shorter.
fn length(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

impl PacketField {
    /// Whether the field exists only for some transport protocols.
    pub(super) const fn is_port(self) -> bool {
        matches!(self, Self::SourcePort | Self::DestinationPort)
    }
}

impl Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.table, self.name)
    }
}
