//! The nodes of the cluster, as the kernel side needs them.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use simple_ebpf_cni::agent::Mode;

/// This node and all other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterView {
    /// This node. `None` until the API has the node with a pod CIDR.
    pub own: Option<OwnNode>,
    /// The other nodes that have a pod CIDR and an address, by name.
    pub peers: Vec<PeerNode>,
    /// Values of Node objects that the agent cannot use.
    pub problems: Vec<String>,
}

/// The node of the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnNode {
    /// The name of the Node object.
    pub name: String,
    /// The pod CIDRs, at most one of each family.
    pub pod_cidrs: Vec<IpNetwork>,
    /// The addresses of type `InternalIP`.
    pub addresses: Vec<IpAddr>,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerNode {
    /// The name of the Node object.
    pub name: String,
    /// The pod CIDRs, at most one of each family.
    pub pod_cidrs: Vec<IpNetwork>,
    /// The addresses of type `InternalIP`, in the order of the API.
    pub addresses: Vec<IpAddr>,
    /// The mode in the annotation of the node. `None` follows the setting of the cluster.
    pub mode: Option<Mode>,
}
