//! The kinds of links, each with the settings that only this kind has.

mod ipvlan;
mod macvlan;
mod other;
mod tap;
mod vlan;
mod vrf;
mod vxlan;

use neli::consts::rtnl::IflaInfo;

pub use ipvlan::{Ipvlan, IpvlanFlag, IpvlanMode};
pub use macvlan::{Macvlan, MacvlanMode};
pub use other::OtherKind;
pub use tap::Tap;
pub use vlan::{Vlan, VlanProtocol};
pub use vrf::Vrf;
pub use vxlan::Vxlan;

use crate::netlink::{error::Result, operation::EncodeError, wire::Attrs};
use crate::spec::IfIndex;

/// The kind of a link, with the settings of this kind.
///
/// [`LinkSpec`](crate::netlink::LinkSpec) takes it to create a link, and
/// [`Link::details`](crate::netlink::Link::details) returns it for a link that exists.
///
/// ```
/// use cnikit::netlink::{LinkKind, Vrf};
///
/// assert_eq!(LinkKind::from(Vrf::new(1001)), LinkKind::Vrf(Vrf::new(1001)));
/// assert_eq!(LinkKind::Dummy.name(), "dummy");
/// ```
///
/// See [ip-link(8)](https://man7.org/linux/man-pages/man8/ip-link.8.html).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LinkKind {
    /// A link that drops all packets. The kernel needs the module `dummy`.
    Dummy,
    /// A link that redirects its packets back to the link that they came from, for ingress shaping.
    /// The kernel needs the module `ifb`.
    Ifb,
    /// A link with its own MAC on a parent.
    Macvlan(Macvlan),
    /// A link with its own addresses and the MAC of its parent.
    Ipvlan(Ipvlan),
    /// The frames of a parent with one VLAN tag.
    Vlan(Vlan),
    /// An Ethernet network over UDP.
    Vxlan(Vxlan),
    /// A routing table that its ports use.
    Vrf(Vrf),
    /// A link that a program reads and writes, such as a virtual machine monitor.
    Tap(Tap),
    /// Any other kind.
    Other(OtherKind),
}

impl LinkKind {
    /// The kernel's name of the kind, such as `macvlan`. The kernel calls a tap `tun`.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Dummy => "dummy",
            Self::Ifb => "ifb",
            Self::Macvlan(_) => macvlan::KIND,
            Self::Ipvlan(_) => ipvlan::KIND,
            Self::Vlan(_) => vlan::KIND,
            Self::Vxlan(_) => vxlan::KIND,
            Self::Vrf(_) => vrf::KIND,
            Self::Tap(_) => tap::KIND,
            Self::Other(other) => &other.kind,
        }
    }

    /// The parent of the link: an index in the namespace of the parent.
    #[must_use]
    pub const fn parent(&self) -> Option<IfIndex> {
        match self {
            Self::Macvlan(macvlan) => Some(macvlan.parent),
            Self::Ipvlan(ipvlan) => Some(ipvlan.parent),
            Self::Vlan(vlan) => Some(vlan.parent),
            Self::Vxlan(vxlan) => vxlan.parent,
            Self::Other(other) => other.parent,
            Self::Dummy | Self::Ifb | Self::Vrf(_) | Self::Tap(_) => None,
        }
    }

    /// The kernel module that provides the kind.
    pub(super) fn module(&self) -> String {
        match self {
            Self::Vlan(_) => "8021q".to_owned(),
            Self::Other(other) => format!("rtnl-link-{}", other.kind),
            kind => kind.name().to_owned(),
        }
    }

    /// The parent in `IFLA_LINK`. A VXLAN has its parent among its own attributes.
    pub(super) fn link_parent(&self) -> Option<u32> {
        match self {
            Self::Vxlan(_) => None,
            kind => kind.parent().map(IfIndex::get),
        }
    }

    /// The content of `IFLA_LINKINFO`.
    pub(super) fn encode(&self) -> Result<Attrs<IflaInfo>, EncodeError> {
        let info = Attrs::new().put(IflaInfo::Kind, self.name())?;
        match self {
            Self::Macvlan(macvlan) => info.nest(IflaInfo::Data, macvlan.encode()?),
            Self::Ipvlan(ipvlan) => info.nest(IflaInfo::Data, ipvlan.encode()?),
            Self::Vlan(vlan) => info.nest(IflaInfo::Data, vlan.encode()?),
            Self::Vxlan(vxlan) => info.nest(IflaInfo::Data, vxlan.encode()?),
            Self::Vrf(vrf) => info.nest(IflaInfo::Data, vrf.encode()?),
            Self::Other(other) if !other.data.is_empty() => info.put(IflaInfo::Data, &other.data[..]),
            Self::Dummy | Self::Ifb | Self::Tap(_) | Self::Other(_) => Ok(info),
        }
    }

    /// Decodes `IFLA_INFO_DATA`. `parent` is `IFLA_LINK`. The kernel may omit it if the link and
    /// its parent have the same index in two namespaces.
    pub(super) fn decode(kind: &str, own: Option<IfIndex>, parent: Option<IfIndex>, data: &[u8]) -> Self {
        let lower = parent.or(own);
        let known = match kind {
            "dummy" => Some(Self::Dummy),
            "ifb" => Some(Self::Ifb),
            macvlan::KIND => lower.and_then(|parent| Macvlan::decode(parent, data)).map(Self::Macvlan),
            ipvlan::KIND => lower.and_then(|parent| Ipvlan::decode(parent, data)).map(Self::Ipvlan),
            vlan::KIND => lower.and_then(|parent| Vlan::decode(parent, data)).map(Self::Vlan),
            vxlan::KIND => Vxlan::decode(data).map(Self::Vxlan),
            vrf::KIND => Vrf::decode(data).map(Self::Vrf),
            tap::KIND => Tap::decode(data).map(Self::Tap),
            _ => None,
        };
        known.unwrap_or_else(|| Self::Other(OtherKind { kind: kind.to_owned(), parent, data: data.to_owned() }))
    }
}

macro_rules! kind_from {
    ($($kind:ident => $variant:ident),+ $(,)?) => {
        $(impl From<$kind> for LinkKind {
            fn from(kind: $kind) -> Self {
                Self::$variant(kind)
            }
        })+
    };
}

kind_from!(
    Macvlan => Macvlan,
    Ipvlan => Ipvlan,
    Vlan => Vlan,
    Vxlan => Vxlan,
    Vrf => Vrf,
    Tap => Tap,
    OtherKind => Other,
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::VlanId;

    fn attribute(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + payload.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn decode(kind: &str, parent: Option<u32>, data: &[u8]) -> LinkKind {
        LinkKind::decode(kind, IfIndex::new(3), parent.and_then(IfIndex::new), data)
    }

    #[test]
    fn parent_with_the_index_of_the_link_may_be_omitted() {
        // IFLA_VLAN_ID
        let id = attribute(1, &77_u16.to_ne_bytes());
        assert_eq!(decode("vlan", None, &id), Vlan::new(IfIndex::new(3).unwrap(), VlanId::new(77).unwrap()).into());
        assert_eq!(decode("vlan", Some(2), &id), Vlan::new(IfIndex::new(2).unwrap(), VlanId::new(77).unwrap()).into());
    }

    #[test]
    fn settings_that_are_not_known_keep_their_bytes() {
        let new_mode = attribute(1, &32_u32.to_ne_bytes());
        let qinq = [attribute(1, &77_u16.to_ne_bytes()), attribute(5, &0x9100_u16.to_be_bytes())].concat();
        let tun = attribute(3, &[1]);
        for (kind, data) in [
            ("macvlan", &new_mode),
            ("ipvlan", &attribute(1, &9_u16.to_ne_bytes())),
            ("vlan", &qinq),
            // Frames with a priority alone.
            ("vlan", &attribute(1, &0_u16.to_ne_bytes())),
            ("tun", &tun),
            ("vrf", &Vec::new()),
            ("vxlan", &attribute(1, &[7])),
            ("geneve", &attribute(1, &7_u32.to_ne_bytes())),
        ] {
            let parent = IfIndex::new(2);
            let expected = OtherKind { kind: kind.to_owned(), parent, data: data.clone() };
            assert_eq!(decode(kind, Some(2), data), LinkKind::Other(expected));
        }
    }
}
