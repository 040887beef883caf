//! Pods in the runtime's cache of ADD results.

use std::collections::HashMap;

use cnikit::ipam::{Lease, Tenant};
use cnikit::runtime::ResultCache;
use cnikit::spec::{IfName, KubernetesPod, NetworkName};

/// The attachments of a network in the runtime's result cache, keyed by host interface. The first
/// lookup reads the cache.
pub(crate) struct CachedTenants<'a> {
    network: &'a NetworkName,
    tenants: Option<HashMap<IfName, Tenant>>,
}

impl<'a> CachedTenants<'a> {
    pub(crate) fn new(network: &'a NetworkName) -> Self {
        Self { network, tenants: None }
    }

    /// The attachment with this host interface, if the runtime has libcni's result cache.
    pub(crate) fn tenant(&mut self, host_ifname: &IfName) -> Option<&Tenant> {
        self.tenants.get_or_insert_with(|| read_cache(self.network)).get(host_ifname)
    }

    /// The pod of a lease. A lease of an older build or of an import has no pod, so the cache is
    /// asked.
    pub(crate) fn pod_of(&mut self, lease: &Lease) -> KubernetesPod {
        if !lease.pod.is_unnamed() {
            return lease.pod.clone();
        }
        let attachment = lease.owner.clone().in_network(self.network);
        self.tenant(&attachment.host_ifname()).map_or_else(|| lease.pod.clone(), |tenant| tenant.pod.clone())
    }
}

fn read_cache(network: &NetworkName) -> HashMap<IfName, Tenant> {
    let attachments = ResultCache::new(ResultCache::DEFAULT_DIR).attachments().unwrap_or_default();
    let ours = attachments.into_iter().filter(|cached| cached.network == *network);
    let tenants = ours.map(|cached| {
        let attachment = cached.parameters.attachment(network);
        let pod = KubernetesPod::from_args(&cached.parameters.args);
        (attachment.host_ifname(), Tenant::new(attachment.key(), pod))
    });
    tenants.collect()
}
