//! STATUS: tells whether an ADD could be served now.

use cnikit::ipam::Store;
use cnikit::netlink::Socket;
use cnikit::plugin::{Failure, StatusRequest, Step as _};
use cnikit::spec::ErrorCode;

use crate::config::Config;
use crate::network;

/// Looks at all that an ADD needs, and changes nothing.
pub(crate) fn status(request: &StatusRequest<Config>) -> Result<(), Failure> {
    let (network, config) = (&request.net_conf.name, &request.config);
    network::datapath(network).probe().step("the eBPF programs cannot be used").map_err(unavailable)?;
    let leases = network::leases(&config.data_dir, network)?;
    refuse_full_pool(&leases, config)?;

    let host = Socket::open()?;
    let Some(bridge) = host.link_by_name(&config.bridge)? else {
        return limited(&leases, format!("the bridge {} is missing", config.bridge));
    };
    network::refuse_foreign(network, &bridge).map_err(unavailable)?;
    network::has_qdisc(&host, &bridge).map_err(unavailable)?;
    if bridge.up { Ok(()) } else { limited(&leases, format!("the bridge {} is down", config.bridge)) }
}

/// To the runtime, whatever keeps an ADD from succeeding means that there is no plugin.
fn unavailable(mut failure: Failure) -> Failure {
    failure.code = ErrorCode::PLUGIN_NOT_AVAILABLE;
    failure
}

fn refuse_full_pool(leases: &Store, config: &Config) -> Result<(), Failure> {
    let usage = leases.usage(&config.range)?;
    if usage.used < usage.total {
        return Ok(());
    }
    let (subnet, total) = (config.range.subnet(), usage.total);
    Err(Failure::new(
        ErrorCode::PLUGIN_NOT_AVAILABLE,
        format!("all {total} addresses of {subnet} are leased: remove pods, or configure a larger subnet"),
    ))
}

/// The next ADD makes the bridge or brings it up; until then, pods that are there cannot reach the host.
fn limited(leases: &Store, why: String) -> Result<(), Failure> {
    match leases.leases()?.next() {
        None => Ok(()),
        Some(_) => Err(Failure::new(ErrorCode::LIMITED_CONNECTIVITY, format!("{why}: the next ADD mends it"))),
    }
}
