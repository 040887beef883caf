//! The testbed with known-good plugins: the reference `bridge` and `host-local`, if installed.

use std::path::Path;

use cnikit_testbed::{Host, Namespace, Plugin, host};
use serde_json::{Value, json};

/// Where Debian and Ubuntu install the reference plugins.
const BRIDGE: &str = "/usr/lib/cni/bridge";

/// The reference plugins are optional peers, so a missing one is never a failure, even if skips
/// are.
fn reference() -> Option<Plugin> {
    Path::new(BRIDGE).exists().then(|| Plugin::new(BRIDGE))
}

fn config() -> Value {
    json!({
        "cniVersion": "0.4.0", "name": "reference", "type": "bridge", "bridge": "ref0", "isGateway": true,
        "ipam": { "type": "host-local", "subnet": "10.11.0.0/24", "dataDir": "/var/lib/cni/reference",
                  "routes": [{ "dst": "0.0.0.0/0" }] }
    })
}

fn keep_bridge(host: &Host) {
    for line in ["link ref0 ", "address ref0 ", "route 10.11.0.0/24 ", "file /var/lib/cni/reference/reference/"] {
        host.keep(line);
    }
}

#[test]
fn two_pods_reach_each_other_through_the_reference_bridge() {
    let Some(plugin) = reference() else { return };
    host(|host| {
        keep_bridge(host);
        let (one, two) = (host.pod(), host.pod());
        let first = plugin.on("ADD", &config(), "one", &one).run().result();
        let second = plugin.on("ADD", &config(), "two", &two).run().result();
        assert_eq!(first["ips"][0]["address"], "10.11.0.2/24");
        assert_eq!(two.addresses("eth0"), [second["ips"][0]["address"].as_str().unwrap()]);
        let pinged = one.ping("10.11.0.3", 5);
        assert!(pinged.status.success(), "{pinged:?}");

        let mut checked = config();
        checked["prevResult"] = first;
        plugin.on("CHECK", &checked, "one", &one).run().silent();
        one.ip("address flush dev eth0");
        let message = plugin.on("CHECK", &checked, "one", &one).run();
        assert!(!message.status.success(), "{message:?}");

        for (name, pod) in [("one", &one), ("two", &two)] {
            plugin.on("DEL", &config(), name, pod).run().silent();
            assert!(pod.link("eth0").is_none());
        }
    });
}

#[test]
#[should_panic(expected = "the test left behind")]
fn leftovers_fail_the_test() {
    let Some(plugin) = reference() else { panic!("the test left behind: not run, no reference plugins here") };
    if !cnikit_testbed::privileged() {
        panic!("the test left behind: not run, no privileges");
    }
    host(|host| {
        let pod = host.pod();
        plugin.on("ADD", &config(), "one", &pod).run().result();
    });
}
