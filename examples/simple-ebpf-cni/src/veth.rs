//! Veth pairs of pods: creation, lookup and deletion by the host end.

use cnikit::netlink::{self, Link, Netns, OrphanRecord, Socket, VethEnd, VethIndexes, VethPair};
use cnikit::plugin::{Context as _, PluginError};
use cnikit::spec::{Attachment, ErrorCode, IfIndex, MacAddr};
use rustix::io::Errno;
use tracing::{info_span, warn};

use crate::bridge;
use crate::naming::ORPHANS;
use crate::network::Network;

impl Network<'_> {
    /// Creates the veth pair of an attachment. The host end is a port of `bridge`. The pod end is
    /// in `netns` and has the MAC `mac`.
    ///
    /// # Errors
    ///
    /// Fails if one of the names exists, if the bridge has no free port, or if the kernel refuses
    /// the pair. No pair of this call remains.
    pub fn create_veth(
        &self,
        attachment: &Attachment,
        mac: MacAddr,
        bridge: &Link,
        netns: &Netns,
    ) -> Result<VethIndexes, PluginError> {
        let _span = info_span!("pair").entered();
        let host_end = VethEnd::new(attachment.host_ifname(), attachment.host_mac());
        let pod_end = VethEnd::new(attachment.ifname.clone(), mac);
        let pair = VethPair::new(host_end, pod_end, netns).mtu(self.mtu(bridge)).master(bridge.index);
        // With an index that derives from the attachment, a map entry that outlives its pair never
        // names a link that the kernel creates next.
        let created = match self.host.create_veth(&pair.clone().host_index(attachment.host_ifindex())) {
            Err(netlink::Error::IndexTaken { .. }) => self.host.create_veth(&pair),
            created => created,
        };
        match created {
            Err(netlink::Error::Exists { .. }) => {
                let (host_end, pod_end) = (attachment.host_ifname(), &attachment.ifname);
                Err(already_attached(&format!("there is a link {host_end}, or {pod_end} in the pod")))
            }
            Err(error) if error.raw_os_error() == Some(Errno::XFULL.raw_os_error()) => Err(bridge::full(&bridge.name)),
            Err(error) => {
                // The kernel may have created the pair although its answer is lost. The attachment
                // lock keeps other calls from creating a pair of this name.
                if let Err(error) = self.host.delete_link_by_name(&attachment.host_ifname()) {
                    warn!("cannot undo the failed ADD: delete the veth pair: {error}");
                }
                Err(PluginError::from(error)).context("create the veth pair")
            }
            created => Ok(created?),
        }
    }
}

/// The error of an ADD for an attachment that exists. `evidence` names the part that was found.
#[must_use]
pub fn already_attached(evidence: &str) -> PluginError {
    PluginError::new(
        ErrorCode::INVALID_ENVIRONMENT,
        format!("this attachment exists already ({evidence}): DEL it before it is added again"),
    )
}

/// The host end of the pair. Finds it by its name or, if an operator has renamed it, by its index
/// and MAC.
///
/// # Errors
///
/// Fails if the kernel does not answer.
pub fn host_end(attachment: &Attachment, host: &Socket) -> netlink::Result<Option<Link>> {
    if let Some(link) = host.link_by_name(&attachment.host_ifname())? {
        return Ok(Some(link));
    }
    let link = host.link_by_index(attachment.host_ifindex())?;
    Ok(link.filter(|link| link.mac == Some(attachment.host_mac())))
}

/// Deletes a veth pair by its host end. Does not wait for the kernel's cleanup.
///
/// # Errors
///
/// Fails if the kernel refuses the deletion.
pub fn delete_pair(host: &Socket, index: IfIndex) -> netlink::Result<()> {
    host.delete_link_nowait(index, &OrphanRecord::new(ORPHANS))
}
