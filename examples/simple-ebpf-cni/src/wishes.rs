//! What the runtime and the configuration ask for one attachment.

use std::net::IpAddr;

use cnikit::plugin::Failure;
use cnikit::spec::{Args, Error, ErrorCode, MacAddr, NetConf, NetworkName};

/// The keys of `CNI_ARGS` that mean something here.
const KNOWN_ARGS: [&str; 1] = ["MAC"];

/// The MAC that was asked for by `runtimeConfig`, `args.cni` or `CNI_ARGS`, in this order.
pub(crate) fn mac(net_conf: &NetConf, args: &Args) -> Result<Option<MacAddr>, Failure> {
    args.require_known(&KNOWN_ARGS)?;
    let by_args = args.value("MAC").map(|text| {
        let unusable = |error: Error| Failure::new(ErrorCode::INVALID_ENVIRONMENT, format!("CNI_ARGS: MAC: {error}"));
        text.parse().map_err(unusable)
    });
    let by_args = by_args.transpose()?;
    match net_conf.runtime_config.mac.or(net_conf.args.mac).or(by_args) {
        Some(mac) if !mac.is_unicast() => Err(Failure::new(
            ErrorCode::INVALID_CONFIG,
            format!("the MAC {mac} that was asked for is a group's: ask for one whose first octet is even"),
        )),
        wish => Ok(wish),
    }
}

/// The MAC of a pod that asked for none. It derives from the pod's address, not from the container: others keep the
/// pair of both in their neighbour tables, and the next pod with the address is reached by it too.
pub(crate) fn mac_of(network: &NetworkName, address: IpAddr) -> MacAddr {
    MacAddr::derived_from(&format!("{network}/{address}"))
}

/// Refuses keys that ask for what this version does not do: to be silent about them would be to promise it.
pub(crate) fn refuse_unsupported(net_conf: &NetConf) -> Result<(), Failure> {
    let refused = |key: &str, instead: &str| {
        Err(Failure::new(ErrorCode::UNSUPPORTED_FIELD, format!("{key:?} is not supported: {instead}")))
    };
    if net_conf.ip_masq {
        return refused("ipMasq", "remove it, and masquerade the subnet by a rule of the host's");
    }
    if net_conf.ipam.as_ref().is_some_and(|ipam| ipam.plugin_type.is_some()) {
        return refused("ipam", "remove it, and write \"subnet\" beside \"bridge\"");
    }
    Ok(())
}
