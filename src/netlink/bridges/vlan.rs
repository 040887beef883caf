//! The VLANs of bridge ports.

use neli::{
    consts::{
        nl::NlmF,
        rtnl::{Ifla, RtAddrFamily, Rtm},
    },
    rtnl::{Ifinfomsg, IfinfomsgBuilder},
};
use rustix::io::Errno;

use super::AF_BRIDGE;
use crate::netlink::{
    error::Result,
    links::message::{finish, header},
    operation::{EncodeError, Operation},
    socket::Socket,
    wire::{Attrs, attributes, number},
};
use crate::spec::{IfIndex, VlanId};

const IFLA_BRIDGE_FLAGS: u16 = 0;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
const BRIDGE_FLAGS_SELF: u16 = 2;
const BRIDGE_VLAN_INFO_PVID: u16 = 1 << 1;
const BRIDGE_VLAN_INFO_UNTAGGED: u16 = 1 << 2;
const BRIDGE_VLAN_INFO_RANGE_BEGIN: u16 = 1 << 3;
const BRIDGE_VLAN_INFO_RANGE_END: u16 = 1 << 4;

/// A VLAN, or a range of VLANs, that a bridge port is a member of.
///
/// Membership has an effect on a bridge with
/// [`vlan_filtering`](crate::netlink::BridgeSpec::vlan_filtering). The bridge then forwards a frame
/// only between members of the frame's VLAN.
///
/// ```no_run
/// use cnikit::netlink::{BridgeVlan, Socket};
/// use cnikit::spec::{IfIndex, VlanId};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let (host, bridge, port) = (Socket::open()?, IfIndex::new(2).ok_or("2")?, IfIndex::new(3).ok_or("3")?);
/// let vlan = VlanId::try_from(100)?;
/// // An access port: the pod sends and receives untagged frames of VLAN 100.
/// host.delete_bridge_vlan(port, BridgeVlan::new(VlanId::MIN))?;
/// host.add_bridge_vlan(port, BridgeVlan::new(vlan).pvid().untagged())?;
/// // A trunk: the pod also sends and receives frames with the tags 200 to 299.
/// host.add_bridge_vlan(port, BridgeVlan::range(VlanId::try_from(200)?, VlanId::try_from(299)?))?;
/// // The host itself sends and receives frames of VLAN 100 through the bridge's own link.
/// host.add_bridge_vlan(bridge, BridgeVlan::new(vlan).on_bridge())?;
/// # Ok(())
/// # }
/// ```
///
/// See [bridge(8)](https://man7.org/linux/man-pages/man8/bridge.8.html), `bridge vlan`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct BridgeVlan {
    /// The least VLAN.
    pub first: VlanId,
    /// The greatest VLAN, equal to `first` for a single VLAN.
    pub last: VlanId,
    /// Untagged frames that arrive at the port belong to this VLAN. A port has at most one such
    /// VLAN: a new one takes the flag from the old one, which stays a member. A range cannot have
    /// the flag.
    pub pvid: bool,
    /// Frames of the VLAN leave through the port without a tag.
    pub untagged: bool,
    /// The link is the bridge itself, not a port.
    pub on_bridge: bool,
}

impl BridgeVlan {
    /// One VLAN, with tags.
    #[must_use]
    pub const fn new(id: VlanId) -> Self {
        Self::range(id, id)
    }

    /// The VLANs between two ids, inclusive, in either order, with tags.
    #[must_use]
    pub const fn range(one: VlanId, other: VlanId) -> Self {
        let (first, last) = if one.get() <= other.get() { (one, other) } else { (other, one) };
        Self { first, last, pvid: false, untagged: false, on_bridge: false }
    }

    /// Makes the VLAN the one of untagged frames that arrive at the port.
    #[must_use]
    pub const fn pvid(mut self) -> Self {
        self.pvid = true;
        self
    }

    /// Removes the tag from frames that leave through the port.
    #[must_use]
    pub const fn untagged(mut self) -> Self {
        self.untagged = true;
        self
    }

    /// Addresses the bridge itself: the host is then a member of the VLAN through the bridge's
    /// link.
    #[must_use]
    pub const fn on_bridge(mut self) -> Self {
        self.on_bridge = true;
        self
    }

    /// Whether the VLAN is in the range.
    #[must_use]
    pub const fn contains(self, id: VlanId) -> bool {
        self.first.get() <= id.get() && id.get() <= self.last.get()
    }

    fn message(self, ifindex: IfIndex) -> Result<Ifinfomsg, EncodeError> {
        let mut flags = 0;
        if self.pvid {
            flags |= BRIDGE_VLAN_INFO_PVID;
        }
        if self.untagged {
            flags |= BRIDGE_VLAN_INFO_UNTAGGED;
        }
        let vlans = Attrs::new().put_some(IFLA_BRIDGE_FLAGS, self.on_bridge.then_some(BRIDGE_FLAGS_SELF))?;
        let vlans = if self.first == self.last {
            vlans.put(IFLA_BRIDGE_VLAN_INFO, info(flags, self.first).as_slice())?
        } else {
            let (begin, end) = (flags | BRIDGE_VLAN_INFO_RANGE_BEGIN, flags | BRIDGE_VLAN_INFO_RANGE_END);
            vlans
                .put(IFLA_BRIDGE_VLAN_INFO, info(begin, self.first).as_slice())?
                .put(IFLA_BRIDGE_VLAN_INFO, info(end, self.last).as_slice())?
        };
        let attrs = Attrs::new().nest(Ifla::AfSpec, vlans)?;
        finish(of_bridge(ifindex).rtattrs(attrs.into_buffer()))
    }

    /// The VLANs in a message of the family `AF_BRIDGE`.
    pub(in crate::netlink) fn decode(message: &Ifinfomsg) -> Vec<Self> {
        let mut on_bridge = false;
        let mut vlans = Vec::new();
        let mut begin = None;
        for attr in message.rtattrs().iter() {
            let bytes: &[u8] = attr.rta_payload().as_ref();
            match attr.rta_type() {
                // A bridge is its own master in this family.
                Ifla::Master => on_bridge = number(bytes) == Some(message.ifi_index().cast_unsigned()),
                Ifla::AfSpec => {
                    let infos = attributes(bytes).filter(|(kind, _)| *kind == IFLA_BRIDGE_VLAN_INFO);
                    for (flags, id) in infos.filter_map(|(_, info)| read_info(info)) {
                        if flags & BRIDGE_VLAN_INFO_RANGE_BEGIN != 0 {
                            begin = Some(id);
                            continue;
                        }
                        let first = begin.take().unwrap_or(id);
                        let pvid = flags & BRIDGE_VLAN_INFO_PVID != 0;
                        let untagged = flags & BRIDGE_VLAN_INFO_UNTAGGED != 0;
                        vlans.push(Self { pvid, untagged, ..Self::range(first, id) });
                    }
                }
                _ => (),
            }
        }
        vlans.iter_mut().for_each(|vlan| vlan.on_bridge = on_bridge);
        vlans
    }
}

impl Socket {
    /// Makes a bridge port, or [the bridge itself](BridgeVlan::on_bridge), a member of a VLAN. For
    /// a member, sets its flags.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel):
    ///
    /// * `EOPNOTSUPP` if the link is not a bridge port (or not a bridge, with `on_bridge`), or if
    ///   the kernel does not support VLAN filtering.
    /// * `EINVAL` for a range with `pvid`.
    /// * `ENODEV` if the link is gone.
    /// * `EPERM` without `CAP_NET_ADMIN`.
    ///
    /// # Kernel
    ///
    /// Linux 4.0 with `CONFIG_BRIDGE_VLAN_FILTERING`.
    #[doc(alias = "RTM_SETLINK")]
    pub fn add_bridge_vlan(&self, ifindex: IfIndex, vlan: BridgeVlan) -> Result<()> {
        let operation = vlan_operation("add", ifindex, vlan);
        self.change(&operation, Rtm::Setlink, NlmF::empty(), vlan.message(ifindex))
    }

    /// Ends the membership in a VLAN; the flags of `vlan` have no effect. Succeeds if the link is
    /// no member, is absent, or is not a bridge port.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `EPERM` without `CAP_NET_ADMIN`.
    pub fn delete_bridge_vlan(&self, ifindex: IfIndex, vlan: BridgeVlan) -> Result<()> {
        let operation = vlan_operation("delete", ifindex, vlan);
        let members = BridgeVlan { pvid: false, untagged: false, ..vlan };
        self.delete(&operation, Rtm::Dellink, members.message(ifindex), &[Errno::NOENT, Errno::NODEV, Errno::OPNOTSUPP])
    }

    /// The VLANs of a bridge port, or of a bridge itself, in ascending order. Adjacent VLANs with
    /// the same flags are one range. Empty for any other link.
    ///
    /// # Errors
    ///
    /// As for [`Socket::links`].
    pub fn bridge_vlans(&self, ifindex: IfIndex) -> Result<Vec<BridgeVlan>> {
        const RTEXT_FILTER_BRVLAN_COMPRESSED: u32 = 1 << 2;
        let operation = Operation::on_link("list the VLANs of", ifindex);
        // The kernel accepts no index in this request.
        let request = || {
            let attrs = Attrs::new().put(Ifla::ExtMask, RTEXT_FILTER_BRVLAN_COMPRESSED)?;
            finish(of_bridge(None).rtattrs(attrs.into_buffer()))
        };
        let found: Vec<Ifinfomsg> = self.dump(&operation, Rtm::Getlink, request)?;
        let of_link = found.iter().filter(|message| message.ifi_index().cast_unsigned() == ifindex.get());
        Ok(of_link.flat_map(BridgeVlan::decode).collect())
    }
}

/// `struct bridge_vlan_info`.
fn info(flags: u16, id: VlanId) -> [u8; 4] {
    let ([a, b], [c, d]) = (flags.to_ne_bytes(), id.get().to_ne_bytes());
    [a, b, c, d]
}

fn read_info(info: &[u8]) -> Option<(u16, VlanId)> {
    let [a, b, c, d] = *info.first_chunk()?;
    Some((u16::from_ne_bytes([a, b]), VlanId::new(u16::from_ne_bytes([c, d]))?))
}

fn vlan_operation(verb: &'static str, ifindex: IfIndex, vlan: BridgeVlan) -> Operation {
    let BridgeVlan { first, last, .. } = vlan;
    match first == last {
        true => Operation::new(verb, format_args!("VLAN {first} of link {ifindex}")),
        false => Operation::new(verb, format_args!("VLANs {first} to {last} of link {ifindex}")),
    }
}

fn of_bridge(ifindex: impl Into<Option<IfIndex>>) -> IfinfomsgBuilder {
    header(ifindex).ifi_family(RtAddrFamily::from(AF_BRIDGE))
}
