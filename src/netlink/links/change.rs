//! Changes of links.

use std::os::fd::{AsFd as _, AsRawFd as _};

use neli::consts::{
    nl::NlmF,
    rtnl::{Iff, Ifla, Rtm},
};

use super::message::{finish, header, message};
use crate::netlink::{
    error::Result,
    netns::Netns,
    operation::{EncodeError, Operation},
    socket::Socket,
    wire::Attrs,
};
use crate::spec::{IfIndex, IfName, MacAddr};

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
    /// [`Error::Exists`](crate::netlink::Error::Exists) if the name is taken there.
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `ENODEV` if the link is gone, `EPERM`
    /// without `CAP_NET_ADMIN` in both namespaces, `EINVAL` for a link that cannot move, such as
    /// loopback. [`Error::Netns`](crate::netlink::Error::Netns) if the namespace cannot be entered.
    ///
    /// # Kernel
    ///
    /// Needs `CAP_NET_ADMIN` in both namespaces and `CAP_SYS_ADMIN`. The call takes 20 to 50 ms,
    /// because the kernel waits for all RCU readers of the link.
    #[doc(alias = "IFLA_NET_NS_FD")]
    pub fn move_link(&self, ifindex: IfIndex, netns: &Netns) -> Result<IfIndex> {
        let operation = Operation::on_link("move", ifindex);
        let Some(link) = self.link_by_index(ifindex)? else {
            return Err(operation.no_device());
        };
        self.move_to(&operation, ifindex, netns, &link.name)
    }

    /// Moves a link to another namespace and renames it with the same message. Returns its index
    /// there.
    ///
    /// # Errors
    ///
    /// As for [`Socket::move_link`]. [`Error::Exists`](crate::netlink::Error::Exists) if `name` is
    /// taken there; the link has not moved then.
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
        inside.index_of(operation, name)
    }

    /// Renames a link.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`](crate::netlink::Error::Exists) if the name is taken.
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `EBUSY` if the link is up and the kernel
    /// is older than Linux 6.2, `ENODEV` if the link is gone, `EPERM` without `CAP_NET_ADMIN`.
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

    /// Brings a link up.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `ENODEV` if the link is gone, `EADDRINUSE`
    /// if another socket has the UDP port of a VXLAN, `EPERM` without `CAP_NET_ADMIN`.
    pub fn set_up(&self, ifindex: IfIndex) -> Result<()> {
        let operation = Operation::on_link("bring up", ifindex);
        let request = finish(header(ifindex).up());
        self.change(&operation, Rtm::Newlink, NlmF::empty(), request)
    }

    /// Takes a link down. The kernel deletes its IPv6 addresses and its routes.
    ///
    /// # Errors
    ///
    /// As for [`Socket::set_up`].
    pub fn set_down(&self, ifindex: IfIndex) -> Result<()> {
        let operation = Operation::on_link("bring down", ifindex);
        let request = finish(header(ifindex).down());
        self.change(&operation, Rtm::Newlink, NlmF::empty(), request)
    }

    /// Sets the Ethernet address of a link.
    ///
    /// # Errors
    ///
    /// As for [`Socket::set_up`]. Also `EADDRNOTAVAIL` for an address that is not unicast.
    pub fn set_mac(&self, ifindex: IfIndex, mac: MacAddr) -> Result<()> {
        self.set(ifindex, "set the address of", Attrs::new().put(Ifla::Address, mac.octets()))
    }

    /// Makes a link a port of the bridge (or bond, or VRF) with the index `master`.
    ///
    /// # Errors
    ///
    /// As for [`Socket::set_up`]. Also `EXFULL` if a bridge has its maximum of 1,023 ports.
    #[doc(alias = "IFLA_MASTER")]
    pub fn set_master(&self, ifindex: IfIndex, master: IfIndex) -> Result<()> {
        self.set(ifindex, "set the master of", Attrs::new().put(Ifla::Master, master.get()))
    }

    /// Sets the MTU in bytes.
    ///
    /// On a bridge, the call also pins the MTU. Before that, the bridge follows the least MTU of
    /// its ports.
    ///
    /// # Errors
    ///
    /// As for [`Socket::set_up`]. Also `EINVAL` if the driver does not support the value.
    pub fn set_mtu(&self, ifindex: IfIndex, mtu: u32) -> Result<()> {
        self.set(ifindex, "set the MTU of", Attrs::new().put(Ifla::Mtu, mtu))
    }

    /// Sets the text that `ip link` shows as `alias`, up to 255 bytes. An empty text removes it.
    ///
    /// The kernel ignores an alias in the message that creates a link, so the alias needs its own
    /// message.
    ///
    /// # Errors
    ///
    /// As for [`Socket::set_up`]. Also `ERANGE` if the text is too long.
    pub fn set_alias(&self, ifindex: IfIndex, alias: &str) -> Result<()> {
        self.set(ifindex, "set the alias of", Attrs::new().put(Ifla::Ifalias, alias.as_bytes()))
    }

    /// Sets whether a link receives frames for all addresses.
    /// [`Link::promiscuous`](crate::netlink::Link::promiscuous) returns the flag.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](crate::netlink::Error::Kernel): `ENODEV` if the link is gone, `EPERM`
    /// without `CAP_NET_ADMIN`.
    #[doc(alias = "IFF_PROMISC")]
    pub fn set_promiscuous(&self, ifindex: IfIndex, on: bool) -> Result<()> {
        self.set_flag(&Operation::on_link("set the promiscuous mode of", ifindex), ifindex, Iff::PROMISC, on)
    }

    /// Sets whether a link receives frames for all multicast addresses.
    /// [`Link::allmulti`](crate::netlink::Link::allmulti) returns the flag.
    ///
    /// # Errors
    ///
    /// As for [`Socket::set_promiscuous`].
    #[doc(alias = "IFF_ALLMULTI")]
    pub fn set_allmulti(&self, ifindex: IfIndex, on: bool) -> Result<()> {
        self.set_flag(&Operation::on_link("set the allmulti mode of", ifindex), ifindex, Iff::ALLMULTI, on)
    }

    /// Sets whether a link resolves neighbors, by ARP and by IPv6 neighbor discovery.
    /// [`Link::arp`](crate::netlink::Link::arp) returns the flag.
    ///
    /// Without it, the kernel sends frames to the MAC of the link itself. A link that takes the
    /// destination from metadata must not resolve neighbors: ARP requests have no metadata.
    ///
    /// # Errors
    ///
    /// As for [`Socket::set_promiscuous`].
    #[doc(alias = "IFF_NOARP")]
    pub fn set_arp(&self, ifindex: IfIndex, on: bool) -> Result<()> {
        self.set_flag(&Operation::on_link("set the ARP mode of", ifindex), ifindex, Iff::NOARP, !on)
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

    /// Changes the attributes in `attrs` and keeps all others.
    pub(super) fn set(
        &self,
        ifindex: IfIndex,
        operation: &'static str,
        attrs: Result<Attrs<Ifla>, EncodeError>,
    ) -> Result<()> {
        let operation = Operation::on_link(operation, ifindex);
        let request = attrs.and_then(|attrs| message(ifindex, attrs));
        self.change(&operation, Rtm::Newlink, NlmF::empty(), request)
    }

    fn set_flag(&self, operation: &Operation, ifindex: IfIndex, flag: Iff, on: bool) -> Result<()> {
        let flags = if on { flag } else { Iff::empty() };
        let request = finish(header(ifindex).ifi_flags(flags).ifi_change(flag));
        self.change(operation, Rtm::Newlink, NlmF::empty(), request)
    }
}
