//! Whether the bridge can have the addresses that a network needs.

use cnikit::netlink::Link;

use super::Check;
use crate::ipv6;
use crate::people::network::Network;

/// Whether an ADD of the network would be refused for its IPv6 addresses.
pub(crate) fn addresses(network: &Network, links: &[Link]) -> Option<Check> {
    let bridge = links.iter().find(|link| link.name == *network.bridge());
    ipv6(network, bridge)
}

fn ipv6(network: &Network, bridge: Option<&Link>) -> Option<Check> {
    let failure = ipv6::probe(&network.name, network.config(), network.ipam(), bridge).err()?;
    let found = format!("no pod of {} can have an IPv6 address: {failure}", network.name);
    Some(Check::fail("ipv6", found, "enable IPv6, or remove the IPv6 addresses from the configuration"))
}
