//! The flags of bridge ports.

use neli::consts::rtnl::{Ifla, IflaInfo};

use crate::netlink::{
    error::Result,
    operation::EncodeError,
    socket::Socket,
    wire::{Attrs, attribute, attributes, text},
};
use crate::spec::IfIndex;

/// The slave kind of bridge ports.
const BRIDGE: &str = "bridge";
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

/// The flags of one bridge port. In a change, `None` keeps the current value. In a
/// [`Link`](crate::netlink::Link), `None` means that the kernel does not know the flag.
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
        let kind = attribute(linkinfo, IflaInfo::SlaveKind);
        let data = kind.filter(|kind| text(kind) == BRIDGE).and(attribute(linkinfo, IflaInfo::SlaveData))?;
        let mut port = Self::default();
        for (attr, value) in attributes(data) {
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
    /// Sets the bridge port flags of a link with one message.
    /// [`Link::bridge_port`](crate::netlink::Link::bridge_port) returns the flags.
    ///
    /// The message that creates a link cannot carry these flags.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `EOPNOTSUPP` if the link is not a bridge
    /// port, `EPERM` without `CAP_NET_ADMIN`.
    pub fn set_bridge_port(&self, ifindex: IfIndex, port: BridgePort) -> Result<()> {
        self.set(ifindex, "set the bridge port flags of", port.attrs())
    }
}
