//! The state of the agent, which it writes to a file for the commands of the plugin.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// The state of the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The version of the agent.
    pub version: String,
    /// The process id of the agent, in its own namespace.
    pub pid: u32,
    /// The name of this node.
    pub node: String,
    /// The time of the report, in seconds since 1970.
    pub time: u64,
    /// Whether everything is applied, and the network configuration is written.
    pub is_ready: bool,
    /// The pod CIDRs of this node.
    pub pod_cidrs: Vec<IpNetwork>,
    /// The MTU of pods, in bytes.
    pub mtu: Option<u32>,
    /// The other nodes: one entry for each node and family of pod CIDRs, by name.
    pub peers: Vec<PeerReport>,
    /// The problems, each with the cause and the remedy.
    pub problems: Vec<String>,
}

/// The way to the pods of another node, for one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerReport {
    /// The name of the node.
    pub node: String,
    /// The pod CIDR.
    pub pod_cidr: IpNetwork,
    /// The address of the node that packets are sent to.
    pub address: Option<IpAddr>,
    /// The way of the packets.
    pub way: Way,
    /// The cause of the choice, such as "on-link".
    pub reason: String,
    /// The link that packets leave through.
    pub link: Option<String>,
    /// The longest IP packet, in bytes.
    pub mtu: Option<u32>,
    /// Whether the eBPF programs forward the packets. Otherwise the stack does.
    #[serde(default)]
    pub bypass: bool,
    /// The probes of the direct way. `None` if the mode needs none.
    #[serde(default)]
    pub probe: Option<ProbeReport>,
}

/// The probes of the direct way to a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeReport {
    /// The time of the last answer, in seconds since 1970. `None` if the node has never answered.
    pub answered: Option<u64>,
    /// The probes that got no answer, since the last answer.
    pub lost: u32,
}

/// The way of packets to the pods of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// To the address of the node.
    Direct,
    /// Through the tunnel to the address of the node.
    Vxlan,
    /// By the routes of the network between the nodes.
    Routed,
    /// Not at all.
    None,
}
