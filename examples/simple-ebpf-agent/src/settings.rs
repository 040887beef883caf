//! The options of the agent.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser};
use cnikit::spec::{IfName, NetworkName};
use ipnetwork::IpNetwork;
use simple_ebpf_cni::agent::Mode;

const CONFIG_DIR_VARIABLE: &str = "SIMPLE_EBPF_AGENT_CONFIG_DIR";

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

    /// Directory with one file for each option: its name is the option, its text the value. Options
    /// and environment variables have priority
    #[arg(long, env = CONFIG_DIR_VARIABLE, value_name = "DIR")]
    pub config_dir: Option<PathBuf>,

    /// Pod CIDRs of this node, separated by commas, instead of those in its Node object
    #[arg(long, env = "SIMPLE_EBPF_AGENT_POD_CIDR", value_name = "CIDR", value_delimiter = ',')]
    pub pod_cidr: Vec<IpNetwork>,

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

    /// Time between two collections of pods that the runtime does not know any more, in seconds; 0
    /// turns them off
    #[arg(long, env = "SIMPLE_EBPF_AGENT_COLLECT_INTERVAL", value_name = "SECONDS", default_value_t = 600)]
    pub collect_interval: u64,

    /// Socket of the container runtime [default: the socket of containerd, CRI-O or cri-dockerd]
    #[arg(long, env = "SIMPLE_EBPF_AGENT_RUNTIME_ENDPOINT", value_name = "ENDPOINT")]
    pub runtime_endpoint: Option<PathBuf>,

    /// Format of the log on standard error
    #[arg(long, env = "SIMPLE_EBPF_AGENT_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,

    /// Log lines: `error`, `warn`, `info` or `debug`
    #[arg(long, env = "SIMPLE_EBPF_AGENT_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: tracing::Level,
}

/// A directory with options that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigDirError {
    /// The directory or a file cannot be read.
    #[error("cannot read {path}: {error}", path = .path.display())]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// The reason.
        error: io::Error,
    },

    /// A file has the name of no option.
    #[error("{path} is no option; the options are {known}", path = .path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The names of all options.
        known: String,
    },
}

impl Settings {
    /// The settings of this process: from its arguments, its environment and the directory in
    /// `--config-dir`. Prints an error or the help, and exits.
    #[must_use]
    pub fn of_process() -> Self {
        let arguments: Vec<OsString> = env::args_os().collect();
        match with_files(arguments, |name| env::var_os(name)) {
            Ok(arguments) => Self::parse_from(arguments),
            Err(error) => Self::command().error(ErrorKind::ValueValidation, error).exit(),
        }
    }
}

/// Adds the options in the files of `--config-dir` to the arguments. `variable` reads a variable of
/// the environment.
///
/// # Errors
///
/// Fails if the directory cannot be read, or if a file has the name of no option.
pub fn with_files(
    mut arguments: Vec<OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<OsString>, ConfigDirError> {
    let text = |argument: &OsString| argument.to_string_lossy().into_owned();
    let value_of = |option: &str| {
        let flag = format!("--{option}");
        let at = arguments.iter().position(|argument| text(argument).split('=').next() == Some(flag.as_str()))?;
        let own = text(&arguments[at]).split_once('=').map(|(_, value)| value.into());
        own.or_else(|| arguments.get(at + 1).cloned()).or_else(|| Some(OsString::new()))
    };
    let Some(directory) = value_of("config-dir").or_else(|| variable(CONFIG_DIR_VARIABLE)).map(PathBuf::from) else {
        return Ok(arguments);
    };
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| ConfigDirError::Io { path, error }
    };
    let command = Settings::command();
    let mut added = Vec::new();
    for entry in fs::read_dir(&directory).map_err(failed(&directory))? {
        let path = entry.map_err(failed(&directory))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Kubernetes mounts a ConfigMap with `..data` and a directory for each version.
        if name.starts_with('.') {
            continue;
        }
        let found = command.get_arguments().find(|option| option.get_long() == Some(name.as_str()));
        let Some(option) = found.filter(|option| option.get_long() != Some("config-dir")) else {
            let known: Vec<&str> = command.get_arguments().filter_map(|option| option.get_long()).collect();
            return Err(ConfigDirError::Unknown { path, known: known.join(", ") });
        };
        let is_set = option.get_env().is_some_and(|name| variable(&name.to_string_lossy()).is_some());
        if !is_set && value_of(&name).is_none() {
            let value = fs::read_to_string(&path).map_err(failed(&path))?;
            added.push(format!("--{name}={}", value.trim()).into());
        }
    }
    arguments.extend(added);
    Ok(arguments)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(words: &[&str]) -> Vec<OsString> {
        ["agent", "--node-name", "a"].iter().chain(words).map(OsString::from).collect()
    }

    #[test]
    fn options_come_from_arguments_environment_and_files_in_this_order() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().display().to_string();
        for (name, text) in [("mode", "vxlan\n"), ("mtu", "1400"), ("vxlan-port", "4789"), ("..data", "x")] {
            fs::write(directory.path().join(name), text).expect("write");
        }
        let variable = |name: &str| (name == "SIMPLE_EBPF_AGENT_MTU").then(|| "1300".into());
        for option in [vec!["--config-dir", &path], vec![&format!("--config-dir={path}")]] {
            let given = [option, vec!["--vxlan-port", "9999"]].concat();
            let all = with_files(arguments(&given), variable).expect("options");
            let settings = Settings::parse_from(&all);
            assert_eq!((settings.mode, settings.vxlan_port), (Mode::Vxlan, 9999));
            assert!(!all.iter().any(|argument| argument.to_string_lossy().starts_with("--mtu")), "{all:?}");
        }
        assert_eq!(with_files(arguments(&[]), |_| None).expect("options"), arguments(&[]));
    }

    #[test]
    fn unknown_file_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().display().to_string();
        fs::write(directory.path().join("mod"), "vxlan").expect("write");
        let error = with_files(arguments(&["--config-dir", &path]), |_| None).expect_err("an error");
        assert!(error.to_string().contains("mod is no option; the options are "), "{error}");
        let error = with_files(arguments(&["--config-dir", "/nonexistent"]), |_| None).expect_err("an error");
        assert!(error.to_string().contains("/nonexistent"), "{error}");
    }
}
