use neli::{
    consts::rtnl::{Ifla, IflaInfo},
    rtnl::Ifinfomsg,
};

use super::{
    attrs::{Attrs, nested, text},
    error::{EncodeError, Operation, Result},
    link::{finish, header},
    socket::Socket,
};
use crate::spec::{IfName, MacAddr};

/// The kind of a bridge, and of its ports.
const BRIDGE: &str = "bridge";
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_LEARNING: u16 = 8;
const IFLA_BRPORT_UNICAST_FLOOD: u16 = 9;
const IFLA_BRPORT_MCAST_FLOOD: u16 = 27;
const IFLA_BRPORT_BCAST_FLOOD: u16 = 30;
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
    /// The Ethernet address. Without one the bridge takes the lowest of its ports', and changes it
    /// as they come and go.
    pub mac: Option<MacAddr>,
    /// The greatest packet in bytes; the kernel follows the ports' least MTU until
    /// [`Socket::set_mtu`] changes it.
    pub mtu: Option<u32>,
    /// It keeps account of who listens to which multicast group. The kernel's default is that it does.
    ///
    /// Without a querier on the bridge that is of no use, as all multicast goes to all ports then, and has its price: each
    /// port that comes up starts two timers of *every* port. One that does not has none of it.
    pub mcast_snooping: Option<bool>,
    /// Brought up at once.
    pub up: bool,
}

/// How a bridge treats one port. In a change, what is `None` stays as it is; of a link, it is what the kernel does not
/// know.
///
/// The names are those of [bridge(8)](https://man7.org/linux/man-pages/man8/bridge.8.html).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BridgePort {
    /// Frames may leave by the port that they came from: a pod reaches itself by its service's
    /// address.
    pub hairpin: Option<bool>,
    /// No frames to or from other isolated ports (Linux 4.18).
    pub isolated: Option<bool>,
    /// The bridge learns addresses from the frames that come in. A port without it needs an entry of its own
    /// ([`Socket::set_fdb`]) to be found.
    pub learning: Option<bool>,
    /// Unicast frames to addresses that the bridge does not know leave by this port too.
    pub flood: Option<bool>,
    /// Multicast frames that nobody has asked for leave by this port too; the neighbour discovery of IPv6 is among
    /// them (Linux 4.9).
    pub mcast_flood: Option<bool>,
    /// Broadcast frames leave by this port too; ARP requests are among them (Linux 4.12).
    pub bcast_flood: Option<bool>,
}

impl BridgeSpec {
    /// A bridge of this name with all else left to the kernel.
    #[must_use]
    pub const fn new(name: IfName) -> Self {
        Self { name, mac: None, mtu: None, mcast_snooping: None, up: false }
    }

    /// Pins the Ethernet address.
    #[must_use]
    pub const fn mac(mut self, mac: MacAddr) -> Self {
        self.mac = Some(mac);
        self
    }

    /// Sets the greatest packet in bytes.
    #[must_use]
    pub const fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// Sets whether it keeps account of listeners to multicast.
    #[must_use]
    pub const fn mcast_snooping(mut self, on: bool) -> Self {
        self.mcast_snooping = Some(on);
        self
    }

    /// Brings it up in the same message.
    #[must_use]
    pub const fn up(mut self) -> Self {
        self.up = true;
        self
    }

    fn message(&self) -> Result<Ifinfomsg, EncodeError> {
        let data = Attrs::new().put_some(IFLA_BR_MCAST_SNOOPING, self.mcast_snooping.map(u8::from))?;
        let info = Attrs::new().put(IflaInfo::Kind, BRIDGE)?.nest(IflaInfo::Data, data)?;
        let attrs = Attrs::new()
            .put(Ifla::Ifname, self.name.as_str())?
            .put_some(Ifla::Address, self.mac.map(MacAddr::octets))?
            .put_some(Ifla::Mtu, self.mtu)?
            .nest(Ifla::Linkinfo, info)?;
        let header = if self.up { header(0).up() } else { header(0) };
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

    /// Sets the flag for multicast frames that nobody has asked for.
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

    fn attrs(self) -> Result<Attrs<Ifla>, EncodeError> {
        let data = Attrs::new()
            .put_some(IFLA_BRPORT_MODE, self.hairpin.map(u8::from))?
            .put_some(IFLA_BRPORT_LEARNING, self.learning.map(u8::from))?
            .put_some(IFLA_BRPORT_UNICAST_FLOOD, self.flood.map(u8::from))?
            .put_some(IFLA_BRPORT_MCAST_FLOOD, self.mcast_flood.map(u8::from))?
            .put_some(IFLA_BRPORT_BCAST_FLOOD, self.bcast_flood.map(u8::from))?
            .put_some(IFLA_BRPORT_ISOLATED, self.isolated.map(u8::from))?;
        let info = Attrs::new().put(IflaInfo::SlaveKind, BRIDGE)?.nest(IflaInfo::SlaveData, data)?;
        Attrs::new().nest(Ifla::Linkinfo, info)
    }

    /// The flags in the link information of a port; none where it belongs to no bridge.
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
                IFLA_BRPORT_ISOLATED => port.isolated = on,
                _ => (),
            }
        }
        Some(port)
    }
}

impl Socket {
    /// Creates a bridge, by one message, and says its index.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`](super::Error::Exists) where a link has the name, of whatever kind: look at
    /// [`Link::kind`](super::Link::kind) before using it. [`Error::Kernel`](super::Error::Kernel)
    /// else: `EPERM` without `CAP_NET_ADMIN`, `EOPNOTSUPP` where the kernel has no bridges.
    pub fn create_bridge(&self, bridge: &BridgeSpec) -> Result<u32> {
        let operation = Operation::new("create bridge", &bridge.name);
        self.create_link(&operation, &bridge.name, bridge.message()).map(|link| link.index)
    }

    /// Sets how its bridge treats the port of this index, by one message. [`Link::bridge_port`](super::Link::bridge_port)
    /// shows it.
    ///
    /// The message that creates a link cannot carry it.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel): `EOPNOTSUPP` where the link is no port of a bridge,
    /// `EPERM` without `CAP_NET_ADMIN`.
    pub fn set_bridge_port(&self, index: u32, port: BridgePort) -> Result<()> {
        self.set(index, "set the bridge port flags of", port.attrs())
    }
}
