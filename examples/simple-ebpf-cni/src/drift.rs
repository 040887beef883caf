//! Differences between a bridge, its ports, and the expectations of the pods.
//!
//! Examples are a missing gateway address, a MAC that differs from the maps, and a port that is
//! down.

use std::borrow::Borrow;
use std::net::IpAddr;

use cnikit::datapath::{self, Datapath, DatapathConfig};
use cnikit::netlink::Link;
use cnikit::spec::IfName;
use ipnetwork::IpNetwork;

use crate::config::Config;
use crate::endpoints::Endpoints;
use crate::ip;

/// The gateway addresses that the bridge must have according to the maps: an ADD added them.
///
/// The maps hold no prefix lengths. They come from the configuration, or else from the addresses
/// `present` on the bridge. An address with an unknown prefix length gets the length of a host.
///
/// # Errors
///
/// Fails if the maps cannot be read.
pub fn taken(datapath: &Datapath, config: Option<&Config>, present: &[IpNetwork]) -> datapath::Result<Vec<IpNetwork>> {
    let configured: Vec<IpNetwork> = config.into_iter().flat_map(Config::gateways).collect();
    let gateways = Endpoints::open(datapath)?.gateways(datapath.config()?.bridge_ifindex)?;
    let with_prefix = |address: IpAddr| {
        let known = configured.iter().chain(present).find(|network| network.ip() == address);
        known.copied().unwrap_or_else(|| address.into())
    };
    let mut taken: Vec<IpNetwork> = gateways.into_iter().map(with_prefix).collect();
    taken.sort_unstable();
    Ok(taken)
}

/// A message for each gateway address that the bridge lacks. `present` are its addresses.
pub fn lacking<'g>(
    link: &Link,
    present: &[IpNetwork],
    gateways: &'g [IpNetwork],
) -> impl Iterator<Item = String> + use<'g> {
    let (name, present) = (link.name.clone(), present.to_vec());
    let missing = gateways.iter().filter(move |gateway| !ip::serves(&present, **gateway));
    missing
        .map(move |gateway| format!("the bridge {name} lacks the gateway's address {}", without_host_prefix(*gateway)))
}

/// Formats an address. Omits the prefix length of a host, which stands for an unknown length.
fn without_host_prefix(gateway: IpNetwork) -> String {
    let is_unknown = gateway.prefix() == if gateway.is_ipv4() { 32 } else { 128 };
    if is_unknown { gateway.ip().to_string() } else { gateway.to_string() }
}

/// The faults of a pod's port, except missing eBPF programs. CHECK, `status` and `doctor` report
/// them.
#[must_use]
pub fn port(port: &Link, bridge: Option<&Link>) -> Vec<PortFault> {
    let mut faults = Vec::new();
    if !port.up {
        faults.push(PortFault::Down);
    }
    if bridge.is_some_and(|bridge| port.master != Some(bridge.index)) {
        faults.push(PortFault::NoPort);
    }
    faults
}

/// A message, if the bridge's MAC differs from the one in the maps.
#[must_use]
pub fn other_mac(bridge: &Link, expected: &DatapathConfig) -> Option<String> {
    let mac = bridge.mac.filter(|mac| *mac != expected.gateway_mac)?;
    let (name, expected) = (&bridge.name, expected.gateway_mac);
    Some(format!("the bridge {name} has the MAC {mac}, and the eBPF programs know it by {expected}"))
}

/// A fault of a pod's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortFault {
    /// The host end is down.
    Down,
    /// The host end is no port of the bridge.
    NoPort,
    /// The eBPF programs do not run on the host end.
    NoPrograms,
    /// The bridge lacks the static forwarding entry of the pod's MAC.
    NoEntry,
}

impl PortFault {
    /// The message for the ports with the names `ports`.
    pub fn message(self, ports: &[impl Borrow<str>], bridge: &IfName) -> String {
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
