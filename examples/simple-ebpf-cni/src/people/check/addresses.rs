//! Whether the bridge can have the addresses that a network needs: the gateways', and any of IPv6.

use cnikit::netlink::{Link, Socket};

use super::Check;
use crate::gateway::Gateways;
use crate::people::Error;
use crate::people::network::Network;
use crate::{bridge, ipv6};

/// Whether an ADD of the network would be refused for its gateways or for its IPv6 addresses.
pub(crate) fn addresses(network: &Network, host: &Socket, links: &[Link]) -> Result<Vec<Check>, Error> {
    let bridge = links.iter().find(|link| link.name == *network.bridge());
    let mut checks: Vec<Check> = ipv6(network, bridge).into_iter().collect();
    checks.extend(gateway(network, host));
    if let Some(bridge) = bridge {
        checks.extend(left(network, host, bridge)?);
    }
    Ok(checks)
}

fn ipv6(network: &Network, bridge: Option<&Link>) -> Option<Check> {
    let failure = ipv6::probe(&network.name, network.config(), network.ipam(), bridge).err()?;
    let found = format!("no pod of {} can have an IPv6 address: {failure}", network.name);
    Some(Check::fail("ipv6", found, "enable IPv6, or remove the IPv6 addresses from the configuration"))
}

fn gateway(network: &Network, host: &Socket) -> Option<Check> {
    // A bridge that the network cannot use is another check's to report.
    let found = bridge::look(host, &network.name, network.config()).ok()?;
    let failure = Gateways::look(host, network.config(), found.as_ref()).err()?;
    Some(Check::fail("gateway", failure.to_string(), format!("change the configuration of {}", network.name)))
}

/// An address that the node has kept, though the configuration leaves it to another machine.
fn left(network: &Network, host: &Socket, bridge: &Link) -> Result<Option<Check>, Error> {
    let (name, config) = (&bridge.name, network.config());
    if config.is_gateway != Some(false) {
        return Ok(None);
    }
    let addresses = host.addresses(bridge.index)?;
    let gateways: Vec<_> = config.ranges().map(|range| range.gateway()).collect();
    let kept = addresses.into_iter().find(|address| gateways.contains(&address.ip()));
    Ok(kept.map(|kept| {
        let found =
            format!("{name} has {kept}, which \"isGateway\": false of {} leaves to another machine", network.name);
        Check::warn("gateway", found, format!("ip address delete {kept} dev {name}"))
    }))
}
