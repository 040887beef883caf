use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use ipnetwork::IpNetwork;
use neli::{
    consts::{
        nl::NlmF,
        rtnl::{Ifa, RtAddrFamily, RtScope, Rtm},
    },
    rtnl::{Ifaddrmsg, IfaddrmsgBuilder},
};
use rustix::io::Errno;

use super::{
    attrs::{Attrs, number, text},
    error::{EncodeError, Error, Operation, Result},
    socket::Socket,
};
use crate::spec::IfIndex;

/// `IFA_F_*` of `linux/if_addr.h`. neli knows only the flags that fit into a byte.
const NODAD: u32 = 0x02;
const DADFAILED: u32 = 0x08;
const DEPRECATED: u32 = 0x20;
const TENTATIVE: u32 = 0x40;
const NOPREFIXROUTE: u32 = 0x200;

/// An address to be added to a link.
///
/// [`Socket::add_address_with`] adds it.
///
/// ```
/// use cnikit::netlink::AddressSpec;
///
/// let gateway = "10.22.0.1/32".parse()?;
/// let address = AddressSpec::new("10.22.0.5/32".parse()?).peer(gateway).no_prefix_route();
/// assert_eq!(address.peer, Some(gateway));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AddressSpec {
    /// The address with the prefix length of its subnet.
    pub address: IpNetwork,
    /// The address of the machine at the other end of a point-to-point link, with the prefix length
    /// of the subnet behind it. The kernel keeps one prefix length, so this one replaces the prefix
    /// length of `address`.
    pub peer: Option<IpNetwork>,
    /// The scope of an IPv4 address, as in
    /// [rtnetlink(7)](https://man7.org/linux/man-pages/man7/rtnetlink.7.html): 0 global, 253 link,
    /// 254 host. Without a value, loopback addresses have 254 and all others 0. For IPv6, the
    /// kernel derives the scope from the address.
    pub scope: Option<u8>,
    /// The label of an IPv4 address, up to 15 bytes, such as `eth0:1`. Without one, the kernel uses
    /// the name of the link.
    pub label: Option<String>,
    /// The kernel checks whether another machine on the link uses the IPv6 address (duplicate
    /// address detection).
    pub dad: bool,
    /// The kernel adds no route to the subnet of the address.
    pub no_prefix_route: bool,
}

/// An address of a link, as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Address {
    /// The link.
    pub ifindex: IfIndex,
    /// The address with the prefix length of its subnet.
    pub address: IpNetwork,
    /// The address at the other end of a point-to-point link, with the same prefix length.
    pub peer: Option<IpNetwork>,
    /// The scope: see [`AddressSpec::scope`].
    pub scope: u8,
    /// The label; `None` for IPv6.
    pub label: Option<String>,
    /// Duplicate address detection is not over, or it failed. The kernel does not use the address.
    pub tentative: bool,
    /// Another machine on the link uses the address (duplicate address detection failed).
    pub dad_failed: bool,
    /// The preferred lifetime is over: new connections use another address.
    pub deprecated: bool,
    /// The kernel added no route to the subnet of the address.
    pub no_prefix_route: bool,
    /// The time until the kernel deletes the address, in whole seconds; `None` for ever.
    pub valid_lifetime: Option<Duration>,
}

impl AddressSpec {
    /// An address without peer and without duplicate address detection.
    #[must_use]
    pub const fn new(address: IpNetwork) -> Self {
        Self { address, peer: None, scope: None, label: None, dad: false, no_prefix_route: false }
    }

    /// Sets the address at the other end of a point-to-point link. Its prefix length replaces the
    /// prefix length of the address.
    #[must_use]
    pub const fn peer(mut self, peer: IpNetwork) -> Self {
        self.peer = Some(peer);
        self
    }

    /// Sets the scope of an IPv4 address.
    #[must_use]
    pub const fn scope(mut self, scope: u8) -> Self {
        self.scope = Some(scope);
        self
    }

    /// Sets the label of an IPv4 address.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Enables duplicate address detection, which takes a second or more.
    /// [`Socket::wait_addresses_settled`] waits for the end.
    #[must_use]
    pub const fn dad(mut self) -> Self {
        self.dad = true;
        self
    }

    /// Keeps the kernel from adding the route to the subnet.
    #[must_use]
    pub const fn no_prefix_route(mut self) -> Self {
        self.no_prefix_route = true;
        self
    }

    fn message(&self, ifindex: IfIndex) -> Result<Ifaddrmsg, EncodeError> {
        let ip = self.address.ip();
        let far = self.peer.unwrap_or(self.address);
        let mut attrs = Attrs::new().put(Ifa::Local, &octets(ip)[..])?.put(Ifa::Address, &octets(far.ip())[..])?;
        let mut flags = 0;
        match self.address {
            // /31 and /32 have no broadcast address (RFC 3021).
            IpNetwork::V4(v4) if v4.prefix() < 31 && self.peer.is_none() => {
                attrs = attrs.put(Ifa::Broadcast, v4.broadcast().octets())?;
            }
            IpNetwork::V6(_) if !self.dad => flags |= NODAD,
            _ => (),
        }
        if self.no_prefix_route {
            flags |= NOPREFIXROUTE;
        }
        attrs = attrs.put_some(Ifa::Label, self.label.as_deref())?.put(Ifa::Flags, flags)?;
        let default_scope = if ip.is_loopback() { RtScope::Host } else { RtScope::Universe };
        let header = header(family(ip), ifindex, far.prefix());
        let header = header.ifa_scope(self.scope.map_or(default_scope, RtScope::from));
        Ok(header.rtattrs(attrs.into_buffer()).build()?)
    }
}

impl From<IpNetwork> for AddressSpec {
    fn from(address: IpNetwork) -> Self {
        Self::new(address)
    }
}

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
        self.new_address(ifindex, &address.into())
    }

    /// Adds an address with all its settings to a link.
    ///
    /// # Errors
    ///
    /// As for [`Socket::add_address`]. [`Error::Kernel`] with `ERANGE` for a label with more than
    /// 15 bytes.
    ///
    /// # Kernel
    ///
    /// Linux 4.18 for [`AddressSpec::no_prefix_route`] of an IPv4 address. Older kernels ignore it.
    pub fn add_address_with(&self, ifindex: IfIndex, address: &AddressSpec) -> Result<()> {
        self.new_address(ifindex, address)
    }

    /// Adds an address to a link, unless the link has it with the same prefix length. Returns
    /// whether the call added the address.
    ///
    /// # Errors
    ///
    /// As for [`Socket::add_address`]; [`Error::Exists`] if the link has the IPv6 address with
    /// another prefix length or with a peer.
    pub fn ensure_address(&self, ifindex: IfIndex, address: IpNetwork) -> Result<bool> {
        match self.new_address(ifindex, &address.into()) {
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
    /// # Errors
    ///
    /// [`Error::Kernel`]: `EPERM` without `CAP_NET_ADMIN`.
    #[doc(alias = "RTM_DELADDR")]
    pub fn delete_address(&self, ifindex: IfIndex, address: IpNetwork) -> Result<()> {
        self.remove_address(ifindex, &address.into())
    }

    /// Deletes an address from a link. Address, prefix length, and for IPv4 also the peer and a
    /// label must match. Succeeds if the address or the link is absent.
    ///
    /// # Errors
    ///
    /// As for [`Socket::delete_address`].
    pub fn delete_address_with(&self, ifindex: IfIndex, address: &AddressSpec) -> Result<()> {
        self.remove_address(ifindex, address)
    }

    fn new_address(&self, ifindex: IfIndex, spec: &AddressSpec) -> Result<()> {
        let operation = Operation::new("add address", format_args!("{} to link {ifindex}", spec.address));
        self.change(&operation, Rtm::Newaddr, NlmF::CREATE | NlmF::EXCL, spec.message(ifindex))
    }

    fn remove_address(&self, ifindex: IfIndex, spec: &AddressSpec) -> Result<()> {
        let operation = Operation::new("delete address", format_args!("{} of link {ifindex}", spec.address));
        match self.change(&operation, Rtm::Deladdr, NlmF::empty(), spec.message(ifindex)) {
            Err(error) if error.is(Errno::ADDRNOTAVAIL) || error.is(Errno::NODEV) => Ok(()),
            deleted => deleted,
        }
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
        let found = self.dump_addresses(&operation, Some(ifindex))?;
        let of_link = found.into_iter().filter(|found| found.ifindex == ifindex).map(|found| found.address);
        let (v4, v6): (Vec<_>, Vec<_>) = of_link.partition(IpNetwork::is_ipv4);
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
        const FIRST_PAUSE: Duration = Duration::from_millis(1);
        const LONGEST_PAUSE: Duration = Duration::from_millis(50);
        let operation = Operation::on_link("wait for the addresses of", ifindex);
        let start = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let found = self.addresses_of(&operation, ifindex)?;
            if let Some(duplicate) = found.iter().find(|address| address.dad_failed) {
                return Err(Error::DuplicateAddress { address: duplicate.address, ifindex });
            }
            if found.iter().all(|address| !address.tentative) {
                return Ok(true);
            }
            let left = timeout.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            thread::sleep(pause.min(left));
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The addresses of one link.
    pub(super) fn addresses_of(&self, operation: &Operation, ifindex: IfIndex) -> Result<Vec<Address>> {
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

impl Address {
    /// `None` for a message without address or link.
    pub(super) fn decode(message: &Ifaddrmsg) -> Option<Self> {
        let prefix = *message.ifa_prefixlen();
        let (mut local, mut far, mut label, mut valid_lifetime) = (None, None, None, None);
        // The attribute has all 32 bits, the header 8.
        let mut flags = u32::from(message.ifa_flags().bits());
        for attr in message.rtattrs().iter() {
            let bytes: &[u8] = attr.rta_payload().as_ref();
            match attr.rta_type() {
                Ifa::Local => local = ip_addr(bytes),
                Ifa::Address => far = ip_addr(bytes),
                Ifa::Label => label = Some(text(bytes)),
                Ifa::Flags => flags = number(bytes).unwrap_or(flags),
                Ifa::Cacheinfo => valid_lifetime = lifetime(bytes),
                _ => (),
            }
        }
        // On a point-to-point link `Address` is the peer's address. Without a peer, IPv6 omits
        // `Local`.
        let ip = local.or(far)?;
        Some(Self {
            ifindex: IfIndex::new(*message.ifa_index())?,
            address: IpNetwork::new(ip, prefix).ok()?,
            peer: far.filter(|far| *far != ip).and_then(|far| IpNetwork::new(far, prefix).ok()),
            scope: (*message.ifa_scope()).into(),
            label,
            tentative: flags & TENTATIVE != 0,
            dad_failed: flags & DADFAILED != 0,
            deprecated: flags & DEPRECATED != 0,
            no_prefix_route: flags & NOPREFIXROUTE != 0,
            valid_lifetime,
        })
    }
}

/// The valid lifetime in `struct ifa_cacheinfo`: preferred and valid lifetime in seconds, then two
/// time stamps.
fn lifetime(bytes: &[u8]) -> Option<Duration> {
    const FOREVER: u32 = u32::MAX;
    let valid = bytes.get(4..8).and_then(number).filter(|seconds| *seconds != FOREVER);
    valid.map(|seconds| Duration::from_secs(seconds.into()))
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

fn header(family: RtAddrFamily, ifindex: impl Into<Option<IfIndex>>, prefix: u8) -> IfaddrmsgBuilder {
    let ifindex = ifindex.into().map_or(0, IfIndex::get);
    IfaddrmsgBuilder::default().ifa_family(family).ifa_prefixlen(prefix).ifa_scope(RtScope::Universe).ifa_index(ifindex)
}
