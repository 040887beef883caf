//! Differences between a bridge with its ports and what pods expect: a gateway address that is missing, another MAC than the
//! maps say, a port that is down.

use std::borrow::Borrow;
use std::net::IpAddr;

use cnikit::datapath::{self, Datapath, DatapathConfig};
use cnikit::netlink::Link;
use cnikit::spec::IfName;
use ipnetwork::IpNetwork;

use crate::bridge;
use crate::config::Config;
use crate::endpoints::Rows;

/// The gateways' addresses that the bridge must have, by the maps: those that an ADD gave it. The maps know no prefix
/// lengths, so these come from the configuration, or else from the address that the bridge `has`. An address whose prefix
/// length is unknown has that of a host.
pub(crate) fn taken(
    datapath: &Datapath,
    config: Option<&Config>,
    has: &[IpNetwork],
) -> datapath::Result<Vec<IpNetwork>> {
    let configured: Vec<IpNetwork> = config.into_iter().flat_map(bridge::gateways).collect();
    let gateways = Rows::open(datapath)?.gateways(datapath.config()?.bridge_ifindex)?;
    let with_prefix = |address: IpAddr| {
        let known = configured.iter().chain(has).find(|network| network.ip() == address);
        known.copied().unwrap_or_else(|| address.into())
    };
    let mut taken: Vec<IpNetwork> = gateways.into_iter().map(with_prefix).collect();
    taken.sort_unstable();
    Ok(taken)
}

/// What the bridge lacks of the gateways' addresses.
pub(crate) fn lacking<'g>(
    link: &Link,
    has: &[IpNetwork],
    gateways: &'g [IpNetwork],
) -> impl Iterator<Item = String> + use<'g> {
    let (name, has) = (link.name.clone(), has.to_vec());
    let missing = gateways.iter().filter(move |gateway| !bridge::serves(&has, **gateway));
    missing.map(move |gateway| format!("the bridge {name} lacks the gateway's address {}", shown(*gateway)))
}

/// An address without the prefix length that stands for an unknown one.
fn shown(gateway: IpNetwork) -> String {
    let is_unknown = gateway.prefix() == if gateway.is_ipv4() { 32 } else { 128 };
    if is_unknown { gateway.ip().to_string() } else { gateway.to_string() }
}

/// What a pod's port lacks of what its ADD set, except the eBPF programs. CHECK, `status` and `doctor` report it.
pub(crate) fn port(port: &Link, bridge: Option<&Link>) -> Vec<PortFault> {
    let mut faults = Vec::new();
    if !port.up {
        faults.push(PortFault::Down);
    }
    if bridge.is_some_and(|bridge| port.master != Some(bridge.index)) {
        faults.push(PortFault::NoPort);
    }
    faults
}

/// How the bridge's MAC differs from the one that the eBPF programs know.
pub(crate) fn other_mac(bridge: &Link, told: &DatapathConfig) -> Option<String> {
    let mac = bridge.mac.filter(|mac| *mac != told.gateway_mac)?;
    let (name, expected) = (&bridge.name, told.gateway_mac);
    Some(format!("the bridge {name} has the MAC {mac}, and the eBPF programs know it by {expected}"))
}

/// A fault of one pod's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortFault {
    Down,
    NoPort,
    NoPrograms,
    /// The bridge lacks the static entry of the pod's MAC.
    NoEntry,
}

impl PortFault {
    /// The message for these ports, which `ports` names.
    pub(crate) fn of(self, ports: &[impl Borrow<str>], bridge: &IfName) -> String {
        let (names, is_one) = (ports.join(", "), ports.len() == 1);
        let (is, a_port) = if is_one { ("is", "no port") } else { ("are", "no ports") };
        match self {
            Self::Down => format!("{names} {is} down"),
            Self::NoPort => format!("{names} {is} {a_port} of the bridge {bridge}"),
            Self::NoPrograms => format!("the eBPF programs do not run on {names}"),
            Self::NoEntry => format!("the bridge {bridge} does not know the pod's MAC at {names}"),
        }
    }
}
