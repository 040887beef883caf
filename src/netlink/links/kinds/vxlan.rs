//! Links of kind vxlan.

use std::net::IpAddr;

use crate::netlink::{
    error::Result,
    operation::EncodeError,
    wire::{Attrs, attributes, ifindex, ip_addr, number},
};
use crate::spec::IfIndex;

pub(super) const KIND: &str = "vxlan";
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_GROUP: u16 = 2;
const IFLA_VXLAN_LINK: u16 = 3;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_TTL: u16 = 5;
const IFLA_VXLAN_TOS: u16 = 6;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_AGEING: u16 = 8;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_GROUP6: u16 = 16;
const IFLA_VXLAN_LOCAL6: u16 = 17;
const IFLA_VXLAN_UDP_CSUM: u16 = 18;
const IFLA_VXLAN_COLLECT_METADATA: u16 = 25;

/// An Ethernet network over UDP ([RFC 7348](https://www.rfc-editor.org/rfc/rfc7348)).
///
/// ```
/// use cnikit::netlink::{LinkSpec, Vxlan};
/// use cnikit::spec::IfIndex;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let uplink = IfIndex::LOOPBACK;
/// let tunnel = Vxlan::new(7).parent(uplink).local("192.0.2.1".parse()?).learning(false);
/// let overlay = LinkSpec::new("vxlan7".parse()?, tunnel).mtu(1450);
/// # Ok(())
/// # }
/// ```
///
/// The packets between the hosts stay in the namespace of the socket that creates the link, also if
/// the link itself is in another namespace.
///
/// The kernel refuses a second link with the same VNI and port in one namespace (`EEXIST`). It
/// refuses a remote and a local address of different families (`EINVAL`). An
/// [external](Self::external) link needs a UDP port of its own. With another VXLAN on the same
/// port, only the first of both comes up (`EADDRINUSE`).
///
/// # Kernel
///
/// Linux 3.10, the module `vxlan` (`CONFIG_VXLAN`). An [external](Self::external) link needs Linux
/// 4.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Vxlan {
    /// The VXLAN network identifier, 24 bits; 0 if the link is [external](Self::external).
    pub vni: u32,
    /// The link that the packets between the hosts leave through. A multicast
    /// [remote](Self::remote) needs it.
    #[doc(alias = "IFLA_VXLAN_LINK")]
    pub parent: Option<IfIndex>,
    /// The source address of the packets between the hosts.
    pub local: Option<IpAddr>,
    /// The destination of frames without an entry in the forwarding table: another host, or a
    /// multicast group that the link joins on its [parent](Self::parent).
    #[doc(alias = "IFLA_VXLAN_GROUP")]
    pub remote: Option<IpAddr>,
    /// The UDP port of the receivers. [`Vxlan::new`] sets 4789, the port of RFC 7348. The kernel's
    /// own default is 8472.
    pub port: u16,
    /// The link learns the host of each source MAC. The kernel's default is on.
    pub learning: Option<bool>,
    /// The lifetime of learned entries, in seconds. The kernel's default is 300.
    pub ageing: Option<u32>,
    /// The TTL of the packets between the hosts. With 0, the default, the kernel uses 1 for a
    /// multicast remote and the default of routes otherwise.
    pub ttl: Option<u8>,
    /// The TOS of the packets between the hosts. The value 1 copies the TOS of the inner packet.
    pub tos: Option<u8>,
    /// The VNI and the addresses of each packet come from its metadata, which a route or a BPF
    /// program sets.
    #[doc(alias = "IFLA_VXLAN_COLLECT_METADATA")]
    pub external: bool,
    /// The UDP headers of packets over IPv4 have a checksum. The kernel's default is on. On an
    /// [external](Self::external) link, the metadata of each packet decides instead: see
    /// [`TunnelEncap::checksum`](crate::netlink::TunnelEncap::checksum).
    #[doc(alias = "IFLA_VXLAN_UDP_CSUM")]
    pub udp_checksum: Option<bool>,
}

impl Vxlan {
    /// The UDP port of RFC 7348.
    pub const PORT: u16 = 4789;

    /// A network with this VNI.
    #[must_use]
    pub const fn new(vni: u32) -> Self {
        Self {
            vni,
            parent: None,
            local: None,
            remote: None,
            port: Self::PORT,
            learning: None,
            ageing: None,
            ttl: None,
            tos: None,
            external: false,
            udp_checksum: None,
        }
    }

    /// A link that takes the VNI and the addresses from the metadata of each packet. Learning is
    /// off.
    #[must_use]
    pub const fn external() -> Self {
        Self { external: true, learning: Some(false), ..Self::new(0) }
    }

    /// Sets the link that the packets between the hosts leave through.
    #[must_use]
    pub const fn parent(mut self, parent: IfIndex) -> Self {
        self.parent = Some(parent);
        self
    }

    /// Sets the source address of the packets between the hosts.
    #[must_use]
    pub const fn local(mut self, address: IpAddr) -> Self {
        self.local = Some(address);
        self
    }

    /// Sets the destination of frames without an entry: a host or a multicast group.
    #[must_use]
    pub const fn remote(mut self, address: IpAddr) -> Self {
        self.remote = Some(address);
        self
    }

    /// Sets the UDP port of the receivers.
    #[must_use]
    pub const fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Sets whether the link learns the host of each source MAC.
    #[must_use]
    pub const fn learning(mut self, on: bool) -> Self {
        self.learning = Some(on);
        self
    }

    /// Sets the lifetime of learned entries, in seconds.
    #[must_use]
    pub const fn ageing(mut self, seconds: u32) -> Self {
        self.ageing = Some(seconds);
        self
    }

    /// Sets the TTL of the packets between the hosts.
    #[must_use]
    pub const fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sets the TOS of the packets between the hosts.
    #[must_use]
    pub const fn tos(mut self, tos: u8) -> Self {
        self.tos = Some(tos);
        self
    }

    /// Sets whether the UDP headers of packets over IPv4 have a checksum.
    #[must_use]
    pub const fn udp_checksum(mut self, on: bool) -> Self {
        self.udp_checksum = Some(on);
        self
    }

    pub(super) fn encode(self) -> Result<Attrs<u16>, EncodeError> {
        let data = Attrs::new()
            .put(IFLA_VXLAN_ID, self.vni)?
            .put_some(IFLA_VXLAN_LINK, self.parent.map(IfIndex::get))?
            .put(IFLA_VXLAN_PORT, self.port.to_be())?
            .put_some(IFLA_VXLAN_LEARNING, self.learning.map(u8::from))?
            .put_some(IFLA_VXLAN_AGEING, self.ageing)?
            .put_some(IFLA_VXLAN_TTL, self.ttl)?
            .put_some(IFLA_VXLAN_TOS, self.tos)?
            .put_some(IFLA_VXLAN_UDP_CSUM, self.udp_checksum.map(u8::from))?
            .put_some(IFLA_VXLAN_COLLECT_METADATA, self.external.then_some(1_u8))?;
        let data = put_address(data, IFLA_VXLAN_GROUP, IFLA_VXLAN_GROUP6, self.remote)?;
        put_address(data, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LOCAL6, self.local)
    }

    pub(super) fn decode(data: &[u8]) -> Option<Self> {
        let mut vxlan = Self::new(0);
        let mut vni = None;
        for (kind, bytes) in attributes(data) {
            let byte = bytes.first().copied();
            match kind {
                IFLA_VXLAN_ID => vni = number(bytes),
                IFLA_VXLAN_LINK => vxlan.parent = ifindex(bytes),
                IFLA_VXLAN_GROUP | IFLA_VXLAN_GROUP6 => vxlan.remote = ip_addr(bytes),
                IFLA_VXLAN_LOCAL | IFLA_VXLAN_LOCAL6 => vxlan.local = ip_addr(bytes),
                IFLA_VXLAN_PORT => vxlan.port = bytes.try_into().map(u16::from_be_bytes).ok()?,
                IFLA_VXLAN_LEARNING => vxlan.learning = byte.map(|on| on != 0),
                IFLA_VXLAN_AGEING => vxlan.ageing = number(bytes),
                IFLA_VXLAN_TTL => vxlan.ttl = byte,
                IFLA_VXLAN_TOS => vxlan.tos = byte,
                IFLA_VXLAN_UDP_CSUM => vxlan.udp_checksum = byte.map(|on| on != 0),
                IFLA_VXLAN_COLLECT_METADATA => vxlan.external = byte != Some(0),
                _ => (),
            }
        }
        Some(Self { vni: vni?, ..vxlan })
    }
}

fn put_address(data: Attrs<u16>, v4: u16, v6: u16, address: Option<IpAddr>) -> Result<Attrs<u16>, EncodeError> {
    match address {
        Some(IpAddr::V4(address)) => data.put(v4, address.octets()),
        Some(IpAddr::V6(address)) => data.put(v6, address.octets()),
        None => Ok(data),
    }
}
