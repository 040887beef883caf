//! Links as the kernel reports them, and their lookup.

use std::time::Duration;

use neli::{
    consts::{
        nl::NlmF,
        rtnl::{Ifla, IflaInfo, Rtm},
    },
    rtnl::Ifinfomsg,
};
use rustix::io::Errno;

use super::{ipv6, kinds::LinkKind, message::message, port::BridgePort};
use crate::netlink::{
    error::{Error, Result},
    operation::{EncodeError, Operation},
    socket::Socket,
    sysctls::Ipv6Conf,
    wire::{Attrs, attribute, ifindex, mac_addr, number, text},
};
use crate::poll::{Pauses, poll};
use crate::spec::{IfIndex, IfName, Interface, MacAddr};

/// neli has no name for this attribute.
const IFLA_XDP_DRV_PROG_ID: u16 = 5;

/// A network interface as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Link {
    /// The interface index, unique inside its namespace.
    pub index: IfIndex,
    /// The name.
    pub name: IfName,
    /// The driver's kind, such as `bridge` or `veth`; `None` for hardware and for loopback.
    pub kind: Option<String>,
    /// The Ethernet address; `None` if the link has no address of six bytes.
    pub mac: Option<MacAddr>,
    /// The MTU in bytes.
    pub mtu: u32,
    /// The length of the transmit queue, in packets.
    #[doc(alias = "IFLA_TXQLEN")]
    pub txqlen: u32,
    /// The link is administratively up (`IFF_UP`). The flag does not show the carrier.
    pub up: bool,
    /// The link can carry packets (`IFF_RUNNING`). A bridge then forwards through the port. A veth
    /// end is running only if both ends are up.
    pub running: bool,
    /// The link receives frames for all addresses, because [`Socket::set_promiscuous`] or another
    /// program set the flag (`IFF_PROMISC`). A packet capture does not set it.
    pub promiscuous: bool,
    /// The link receives frames for all multicast addresses (`IFF_ALLMULTI`), because
    /// [`Socket::set_allmulti`] or another program set the flag.
    pub allmulti: bool,
    /// The link resolves neighbors (no `IFF_NOARP`): see [`Socket::set_arp`].
    pub arp: bool,
    /// The encoded settings of the [kind](Self::kind). [`Link::details`] decodes them.
    #[doc(alias = "IFLA_INFO_DATA")]
    pub kind_data: Option<Vec<u8>>,
    /// The index of the bridge (or bond, or VRF) that the link is a port of.
    pub master: Option<IfIndex>,
    /// The bridge port flags, if the master is a bridge.
    pub bridge_port: Option<BridgePort>,
    /// The index of the lower link, or of the other end of a veth pair, in *its* namespace.
    #[doc(alias = "IFLA_LINK")]
    pub peer_index: Option<IfIndex>,
    /// The netnsid of the namespace of `peer_index`, if that is another namespace.
    #[doc(alias = "IFLA_LINK_NETNSID")]
    pub link_netnsid: Option<i32>,
    /// The text that [`Socket::set_alias`] sets.
    pub alias: Option<String>,
    /// The kernel's id of the XDP program in driver mode. A program in generic mode is not
    /// reported.
    #[doc(alias = "IFLA_XDP_DRV_PROG_ID")]
    pub driver_xdp: Option<u32>,
    ipv6: ipv6::Settings,
}

impl Socket {
    /// The link with this name, if it exists.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel) and socket errors.
    pub fn link_by_name(&self, name: &IfName) -> Result<Option<Link>> {
        let operation = Operation::new("look up link", name);
        self.link(&operation, || message(None, Attrs::new().put(Ifla::Ifname, name.as_str())?))
    }

    /// The link with this name, which must exist.
    ///
    /// # Errors
    ///
    /// [`Error::LinkMissing`] if the namespace has no such link. Its code is
    /// [`IO`](crate::spec::ErrorCode::IO). If the name comes from the configuration, replace the
    /// code by `INVALID_CONFIG`. Also [`Error::Kernel`] and socket errors.
    pub fn require_link(&self, name: &IfName) -> Result<Link> {
        self.link_by_name(name)?.ok_or_else(|| Error::LinkMissing { link: name.clone() })
    }

    /// The link with this index, if it exists.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel) and socket errors.
    pub fn link_by_index(&self, ifindex: IfIndex) -> Result<Option<Link>> {
        let operation = Operation::on_link("look up", ifindex);
        self.link(&operation, || message(ifindex, Attrs::new()))
    }

    /// The other end of a veth pair, even in another namespace; `None` if the end or its namespace
    /// is gone. The [`link_netnsid`](Link::link_netnsid) of the result is an id in that namespace,
    /// not in the socket's.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `EPERM` without `CAP_NET_ADMIN` over the
    /// other namespace. Also socket errors.
    ///
    /// # Kernel
    ///
    /// Linux 4.15, if the other end is in another namespace.
    pub fn peer(&self, link: &Link) -> Result<Option<Link>> {
        let Some(ifindex) = link.peer_index else { return Ok(None) };
        let operation = Operation::on_link("look up the other end of", link.index);
        let request = || message(ifindex, Attrs::new().put_some(Ifla::IfNetnsid, link.link_netnsid)?);
        match self.link(&operation, request) {
            // The id belongs to a namespace that no longer exists.
            Err(error) if link.link_netnsid.is_some() && error.is(Errno::INVAL) => Ok(None),
            found => found,
        }
    }

    /// All links of the namespace.
    ///
    /// A link is omitted if its name is not a valid [`IfName`] (not UTF-8).
    ///
    /// # Errors
    ///
    /// [`Error::DumpInterrupted`](crate::netlink::Error::DumpInterrupted) if the list changes
    /// during each read, [`Error::Kernel`](crate::netlink::Error::Kernel) and socket errors.
    pub fn links(&self) -> Result<Vec<Link>> {
        // Statistics would be most of the bytes that the kernel writes.
        const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
        let operation = Operation::new("list", "links");
        let request = || message(None, Attrs::new().put(Ifla::ExtMask, RTEXT_FILTER_SKIP_STATS)?);
        let found: Vec<Ifinfomsg> = self.dump(&operation, Rtm::Getlink, request)?;
        Ok(found.iter().filter_map(|link| Link::decode(link).ok()).collect())
    }

    /// Waits until a link can carry packets. Returns whether it could within `timeout`.
    ///
    /// The kernel updates the carrier of a link asynchronously, usually within a millisecond after
    /// the other end comes up. Until then, a bridge drops all frames that arrive at the port.
    ///
    /// # Errors
    ///
    /// As for [`Socket::link_by_index`]. For a link that is gone, the result is `false`.
    pub fn wait_running(&self, ifindex: IfIndex, timeout: Duration) -> Result<bool> {
        const PAUSES: Pauses = Pauses { first: Duration::from_micros(50), longest: Duration::from_millis(10) };
        let running = poll(timeout, PAUSES, || {
            Ok(match self.link_by_index(ifindex)? {
                Some(link) => link.running.then_some(true),
                None => Some(false),
            })
        })?;
        Ok(running.unwrap_or(false))
    }

    fn link(
        &self,
        operation: &Operation,
        request: impl FnOnce() -> Result<Ifinfomsg, EncodeError>,
    ) -> Result<Option<Link>> {
        let found: Ifinfomsg = match self.request(operation, Rtm::Getlink, NlmF::empty(), request()) {
            Err(error) if error.is(Errno::NODEV) => return Ok(None),
            found => found?.ok_or_else(|| operation.no_answer())?,
        };
        Link::decode(&found).map(Some).map_err(|error| operation.malformed(error))
    }
}

/// The interface of a result: name, MAC and MTU of the link.
///
/// ```no_run
/// use cnikit::netlink::Netns;
/// use cnikit::spec::Interface;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pod = "/run/netns/blue";
/// let link = Netns::open(pod)?.socket()?.require_link(&"eth0".parse()?)?;
/// let eth0 = Interface::from(&link).sandbox(pod);
/// # Ok(())
/// # }
/// ```
impl From<&Link> for Interface {
    fn from(link: &Link) -> Self {
        let mut interface = Self::new(&link.name).mtu(link.mtu);
        interface.mac = link.mac.map(|mac| mac.to_string());
        interface
    }
}

impl Link {
    /// The kind with its settings; `None` for hardware and for loopback.
    ///
    /// [`LinkKind::Other`] has the encoded settings of a kind without a variant, such as `bridge`
    /// and `veth`. A parent is an index in the namespace with the id
    /// [`link_netnsid`](Self::link_netnsid), or in the namespace of the link if that is `None`.
    ///
    /// The kernel fills in the settings that the creator left out. Compare fields, not whole
    /// values.
    ///
    /// ```no_run
    /// use cnikit::netlink::{LinkKind, MacvlanMode, Socket};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let link = Socket::open()?.link_by_name(&"eth0".parse()?)?.ok_or("eth0 is missing")?;
    /// match link.details() {
    ///     Some(LinkKind::Macvlan(macvlan)) if macvlan.mode == MacvlanMode::Bridge => {}
    ///     other => return Err(format!("eth0 is not a macvlan in bridge mode: {other:?}").into()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn details(&self) -> Option<LinkKind> {
        let (own, parent) = (Some(self.index), self.peer_index);
        let data = self.kind_data.as_deref().unwrap_or_default();
        self.kind.as_deref().map(|kind| LinkKind::decode(kind, own, parent, data))
    }

    /// An IPv6 setting at the time of the dump; `None` if the link has no IPv6.
    ///
    /// The kernel sends all settings with the link. To [read](crate::netlink::Sysctl::read) one
    /// setting costs three system calls, and 0.1 ms on a host with a thousand namespaces.
    #[doc(alias = "IFLA_INET6_CONF")]
    #[must_use]
    pub fn ipv6_conf(&self, setting: Ipv6Conf) -> Option<i32> {
        self.ipv6.value(setting)
    }

    pub(in crate::netlink) fn decode(message: &Ifinfomsg) -> Result<Self, EncodeError> {
        const UP: u32 = 1;
        const RUNNING: u32 = 1 << 6;
        const NOARP: u32 = 1 << 7;
        const PROMISC: u32 = 1 << 8;
        const ALLMULTI: u32 = 1 << 9;
        let flags = u32::from(*message.ifi_flags());
        let mut name = String::new();
        let mut kind = None;
        let mut mac = None;
        let mut mtu = 0;
        let mut txqlen = 0;
        let mut kind_data = None;
        let mut master = None;
        let mut bridge_port = None;
        let mut peer_index = None;
        let mut link_netnsid = None;
        let mut alias = None;
        let mut driver_xdp = None;
        let mut ipv6 = ipv6::Settings::default();
        for attr in message.rtattrs().iter() {
            let bytes: &[u8] = attr.rta_payload().as_ref();
            match attr.rta_type() {
                Ifla::Ifname => name = text(bytes),
                Ifla::Linkinfo => {
                    kind = attribute(bytes, IflaInfo::Kind).map(text);
                    kind_data = attribute(bytes, IflaInfo::Data).map(<[u8]>::to_vec);
                    bridge_port = BridgePort::decode(bytes);
                }
                Ifla::Address => mac = mac_addr(bytes),
                Ifla::Mtu => mtu = number(bytes).unwrap_or_default(),
                Ifla::Txqlen => txqlen = number(bytes).unwrap_or_default(),
                Ifla::Master => master = ifindex(bytes),
                Ifla::Link => peer_index = ifindex(bytes),
                Ifla::LinkNetnsid => link_netnsid = number(bytes).map(u32::cast_signed),
                Ifla::Xdp => driver_xdp = attribute(bytes, IFLA_XDP_DRV_PROG_ID).and_then(number),
                Ifla::Ifalias => alias = Some(text(bytes)),
                Ifla::AfSpec => ipv6 = ipv6::Settings::decode(bytes),
                _ => (),
            }
        }
        Ok(Self {
            index: message.ifi_index().cast_unsigned().try_into().map_err(EncodeError::new)?,
            name: name.parse().map_err(EncodeError::new)?,
            kind,
            mac,
            mtu,
            txqlen,
            up: flags & UP != 0,
            running: flags & RUNNING != 0,
            promiscuous: flags & PROMISC != 0,
            allmulti: flags & ALLMULTI != 0,
            arp: flags & NOARP == 0,
            kind_data,
            master,
            bridge_port,
            peer_index,
            link_netnsid,
            alias,
            driver_xdp,
            ipv6,
        })
    }
}
