//! What distinguishes one cluster from another.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::layout::Layout;

/// The most nodes. Each needs about 400 MB of memory.
const MOST_NODES: i64 = 9;

/// The settings of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Settings {
    /// Number of nodes; the first one also has the control plane
    #[arg(long, value_name = "NUMBER", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=MOST_NODES))]
    pub(crate) nodes: u8,

    /// Pods and services have IPv4 and IPv6 addresses
    #[arg(long)]
    pub(crate) dual_stack: bool,

    /// Mode of kube-proxy
    #[arg(long, value_enum, default_value_t = ProxyMode::Iptables)]
    pub(crate) proxy: ProxyMode,

    /// Container runtime of the nodes
    #[arg(long, value_enum, default_value_t = Runtime::System)]
    pub(crate) runtime: Runtime,

    /// CNI version of the network configuration on the nodes
    #[arg(long, value_name = "VERSION", default_value = "1.0.0")]
    pub(crate) cni_version: String,

    /// Binary of the node agent, which connects the nodes; without it, the routes are set by hand
    #[arg(long, value_name = "FILE")]
    pub(crate) agent: Option<PathBuf>,
}

/// The backend of kube-proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ProxyMode {
    /// Rules of iptables
    Iptables,
    /// Rules of nftables
    Nftables,
}

/// The container runtime of the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Runtime {
    /// The containerd of this machine
    System,
    /// containerd 2.2, built from its Go module
    #[value(name = "2.2")]
    Containerd2,
}

impl Settings {
    /// The settings of the running cluster.
    ///
    /// # Errors
    ///
    /// If no cluster runs.
    pub(crate) fn read(layout: &Layout) -> Result<Self> {
        let path = layout.settings();
        let text = fs::read(&path).with_context(|| {
            format!("no cluster runs, start one with `make cluster`: cannot read {}", path.display())
        })?;
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged: make cluster-down", path.display()))
    }

    /// The addresses of the pods of all nodes.
    pub(crate) fn cluster_cidrs(&self) -> &'static str {
        if self.dual_stack { "10.244.0.0/16,fd00:10:244::/48" } else { "10.244.0.0/16" }
    }

    /// The addresses of the services.
    pub(crate) fn service_cidrs(&self) -> &'static str {
        if self.dual_stack { "10.96.0.0/16,fd00:10:96::/112" } else { "10.96.0.0/16" }
    }

    /// The name of the backend, in the words of kube-proxy.
    pub(crate) fn proxy_mode(&self) -> &'static str {
        match self.proxy {
            ProxyMode::Iptables => "iptables",
            ProxyMode::Nftables => "nftables",
        }
    }

    /// The numbers of the nodes.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u8> + use<> {
        1..=self.nodes
    }

    /// One line with all settings.
    pub(crate) fn summary(&self) -> String {
        let nodes = if self.nodes == 1 { "1 node".to_owned() } else { format!("{} nodes", self.nodes) };
        let families = if self.dual_stack { "dual stack" } else { "IPv4" };
        let runtime = match self.runtime {
            Runtime::System => "containerd of this machine",
            Runtime::Containerd2 => "containerd 2.2",
        };
        let agent = if self.agent.is_some() { ", with the agent" } else { "" };
        format!(
            "{nodes}, {families}, kube-proxy with {}, {runtime}, CNI {}{agent}",
            self.proxy_mode(),
            self.cni_version
        )
    }
}

/// The address of cluster DNS: the tenth of the services.
pub(crate) const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// The prefix lengths of the network between the nodes.
pub(crate) const UNDERLAY_PREFIXES: [u8; 2] = [24, 64];

/// The addresses of a node, or of the world outside with the number [`WORLD`].
pub(crate) fn addresses(number: u8) -> [IpAddr; 2] {
    [Ipv4Addr::new(172, 30, 0, number).into(), Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, number.into()).into()]
}

/// The number of the world outside, in its addresses.
pub(crate) const WORLD: u8 = 254;

/// The name of a node.
pub(crate) fn node_name(number: u8) -> String {
    format!("node-{number}")
}
