//! XDP programs of pods that direct forwarding bypasses.

use cnikit::netlink::{Link, Socket};

use super::diagnostic::Diagnostic;
use crate::cli::error::Error;
use crate::cli::inventory::NodeNetwork;
use crate::cli::inventory::pods::Pod;

/// Reports pods with a driver-mode XDP program that the kernel hides from the eBPF programs. The
/// pod's end of each pair is read from the host, so no namespace is entered.
pub(super) fn bypassed(
    network: &NodeNetwork,
    pods: &[Pod],
    host: &Socket,
    links: &[Link],
) -> Result<Vec<Diagnostic>, Error> {
    let mut checks = Vec::new();
    if !network.datapath.is_complete()? || !network.datapath.config()?.direct_forwarding {
        return Ok(checks);
    }
    let configs = network.datapath.open_port_configs()?;
    for pod in pods {
        let port = links.iter().find(|link| pod.host_interface.as_ref() == Some(&link.name));
        let Some(port) = port else { continue };
        let is_direct = configs.read(port.index)?.is_some_and(|config| !config.stack_only);
        if !is_direct || configs.watches_xdp(port.index)? {
            continue;
        }
        // The lookup fails if the pod is ending or has moved its interface.
        let Some(inside) = host.peer(port).ok().flatten() else { continue };
        let Some(program) = inside.driver_xdp else { continue };
        let container =
            pod.owner.as_ref().map_or_else(|| port.name.to_string(), |owner| owner.container_id.to_string());
        checks.push(Diagnostic::warn(
            "xdp",
            format!(
                "the XDP program {program} on {} of {container} does not see packets from other pods of {}",
                inside.name, network.name
            ),
            "add the pod again with \"args\": {\"cni\": {\"directForwarding\": false}}, or with \
             DIRECT_FORWARDING=false in CNI_ARGS",
        ));
    }
    Ok(checks)
}
