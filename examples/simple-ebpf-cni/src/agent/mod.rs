//! Names and files of the node agent, for the agent itself and for the commands of the plugin.

mod report;

use serde::{Deserialize, Serialize};

pub use self::report::{PeerReport, ProbeReport, Report, Way};

/// The name of the agent, of its nftables table and of its directories.
pub const NAME: &str = "simple-ebpf-agent";

/// The directory of the pinned programs and maps. Each network has a directory in it.
pub const PINS: &str = "/sys/fs/bpf/simple-ebpf-agent";

/// The [`Report`] of the running agent.
pub const REPORT: &str = "/run/simple-ebpf-agent/nodes.json";

/// The tunnel device.
pub const TUNNEL: &str = "simple-vxlan";

/// The protocol number of the agent's routes (`rtm_protocol`).
pub const ROUTE_PROTOCOL: u8 = 201;

/// The selection of the way to a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Direct if the node is on-link and answers probes, else through the tunnel.
    #[default]
    Auto,
    /// Always direct.
    Direct,
    /// Always through the tunnel.
    Vxlan,
    /// The network between the nodes routes the pod CIDRs.
    Routed,
}
