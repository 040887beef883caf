//! DEL: detaches a pod.

use cnikit::netlink::Socket;
use cnikit::plugin::{Context as _, DelRequest, ErrorCollector, PluginError};
use simple_ebpf_cni::config::{self, Config};
use simple_ebpf_cni::naming;

use super::addresses;
use super::detach::{AttachmentLock, detach};
use super::requested::record_leased_pod;

/// Detaches the pod. An attachment that does not exist is success.
pub(crate) fn del(request: &DelRequest<Config>) -> Result<(), PluginError> {
    let attachment = &request.attachment;
    let data_dir = match &request.config {
        Ok(config) => &config.data_dir,
        Err(_) => config::data_dir(&request.raw_config),
    };
    let leases = naming::leases(data_dir, &attachment.network)?;
    let Some(lock) = AttachmentLock::acquire(attachment, &leases)? else {
        return Ok(());
    };
    record_leased_pod(request.args.as_ref().ok(), attachment, &leases);
    let mut failures = ErrorCollector::default();
    // Before the pair's deletion: a delegate that releases an address with a DHCP server sends
    // through the pair (RFC 2131, section 4.4.6). Until the deletion, the pair's map entries keep
    // the address from other pods.
    if let Some(delegate) = failures.push(addresses::releasing_delegate(request)).flatten() {
        failures.push(delegate.del().context("give the address back"));
    }
    failures.push(Socket::open().map_err(PluginError::from).and_then(|host| detach(attachment, &host, &leases, &lock)));
    failures.into_result()
}
