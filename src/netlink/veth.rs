use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use neli::{
    consts::rtnl::{Ifla, IflaInfo},
    rtnl::Ifinfomsg,
};

use rustix::io::Errno;

use super::{
    attrs::Attrs,
    error::{EncodeError, Operation, Result},
    link::{finish, header, message},
    socket::Socket,
};
use crate::spec::{IfName, MacAddr};

/// One end of a veth pair.
///
/// The address is part of the message that creates the link: one that came later would race with
/// what udev sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VethEnd {
    /// The name.
    pub name: IfName,
    /// The Ethernet address.
    pub mac: MacAddr,
}

/// A veth pair to be created: one end here, its peer in another namespace.
///
/// ```no_run
/// use cnikit::{
///     netlink::{Netns, Socket, VethEnd, VethPair},
///     spec::MacAddr,
/// };
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pod = Netns::open("/run/netns/blue")?;
/// let host = VethEnd { name: "vethblue".parse()?, mac: MacAddr::new([0x02, 0, 0, 0, 0, 1]) };
/// let peer = VethEnd { name: "eth0".parse()?, mac: MacAddr::new([0x02, 0, 0, 0, 0, 2]) };
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
    /// The greatest packet of both ends in bytes; they must agree, or the greater packets vanish.
    pub mtu: Option<u32>,
    /// The index of the bridge that the host end becomes a port of.
    pub master: Option<u32>,
    /// The index of the host end; the kernel's choice where there is none.
    pub host_index: Option<u32>,
    /// The host end is brought up at once. The peer cannot be (the kernel refuses it with
    /// `ENOTCONN`): use a socket inside.
    pub host_up: bool,
}

/// Where the ends of a new pair are, each in its own namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VethIndexes {
    /// The index of the host end.
    pub host: u32,
    /// The index of the peer, in the peer's namespace.
    pub peer: u32,
}

impl<'netns> VethPair<'netns> {
    /// A pair of these ends, with all else left to the kernel.
    #[must_use]
    pub fn new(host: VethEnd, peer: VethEnd, peer_netns: &'netns impl AsFd) -> Self {
        Self { host, peer, peer_netns: peer_netns.as_fd(), mtu: None, master: None, host_index: None, host_up: false }
    }

    /// Sets the greatest packet of both ends in bytes.
    #[must_use]
    pub const fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = Some(mtu);
        self
    }

    /// Makes the host end a port of the bridge of this index.
    #[must_use]
    pub const fn master(mut self, index: u32) -> Self {
        self.master = Some(index);
        self
    }

    /// Chooses the index of the host end, so that it is known before the pair is made: from 2 to 2^31 - 1.
    ///
    /// The kernel's own choices count up from where it stands. One that is chosen here can name another link as soon
    /// as this one is gone.
    #[must_use]
    pub const fn host_index(mut self, index: u32) -> Self {
        self.host_index = Some(index);
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
        let data = Attrs::new().put(VETH_INFO_PEER, message(0, peer)?)?;
        let info = Attrs::new().put(IflaInfo::Kind, "veth")?.nest(IflaInfo::Data, data)?;
        let host = Attrs::new()
            .put(Ifla::Ifname, self.host.name.as_str())?
            .put(Ifla::Address, self.host.mac.octets())?
            .put_some(Ifla::Mtu, self.mtu)?
            .put_some(Ifla::Master, self.master)?
            .nest(Ifla::Linkinfo, info)?;
        let header = header(self.host_index.unwrap_or_default());
        let header = if self.host_up { header.up() } else { header };
        finish(header.rtattrs(host.into_buffer()))
    }
}

impl Socket {
    /// Creates a veth pair by one message: names, addresses, MTU, the bridge and the peer's
    /// namespace are right from the start.
    ///
    /// Creating the pair here and moving the peer afterwards would cost the kernel 20 to 50 ms;
    /// this takes less than one.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`](super::Error::Exists) where either name is taken in its namespace; nothing
    /// has been made then. [`Error::IndexTaken`](super::Error::IndexTaken) where the chosen index is: to the kernel
    /// both are `EEXIST`, so the index is looked up afterwards. [`Error::Kernel`](super::Error::Kernel) else: `EPERM` without
    /// `CAP_NET_ADMIN` in *both* namespaces, `ENODEV` where the bridge is gone.
    ///
    /// # Kernel
    ///
    /// From Linux 6.2 on the acknowledgement tells the indexes; before that they are asked for by a
    /// second message.
    #[doc(alias = "VETH_INFO_PEER")]
    pub fn create_veth(&self, pair: &VethPair<'_>) -> Result<VethIndexes> {
        let (host, peer) = (&pair.host.name, &pair.peer.name);
        let operation = Operation::new("create veth", format_args!("{host} with peer {peer}"));
        let link = match (self.create_link(&operation, host, pair.message()), pair.host_index) {
            // Some kernels look the index up first (EEXIST), others find it taken as they register the link (EBUSY).
            (Err(error), Some(index)) if error.is(Errno::EXIST) || error.is(Errno::BUSY) => {
                return match self.link_by_index(index)? {
                    Some(_) => Err(operation.index_taken(index)),
                    None => Err(error),
                };
            }
            (made, _) => made?,
        };
        // Older kernels leave IFLA_LINK out when both ends happen to have the same index.
        Ok(VethIndexes { host: link.index, peer: link.peer_index.unwrap_or(link.index) })
    }
}
