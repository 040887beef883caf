use neli::{
    consts::rtnl::{Ifla, IflaInfo},
    rtnl::Ifinfomsg,
};

use super::{
    attrs::Attrs,
    error::{Fault, Operation, Result},
    link::{finish, header},
    socket::Socket,
};
use crate::spec::{IfName, MacAddr};

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
    /// Brought up at once.
    pub up: bool,
}

/// How a bridge treats one port; what is `None` stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BridgePort {
    /// Frames may leave by the port that they came from: a pod reaches itself by its service's
    /// address.
    pub hairpin: Option<bool>,
    /// No frames to or from other isolated ports (Linux 4.18).
    pub isolated: Option<bool>,
    /// The bridge learns addresses from the frames that come in.
    pub learning: Option<bool>,
}

impl BridgeSpec {
    /// A bridge of this name with all else left to the kernel.
    #[must_use]
    pub const fn new(name: IfName) -> Self {
        Self { name, mac: None, mtu: None, up: false }
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

    /// Brings it up in the same message.
    #[must_use]
    pub const fn up(mut self) -> Self {
        self.up = true;
        self
    }

    fn message(&self) -> Result<Ifinfomsg, Fault> {
        let info = Attrs::new().put(IflaInfo::Kind, "bridge")?;
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

    fn attrs(self) -> Result<Attrs<Ifla>, Fault> {
        const IFLA_BRPORT_MODE: u16 = 4;
        const IFLA_BRPORT_LEARNING: u16 = 8;
        const IFLA_BRPORT_ISOLATED: u16 = 33;
        let data = Attrs::new()
            .put_some(IFLA_BRPORT_MODE, self.hairpin.map(u8::from))?
            .put_some(IFLA_BRPORT_LEARNING, self.learning.map(u8::from))?
            .put_some(IFLA_BRPORT_ISOLATED, self.isolated.map(u8::from))?;
        let info = Attrs::new().put(IflaInfo::SlaveKind, "bridge")?.nest(IflaInfo::SlaveData, data)?;
        Attrs::new().nest(Ifla::Linkinfo, info)
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

    /// Sets how its bridge treats the port of this index.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel): `EOPNOTSUPP` where the link is no port of a bridge,
    /// `EPERM` without `CAP_NET_ADMIN`.
    pub fn set_bridge_port(&self, index: u32, port: BridgePort) -> Result<()> {
        self.set(index, "set the bridge port flags of", port.attrs())
    }
}
