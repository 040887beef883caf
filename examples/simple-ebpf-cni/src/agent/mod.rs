//! Names and files of the node agent, for the agent itself and for the commands of the plugin.

pub mod forward;
mod report;

use std::str::FromStr;

use cnikit::datapath::{Datapath, RemoteDatapath};
use cnikit::netlink::{FilterInfo, FilterTarget, Link, Socket};
use cnikit::spec::NetworkName;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::naming;

pub use self::report::{PeerReport, ProbeReport, Report, Way};

/// The name of the agent, of its nftables table and of its directories.
pub const NAME: &str = "simple-ebpf-agent";

/// The key of a network configuration that names its author. Runtimes ignore it.
pub const MANAGED_BY: &str = "managedBy";

/// The [`Report`] of the running agent.
pub const REPORT: &str = "/run/simple-ebpf-agent/nodes.json";

/// The protocol number of the agent's routes (`rtm_protocol`).
pub const ROUTE_PROTOCOL: u8 = 201;

/// The directory of the agent's pins: the programs at the links between the nodes.
pub const PINS: &str = "/sys/fs/bpf/simple-ebpf-agent";

/// The priority of the agent's filters on a kernel without TCX. Filters of an operator can have a
/// lower number and run first.
pub const FILTER_PRIORITY: u16 = 0xc001;

/// The start of the names of the agent's filters.
const FILTER_PREFIX: &str = "cni_up_";

/// The programs at the links between the nodes, for one network.
#[must_use]
pub fn remote_datapath(network: &NetworkName) -> RemoteDatapath {
    RemoteDatapath::new(PINS, network, &naming::datapath(network))
}

/// Whether an address, or the route to it, is a gateway's at the tunnel of the agent. It leads to
/// no other pods.
#[must_use]
pub fn has_gateway(link: &Link, address: IpNetwork) -> bool {
    link.alias.as_deref() == Some(NAME) && address.prefix() == IpNetwork::from(address.ip()).prefix()
}

/// An object of the agent: its description, and its deletion.
pub type Removal<'a> = (String, Box<dyn FnOnce() -> Result<(), cnikit::Error> + 'a>);

/// The agent's objects at the links between the nodes: the programs with their pins, and the links
/// of tunnels. The caller runs the deletions.
///
/// # Errors
///
/// Fails if the objects cannot be listed.
pub fn underlay_objects(host: &Socket) -> Result<Vec<Removal<'_>>, cnikit::Error> {
    let mut removals: Vec<Removal<'_>> = Vec::new();
    for network in Datapath::networks(PINS)? {
        let text = format!("pins {PINS}/{network}");
        removals.push((text, Box::new(move || Ok(remote_datapath(&network).remove()?))));
    }
    for link in host.links()? {
        if link.alias.as_deref() == Some(NAME) {
            removals.push((format!("link {}", link.name), Box::new(move || Ok(host.delete_link(link.index)?))));
            continue;
        }
        for target in [FilterTarget::Ingress(link.index), FilterTarget::Egress(link.index)] {
            let is_own = |filter: &FilterInfo| {
                filter.priority == FILTER_PRIORITY
                    && filter.name.as_deref().is_some_and(|name| name.starts_with(FILTER_PREFIX))
            };
            for filter in host.filters(&target)?.into_iter().filter(is_own) {
                let text = format!("filter {} of {}", filter.name.as_deref().unwrap_or_default(), link.name);
                let delete = move || Ok(host.delete_filter(&target, filter.priority, filter.handle)?);
                removals.push((text, Box::new(delete)));
            }
        }
    }
    Ok(removals)
}

/// The selection of the way to a node.
///
/// Closed: the way of each mode is documented.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// `Direct` if the node is on-link and answers probes by this way. Otherwise `Vxlan`.
    #[default]
    Auto,
    /// To the node's address, if the node is on-link. No probes.
    Direct,
    /// Through the tunnel.
    Vxlan,
    /// The network between the nodes routes the pod CIDRs.
    Routed,
}

/// A text that is no [`Mode`].
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the modes are auto, direct, vxlan and routed")]
pub struct UnknownMode;

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        Ok(match text {
            "auto" => Self::Auto,
            "direct" => Self::Direct,
            "vxlan" => Self::Vxlan,
            "routed" => Self::Routed,
            _ => return Err(UnknownMode),
        })
    }
}

impl Mode {
    /// Whether packets may leave through the tunnel.
    #[must_use]
    pub const fn needs_tunnel(self) -> bool {
        matches!(self, Self::Auto | Self::Vxlan)
    }
}
