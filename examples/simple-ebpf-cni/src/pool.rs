//! Free addresses in the pools of a network, and leases of attachments that no longer exist.

use std::time::Duration;

use cnikit::ipam::{Lease, Store};
use cnikit::netlink::Socket;
use cnikit::plugin::PluginError;
use cnikit::spec::{ErrorCode, NetworkName};
use tracing::info_span;

use crate::config::Config;
use crate::network::Network;
use crate::veth;

impl Network<'_> {
    /// Whether the attachment of a lease no longer exists: it has no pair, and no call creates one.
    /// If this is unknown, the attachment counts as existing.
    #[must_use]
    pub fn is_abandoned(&self, lease: &Lease) -> bool {
        let attachment = self.attachment(lease.owner.clone());
        let lock = self.leases.lock_owner(&lease.owner, Duration::ZERO);
        lock.is_ok_and(|_lock| matches!(veth::host_end(&attachment, self.host), Ok(None)))
    }
}

/// Refuses a network with a pool that has no free address. A lease that an ADD could reclaim counts
/// as a free address.
///
/// # Errors
///
/// Fails with the exhausted pool, or if the leases cannot be read.
pub fn refuse_exhausted(
    network: &NetworkName,
    leases: &Store,
    config: &Config,
    host: &Socket,
) -> Result<(), PluginError> {
    let _span = info_span!("pool").entered();
    let network = Network::new(host, network, config, leases);
    for pool in config.pools() {
        let usage = leases.usage(pool)?;
        let (free, total) =
            usage.iter().fold((0, 0), |(free, total), range| (free + range.free(), total + range.total));
        let is_reclaimable = |lease: &Lease| {
            !lease.imported
                && lease.addresses.iter().any(|address| pool.contains(address.ip()))
                && network.is_abandoned(lease)
        };
        if free == 0 && !leases.leases()?.flatten().any(|lease| is_reclaimable(&lease)) {
            return Err(PluginError::new(
                ErrorCode::PLUGIN_NOT_AVAILABLE,
                format!("all {total} addresses of {pool} are leased: remove pods, or configure a larger subnet"),
            ));
        }
    }
    Ok(())
}
