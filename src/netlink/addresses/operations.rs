//! Operations on addresses.

use std::time::Duration;

use ipnetwork::IpNetwork;
use neli::{
    consts::{
        nl::NlmF,
        rtnl::{RtAddrFamily, Rtm},
    },
    rtnl::Ifaddrmsg,
};
use rustix::io::Errno;

use super::address::{Address, AddressSpec, header};
use crate::netlink::{
    error::{Error, Result},
    operation::{EncodeError, Operation},
    socket::Socket,
};
use crate::poll::{Pauses, poll};
use crate::spec::IfIndex;

impl Socket {
    /// Adds an address to a link. The kernel adds a route to the subnet of its prefix.
    ///
    /// An IPv4 address with a prefix shorter than 31 gets the broadcast address of the subnet. An
    /// IPv6 address is usable at once, because duplicate address detection (a second or more) is
    /// off. IPAM already ensures that the address is unique. [`Socket::add_address_with`] sets a
    /// peer, a label, or duplicate address detection.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] if the link already has the address. [`Error::Kernel`] otherwise: `ENODEV`
    /// if the link is gone, `EACCES` if IPv6 is disabled on it, `EPERM` without `CAP_NET_ADMIN`.
    #[doc(alias = "RTM_NEWADDR")]
    pub fn add_address(&self, ifindex: IfIndex, address: IpNetwork) -> Result<()> {
        self.add_address_with(ifindex, &address.into())
    }

    /// Adds an address with all its settings to a link.
    ///
    /// # Errors
    ///
    /// As for [`Socket::add_address`]. [`Error::Kernel`] with `ERANGE` for a label with more than
    /// 15 bytes. [`Error::Message`] if the peer is of another family than the address.
    ///
    /// # Kernel
    ///
    /// Linux 4.18 for [`AddressSpec::no_prefix_route`] of an IPv4 address. Older kernels ignore it.
    pub fn add_address_with(&self, ifindex: IfIndex, address: &AddressSpec) -> Result<()> {
        let operation = Operation::new("add address", format_args!("{} to link {ifindex}", address.address));
        self.change(&operation, Rtm::Newaddr, NlmF::CREATE | NlmF::EXCL, address.message(ifindex))
    }

    /// Adds an address to a link, unless the link has it with the same prefix length. Returns
    /// whether the call added the address.
    ///
    /// # Errors
    ///
    /// As for [`Socket::add_address`]. Also [`Error::Exists`] if the link has the IPv6 address with
    /// another prefix length or with a peer.
    pub fn ensure_address(&self, ifindex: IfIndex, address: IpNetwork) -> Result<bool> {
        match self.add_address(ifindex, address) {
            Err(exists @ Error::Exists { .. }) => {
                let operation = Operation::on_link("list the addresses of", ifindex);
                let found = self.addresses_of(&operation, ifindex)?;
                let is_there = found.iter().any(|found| found.address == address && found.peer.is_none());
                if is_there { Ok(false) } else { Err(exists) }
            }
            added => added.map(|()| true),
        }
    }

    /// Deletes an address from a link. Succeeds if the address or the link is absent. An IPv4
    /// address with a peer needs [`Socket::delete_address_with`].
    ///
    /// The first IPv4 address of a subnet is the primary one. With it, the kernel deletes all other
    /// addresses of the link in the subnet, even if other programs added them. The setting
    /// `net.ipv4.conf.<link>.promote_secondaries` 1 keeps them.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`]: `EPERM` without `CAP_NET_ADMIN`.
    #[doc(alias = "RTM_DELADDR")]
    pub fn delete_address(&self, ifindex: IfIndex, address: IpNetwork) -> Result<()> {
        self.delete_address_with(ifindex, &address.into())
    }

    /// Deletes an address from a link. Address, prefix length, and for IPv4 also the peer and a
    /// label must match. Succeeds if the address or the link is absent. A primary address takes
    /// others with it, as in [`Socket::delete_address`].
    ///
    /// # Errors
    ///
    /// As for [`Socket::delete_address`].
    pub fn delete_address_with(&self, ifindex: IfIndex, address: &AddressSpec) -> Result<()> {
        let operation = Operation::new("delete address", format_args!("{} of link {ifindex}", address.address));
        self.delete(&operation, Rtm::Deladdr, address.message(ifindex), &[Errno::ADDRNOTAVAIL, Errno::NODEV])
    }

    /// The addresses of a link, IPv4 first, in the kernel's order: the primary address of a subnet
    /// precedes the others. [`Socket::all_addresses`] returns them with their flags.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`] (`ENODEV` if the link is absent, on Linux 4.20 and later) and socket
    /// errors.
    pub fn addresses(&self, ifindex: IfIndex) -> Result<Vec<IpNetwork>> {
        let operation = Operation::on_link("list the addresses of", ifindex);
        let found = self.addresses_of(&operation, ifindex)?.into_iter().map(|found| found.address);
        let (v4, v6): (Vec<_>, Vec<_>) = found.partition(IpNetwork::is_ipv4);
        Ok([v4, v6].concat())
    }

    /// The addresses of all links.
    ///
    /// # Errors
    ///
    /// As for [`Socket::links`].
    #[doc(alias = "RTM_GETADDR")]
    pub fn all_addresses(&self) -> Result<Vec<Address>> {
        self.dump_addresses(&Operation::new("list", "addresses"), None)
    }

    /// Waits until no address of a link is [tentative](Address::tentative). Returns whether that
    /// happened within `timeout`.
    ///
    /// Duplicate address detection takes a second, plus a random delay of up to a second. It does
    /// not begin before the link is up and has a carrier.
    ///
    /// # Errors
    ///
    /// [`Error::DuplicateAddress`] if another machine on the link uses one of the addresses. As for
    /// [`Socket::addresses`] otherwise.
    ///
    /// # Kernel
    ///
    /// `net.ipv6.conf.<link>.accept_dad` and `dad_transmits` set the number and effect of the
    /// probes.
    pub fn wait_addresses_settled(&self, ifindex: IfIndex, timeout: Duration) -> Result<bool> {
        const PAUSES: Pauses = Pauses { first: Duration::from_millis(1), longest: Duration::from_millis(50) };
        let operation = Operation::on_link("wait for the addresses of", ifindex);
        let settled = poll(timeout, PAUSES, || {
            let found = self.addresses_of(&operation, ifindex)?;
            if let Some(duplicate) = found.iter().find(|address| address.dad_failed) {
                return Err(Error::DuplicateAddress { address: duplicate.address, ifindex });
            }
            Ok(found.iter().all(|address| !address.tentative).then_some(()))
        })?;
        Ok(settled.is_some())
    }

    /// The addresses of one link.
    pub(in crate::netlink) fn addresses_of(&self, operation: &Operation, ifindex: IfIndex) -> Result<Vec<Address>> {
        let mut found = self.dump_addresses(operation, Some(ifindex))?;
        found.retain(|address| address.ifindex == ifindex);
        Ok(found)
    }

    /// The addresses of one link if the kernel filters by link; the addresses of all links
    /// without an index.
    fn dump_addresses(&self, operation: &Operation, ifindex: Option<IfIndex>) -> Result<Vec<Address>> {
        let request = || header(RtAddrFamily::Unspecified, ifindex, 0).build().map_err(EncodeError::from);
        let found: Vec<Ifaddrmsg> = self.dump(operation, Rtm::Getaddr, request)?;
        Ok(found.iter().filter_map(Address::decode).collect())
    }
}
