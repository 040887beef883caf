//! STATUS: reports whether an ADD could succeed now.

use cnikit::netlink::Socket;
use cnikit::plugin::{PluginError, StatusRequest};
use cnikit::spec::ErrorCode;
use simple_ebpf_cni::config::Config;
use simple_ebpf_cni::{bridge, gateway, ipv6, masquerade, naming, pool};

use super::addresses;

/// Checks the requirements of an ADD, and changes nothing. Ignores faults that an ADD would repair.
pub(crate) fn status(request: &StatusRequest<Config>) -> Result<(), PluginError> {
    let (network, config) = (&request.net_conf.name, &request.config);
    let leases = naming::leases(&config.data_dir, network)?;
    let unavailable = |mut failure: PluginError| {
        failure.code = ErrorCode::PLUGIN_NOT_AVAILABLE;
        failure
    };
    naming::datapath(network).probe().map_err(|error| unavailable(error.into()))?;
    leases.probe().map_err(|error| unavailable(error.into()))?;
    let host = Socket::open()?;
    pool::refuse_exhausted(network, &leases, config, &host)?;
    if request.net_conf.ip_masq {
        masquerade::probe(network, config).map_err(unavailable)?;
    }
    if let Some(delegate) = addresses::delegate(request)? {
        delegate.status()?;
    }
    let usable = bridge::look(&host, network, config).and_then(|existing| {
        let bridge = existing.as_ref().map(|existing| &existing.bridge);
        ipv6::probe(network, config, request.raw_config.value("ipam"), bridge)?;
        gateway::refuse_next_hops(&host, config, existing.as_ref())
    });
    usable.map_err(|mut failure| {
        // Attached pods have no connectivity if another tool took the bridge's name.
        let has_pods = leases.leases().is_ok_and(|mut leases| leases.next().is_some());
        failure.code = if has_pods { ErrorCode::LIMITED_CONNECTIVITY } else { ErrorCode::PLUGIN_NOT_AVAILABLE };
        failure
    })
}
