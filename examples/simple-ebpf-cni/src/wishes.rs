//! What the runtime asks for one attachment.

use cnikit::plugin::Failure;
use cnikit::spec::{Args, Attachment, Error, ErrorCode, MacAddr, NetConf};

/// The keys of `CNI_ARGS` that mean something here.
const KNOWN_ARGS: [&str; 1] = ["MAC"];

/// The MAC of the pod's end: as asked for by `runtimeConfig`, `args.cni` or `CNI_ARGS`, in this order, or else the one
/// that derives from the attachment.
pub(crate) fn mac(attachment: &Attachment, net_conf: &NetConf, args: &Args) -> Result<MacAddr, Failure> {
    args.require_known(&KNOWN_ARGS)?;
    let by_args = args.value("MAC").map(|text| {
        text.parse()
            .map_err(|error: Error| Failure::new(ErrorCode::INVALID_ENVIRONMENT, format!("CNI_ARGS: MAC: {error}")))
    });
    let by_args = by_args.transpose()?;
    match net_conf.runtime_config.mac.or(net_conf.args.mac).or(by_args) {
        Some(mac) if !mac.is_unicast() => Err(Failure::new(
            ErrorCode::INVALID_CONFIG,
            format!("the MAC {mac} that was asked for is a group's: ask for one whose first octet is even"),
        )),
        Some(mac) => Ok(mac),
        None => Ok(attachment.container_mac()),
    }
}
