//! Creation of bridges.

use neli::{
    consts::rtnl::{Ifla, IflaInfo},
    rtnl::Ifinfomsg,
};
use rustix::io::Errno;

use crate::netlink::{
    error::Result,
    links::message::{finish, header},
    operation::{EncodeError, Operation},
    socket::Socket,
    wire::Attrs,
};
use crate::spec::{IfIndex, IfName, MacAddr};

/// The kind of bridges.
const BRIDGE: &str = "bridge";
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BR_MCAST_SNOOPING: u16 = 23;
const IFLA_BR_VLAN_DEFAULT_PVID: u16 = 39;

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
    /// [`BridgeVlan`](crate::netlink::BridgeVlan). The kernel's default is off.
    pub vlan_filtering: Option<bool>,
    /// The VLAN that each new port, and the bridge itself, becomes a member of, untagged and for
    /// untagged frames. 0 means no VLAN. The kernel's default is 1. It has an effect only with
    /// VLAN filtering.
    pub vlan_default_pvid: Option<u16>,
    /// The bridge comes up at once.
    pub up: bool,
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

impl Socket {
    /// Creates a bridge with one message. Returns its index.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`](crate::netlink::Error::Exists) if a link of any kind has the name: check
    /// [`Link::kind`](crate::netlink::Link::kind) before you use that link.
    /// [`Error::Unsupported`](crate::netlink::Error::Unsupported) for VLAN filtering, if the kernel
    /// does not support it. [`Error::Kernel`](crate::netlink::Error::Kernel) otherwise: `EPERM`
    /// without `CAP_NET_ADMIN`, `EOPNOTSUPP` if the kernel does not support bridges, `EINVAL` for a
    /// default VLAN above 4094.
    pub fn create_bridge(&self, bridge: &BridgeSpec) -> Result<IfIndex> {
        let operation = Operation::new("create bridge", &bridge.name);
        match self.create_named_link(&operation, &bridge.name, bridge.message()) {
            Err(error) if bridge.vlan_filtering == Some(true) && error.is(Errno::OPNOTSUPP) => {
                Err(operation.unsupported("VLAN filtering of bridges (CONFIG_BRIDGE_VLAN_FILTERING)"))
            }
            created => created.map(|link| link.index),
        }
    }
}
