//! What the runtime and the configuration ask for one attachment.

use std::fmt::Display;
use std::net::IpAddr;
use std::str::FromStr;

use cnikit::plugin::Failure;
use cnikit::spec::{Args, ErrorCode, MacAddr, NetConf};

use crate::config::Config;

/// The keys of `CNI_ARGS` that mean something here.
const KNOWN_ARGS: [&str; 3] = ["IP", "MAC", "DIRECT_FORWARDING"];

/// The addresses that were asked for by `runtimeConfig`, `args.cni` or `CNI_ARGS`, in this order.
pub(crate) fn ips(net_conf: &NetConf, args: &Args) -> Result<Vec<IpAddr>, Failure> {
    args.require_known(&KNOWN_ARGS)?;
    let by_args: Vec<IpAddr> = match args.value("IP") {
        Some(texts) => texts.split(',').map(|text| by_args("IP", text)).collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    let by_config = [&net_conf.runtime_config.ips, &net_conf.args.ips].into_iter().find(|ips| !ips.is_empty());
    Ok(by_config.map_or(by_args, |ips| ips.iter().map(|ip| ip.ip()).collect()))
}

/// The MAC that was asked for by `runtimeConfig`, `args.cni` or `CNI_ARGS`, in this order.
pub(crate) fn mac(net_conf: &NetConf, args: &Args) -> Result<Option<MacAddr>, Failure> {
    args.require_known(&KNOWN_ARGS)?;
    let by_args = args.value("MAC").map(|text| by_args("MAC", text)).transpose()?;
    match net_conf.runtime_config.mac.or(net_conf.args.mac).or(by_args) {
        Some(mac) if !mac.is_unicast() => Err(Failure::new(
            ErrorCode::INVALID_CONFIG,
            format!("the MAC {mac} that was asked for is a group's: ask for one whose first octet is even"),
        )),
        wish => Ok(wish),
    }
}

/// Whether packets may go directly to and from this pod: `args.cni` or `CNI_ARGS`, in this order. Shaping works on queues of
/// the host end, which direct packets do not pass.
pub(crate) fn direct_forwarding(net_conf: &NetConf, config: &Config, args: &Args) -> Result<bool, Failure> {
    args.require_known(&KNOWN_ARGS)?;
    let by_args = args.value("DIRECT_FORWARDING").map(|text| by_args("DIRECT_FORWARDING", text)).transpose()?;
    let is_wanted = config.pod_direct_forwarding.or(by_args).unwrap_or(true);
    Ok(is_wanted && net_conf.runtime_config.bandwidth.is_none())
}

fn by_args<T: FromStr<Err: Display>>(key: &str, text: &str) -> Result<T, Failure> {
    text.parse().map_err(|error| {
        Failure::new(ErrorCode::INVALID_ENVIRONMENT, format!("CNI_ARGS: {key}={text} is not valid: {error}"))
    })
}
