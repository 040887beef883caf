use std::os::fd::{AsFd as _, AsRawFd as _};

use neli::consts::{
    nl::NlmF,
    rtnl::{Iff, Ifla, Rtm},
};

use super::{
    attrs::Attrs,
    error::{Operation, Result},
    message::{finish, header, message},
    netns::Netns,
    socket::Socket,
};
use crate::spec::{IfIndex, IfName};

impl Socket {
    /// Moves a link to another namespace under its name. Returns its index there.
    ///
    /// The kernel keeps the index if it is free there. It takes the link down, and deletes its
    /// addresses, routes and master.
    ///
    /// ```no_run
    /// use cnikit::netlink::{Netns, Socket};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (host, pod) = (Socket::open()?, Netns::open("/run/netns/blue")?);
    /// let device = host.link_by_name(&"ens5".parse()?)?.map(|link| link.index);
    /// let inside = host.move_link_as(device.ok_or("ens5 is missing")?, &pod, &"net1".parse()?)?;
    /// pod.socket()?.set_up(inside)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Exists`](super::Error::Exists) if the name is taken there.
    /// [`Error::Kernel`](super::Error::Kernel): `ENODEV` if the link is gone, `EPERM` without
    /// `CAP_NET_ADMIN` in both namespaces, `EINVAL` for a link that cannot move, such as loopback.
    /// [`Error::Netns`](super::Error::Netns) if the namespace cannot be entered.
    ///
    /// # Kernel
    ///
    /// Needs `CAP_NET_ADMIN` in both namespaces and `CAP_SYS_ADMIN`. The call takes 20 to 50 ms,
    /// because the kernel waits for all RCU readers of the link.
    #[doc(alias = "IFLA_NET_NS_FD")]
    pub fn move_link(&self, ifindex: IfIndex, netns: &Netns) -> Result<IfIndex> {
        let operation = Operation::on_link("move", ifindex);
        let Some(link) = self.link_by_index(ifindex)? else {
            return Err(operation.refused(-libc::ENODEV, None));
        };
        self.move_to(&operation, ifindex, netns, &link.name)
    }

    /// Moves a link to another namespace and renames it with the same message. Returns its index
    /// there.
    ///
    /// # Errors
    ///
    /// As for [`Socket::move_link`]. [`Error::Exists`](super::Error::Exists) if `name` is taken
    /// there; the link has not moved then.
    ///
    /// The kernel moves the link first and renames it second, without a way back. This method
    /// therefore checks the name before the message. If another program takes the name in between,
    /// the link is in the namespace under its former name.
    ///
    /// # Kernel
    ///
    /// As for [`Socket::move_link`].
    pub fn move_link_as(&self, ifindex: IfIndex, netns: &Netns, name: &IfName) -> Result<IfIndex> {
        let operation = Operation::new("move", format_args!("link {ifindex} as {name}"));
        self.move_to(&operation, ifindex, netns, name)
    }

    fn move_to(&self, operation: &Operation, ifindex: IfIndex, netns: &Netns, name: &IfName) -> Result<IfIndex> {
        let inside = netns.socket()?;
        if inside.link_by_name(name)?.is_some() {
            return Err(operation.exists());
        }
        let attrs = || Attrs::new().put(Ifla::NetNsFd, netns.as_fd().as_raw_fd())?.put(Ifla::Ifname, name.as_str());
        let request = attrs().and_then(|attrs| message(ifindex, attrs));
        self.change(operation, Rtm::Newlink, NlmF::empty(), request)?;
        let moved = inside.link_by_name(name)?.map(|link| link.index);
        moved.ok_or_else(|| operation.no_answer())
    }

    /// Renames a link.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`](super::Error::Exists) if the name is taken.
    /// [`Error::Kernel`](super::Error::Kernel): `EBUSY` if the link is up and the kernel is older
    /// than Linux 6.2, `ENODEV` if the link is gone, `EPERM` without `CAP_NET_ADMIN`.
    ///
    /// # Kernel
    ///
    /// Before Linux 6.2, the link must be [down](Socket::set_down).
    #[doc(alias = "IFLA_IFNAME")]
    pub fn rename_link(&self, ifindex: IfIndex, name: &IfName) -> Result<()> {
        let operation = Operation::new("rename", format_args!("link {ifindex} to {name}"));
        let attrs = Attrs::new().put(Ifla::Ifname, name.as_str());
        let request = attrs.and_then(|attrs| message(ifindex, attrs));
        self.change(&operation, Rtm::Newlink, NlmF::empty(), request)
    }

    /// Sets whether a link receives frames for all addresses.
    /// [`Link::promiscuous`](super::Link::promiscuous) returns the flag.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel): `ENODEV` if the link is gone, `EPERM` without
    /// `CAP_NET_ADMIN`.
    #[doc(alias = "IFF_PROMISC")]
    pub fn set_promiscuous(&self, ifindex: IfIndex, on: bool) -> Result<()> {
        self.set_flag(&Operation::on_link("set the promiscuous mode of", ifindex), ifindex, Iff::PROMISC, on)
    }

    /// Sets whether a link receives frames for all multicast addresses.
    /// [`Link::allmulti`](super::Link::allmulti) returns the flag.
    ///
    /// # Errors
    ///
    /// As for [`Socket::set_promiscuous`].
    #[doc(alias = "IFF_ALLMULTI")]
    pub fn set_allmulti(&self, ifindex: IfIndex, on: bool) -> Result<()> {
        self.set_flag(&Operation::on_link("set the allmulti mode of", ifindex), ifindex, Iff::ALLMULTI, on)
    }

    /// Sets the length of the transmit queue, in packets.
    ///
    /// # Errors
    ///
    /// As for [`Socket::set_promiscuous`].
    #[doc(alias = "IFLA_TXQLEN")]
    pub fn set_txqlen(&self, ifindex: IfIndex, packets: u32) -> Result<()> {
        self.set(ifindex, "set the transmit queue length of", Attrs::new().put(Ifla::Txqlen, packets))
    }

    /// Takes a link out of its bridge, bond or VRF. Succeeds if the link has no master.
    ///
    /// # Errors
    ///
    /// As for [`Socket::set_promiscuous`].
    #[doc(alias = "IFLA_MASTER")]
    pub fn clear_master(&self, ifindex: IfIndex) -> Result<()> {
        self.set(ifindex, "clear the master of", Attrs::new().put(Ifla::Master, 0_u32))
    }

    fn set_flag(&self, operation: &Operation, ifindex: IfIndex, flag: Iff, on: bool) -> Result<()> {
        let flags = if on { flag } else { Iff::empty() };
        let request = finish(header(ifindex).ifi_flags(flags).ifi_change(flag));
        self.change(operation, Rtm::Newlink, NlmF::empty(), request)
    }
}
