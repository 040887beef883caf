//! The options of the agent.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use cnikit::spec::{IfName, NetworkName};
use simple_ebpf_cni::agent::Mode;

/// Connects the pods of this node to the pods of all other nodes of a Kubernetes cluster.
///
/// The agent waits until its Node object has a pod CIDR. It sets up the bridge, the eBPF programs,
/// the routes to other nodes and masquerading, and writes the network configuration last. SIGTERM
/// leaves everything in place.
#[derive(Clone, Debug, Parser)]
#[command(name = "simple-ebpf-agent", version)]
pub struct Settings {
    /// Name of this node in the API
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: String,

    /// Name of the network
    #[arg(long, env = "SIMPLE_EBPF_AGENT_NETWORK", value_name = "NAME", default_value = "podnet")]
    pub network: NetworkName,

    /// Bridge of the network
    #[arg(long, env = "SIMPLE_EBPF_AGENT_BRIDGE", value_name = "NAME", default_value = "cbr0")]
    pub bridge: IfName,

    /// Network configuration that the agent writes
    #[arg(
        long,
        env = "SIMPLE_EBPF_AGENT_CONFLIST",
        value_name = "FILE",
        default_value = "/etc/cni/net.d/10-podnet.conflist"
    )]
    pub conflist: PathBuf,

    /// Version of the CNI specification in the network configuration
    #[arg(long, env = "SIMPLE_EBPF_AGENT_CNI_VERSION", value_name = "VERSION", default_value = "1.0.0",
        value_parser = ["1.0.0", "1.1.0"])]
    pub cni_version: String,

    /// Directory of plugins: the configuration has `portmap` if the directory has it
    #[arg(long, env = "SIMPLE_EBPF_AGENT_PLUGIN_DIR", value_name = "DIR", default_value = "/opt/cni/bin")]
    pub plugin_dir: PathBuf,

    /// Log file of the plugin
    #[arg(long, env = "SIMPLE_EBPF_AGENT_PLUGIN_LOG", value_name = "FILE")]
    pub plugin_log: Option<PathBuf>,

    /// MTU of new pods, in bytes; without it, the MTU of the uplink without the headers of a tunnel
    #[arg(long, env = "SIMPLE_EBPF_AGENT_MTU", value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1280..=65535))]
    pub mtu: Option<u32>,

    /// Way to other nodes: `auto`, `direct`, `vxlan` or `routed`
    ///
    /// `auto` sends packets directly to nodes in the same network segment that answer probes, and
    /// to all others through a tunnel. `routed` leaves the routes to the network between the nodes.
    #[arg(long, env = "SIMPLE_EBPF_AGENT_MODE", value_name = "MODE", default_value = "auto")]
    pub mode: Mode,

    /// UDP port of the tunnel, the same on all nodes
    #[arg(long, env = "SIMPLE_EBPF_AGENT_VXLAN_PORT", value_name = "PORT", default_value_t = 8472,
        value_parser = clap::value_parser!(u16).range(1..))]
    pub vxlan_port: u16,

    /// VXLAN network identifier of the tunnel, the same on all nodes
    #[arg(long, env = "SIMPLE_EBPF_AGENT_VXLAN_ID", value_name = "NUMBER", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..1 << 24))]
    pub vxlan_id: u32,

    /// Link of the tunnel
    #[arg(long, env = "SIMPLE_EBPF_AGENT_VXLAN_LINK", value_name = "NAME", default_value = "cni-vxlan")]
    pub vxlan_link: IfName,

    /// UDP port of the probes, at the gateway addresses of all nodes
    #[arg(long, env = "SIMPLE_EBPF_AGENT_PROBE_PORT", value_name = "PORT", default_value_t = 9913,
        value_parser = clap::value_parser!(u16).range(1..))]
    pub probe_port: u16,

    /// Forward packets between pods of different nodes by eBPF programs; `false` leaves them to the
    /// bridge and the routing table
    #[arg(long, env = "SIMPLE_EBPF_AGENT_BYPASS", value_name = "BOOL", default_value_t = true,
        action = clap::ArgAction::Set)]
    pub bypass: bool,

    /// Give packets of pods to addresses outside of the cluster the address of the node
    #[arg(long, env = "SIMPLE_EBPF_AGENT_MASQUERADE", value_name = "BOOL", default_value_t = true,
        action = clap::ArgAction::Set)]
    pub masquerade: bool,

    /// Accept forwarded packets of pods in chains of other programs that drop them, such as docker
    #[arg(long, env = "SIMPLE_EBPF_AGENT_FORWARD_ACCEPT", value_name = "BOOL", default_value_t = true,
        action = clap::ArgAction::Set)]
    pub forward_accept: bool,

    /// Writable mount of /proc/sys/net, for a container with a read-only /proc/sys
    #[arg(long, env = "SIMPLE_EBPF_AGENT_SYSCTL_DIR", value_name = "DIR", default_value = "/proc/sys/net")]
    pub sysctl_dir: PathBuf,

    /// Address of /healthz, /readyz and /metrics
    #[arg(long, env = "SIMPLE_EBPF_AGENT_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:9912")]
    pub listen: SocketAddr,

    /// Longest time between two comparisons with the kernel, in seconds
    #[arg(long, env = "SIMPLE_EBPF_AGENT_RESYNC", value_name = "SECONDS", default_value = "300", value_parser = seconds)]
    pub resync: Duration,

    /// Format of the log on standard error
    #[arg(long, env = "SIMPLE_EBPF_AGENT_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// Log lines: `error`, `warn`, `info` or `debug`
    #[arg(long, env = "SIMPLE_EBPF_AGENT_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: tracing::Level,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// `key=value` pairs
    #[default]
    Logfmt,
    /// One JSON object a line
    Json,
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds)),
        _ => Err("a number of seconds, at least 1".to_owned()),
    }
}
