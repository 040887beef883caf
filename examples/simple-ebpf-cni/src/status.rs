//! STATUS: tells whether an ADD could be served now.

use cnikit::ipam::{Lease, Store};
use cnikit::netlink::Socket;
use cnikit::plugin::{PluginError, StatusRequest};
use cnikit::spec::{ErrorCode, NetworkName};
use tracing::info_span;

use crate::addresses;
use crate::bridge;
use crate::config::Config;
use crate::{gateway, ipv6, masquerade, network};

/// Looks at all that an ADD needs, and changes nothing. What an ADD would mend is no reason to fail.
pub(crate) fn status(request: &StatusRequest<Config>) -> Result<(), PluginError> {
    let (network, config) = (&request.net_conf.name, &request.config);
    let leases = network::leases(&config.data_dir, network)?;
    let unavailable = |mut failure: PluginError| {
        failure.code = ErrorCode::PLUGIN_NOT_AVAILABLE;
        failure
    };
    network::datapath(network).probe().map_err(|error| unavailable(error.into()))?;
    leases.probe().map_err(|error| unavailable(error.into()))?;
    let host = Socket::open()?;
    refuse_full_pool(network, &leases, config, &host)?;
    if request.net_conf.ip_masq {
        masquerade::probe(network, config).map_err(unavailable)?;
    }
    if let Some(delegate) = addresses::delegate(request)? {
        delegate.status()?;
    }
    let usable = bridge::look(&host, network, config).and_then(|found| {
        let bridge = found.as_ref().map(|found| &found.bridge);
        ipv6::probe(network, config, request.raw_config.value("ipam"), bridge)?;
        gateway::refuse_next_hops(&host, config, found.as_ref())
    });
    usable.map_err(|mut failure| {
        // Pods that were attached before somebody else took the bridge's name are cut off.
        let has_pods = leases.leases().is_ok_and(|mut leases| leases.next().is_some());
        failure.code = if has_pods { ErrorCode::LIMITED_CONNECTIVITY } else { ErrorCode::PLUGIN_NOT_AVAILABLE };
        failure
    })
}

/// A lease that an ADD would take back is as good as a free address.
pub(crate) fn refuse_full_pool(
    network: &NetworkName,
    leases: &Store,
    config: &Config,
    host: &Socket,
) -> Result<(), PluginError> {
    let _span = info_span!("pool").entered();
    for pool in config.pools() {
        let usage = leases.usage(pool)?;
        let (free, total) =
            usage.iter().fold((0, 0), |(free, total), range| (free + range.free(), total + range.total));
        let can_be_taken_back = |lease: &Lease| {
            !lease.imported
                && lease.addresses.iter().any(|address| pool.contains(address.ip()))
                && addresses::is_gone(network, lease, leases, host)
        };
        if free == 0 && !leases.leases()?.flatten().any(|lease| can_be_taken_back(&lease)) {
            return Err(PluginError::new(
                ErrorCode::PLUGIN_NOT_AVAILABLE,
                format!("all {total} addresses of {pool} are leased: remove pods, or configure a larger subnet"),
            ));
        }
    }
    Ok(())
}
