//! What the runtime and the configuration ask for one attachment.

use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

use cnikit::plugin::PluginError;
use cnikit::spec::{Args, ErrorCode, KubernetesPod, MacAddr, NetConf};
use tracing::warn;

use crate::config::Config;

/// The keys of `CNI_ARGS` that ask for something, beside those that name the pod.
const WISHES: [&str; 3] = ["IP", "MAC", DIRECT_FORWARDING];

const DIRECT_FORWARDING: &str = "DIRECT_FORWARDING";

/// The addresses that were asked for by `runtimeConfig`, `args.cni` or `CNI_ARGS`, in this order.
pub(crate) fn ips(net_conf: &NetConf, args: &Args) -> Result<Vec<IpAddr>, PluginError> {
    require_known(args)?;
    let by_args: Vec<IpAddr> = match args.value("IP") {
        Some(texts) => texts.split(',').map(|text| by_args("IP", text)).collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    let by_config = [&net_conf.runtime_config.ips, &net_conf.args.ips].into_iter().find(|ips| !ips.is_empty());
    Ok(by_config.map_or(by_args, |ips| ips.iter().map(|ip| ip.ip()).collect()))
}

/// The MAC that was asked for by `runtimeConfig`, `args.cni` or `CNI_ARGS`, in this order.
pub(crate) fn mac(net_conf: &NetConf, args: &Args) -> Result<Option<MacAddr>, PluginError> {
    require_known(args)?;
    let by_args = args.value("MAC").map(|text| by_args("MAC", text)).transpose()?;
    match net_conf.runtime_config.mac.or(net_conf.args.mac).or(by_args) {
        Some(mac) if !mac.is_unicast() => Err(PluginError::new(
            ErrorCode::INVALID_CONFIG,
            format!("the MAC {mac} that was asked for is a group's: ask for one whose first octet is even"),
        )),
        wish => Ok(wish),
    }
}

/// Warns about values in `CNI_ARGS` that cannot be part of a pod's name. They are no reason to fail an ADD.
pub(crate) fn warn_of_invalid_pod(args: &Args) {
    for error in KubernetesPod::invalid_args(args) {
        warn!("CNI_ARGS: {error}; the pod is attached and shown without this value");
    }
}

/// Whether packets may go directly to and from this pod: `args.cni` or `CNI_ARGS`, in this order. Shaping works on queues of
/// the host end, which direct packets do not pass.
pub(crate) fn direct_forwarding(net_conf: &NetConf, config: &Config, args: &Args) -> Result<bool, PluginError> {
    require_known(args)?;
    let by_args = args.value(DIRECT_FORWARDING).map(|text| switch(DIRECT_FORWARDING, text)).transpose()?;
    let is_wanted = config.pod_direct_forwarding.or(by_args).unwrap_or(true);
    Ok(is_wanted && net_conf.runtime_config.bandwidth.is_none())
}

fn require_known(args: &Args) -> Result<(), PluginError> {
    Ok(args.require_known(&[&WISHES[..], &KubernetesPod::ARGS].concat())?)
}

fn by_args<T: FromStr<Err: Display>>(key: &str, text: &str) -> Result<T, PluginError> {
    text.parse().map_err(|error| invalid(key, text, error))
}

/// The parser's own error does not say what to write.
fn switch(key: &str, text: &str) -> Result<bool, PluginError> {
    text.parse().map_err(|_| invalid(key, text, "write true or false"))
}

fn invalid(key: &str, text: &str, reason: impl Display) -> PluginError {
    PluginError::new(ErrorCode::INVALID_ENVIRONMENT, format!("CNI_ARGS: {key}={text} is not valid: {reason}"))
}
