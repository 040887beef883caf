//! The bridge gets another MAC while pods are attached, as network managers do.

use std::time::Duration;

use cnikit_testbed::{Namespace, eventually};
use serde_json::json;

use crate::support::{Attached, GATEWAY, Network, on_host};

const GATEWAY_V6: &str = "fd00:99::1";
const NEW_MAC: &str = "02:00:00:00:11:22";

/// Two dual-stack pods.
#[track_caller]
fn with_pods(test: impl FnOnce(&Network, [&Attached; 2]) + Send) {
    on_host(|network| {
        network.host.keep("route fd00:99::/64");
        let config = network.with_keys(json!({ "subnets": ["10.99.0.0/24", "fd00:99::/64"] }));
        let network = network.by(config);
        let pods = ["one", "two"].map(|container| network.attach(container));
        test(&network, [&pods[0], &pods[1]]);
        pods.iter().for_each(|attached| network.detach(attached));
    });
}

/// The MAC of an address in a pod's neighbor table.
#[track_caller]
fn neighbor(attached: &Attached, address: &str) -> String {
    let found = attached.pod.ip(&format!("neighbour show {address}"));
    found[0]["lladdr"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn the_gateway_answers_with_the_mac_that_the_bridge_has() {
    with_pods(|network, [one, _]| {
        for mac in [NEW_MAC, "02:00:00:00:33:44"] {
            network.host.ip(&format!("link set cbr0 address {mac}"));
            one.pod.ip("neighbour flush all");
            for gateway in [GATEWAY, GATEWAY_V6] {
                assert!(one.pod.ping(gateway, 3).status.success(), "{gateway}");
                assert_eq!(neighbor(one, gateway), mac, "{gateway}");
            }
            assert!(network.host.ping(one.address(), 3).status.success(), "the node");
        }
    });
}

/// RFC 826 and RFC 4861, section 7.2.6: a host that changes its MAC may announce it to its
/// neighbors.
#[test]
fn pods_learn_the_new_mac_of_a_known_gateway() {
    with_pods(|network, [one, two]| {
        for pod in [one, two] {
            for gateway in [GATEWAY, GATEWAY_V6] {
                assert!(pod.pod.ping(gateway, 1).status.success(), "{gateway}");
            }
        }
        // The kernel does not override an entry in its first second (`locktime`).
        std::thread::sleep(Duration::from_millis(1100));
        network.host.ip(&format!("link set cbr0 address {NEW_MAC}"));
        for pod in [one, two] {
            for gateway in [GATEWAY, GATEWAY_V6] {
                eventually("the new MAC", Duration::from_secs(2), || neighbor(pod, gateway) == NEW_MAC);
                assert!(pod.pod.ping(gateway, 1).status.success(), "{gateway}");
            }
        }
    });
}

/// Pods that reach each other through the gateway, such as pods with a /32 route.
#[test]
fn routed_packets_are_forwarded_directly_again() {
    with_pods(|network, [one, two]| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("a writable /proc");
        network.host.ip(&format!("link set cbr0 address {NEW_MAC}"));
        for (pod, other) in [(one, two), (two, one)] {
            pod.pod.ip("neighbour flush all");
            pod.pod.ip(&format!("route replace {}/32 via {GATEWAY}", other.address()));
        }
        // The first flow passes the node, and shows the new MAC to the programs.
        assert!(one.pod.ping(two.address(), 3).status.success());
        let before = network.counters(one.address()).expect("an entry");
        assert!(one.pod.ping(two.address(), 3).status.success());
        let after = network.counters(one.address()).expect("an entry");
        assert_eq!(after.tx_direct - before.tx_direct, 3, "{before:?} {after:?}");
    });
}
