//! Creation of links of any kind.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    os::fd::{AsFd as _, AsRawFd as _},
};

use neli::{
    consts::{
        nl::NlmF,
        rtnl::{Iff, Ifla, Rtm},
    },
    rtnl::Ifinfomsg,
};
use rustix::io::Errno;

use super::{
    kinds::{LinkKind, Vxlan},
    link::Link,
    message::{finish, header},
};
use crate::netlink::{
    error::{Error, Result},
    netns::Netns,
    operation::{EncodeError, Operation},
    socket::Socket,
    wire::Attrs,
};
use crate::spec::{IfIndex, IfName, MacAddr};

/// A link to be created, of any kind.
///
/// ```no_run
/// use cnikit::netlink::{LinkSpec, Macvlan, MacvlanMode, Netns, Socket};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let host = Socket::open()?;
/// let parent = host.link_by_name(&"ens3".parse()?)?.ok_or("ens3 is missing")?.index;
///
/// let pod = Netns::open("/run/netns/blue")?;
/// let macvlan = Macvlan::new(parent, MacvlanMode::Bridge);
/// let eth0 = LinkSpec::new("eth0".parse()?, macvlan).netns(&pod).mtu(1400).up();
/// let index = host.create_link(&eth0)?;
/// assert!(pod.socket()?.link_by_index(index)?.is_some());
/// # Ok(())
/// # }
/// ```
///
/// [`BridgeSpec`](crate::netlink::BridgeSpec) describes a bridge,
/// [`VethPair`](crate::netlink::VethPair) a veth pair.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LinkSpec<'netns> {
    /// The name.
    pub name: IfName,
    /// The kind, with its settings.
    pub kind: LinkKind,
    /// The namespace of the link; `None` for the namespace of the socket. The parent in
    /// [`kind`](Self::kind) is in the namespace of the socket in both cases.
    pub netns: Option<&'netns Netns>,
    /// The Ethernet address. An ipvlan ignores it.
    pub mac: Option<MacAddr>,
    /// The MTU in bytes. A kind with a parent starts with the MTU of the parent.
    pub mtu: Option<u32>,
    /// The length of the transmit queue, in packets.
    #[doc(alias = "IFLA_TXQLEN")]
    pub txqlen: Option<u32>,
    /// The index; the kernel chooses it if `None`.
    pub index: Option<IfIndex>,
    /// The bridge, bond or VRF that the link becomes a port of: an index in the namespace of the
    /// link.
    #[doc(alias = "IFLA_MASTER")]
    pub master: Option<IfIndex>,
    /// The group of links, for commands that concern all its links. The kernel's default is 0.
    #[doc(alias = "IFLA_GROUP")]
    pub group: Option<u32>,
    /// The link comes up at once.
    pub up: bool,
    /// The link resolves no neighbors: see [`Socket::set_arp`].
    #[doc(alias = "IFF_NOARP")]
    pub no_arp: bool,
}

impl<'netns> LinkSpec<'netns> {
    /// A link with this name, of this kind. The kernel chooses all other values.
    #[must_use]
    pub fn new(name: IfName, kind: impl Into<LinkKind>) -> Self {
        Self {
            name,
            kind: kind.into(),
            netns: None,
            mac: None,
            mtu: None,
            txqlen: None,
            index: None,
            master: None,
            group: None,
            up: false,
            no_arp: false,
        }
    }

    /// Creates the link in this namespace.
    #[must_use]
    pub const fn netns(mut self, netns: &'netns Netns) -> Self {
        self.netns = Some(netns);
        self
    }

    /// Sets the Ethernet address.
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

    /// Sets the length of the transmit queue, in packets.
    #[must_use]
    pub const fn txqlen(mut self, packets: u32) -> Self {
        self.txqlen = Some(packets);
        self
    }

    /// Sets the index, up to 2^31 - 1.
    ///
    /// The kernel's own indexes count up from the last one. An index chosen here can name another
    /// link as soon as this link is gone.
    #[must_use]
    pub const fn index(mut self, index: IfIndex) -> Self {
        self.index = Some(index);
        self
    }

    /// Makes the link a port of the bridge, bond or VRF with this index, in the namespace of the
    /// link.
    #[must_use]
    pub const fn master(mut self, index: IfIndex) -> Self {
        self.master = Some(index);
        self
    }

    /// Sets the group of links.
    #[must_use]
    pub const fn group(mut self, group: u32) -> Self {
        self.group = Some(group);
        self
    }

    /// Brings the link up in the same message.
    #[must_use]
    pub const fn up(mut self) -> Self {
        self.up = true;
        self
    }

    /// Turns off ARP and IPv6 neighbor discovery: see [`Socket::set_arp`].
    #[must_use]
    pub const fn no_arp(mut self) -> Self {
        self.no_arp = true;
        self
    }

    fn message(&self, index: Option<IfIndex>) -> Result<Ifinfomsg, EncodeError> {
        let attrs = Attrs::new()
            .put(Ifla::Ifname, self.name.as_str())?
            .put_some(Ifla::NetNsFd, self.netns.map(|netns| netns.as_fd().as_raw_fd()))?
            .put_some(Ifla::Link, self.kind.link_parent())?
            .nest(Ifla::Linkinfo, self.kind.encode()?)?;
        self.finish(index, attrs)
    }

    /// The message that sets all values of an existing link except name and index.
    pub(super) fn settings(&self, index: IfIndex) -> Result<Ifinfomsg, EncodeError> {
        self.finish(Some(index), Attrs::new())
    }

    fn finish(&self, index: Option<IfIndex>, attrs: Attrs<Ifla>) -> Result<Ifinfomsg, EncodeError> {
        let attrs = attrs
            .put_some(Ifla::Address, self.mac.map(MacAddr::octets))?
            .put_some(Ifla::Mtu, self.mtu)?
            .put_some(Ifla::Txqlen, self.txqlen)?
            .put_some(Ifla::Group, self.group)?
            .put_some(Ifla::Master, self.master.map(IfIndex::get))?;
        let flags = [(self.up, Iff::UP), (self.no_arp, Iff::NOARP)];
        let flags = flags.into_iter().filter(|(is_set, _)| *is_set).fold(Iff::empty(), |all, (_, flag)| all | flag);
        finish(header(index).ifi_flags(flags).ifi_change(flags).rtattrs(attrs.into_buffer()))
    }
}

impl Socket {
    /// Creates a link with one message. Returns its index in the namespace of the link.
    ///
    /// With a [namespace](LinkSpec::netns), the link appears there under its name. It is never
    /// visible in the namespace of the socket, so the name may be taken there. A second exchange,
    /// on a socket inside, reads the index.
    ///
    /// A [`Tap`](crate::netlink::Tap) is the exception: the kernel creates it through
    /// `/dev/net/tun`, and a message then sets MAC, MTU and the other values. After an error,
    /// nothing is left.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] if the name is taken in the namespace of the link. Also if a link with the
    /// same VLAN id on the parent exists, or with the same VNI. Nothing was created then.
    /// [`Error::IndexTaken`] if the chosen index is taken. [`Error::UdpPortTaken`] if another VXLAN
    /// or program uses the UDP port of the VXLAN. [`Error::Unsupported`] if the kernel lacks the
    /// module of the kind.
    ///
    /// [`Error::Kernel`] otherwise:
    ///
    /// * `EPERM` without `CAP_NET_ADMIN` in *both* namespaces. For a tap, also if the device policy
    ///   of the caller's container forbids `/dev/net/tun`.
    /// * `ENODEV` if the parent or the master is gone. The kernel also returns it for an unknown
    ///   parent of a VXLAN.
    /// * `EBUSY` if the parent already has another use. It may be a bridge port. A parent has links
    ///   of kind macvlan or of kind ipvlan, not both.
    /// * `EINVAL` if the parent or a value does not fit the kind. Examples are loopback as a parent
    ///   and an MTU above the MTU of the parent.
    /// * `EADDRNOTAVAIL` if the MAC is not unicast.
    /// * `ERANGE` for a VNI outside of its range.
    /// * `ENETDOWN` if the link of kind vlan must come up and its parent is down.
    ///
    /// [`Error::Netns`] if the namespace cannot be entered.
    ///
    /// # Kernel
    ///
    /// Needs `CAP_NET_ADMIN`, and for a link in another namespace or a tap also `CAP_SYS_ADMIN`.
    /// Before Linux 6.15, the kernel looks up the name in the namespace of the socket. If it is
    /// taken there, this method repeats the message with a random index of 2^30 or more, which
    /// avoids that lookup.
    #[doc(alias = "RTM_NEWLINK")]
    pub fn create_link(&self, link: &LinkSpec<'_>) -> Result<IfIndex> {
        let operation = Operation::new("create", format_args!("{} link {}", link.kind.name(), link.name));
        let created = match (&link.kind, link.netns) {
            (LinkKind::Tap(tap), _) => self.create_tap(&operation, link, *tap),
            (_, None) => self.create_here(&operation, link),
            (_, Some(netns)) => self.create_in(&operation, link, netns),
        };
        created.map_err(|error| match link.kind {
            _ if lacks_kind(&error) => operation.unsupported(link.kind.module()),
            LinkKind::Vxlan(vxlan) if self.lacks_port(link, vxlan, &error) => operation.udp_port_taken(vxlan.port),
            _ => error,
        })
    }

    /// Whether a VXLAN was not created because of its UDP port.
    ///
    /// The kernel reports the port only when it opens the socket, for a link that comes up. A
    /// second external link has the VNI 0 of the first one, so the kernel reports an existing VNI.
    fn lacks_port(&self, link: &LinkSpec<'_>, vxlan: Vxlan, error: &Error) -> bool {
        let is_name_free = || match link.netns {
            None => self.link_by_name(&link.name),
            Some(netns) => netns.socket().and_then(|inside| inside.link_by_name(&link.name)),
        };
        let is_second = vxlan.external && matches!(error, Error::Exists { .. });
        error.is(Errno::ADDRINUSE) || (is_second && matches!(is_name_free(), Ok(None)))
    }

    /// Creates a link and returns it.
    pub(in crate::netlink) fn create_named_link(
        &self,
        operation: &Operation,
        name: &IfName,
        request: Result<Ifinfomsg, EncodeError>,
    ) -> Result<Link> {
        let flags = NlmF::CREATE | NlmF::EXCL | NlmF::ECHO;
        match self.request(operation, Rtm::Newlink, flags, request)? {
            Some(echo) => Link::decode(&echo).map_err(|error| operation.malformed(error)),
            // Before Linux 6.2 the kernel ignores the echo flag.
            None => self.link_by_name(name)?.ok_or_else(|| operation.no_answer()),
        }
    }

    fn create_here(&self, operation: &Operation, link: &LinkSpec<'_>) -> Result<IfIndex> {
        match self.create_named_link(operation, &link.name, link.message(link.index)) {
            Ok(created) => Ok(created.index),
            Err(error) => Err(self.explain_clash(operation, link.index, error)),
        }
    }

    /// The kernel sends the echo of the message to the namespace of the link, where another socket
    /// may have the port of this one. So the message does not request the echo.
    fn create_in(&self, operation: &Operation, link: &LinkSpec<'_>, netns: &Netns) -> Result<IfIndex> {
        /// Of random indexes, at least one must be free in both namespaces.
        const ATTEMPTS: u32 = 4;
        let inside = netns.socket()?;
        let create = |index| {
            let flags = NlmF::CREATE | NlmF::EXCL;
            self.change(operation, Rtm::Newlink, flags, link.message(index))?;
            match index {
                Some(index) => Ok(index),
                None => inside.index_of(operation, &link.name),
            }
        };
        let error = match create(link.index) {
            Err(error) if is_clash(&error) => error,
            created => return created,
        };
        let (is_taken, is_hidden) = (inside.link_by_name(&link.name)?, self.link_by_name(&link.name)?);
        match link.index {
            None if error.is(Errno::EXIST) && is_taken.is_none() && is_hidden.is_some() => {
                let mut created = Err(error);
                for _ in 0..ATTEMPTS {
                    created = create(random_index());
                    if !matches!(&created, Err(error) if is_clash(error)) {
                        break;
                    }
                }
                created
            }
            None => Err(error),
            Some(index) => {
                // Before Linux 6.15, the kernel also refuses an index that is taken in the
                // namespace of the socket.
                let is_index_taken = inside.link_by_index(index)?.is_some() || self.link_by_index(index)?.is_some();
                Err(if is_taken.is_none() && is_index_taken { operation.index_taken(index) } else { error })
            }
        }
    }

    /// The error of a creation with a chosen index, which may be taken.
    ///
    /// Some kernels look up the index first (`EEXIST`), others find it taken when they register the
    /// link (`EBUSY`).
    pub(super) fn explain_clash(&self, operation: &Operation, index: Option<IfIndex>, error: Error) -> Error {
        match index.filter(|_| is_clash(&error)) {
            Some(index) => match self.link_by_index(index) {
                Ok(Some(_)) => operation.index_taken(index),
                Ok(None) => error,
                Err(other) => other,
            },
            None => error,
        }
    }

    /// The index of a link that was created under this name.
    pub(super) fn index_of(&self, operation: &Operation, name: &IfName) -> Result<IfIndex> {
        let found = self.link_by_name(name)?.map(|link| link.index);
        found.ok_or_else(|| operation.no_answer())
    }
}

fn is_clash(error: &Error) -> bool {
    error.is(Errno::EXIST) || error.is(Errno::BUSY)
}

/// Whether the kernel has no driver for the kind. A driver that refuses a value sends the same
/// number with another explanation or none.
fn lacks_kind(error: &Error) -> bool {
    let Error::Kernel { message, .. } = error else { return false };
    error.is(Errno::OPNOTSUPP) && message.as_deref() == Some("Unknown device type")
}

/// An index far above those that the kernel chooses.
fn random_index() -> Option<IfIndex> {
    const FIRST: u32 = 1 << 30;
    let [_, _, _, _, bytes @ ..] = RandomState::new().build_hasher().finish().to_ne_bytes();
    IfIndex::new(FIRST | (u32::from_ne_bytes(bytes) >> 2))
}
