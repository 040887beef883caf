//! Values that the runtime and the configuration request for one attachment.

use std::net::IpAddr;

use cnikit::ipam::Store;
use cnikit::plugin::{self, PluginError};
use cnikit::spec::{self, Args, Attachment, KubernetesPod, MacAddr, NetConf};
use simple_ebpf_cni::config::Config;
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
        require_known(args)?;
        let mac = net_conf.requested_mac(args)?;
        Ok(Self { mac, stack_only: !direct_forwarding(net_conf, config, args)? })
    }
}

/// The requested addresses in `runtimeConfig`, `args.cni` or `CNI_ARGS`, in this order.
pub(crate) fn ips(net_conf: &NetConf, args: &Args) -> Result<Vec<IpAddr>, PluginError> {
    require_known(args)?;
    Ok(net_conf.requested_ips(args)?)
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
        && let Ok(Some(lease)) = leases.lease(&attachment.key())
    {
        plugin::record_pod(&lease.pod);
    }
}

/// Whether direct forwarding applies to this pod, in `args.cni` or `CNI_ARGS`, in this order.
/// Shaping uses queues of the host end, which direct forwarding bypasses.
fn direct_forwarding(net_conf: &NetConf, config: &Config, args: &Args) -> Result<bool, PluginError> {
    let in_args = args.value(DIRECT_FORWARDING).map(parse_switch).transpose()?;
    let is_wanted = config.pod_direct_forwarding.or(in_args).unwrap_or(true);
    Ok(is_wanted && net_conf.runtime_config.bandwidth.is_none())
}

fn require_known(args: &Args) -> Result<(), PluginError> {
    Ok(args.require_known(&[&REQUESTS[..], &KubernetesPod::ARGS].concat())?)
}

/// The error of the standard parser does not name the valid values.
fn parse_switch(text: &str) -> Result<bool, spec::Error> {
    text.parse().map_err(|_| spec::Error::InvalidArg {
        key: DIRECT_FORWARDING.into(),
        value: text.into(),
        reason: "write true or false".into(),
    })
}
