use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::error::{Error, Result};

/// The addresses of a subnet that may be handed out.
///
/// These are all but the network address (of IPv6: the [subnet-router anycast address]), the gateway and, of IPv4,
/// the broadcast address. Everything but a whole iteration takes constant time, whatever the prefix length.
///
/// ```
/// use cnikit::ipam::Range;
///
/// let range = Range::new("10.244.1.0/24".parse()?, None)?;
/// assert_eq!(range.gateway().to_string(), "10.244.1.1");
/// assert_eq!(range.capacity(), 253);
///
/// let error = Range::new("10.244.1.7/24".parse()?, None).unwrap_err();
/// assert_eq!(error.to_string(), "10.244.1.7/24 has host bits set; write 10.244.1.0/24");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// [subnet-router anycast address]: https://www.rfc-editor.org/rfc/rfc4291#section-2.6.1
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Range {
    subnet: IpNetwork,
    first: IpAddr,
    last: IpAddr,
    gateway: IpAddr,
}

/// The addresses of a [`Range`], each once; made by [`Range::after`].
#[derive(Debug, Clone)]
pub struct Addresses<'a> {
    range: &'a Range,
    next: u128,
    /// How many numbers are still to be looked at, the gateway's included.
    left: u128,
}

impl Range {
    /// All of `subnet`; without a `gateway`, the subnet's first address is taken for it.
    ///
    /// # Errors
    ///
    /// [`Error::HostBits`], [`Error::SubnetTooSmall`] (an IPv4 prefix over /30, an IPv6 one over /126),
    /// [`Error::GatewayOutside`], [`Error::GatewayReserved`].
    pub fn new(subnet: IpNetwork, gateway: Option<IpAddr>) -> Result<Self> {
        let (network, end) = (subnet.network(), subnet.broadcast());
        if subnet.ip() != network {
            return Err(Error::HostBits { subnet });
        }
        if number(end) - number(network) < 3 {
            return Err(Error::SubnetTooSmall { subnet });
        }
        let first = address(number(network) + 1, subnet);
        // IPv6 has no broadcast: the last address is like any other.
        let last = if subnet.is_ipv4() { address(number(end) - 1, subnet) } else { end };
        let gateway = gateway.unwrap_or(first);
        if !subnet.contains(gateway) {
            return Err(Error::GatewayOutside { gateway, subnet });
        }
        if gateway < first || gateway > last {
            return Err(Error::GatewayReserved { gateway, subnet });
        }
        Ok(Self { subnet, first, last, gateway })
    }

    /// The subnet that the addresses are of.
    pub fn subnet(&self) -> IpNetwork {
        self.subnet
    }

    /// The lowest address that is neither reserved by the protocol nor outside; it may be the gateway's.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// The highest address that is neither reserved by the protocol nor outside; it may be the gateway's.
    pub fn last(&self) -> IpAddr {
        self.last
    }

    /// The gateway, never handed out.
    pub fn gateway(&self) -> IpAddr {
        self.gateway
    }

    /// How many addresses can be handed out; at least 1.
    pub fn capacity(&self) -> u128 {
        // One more address lies between the bounds, and one of them is the gateway's.
        number(self.last) - number(self.first)
    }

    /// Whether `address` is one that can be handed out.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.bounds(address) && address != self.gateway
    }

    /// `address` with the subnet's prefix length, as an interface wants it; an address of the other family gets the
    /// prefix length of a single host.
    ///
    /// ```
    /// # use cnikit::ipam::Range;
    /// let range = Range::new("fd00:1::/64".parse()?, None)?;
    /// assert_eq!(range.with_prefix(range.gateway()).to_string(), "fd00:1::1/64");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn with_prefix(&self, address: IpAddr) -> IpNetwork {
        if address.is_ipv4() != self.subnet.is_ipv4() {
            return address.into();
        }
        // A prefix length that came from a network of the same family is always accepted.
        IpNetwork::new(address, self.subnet.prefix()).unwrap_or_else(|_| address.into())
    }

    /// Every address that can be handed out, each once, from the one after `cursor` around to `cursor` itself.
    /// Without a cursor, or with one from elsewhere, from the first to the last.
    ///
    /// ```
    /// # use cnikit::ipam::Range;
    /// let range = Range::new("10.0.0.0/29".parse()?, None)?;
    /// let order: Vec<_> = range.after(Some("10.0.0.4".parse()?)).map(|a| a.to_string()).collect();
    /// assert_eq!(order, ["10.0.0.5", "10.0.0.6", "10.0.0.2", "10.0.0.3", "10.0.0.4"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn after(&self, cursor: Option<IpAddr>) -> Addresses<'_> {
        let next = match cursor {
            Some(cursor) if self.bounds(cursor) && cursor != self.last => number(cursor) + 1,
            _ => number(self.first),
        };
        // The network address is outside the bounds, so that even those of ::/0 are fewer than 2^128.
        Addresses { range: self, next, left: number(self.last) - number(self.first) + 1 }
    }

    fn bounds(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.subnet.is_ipv4() && self.first <= address && address <= self.last
    }
}

impl Iterator for Addresses<'_> {
    type Item = IpAddr;

    fn next(&mut self) -> Option<IpAddr> {
        while self.left > 0 {
            let found = address(self.next, self.range.subnet);
            self.left -= 1;
            self.next = if found == self.range.last { number(self.range.first) } else { self.next + 1 };
            if found != self.range.gateway {
                return Some(found);
            }
        }
        None
    }
}

impl std::iter::FusedIterator for Addresses<'_> {}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address of a number that was made from an address of the family of `subnet`.
fn address(number: u128, subnet: IpNetwork) -> IpAddr {
    match subnet {
        IpNetwork::V4(_) => Ipv4Addr::from_bits(number as u32).into(),
        IpNetwork::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}
