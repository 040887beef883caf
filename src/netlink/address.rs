use std::net::IpAddr;

use ipnetwork::IpNetwork;
use neli::{
    consts::{
        nl::NlmF,
        rtnl::{Ifa, IfaF, RtAddrFamily, RtScope, Rtm},
    },
    rtnl::{Ifaddrmsg, IfaddrmsgBuilder},
};
use rustix::io::Errno;

use super::{
    attrs::Attrs,
    error::{EncodeError, Operation, Result},
    socket::Socket,
};
use crate::spec::IfIndex;

impl Socket {
    /// Adds an address to a link. The kernel adds a route to the subnet of its prefix.
    ///
    /// An IPv4 address with a prefix shorter than 31 gets the broadcast address of the subnet. An
    /// IPv6 address is usable at once, because duplicate address detection (a second or more) is
    /// off. IPAM already ensures that the address is unique.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`](super::Error::Exists) if the link already has the address.
    /// [`Error::Kernel`](super::Error::Kernel) otherwise: `ENODEV` if the link is gone, `EACCES` if
    /// IPv6 is disabled on it, `EPERM` without `CAP_NET_ADMIN`.
    #[doc(alias = "RTM_NEWADDR")]
    pub fn add_address(&self, ifindex: IfIndex, address: IpNetwork) -> Result<()> {
        let operation = Operation::new("add address", format_args!("{address} to link {ifindex}"));
        let flags = NlmF::CREATE | NlmF::EXCL;
        self.change(&operation, Rtm::Newaddr, flags, new_address(ifindex, address))
    }

    /// Deletes an address from a link. Succeeds if the address or the link is absent.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel): `EPERM` without `CAP_NET_ADMIN`.
    #[doc(alias = "RTM_DELADDR")]
    pub fn delete_address(&self, ifindex: IfIndex, address: IpNetwork) -> Result<()> {
        let operation = Operation::new("delete address", format_args!("{address} of link {ifindex}"));
        match self.change(&operation, Rtm::Deladdr, NlmF::empty(), new_address(ifindex, address)) {
            Err(error) if error.is(Errno::ADDRNOTAVAIL) || error.is(Errno::NODEV) => Ok(()),
            deleted => deleted,
        }
    }

    /// The addresses of a link, IPv4 first, in the kernel's order: the primary address of a subnet
    /// precedes the others.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`](super::Error::Kernel) (`ENODEV` if the link is absent, on Linux 4.20 and
    /// later) and socket errors.
    pub fn addresses(&self, ifindex: IfIndex) -> Result<Vec<IpNetwork>> {
        let found = self.dump_addresses(&Operation::on_link("list the addresses of", ifindex), Some(ifindex))?;
        let of_link = found.into_iter().filter(|(link, _)| *link == ifindex).map(|(_, address)| address);
        let (v4, v6): (Vec<_>, Vec<_>) = of_link.partition(IpNetwork::is_ipv4);
        Ok([v4, v6].concat())
    }

    /// The addresses of all links, each with the index of its link.
    ///
    /// # Errors
    ///
    /// As for [`Socket::links`].
    #[doc(alias = "RTM_GETADDR")]
    pub fn all_addresses(&self) -> Result<Vec<(IfIndex, IpNetwork)>> {
        self.dump_addresses(&Operation::new("list", "addresses"), None)
    }

    /// The addresses of one link if the kernel filters by link; the addresses of all links without
    /// an index.
    fn dump_addresses(&self, operation: &Operation, ifindex: Option<IfIndex>) -> Result<Vec<(IfIndex, IpNetwork)>> {
        let request = || header(RtAddrFamily::Unspecified, ifindex, 0).build().map_err(EncodeError::from);
        let found: Vec<Ifaddrmsg> = self.dump(operation, Rtm::Getaddr, request)?;
        Ok(found.iter().filter_map(|message| Some((IfIndex::new(*message.ifa_index())?, decode(message)?))).collect())
    }
}

/// The bytes of an address in an attribute.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The address in an attribute; `None` if the length fits no family.
pub(super) fn ip_addr(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

pub(super) const fn family(address: IpAddr) -> RtAddrFamily {
    match address {
        IpAddr::V4(_) => RtAddrFamily::Inet,
        IpAddr::V6(_) => RtAddrFamily::Inet6,
    }
}

fn new_address(ifindex: IfIndex, address: IpNetwork) -> Result<Ifaddrmsg, EncodeError> {
    let ip = address.ip();
    let mut attrs = Attrs::new().put(Ifa::Local, &octets(ip)[..])?.put(Ifa::Address, &octets(ip)[..])?;
    let mut header = header(family(ip), Some(ifindex), address.prefix());
    match address {
        // /31 and /32 have no broadcast address (RFC 3021).
        IpNetwork::V4(v4) if v4.prefix() < 31 => {
            attrs = attrs.put(Ifa::Broadcast, v4.broadcast().octets())?;
        }
        IpNetwork::V4(_) => (),
        IpNetwork::V6(_) => header = header.ifa_flags(IfaF::NODAD),
    }
    if ip.is_loopback() {
        header = header.ifa_scope(RtScope::Host);
    }
    Ok(header.rtattrs(attrs.into_buffer()).build()?)
}

fn header(family: RtAddrFamily, ifindex: Option<IfIndex>, prefix: u8) -> IfaddrmsgBuilder {
    let ifindex = ifindex.map_or(0, IfIndex::get);
    IfaddrmsgBuilder::default().ifa_family(family).ifa_prefixlen(prefix).ifa_scope(RtScope::Universe).ifa_index(ifindex)
}

pub(super) fn decode(message: &Ifaddrmsg) -> Option<IpNetwork> {
    let payload = |wanted: Ifa| {
        let mut attrs = message.rtattrs().iter();
        let attr = attrs.find(|attr| *attr.rta_type() == wanted)?;
        ip_addr(attr.rta_payload().as_ref())
    };
    // On a point-to-point link `Address` is the peer's address. Without a peer, IPv6 omits `Local`.
    let ip = payload(Ifa::Local).or_else(|| payload(Ifa::Address))?;
    IpNetwork::new(ip, *message.ifa_prefixlen()).ok()
}
