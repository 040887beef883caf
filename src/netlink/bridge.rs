use neli::{
    consts::rtnl::{Ifla, IflaInfo},
    rtnl::Ifinfomsg,
};
use rustix::io::Errno;

use super::{
    attrs::{Attrs, nested, text},
    error::{EncodeError, Operation, Result},
    message::{finish, header},
    socket::Socket,
};
use crate::spec::{IfIndex, IfName, MacAddr};

/// The link kind of a bridge, and the slave kind of its ports.
const BRIDGE: &str = "bridge";
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BR_VLAN_DEFAULT_PVID: u16 = 39;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_GUARD: u16 = 5;
const IFLA_BRPORT_FAST_LEAVE: u16 = 7;
const IFLA_BRPORT_LEARNING: u16 = 8;
const IFLA_BRPORT_UNICAST_FLOOD: u16 = 9;
const IFLA_BRPORT_PROXYARP: u16 = 10;
const IFLA_BRPORT_MCAST_FLOOD: u16 = 27;
const IFLA_BRPORT_BCAST_FLOOD: u16 = 30;
const IFLA_BRPORT_NEIGH_SUPPRESS: u16 = 32;
const IFLA_BRPORT_ISOLATED: u16 = 33;

/// A bridge to be created.
///
/// ```
/// use cnikit::{netlink::BridgeSpec, spec::MacAddr};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let bridge = BridgeSpec::new("cbr0".parse()?)
///     .mac(MacAddr::new([0x02, 0, 0, 0, 0, 1]))
///     .mtu(1450)
///     .up();
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BridgeSpec {
    /// The name.
    pub name: IfName,
    /// The Ethernet address. Without one, the bridge uses the lowest address of its ports, and
    /// changes it when ports come and go.
    pub mac: Option<MacAddr>,
    /// The MTU in bytes. Until [`Socket::set_mtu`] changes it, the kernel follows the least MTU of
    /// the ports.
    pub mtu: Option<u32>,
    /// The bridge tracks the listeners of each multicast group (multicast snooping). The kernel's
    /// default is on.
    ///
    /// Without a querier on the bridge, snooping has no effect, because all multicast goes to all
    /// ports. It has a cost: each port that comes up starts two timers of *every* port. A bridge
    /// without snooping avoids that cost.
    pub mcast_snooping: Option<bool>,
    /// The bridge forwards a frame only between members of the frame's VLAN; see
    /// [`BridgeVlan`](super::BridgeVlan). The kernel's default is off.
    pub vlan_filtering: Option<bool>,
    /// The VLAN that each new port, and the bridge itself, becomes a member of, untagged and for
    /// untagged frames. 0 means no VLAN. The kernel's default is 1. It has an effect only with
    /// VLAN filtering.
    pub vlan_default_pvid: Option<u16>,
    /// The bridge comes up at once.
    pub up: bool,
}

/// The flags of one bridge port. In a change, `None` keeps the current value. In a
/// [`Link`](super::Link), `None` means that the kernel does not know the flag.
///
/// The names follow [bridge(8)](https://man7.org/linux/man-pages/man8/bridge.8.html).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BridgePort {
    /// Frames may leave through the port that they arrived at. A pod then reaches itself through
    /// the address of its service.
    pub hairpin: Option<bool>,
    /// No frames pass between this port and other isolated ports (Linux 4.18).
    pub isolated: Option<bool>,
    /// The bridge learns source addresses from frames that arrive at the port. A port without
    /// learning needs its own entry ([`Socket::set_fdb`]) to receive frames.
    pub learning: Option<bool>,
    /// Unicast frames to unknown addresses also leave through this port.
    pub flood: Option<bool>,
    /// Multicast frames without a listener also leave through this port. IPv6 neighbor discovery
    /// uses such frames (Linux 4.9).
    pub mcast_flood: Option<bool>,
    /// Broadcast frames also leave through this port, for example ARP requests (Linux 4.12).
    pub bcast_flood: Option<bool>,
    /// The bridge drops spanning tree frames that arrive at the port.
    pub guard: Option<bool>,
    /// The port leaves a multicast group as soon as it receives a leave message.
    pub fast_leave: Option<bool>,
    /// The bridge answers ARP requests of other ports for the neighbors of this port, from the
    /// host's neighbor table (Linux 3.19).
    pub proxy_arp: Option<bool>,
    /// The bridge answers ARP requests and neighbor solicitations for known neighbors, and does not
    /// forward such frames to this port (Linux 4.15).
    pub neigh_suppress: Option<bool>,
}

impl BridgeSpec {
    /// A bridge with this name. The kernel chooses all other values.
    #[must_use]
    pub const fn new(name: IfName) -> Self {
        Self {
            name,
            mac: None,
            mtu: None,
            mcast_snooping: None,
            vlan_filtering: None,
            vlan_default_pvid: None,
            up: false,
        }
    }

    /// Sets the Ethernet address, which then stays fixed.
    #[must_use]
    pub const fn mac(mut self, mac: MacAddr) -> Self {
        self.mac = Some(mac);
        self
    }

    /// Sets the MTU in bytes.
    #[must_use]
    pub const fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// Sets multicast snooping.
    #[must_use]
    pub const fn mcast_snooping(mut self, on: bool) -> Self {
        self.mcast_snooping = Some(on);
        self
    }

    /// Sets VLAN filtering.
    #[must_use]
    pub const fn vlan_filtering(mut self, on: bool) -> Self {
        self.vlan_filtering = Some(on);
        self
    }

    /// Sets the VLAN of each new port; 0 for none.
    #[must_use]
    pub const fn vlan_default_pvid(mut self, id: u16) -> Self {
        self.vlan_default_pvid = Some(id);
        self
    }

    /// Brings the bridge up in the same message.
    #[must_use]
    pub const fn up(mut self) -> Self {
        self.up = true;
        self
    }

    fn message(&self) -> Result<Ifinfomsg, EncodeError> {
        let data = Attrs::new()
            .put_some(IFLA_BR_VLAN_FILTERING, self.vlan_filtering.map(u8::from))?
            .put_some(IFLA_BR_MCAST_SNOOPING, self.mcast_snooping.map(u8::from))?
            .put_some(IFLA_BR_VLAN_DEFAULT_PVID, self.vlan_default_pvid)?;
        let info = Attrs::new().put(IflaInfo::Kind, BRIDGE)?.nest(IflaInfo::Data, data)?;
        let attrs = Attrs::new()
            .put(Ifla::Ifname, self.name.as_str())?
            .put_some(Ifla::Address, self.mac.map(MacAddr::octets))?
            .put_some(Ifla::Mtu, self.mtu)?
            .nest(Ifla::Linkinfo, info)?;
        let header = if self.up { header(None).up() } else { header(None) };
        finish(header.rtattrs(attrs.into_buffer()))
    }
}

impl BridgePort {
    /// Sets the hairpin flag.
    #[must_use]
    pub const fn hairpin(mut self, on: bool) -> Self {
        self.hairpin = Some(on);
        self
    }

    /// Sets the isolated flag.
    #[must_use]
    pub const fn isolated(mut self, on: bool) -> Self {
        self.isolated = Some(on);
        self
    }

    /// Sets the learning flag.
    #[must_use]
    pub const fn learning(mut self, on: bool) -> Self {
        self.learning = Some(on);
        self
    }

    /// Sets the flag for unicast frames to unknown addresses.
    #[must_use]
    pub const fn flood(mut self, on: bool) -> Self {
        self.flood = Some(on);
        self
    }

    /// Sets the flag for multicast frames without a listener.
    #[must_use]
    pub const fn mcast_flood(mut self, on: bool) -> Self {
        self.mcast_flood = Some(on);
        self
    }

    /// Sets the flag for broadcast frames.
    #[must_use]
    pub const fn bcast_flood(mut self, on: bool) -> Self {
        self.bcast_flood = Some(on);
        self
    }

    /// Sets the flag that drops spanning tree frames.
    #[must_use]
    pub const fn guard(mut self, on: bool) -> Self {
        self.guard = Some(on);
        self
    }

    /// Sets the flag for leaving multicast groups at once.
    #[must_use]
    pub const fn fast_leave(mut self, on: bool) -> Self {
        self.fast_leave = Some(on);
        self
    }

    /// Sets the flag for answers to ARP requests.
    #[must_use]
    pub const fn proxy_arp(mut self, on: bool) -> Self {
        self.proxy_arp = Some(on);
        self
    }

    /// Sets the flag that suppresses ARP and neighbor discovery.
    #[must_use]
    pub const fn neigh_suppress(mut self, on: bool) -> Self {
        self.neigh_suppress = Some(on);
        self
    }

    fn attrs(self) -> Result<Attrs<Ifla>, EncodeError> {
        let data = Attrs::new()
            .put_some(IFLA_BRPORT_MODE, self.hairpin.map(u8::from))?
            .put_some(IFLA_BRPORT_GUARD, self.guard.map(u8::from))?
            .put_some(IFLA_BRPORT_FAST_LEAVE, self.fast_leave.map(u8::from))?
            .put_some(IFLA_BRPORT_LEARNING, self.learning.map(u8::from))?
            .put_some(IFLA_BRPORT_UNICAST_FLOOD, self.flood.map(u8::from))?
            .put_some(IFLA_BRPORT_PROXYARP, self.proxy_arp.map(u8::from))?
            .put_some(IFLA_BRPORT_MCAST_FLOOD, self.mcast_flood.map(u8::from))?
            .put_some(IFLA_BRPORT_BCAST_FLOOD, self.bcast_flood.map(u8::from))?
            .put_some(IFLA_BRPORT_NEIGH_SUPPRESS, self.neigh_suppress.map(u8::from))?
            .put_some(IFLA_BRPORT_ISOLATED, self.isolated.map(u8::from))?;
        let info = Attrs::new().put(IflaInfo::SlaveKind, BRIDGE)?.nest(IflaInfo::SlaveData, data)?;
        Attrs::new().nest(Ifla::Linkinfo, info)
    }

    /// The flags in the link information of a port; `None` if the link is not a bridge port.
    pub(super) fn decode(linkinfo: &[u8]) -> Option<Self> {
        let find = |wanted: IflaInfo| {
            let wanted = u16::from(wanted);
            nested(linkinfo).find_map(|(kind, bytes)| (kind == wanted).then_some(bytes))
        };
        let data = find(IflaInfo::SlaveKind).filter(|kind| text(kind) == BRIDGE).and(find(IflaInfo::SlaveData))?;
        let mut port = Self::default();
        for (attr, value) in nested(data) {
            let on = value.first().map(|byte| *byte != 0);
            match attr {
                IFLA_BRPORT_MODE => port.hairpin = on,
                IFLA_BRPORT_LEARNING => port.learning = on,
                IFLA_BRPORT_UNICAST_FLOOD => port.flood = on,
                IFLA_BRPORT_MCAST_FLOOD => port.mcast_flood = on,
                IFLA_BRPORT_BCAST_FLOOD => port.bcast_flood = on,
                IFLA_BRPORT_GUARD => port.guard = on,
                IFLA_BRPORT_FAST_LEAVE => port.fast_leave = on,
                IFLA_BRPORT_PROXYARP => port.proxy_arp = on,
                IFLA_BRPORT_NEIGH_SUPPRESS => port.neigh_suppress = on,
                IFLA_BRPORT_ISOLATED => port.isolated = on,
                _ => (),
            }
        }
        Some(port)
    }
}

impl Socket {
    /// Creates a bridge with one message. Returns its index.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`](super::Error::Exists) if a link of any kind has the name: check
    /// [`Link::kind`](super::Link::kind) before you use that link.
    /// [`Error::Unsupported`](super::Error::Unsupported) for VLAN filtering, if the kernel does not
    /// support it. [`Error::Kernel`](super::Error::Kernel) otherwise: `EPERM` without
    /// `CAP_NET_ADMIN`, `EOPNOTSUPP` if the kernel does not support bridges, `EINVAL` for a default
    /// VLAN above 4094.
    pub fn create_bridge(&self, bridge: &BridgeSpec) -> Result<IfIndex> {
        let operation = Operation::new("create bridge", &bridge.name);
        match self.create_named_link(&operation, &bridge.name, bridge.message()) {
            Err(error) if bridge.vlan_filtering == Some(true) && error.is(Errno::OPNOTSUPP) => {
                Err(operation.unsupported("bridge with CONFIG_BRIDGE_VLAN_FILTERING"))
            }
            created => created.map(|link| link.index),
        }
    }

    /// Sets the bridge port flags of a link with one message.
    /// [`Link::bridge_port`](super::Link::bridge_port) returns the flags.
    ///
    /// The message that creates a link cannot carry these flags.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel): `EOPNOTSUPP` if the link is not a bridge port,
    /// `EPERM` without `CAP_NET_ADMIN`.
    pub fn set_bridge_port(&self, ifindex: IfIndex, port: BridgePort) -> Result<()> {
        self.set(ifindex, "set the bridge port flags of", port.attrs())
    }
}
