use std::{
    thread,
    time::{Duration, Instant},
};

use neli::{
    consts::{
        nl::NlmF,
        rtnl::{Ifla, IflaInfo, RtAddrFamily, Rtm},
    },
    rtnl::{Ifinfomsg, IfinfomsgBuilder},
};
use rustix::io::Errno;

use super::{
    attrs::{Attrs, nested, number, text},
    bridge::BridgePort,
    error::{EncodeError, Operation, Result},
    ipv6::{self, Ipv6Conf},
    socket::Socket,
};
use crate::spec::{IfName, MacAddr};

/// Which neli does not name.
const IFLA_XDP_DRV_PROG_ID: u16 = 5;

/// The index of the loopback link: the kernel makes it the first link of every namespace.
pub const LOOPBACK_INDEX: u32 = 1;

/// A network interface as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Link {
    /// The number by which the kernel knows it inside its namespace.
    pub index: u32,
    /// The name.
    pub name: IfName,
    /// The driver's kind, such as `bridge` or `veth`; none for hardware and for loopback.
    pub kind: Option<String>,
    /// The Ethernet address; none where the link has none of six bytes.
    pub mac: Option<MacAddr>,
    /// The greatest packet in bytes.
    pub mtu: u32,
    /// It is administratively up (`IFF_UP`); that says nothing of its carrier.
    pub up: bool,
    /// It can carry packets (`IFF_RUNNING`). A bridge serves a port from then on; of a veth pair, both ends must be up.
    pub running: bool,
    /// The index of the bridge (or bond, or VRF) that it is a port of.
    pub master: Option<u32>,
    /// How the bridge treats it, where its master is one.
    pub bridge_port: Option<BridgePort>,
    /// The index of the link beneath, or of the other end of a veth pair, in *its* namespace.
    #[doc(alias = "IFLA_LINK")]
    pub peer_index: Option<u32>,
    /// This namespace's number for the namespace of `peer_index`, where that is another one.
    #[doc(alias = "IFLA_LINK_NETNSID")]
    pub link_netnsid: Option<i32>,
    /// The free text that [`Socket::set_alias`] puts there.
    pub alias: Option<String>,
    /// The kernel's id of the XDP program in driver mode. A program in generic mode is not in here.
    #[doc(alias = "IFLA_XDP_DRV_PROG_ID")]
    pub driver_xdp: Option<u32>,
    ipv6: ipv6::Settings,
}

impl Socket {
    /// The link of this name, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel) and those of the socket.
    pub fn link_by_name(&self, name: &IfName) -> Result<Option<Link>> {
        let operation = Operation::new("look up link", name);
        self.link(&operation, || message(0, Attrs::new().put(Ifla::Ifname, name.as_str())?))
    }

    /// The link of this index, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel) and those of the socket.
    pub fn link_by_index(&self, index: u32) -> Result<Option<Link>> {
        let operation = Operation::on_link("look up", index);
        self.link(&operation, || message(index, Attrs::new()))
    }

    /// The other end of a veth pair, also if it is in another namespace; `None` if it, or its namespace, is gone.
    /// A [`link_netnsid`](Link::link_netnsid) in the answer is a number of that namespace, not of the socket's.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel): `EPERM` without `CAP_NET_ADMIN` over the other namespace; and those of the
    /// socket.
    ///
    /// # Kernel
    ///
    /// Linux 4.15, if the other end is in another namespace.
    pub fn peer(&self, link: &Link) -> Result<Option<Link>> {
        let Some(index) = link.peer_index else { return Ok(None) };
        let operation = Operation::on_link("look up the other end of", link.index);
        let request = || message(index, Attrs::new().put_some(Ifla::IfNetnsid, link.link_netnsid)?);
        match self.link(&operation, request) {
            // The number of a namespace that has ended.
            Err(error) if link.link_netnsid.is_some() && error.is(Errno::INVAL) => Ok(None),
            found => found,
        }
    }

    /// All links of the namespace.
    ///
    /// A link whose name is no valid [`IfName`] (not UTF-8) is left out.
    ///
    /// # Errors
    ///
    /// [`Error::DumpInterrupted`](super::Error::DumpInterrupted) where links come and go too fast to be listed,
    /// [`Error::Kernel`](super::Error::Kernel) and those of the socket.
    pub fn links(&self) -> Result<Vec<Link>> {
        // Statistics would be most of what the kernel writes.
        const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
        let operation = Operation::new("list", "links");
        let request = || message(0, Attrs::new().put(Ifla::ExtMask, RTEXT_FILTER_SKIP_STATS)?);
        let found: Vec<Ifinfomsg> = self.dump(&operation, Rtm::Getlink, request)?;
        Ok(found.iter().filter_map(|link| Link::decode(link).ok()).collect())
    }

    /// Brings a link up.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel): `ENODEV` where it is gone, `EPERM` without
    /// `CAP_NET_ADMIN`.
    pub fn set_up(&self, index: u32) -> Result<()> {
        let operation = Operation::on_link("bring up", index);
        let request = finish(header(index).up());
        self.change(&operation, Rtm::Newlink, NlmF::empty(), request)
    }

    /// Waits until a link can carry packets, and tells whether that came to be within `timeout`.
    ///
    /// The kernel notes the carrier of a link by a work of its own, most often within a millisecond of the other end's
    /// coming up. Until it has, a bridge drops all that comes in by the port.
    ///
    /// # Errors
    ///
    /// Those of [`Socket::link_by_index`]. A link that is gone carries nothing.
    pub fn wait_running(&self, index: u32, timeout: Duration) -> Result<bool> {
        const FIRST_PAUSE: Duration = Duration::from_micros(50);
        const LONGEST_PAUSE: Duration = Duration::from_millis(10);
        let start = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            match self.link_by_index(index)? {
                None => return Ok(false),
                Some(link) if link.running => return Ok(true),
                Some(_) if start.elapsed() >= timeout => return Ok(false),
                Some(_) => thread::sleep(pause),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Takes a link down. Its IPv6 addresses and its routes go with it.
    ///
    /// # Errors
    ///
    /// As for [`Socket::set_up`].
    pub fn set_down(&self, index: u32) -> Result<()> {
        let operation = Operation::on_link("take down", index);
        let request = finish(header(index).down());
        self.change(&operation, Rtm::Newlink, NlmF::empty(), request)
    }

    /// Gives a link another Ethernet address.
    ///
    /// # Errors
    ///
    /// As for [`Socket::set_up`]; `EADDRNOTAVAIL` for an address that is no unicast one.
    pub fn set_mac(&self, index: u32, mac: MacAddr) -> Result<()> {
        self.set(index, "set the address of", Attrs::new().put(Ifla::Address, mac.octets()))
    }

    /// Makes a link a port of the bridge (or bond, or VRF) with the index `master`.
    ///
    /// # Errors
    ///
    /// As for [`Socket::set_up`]; `EXFULL` where a bridge has its 1,023 ports.
    #[doc(alias = "IFLA_MASTER")]
    pub fn set_master(&self, index: u32, master: u32) -> Result<()> {
        self.set(index, "set the master of", Attrs::new().put(Ifla::Master, master))
    }

    /// Sets the greatest packet in bytes.
    ///
    /// On a bridge a changed value also stays: until then it follows the least MTU among the ports.
    ///
    /// # Errors
    ///
    /// As for [`Socket::set_up`]; `EINVAL` where the driver does not support the value.
    pub fn set_mtu(&self, index: u32, mtu: u32) -> Result<()> {
        self.set(index, "set the MTU of", Attrs::new().put(Ifla::Mtu, mtu))
    }

    /// Sets the free text that `ip link` shows as `alias`; up to 255 bytes, empty takes it away.
    ///
    /// The kernel ignores an alias in the message that creates a link, so it takes one of its own.
    ///
    /// # Errors
    ///
    /// As for [`Socket::set_up`]; `ERANGE` where it is too long.
    pub fn set_alias(&self, index: u32, alias: &str) -> Result<()> {
        self.set(index, "set the alias of", Attrs::new().put(Ifla::Ifalias, alias.as_bytes()))
    }

    /// Deletes a link, and with a veth also its other end. An absent link is success.
    ///
    /// The kernel's indexes count up, so a stale one does not name a younger link, unless somebody
    /// [chose](super::VethPair::host_index) it; in another namespace it may name any.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel): `EPERM` without `CAP_NET_ADMIN`, `EOPNOTSUPP` for a
    /// link that cannot be deleted.
    ///
    /// # Kernel
    ///
    /// The link is gone from both namespaces at once; the call returns some 20 ms later, when the
    /// kernel has waited for all readers of it. [`Socket::delete_link_nowait`] leaves the waiting to
    /// another process.
    pub fn delete_link(&self, index: u32) -> Result<()> {
        self.delete(&Operation::on_link("delete", index), message(index, Attrs::new()))
    }

    /// Deletes the link of this name, as [`Socket::delete_link`] does.
    ///
    /// # Errors
    ///
    /// As for [`Socket::delete_link`].
    pub fn delete_link_by_name(&self, name: &IfName) -> Result<()> {
        let operation = Operation::new("delete link", name);
        let attrs = Attrs::new().put(Ifla::Ifname, name.as_str());
        self.delete(&operation, attrs.and_then(|attrs| message(0, attrs)))
    }

    /// Creates a link and says what came of it.
    pub(super) fn create_link(
        &self,
        operation: &Operation,
        name: &IfName,
        request: Result<Ifinfomsg, EncodeError>,
    ) -> Result<Link> {
        let flags = NlmF::CREATE | NlmF::EXCL | NlmF::ECHO;
        match self.request(operation, Rtm::Newlink, flags, request)? {
            Some(echo) => Link::decode(&echo).map_err(|fault| operation.malformed(fault)),
            // Before Linux 6.2 the kernel does not heed the wish for an echo.
            None => self.link_by_name(name)?.ok_or_else(|| operation.no_answer()),
        }
    }

    /// Changes what `attrs` name and leaves all else.
    pub(super) fn set(&self, index: u32, what: &'static str, attrs: Result<Attrs<Ifla>, EncodeError>) -> Result<()> {
        let operation = Operation::on_link(what, index);
        let request = attrs.and_then(|attrs| message(index, attrs));
        self.change(&operation, Rtm::Newlink, NlmF::empty(), request)
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
        Link::decode(&found).map(Some).map_err(|fault| operation.malformed(fault))
    }

    fn delete(&self, operation: &Operation, request: Result<Ifinfomsg, EncodeError>) -> Result<()> {
        match self.change(operation, Rtm::Dellink, NlmF::empty(), request) {
            Err(error) if error.is(Errno::NODEV) => Ok(()),
            done => done,
        }
    }
}

impl Link {
    /// An IPv6 setting, as it was when the link was looked at; none where the link has no IPv6.
    ///
    /// The kernel tells all of them with the link. To [read](super::Sysctl::read) one costs three system calls, and on a
    /// host of a thousand namespaces a tenth of a millisecond.
    #[doc(alias = "IFLA_INET6_CONF")]
    pub fn ipv6_conf(&self, setting: Ipv6Conf) -> Option<i32> {
        self.ipv6.value(setting)
    }

    pub(super) fn decode(message: &Ifinfomsg) -> Result<Self, EncodeError> {
        const UP: u32 = 1;
        const RUNNING: u32 = 1 << 6;
        let flags = u32::from(*message.ifi_flags());
        let mut name = String::new();
        let mut kind = None;
        let mut mac = None;
        let mut mtu = 0;
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
                    let wanted = u16::from(IflaInfo::Kind);
                    kind = nested(bytes).find(|(kind, _)| *kind == wanted).map(|(_, b)| text(b));
                    bridge_port = BridgePort::decode(bytes);
                }
                Ifla::Address => mac = bytes.try_into().map(MacAddr::new).ok(),
                Ifla::Mtu => mtu = number(bytes).unwrap_or_default(),
                Ifla::Master => master = number(bytes),
                Ifla::Link => peer_index = number(bytes).filter(|index| *index != 0),
                Ifla::LinkNetnsid => link_netnsid = number(bytes).map(u32::cast_signed),
                Ifla::Xdp => {
                    let in_driver = nested(bytes).find(|(kind, _)| *kind == IFLA_XDP_DRV_PROG_ID);
                    driver_xdp = in_driver.and_then(|(_, bytes)| number(bytes));
                }
                Ifla::Ifalias => alias = Some(text(bytes)),
                Ifla::AfSpec => ipv6 = ipv6::Settings::decode(bytes),
                _ => (),
            }
        }
        Ok(Self {
            index: message.ifi_index().cast_unsigned(),
            name: name.parse().map_err(EncodeError::new)?,
            kind,
            mac,
            mtu,
            up: flags & UP != 0,
            running: flags & RUNNING != 0,
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

/// A message on the link of this index, or on the one that the attributes name when it is 0.
pub(super) fn message(index: u32, attrs: Attrs<Ifla>) -> Result<Ifinfomsg, EncodeError> {
    finish(header(index).rtattrs(attrs.into_buffer()))
}

pub(super) fn header(index: u32) -> IfinfomsgBuilder {
    IfinfomsgBuilder::default().ifi_family(RtAddrFamily::Unspecified).ifi_index(index.cast_signed())
}

pub(super) fn finish(builder: IfinfomsgBuilder) -> Result<Ifinfomsg, EncodeError> {
    Ok(builder.build()?)
}
