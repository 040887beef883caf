//! Values that the runtime and the configuration request for one attachment.

use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

use cnikit::ipam::Store;
use cnikit::plugin::{self, PluginError};
use cnikit::spec::{Args, Attachment, ErrorCode, KubernetesPod, MacAddr, NetConf};
use simple_ebpf_cni::config::Config;
use simple_ebpf_cni::naming;
use tracing::warn;

/// The keys of `CNI_ARGS` with requests. Other keys name the pod.
const REQUESTS: [&str; 3] = ["IP", "MAC", DIRECT_FORWARDING];

const DIRECT_FORWARDING: &str = "DIRECT_FORWARDING";

/// The requested properties of the pod's port.
pub(crate) struct Requested {
    /// The MAC in `runtimeConfig`, `args.cni` or `CNI_ARGS`, in this order.
    pub(crate) mac: Option<MacAddr>,
    /// Whether direct forwarding does not apply to this pod.
    pub(crate) stack_only: bool,
}

impl Requested {
    /// Reads the requests of an ADD or a CHECK.
    pub(crate) fn new(net_conf: &NetConf, config: &Config, args: &Args) -> Result<Self, PluginError> {
        let mac = mac(net_conf, args)?;
        Ok(Self { mac, stack_only: !direct_forwarding(net_conf, config, args)? })
    }
}

/// The requested addresses in `runtimeConfig`, `args.cni` or `CNI_ARGS`, in this order.
pub(crate) fn ips(net_conf: &NetConf, args: &Args) -> Result<Vec<IpAddr>, PluginError> {
    require_known(args)?;
    let in_args: Vec<IpAddr> = match args.value("IP") {
        Some(texts) => texts.split(',').map(|text| parse("IP", text)).collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    let in_config = [&net_conf.runtime_config.ips, &net_conf.args.ips].into_iter().find(|ips| !ips.is_empty());
    Ok(in_config.map_or(in_args, |ips| ips.iter().map(|ip| ip.ip()).collect()))
}

/// Warns about values in `CNI_ARGS` that cannot be part of a pod's name. They are no reason to fail
/// an ADD.
pub(crate) fn warn_of_invalid_pod(args: &Args) {
    for error in KubernetesPod::invalid_args(args) {
        warn!("CNI_ARGS: {error}; the pod is attached and shown without this value");
    }
}

/// Records the pod of the lease in the log, if `CNI_ARGS` does not name the pod.
pub(crate) fn record_leased_pod(args: Option<&Args>, attachment: &Attachment, leases: &Store) {
    if args.is_none_or(|args| KubernetesPod::from_args(args).is_unnamed())
        && let Ok(Some(lease)) = leases.lease(&naming::owner(attachment))
    {
        plugin::record_pod(&lease.pod);
    }
}

fn mac(net_conf: &NetConf, args: &Args) -> Result<Option<MacAddr>, PluginError> {
    require_known(args)?;
    let in_args = args.value("MAC").map(|text| parse("MAC", text)).transpose()?;
    match net_conf.runtime_config.mac.or(net_conf.args.mac).or(in_args) {
        Some(mac) if !mac.is_unicast() => Err(PluginError::new(
            ErrorCode::INVALID_CONFIG,
            format!("the requested MAC {mac} is a group address: request a MAC with an even first octet"),
        )),
        requested => Ok(requested),
    }
}

/// Whether direct forwarding applies to this pod, in `args.cni` or `CNI_ARGS`, in this order.
/// Shaping uses queues of the host end, which direct forwarding bypasses.
fn direct_forwarding(net_conf: &NetConf, config: &Config, args: &Args) -> Result<bool, PluginError> {
    require_known(args)?;
    let in_args = args.value(DIRECT_FORWARDING).map(|text| parse_bool(DIRECT_FORWARDING, text)).transpose()?;
    let is_wanted = config.pod_direct_forwarding.or(in_args).unwrap_or(true);
    Ok(is_wanted && net_conf.runtime_config.bandwidth.is_none())
}

fn require_known(args: &Args) -> Result<(), PluginError> {
    Ok(args.require_known(&[&REQUESTS[..], &KubernetesPod::ARGS].concat())?)
}

fn parse<T: FromStr<Err: Display>>(key: &str, text: &str) -> Result<T, PluginError> {
    text.parse().map_err(|error| invalid(key, text, error))
}

/// [`parse`] for a switch. The error of the standard parser does not name the valid values.
fn parse_bool(key: &str, text: &str) -> Result<bool, PluginError> {
    text.parse().map_err(|_| invalid(key, text, "write true or false"))
}

fn invalid(key: &str, text: &str, reason: impl Display) -> PluginError {
    PluginError::new(ErrorCode::INVALID_ENVIRONMENT, format!("CNI_ARGS: {key}={text} is not valid: {reason}"))
}
