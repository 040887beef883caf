//! XDP programs of pods that direct delivery bypasses.

use cnikit::netlink::{Link, Socket};

use super::Check;
use crate::cli::Error;
use crate::cli::attached::Pod;
use crate::cli::node::Known;

/// Pods whose interface has an XDP program in driver mode, where the kernel does not let the eBPF programs see it. The
/// other end of each pair is looked up from the host: no pod is entered.
pub(super) fn bypassed(known: &Known, pods: &[Pod], host: &Socket, links: &[Link]) -> Result<Vec<Check>, Error> {
    let mut checks = Vec::new();
    if !known.datapath.is_complete()? || !known.datapath.config()?.direct_forwarding {
        return Ok(checks);
    }
    let ports = known.datapath.open_port_configs()?;
    for pod in pods {
        let port = links.iter().find(|link| pod.host_interface.as_ref() == Some(&link.name));
        let Some(port) = port else { continue };
        let is_direct = ports.read(port.index)?.is_some_and(|link| !link.stack_only);
        if !is_direct || ports.watches_xdp(port.index)? {
            continue;
        }
        // An interface that cannot be looked up belongs to a pod that ends, or that renamed it beyond recognition.
        let Some(inside) = host.peer(port).ok().flatten() else { continue };
        let Some(program) = inside.driver_xdp else { continue };
        let container =
            pod.owner.as_ref().map_or_else(|| port.name.to_string(), |owner| owner.container_id.to_string());
        checks.push(Check::warn(
            "xdp",
            format!(
                "the XDP program {program} on {} of {container} does not see what other pods of {} send to it",
                inside.name, known.name
            ),
            "attach the pod anew with \"args\": {\"cni\": {\"directForwarding\": false}}, or with DIRECT_FORWARDING=false in \
             CNI_ARGS",
        ));
    }
    Ok(checks)
}
