//! The networks of the sweeps. Each has its own steps.

use cnikit_testbed::kernel;
use serde_json::{Value, json};

use crate::scenario::PEERS;
use crate::support::{Network, on_host};

/// Builds the configuration of a kind of network.
pub(crate) type Kind = fn(&Network) -> Value;

/// A subnet alone.
pub(crate) fn basic(network: &Network) -> Value {
    network.config.clone()
}

/// Addresses of both families, with masquerading.
pub(crate) fn masqueraded(network: &Network) -> Value {
    for line in ["route fd00:99::/64", "route fe80::/64"] {
        network.host.keep(line);
    }
    let mut config = network.with("subnets", json!(["10.99.0.0/24", "fd00:99::/64"]));
    config.as_object_mut().expect("an object").remove("subnet");
    config["ipMasq"] = true.into();
    config
}

/// Programs in TCX links, if the kernel has them.
pub(crate) fn tcx(network: &Network) -> Value {
    network.with("attach", if kernel() < (6, 6) { "clsact" } else { "tcx" })
}

/// Addresses of another plugin.
pub(crate) fn delegated(network: &Network) -> Value {
    let ipam = json!({ "type": "host-local", "subnet": "10.99.0.0/24", "dataDir": network.host.scratch() });
    let mut config = network.with("ipam", ipam);
    config.as_object_mut().expect("an object").remove("subnet");
    config
}

/// Runs a test on a private host with a network of this kind.
#[track_caller]
pub(crate) fn on_host_with(kind: Kind, test: impl FnOnce(&Network) + Send) {
    on_host(|network| {
        let config = kind(network);
        let plugin = network.plugin.clone().beside(PEERS);
        test(&Network { host: network.host, plugin, config });
    });
}
