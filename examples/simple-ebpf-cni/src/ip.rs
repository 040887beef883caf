//! Arithmetic of addresses and prefixes.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// The subnet of an address with its prefix length.
#[must_use]
pub fn subnet(address: IpNetwork) -> IpNetwork {
    IpNetwork::new(address.network(), address.prefix()).unwrap_or(address)
}

/// Whether two prefixes share an address.
#[must_use]
pub fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    a.is_ipv4() == b.is_ipv4() && (a.contains(b.network()) || b.contains(a.network()))
}

/// Whether an IPv6 address is link-local: it names another machine on each link.
pub(crate) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// Whether one of the addresses is `gateway`, with a prefix that includes the gateway's subnet.
pub(crate) fn serves(addresses: &[IpNetwork], gateway: IpNetwork) -> bool {
    addresses.iter().any(|address| address.ip() == gateway.ip() && address.prefix() <= gateway.prefix())
}
