//! Names and files of the node agent, for the agent itself and for the commands of the plugin.

pub mod forward;
mod report;

use serde::{Deserialize, Serialize};

pub use self::report::{PeerReport, Report, Way};

/// The name of the agent, of its nftables table and of its directories.
pub const NAME: &str = "simple-ebpf-agent";

/// The key of a network configuration that names its author. Runtimes ignore it.
pub const MANAGED_BY: &str = "managedBy";

/// The [`Report`] of the running agent.
pub const REPORT: &str = "/run/simple-ebpf-agent/nodes.json";

/// The protocol number of the agent's routes (`rtm_protocol`).
pub const ROUTE_PROTOCOL: u8 = 201;

/// The selection of the way to a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// To the node's address, if the node is on-link.
    #[default]
    Direct,
    /// The network between the nodes routes the pod CIDRs.
    Routed,
}
