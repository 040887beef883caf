use neli::{
    consts::rtnl::{Ifla, IflaInfo},
    rtnl::Ifinfomsg,
};

use super::{
    attrs::{Attrs, nested, text},
    error::{EncodeError, Operation, Result},
    message::{finish, header},
    socket::Socket,
};
use crate::spec::{IfName, MacAddr};

/// The link kind of a bridge, and the slave kind of its ports.
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
}

impl BridgeSpec {
    /// A bridge with this name. The kernel chooses all other values.
    #[must_use]
    pub const fn new(name: IfName) -> Self {
        Self { name, mac: None, mtu: None, mcast_snooping: None, up: false }
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

    /// Brings the bridge up in the same message.
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
    /// [`Error::Kernel`](super::Error::Kernel) otherwise: `EPERM` without `CAP_NET_ADMIN`,
    /// `EOPNOTSUPP` if the kernel does not support bridges.
    pub fn create_bridge(&self, bridge: &BridgeSpec) -> Result<u32> {
        let operation = Operation::new("create bridge", &bridge.name);
        self.create_named_link(&operation, &bridge.name, bridge.message()).map(|link| link.index)
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
    pub fn set_bridge_port(&self, ifindex: u32, port: BridgePort) -> Result<()> {
        self.set(ifindex, "set the bridge port flags of", port.attrs())
    }
}
