//! Creation of veth pairs.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use neli::{
    consts::rtnl::{Ifla, IflaInfo},
    rtnl::Ifinfomsg,
};

use super::message::{finish, header, message};
use crate::netlink::{
    error::Result,
    operation::{EncodeError, Operation},
    socket::Socket,
    wire::Attrs,
};
use crate::spec::{IfIndex, IfName, MacAddr};

/// One end of a veth pair.
///
/// The message that creates the link carries the MAC address. A later change would race with the
/// address that udev sets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VethEnd {
    /// The name.
    pub name: IfName,
    /// The Ethernet address.
    pub mac: MacAddr,
}

/// A veth pair to be created: one end in the socket's namespace, its peer in another namespace.
///
/// ```no_run
/// use cnikit::{
///     netlink::{Netns, Socket, VethEnd, VethPair},
///     spec::MacAddr,
/// };
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pod = Netns::open("/run/netns/blue")?;
/// let host = VethEnd::new("vethblue".parse()?, MacAddr::new([0x02, 0, 0, 0, 0, 1]));
/// let peer = VethEnd::new("eth0".parse()?, MacAddr::new([0x02, 0, 0, 0, 0, 2]));
///
/// let pair = VethPair::new(host, peer, &pod).mtu(1450).host_up();
/// let indexes = Socket::open()?.create_veth(&pair)?;
/// pod.socket()?.set_up(indexes.peer)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VethPair<'netns> {
    /// The end in the socket's namespace.
    pub host: VethEnd,
    /// The end in `peer_netns`.
    pub peer: VethEnd,
    /// The namespace of the peer.
    pub peer_netns: BorrowedFd<'netns>,
    /// The MTU of both ends in bytes. The values must agree, because the smaller end drops larger
    /// packets.
    pub mtu: Option<u32>,
    /// The index of the bridge that the host end becomes a port of.
    pub master: Option<IfIndex>,
    /// The index of the host end; the kernel chooses it if `None`.
    pub host_index: Option<IfIndex>,
    /// The host end comes up at once. The same message cannot bring up the peer (`ENOTCONN`): use a
    /// socket inside its namespace.
    pub host_up: bool,
}

/// The indexes of the ends of a new pair, each in its own namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct VethIndexes {
    /// The index of the host end.
    pub host: IfIndex,
    /// The index of the peer, in the peer's namespace.
    pub peer: IfIndex,
}

impl VethEnd {
    /// An end with this name and Ethernet address.
    #[must_use]
    pub const fn new(name: IfName, mac: MacAddr) -> Self {
        Self { name, mac }
    }
}

impl<'netns> VethPair<'netns> {
    /// A pair with these ends. The kernel chooses all other values.
    #[must_use]
    pub fn new(host: VethEnd, peer: VethEnd, peer_netns: &'netns impl AsFd) -> Self {
        Self { host, peer, peer_netns: peer_netns.as_fd(), mtu: None, master: None, host_index: None, host_up: false }
    }

    /// Sets the MTU of both ends in bytes.
    #[must_use]
    pub const fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// Makes the host end a port of the bridge with this index.
    #[must_use]
    pub const fn master(mut self, ifindex: IfIndex) -> Self {
        self.master = Some(ifindex);
        self
    }

    /// Sets the index of the host end, from 2 to 2^31 - 1, so that the caller knows the index
    /// before it creates the pair.
    ///
    /// The kernel's own indexes count up from the last one. An index chosen here can name another
    /// link as soon as this link is gone.
    #[must_use]
    pub const fn host_index(mut self, ifindex: IfIndex) -> Self {
        self.host_index = Some(ifindex);
        self
    }

    /// Brings the host end up in the same message.
    #[must_use]
    pub const fn host_up(mut self) -> Self {
        self.host_up = true;
        self
    }

    fn message(&self) -> Result<Ifinfomsg, EncodeError> {
        const VETH_INFO_PEER: u16 = 1;
        let peer = Attrs::new()
            .put(Ifla::Ifname, self.peer.name.as_str())?
            .put(Ifla::Address, self.peer.mac.octets())?
            .put_some(Ifla::Mtu, self.mtu)?
            .put(Ifla::NetNsFd, self.peer_netns.as_raw_fd())?;
        let data = Attrs::new().put(VETH_INFO_PEER, message(None, peer)?)?;
        let info = Attrs::new().put(IflaInfo::Kind, "veth")?.nest(IflaInfo::Data, data)?;
        let host = Attrs::new()
            .put(Ifla::Ifname, self.host.name.as_str())?
            .put(Ifla::Address, self.host.mac.octets())?
            .put_some(Ifla::Mtu, self.mtu)?
            .put_some(Ifla::Master, self.master.map(IfIndex::get))?
            .nest(Ifla::Linkinfo, info)?;
        let header = header(self.host_index);
        let header = if self.host_up { header.up() } else { header };
        finish(header.rtattrs(host.into_buffer()))
    }
}

impl Socket {
    /// Creates a veth pair with one message, which sets names, MAC addresses, MTU, the bridge and
    /// the peer's namespace.
    ///
    /// To create the pair in one namespace and then move the peer would cost the kernel 20 to 50
    /// ms. This call takes less than 1 ms.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`](crate::netlink::Error::Exists) if one of the names is taken in its
    /// namespace; nothing was created then.
    /// [`Error::IndexTaken`](crate::netlink::Error::IndexTaken) if the chosen index is taken: the
    /// kernel returns `EEXIST` for both, so this method looks up the index afterwards.
    /// [`Error::Kernel`](crate::netlink::Error::Kernel) otherwise: `EPERM` without `CAP_NET_ADMIN`
    /// in *both* namespaces, `ENODEV` if the bridge is gone.
    ///
    /// # Kernel
    ///
    /// Since Linux 6.2 the kernel returns the indexes with the acknowledgement. On older kernels a
    /// second message reads them.
    #[doc(alias = "VETH_INFO_PEER")]
    pub fn create_veth(&self, pair: &VethPair<'_>) -> Result<VethIndexes> {
        let (host, peer) = (&pair.host.name, &pair.peer.name);
        let operation = Operation::new("create veth", format_args!("{host} with peer {peer}"));
        let created = self.create_named_link(&operation, host, pair.message());
        let link = created.map_err(|error| self.explain_clash(&operation, pair.host_index, error))?;
        // Older kernels omit IFLA_LINK if both ends have the same index.
        Ok(VethIndexes { host: link.index, peer: link.peer_index.unwrap_or(link.index) })
    }
}
