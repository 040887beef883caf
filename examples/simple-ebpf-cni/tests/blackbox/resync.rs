//! Pins that are removed while pods are attached: the next ADD loads the programs again, and the
//! entries of the pods are as before.

use std::fs;

use cnikit_testbed::{Namespace, kernel};
use serde_json::{Value, json};

use crate::support::{Attached, Network, on_host};

const PINS: &str = "/sys/fs/bpf/simple-ebpf-cni";
/// The options of one pod, which no other state shows.
const MAC: &str = "02:00:5e:00:53:05";

/// Attaches two pods with `keys` in the configuration, removes the pins, and attaches a third pod.
#[track_caller]
fn with_pins_removed(keys: &Value, test: impl FnOnce(&Network, [&Attached; 3]) + Send) {
    on_host(|network| {
        let mut config = network.config.clone();
        config.as_object_mut().expect("an object").extend(keys.as_object().expect("keys").clone());
        let network = &network.by(config.clone());
        config["runtimeConfig"] = json!({ "mac": MAC });
        let with_mac = network.by(config);
        let (one, two) = (with_mac.attach("one"), network.attach("two"));
        fs::remove_dir_all(PINS).expect("a bpffs is writable");
        let three = network.attach("three");
        test(network, [&one, &two, &three]);
        for (network, pod) in [(&with_mac, &one), (network, &two), (network, &three)] {
            network.check(pod).silent();
            network.detach(pod);
        }
    });
}

/// Whether a packet from a foreign address gets a reply.
#[track_caller]
pub(crate) fn can_spoof(pod: &Attached, target: &Attached) -> bool {
    pod.pod.ip("address add 10.99.0.77/32 dev eth0");
    let ping = pod.pod.command("ping").words("-n -q -c 3 -i 0.05 -W 0.5 -I 10.99.0.77").arg(target.address()).output();
    pod.pod.ip("address delete 10.99.0.77/32 dev eth0");
    ping.status.success()
}

#[test]
fn pods_are_checked_counted_and_reached_directly_again() {
    with_pins_removed(&json!({}), |network, [one, two, three]| {
        for (from, to) in [(one, two), (two, three), (three, one)] {
            let before = network.counters(from.address()).expect("an entry").tx_direct;
            assert!(from.pod.ping(to.address(), 4).status.success());
            let after = network.counters(from.address()).expect("an entry").tx_direct;
            assert!(after >= before + 4, "{before} and {after} were sent directly");
            assert!(!can_spoof(from, to), "{} is held to its addresses", from.address());
        }
    });
}

#[test]
fn pods_whose_tcx_links_ended_with_the_pins_are_checked_again() {
    if kernel() < (6, 6) {
        return;
    }
    with_pins_removed(&json!({ "attach": "tcx" }), |network, [one, two, three]| {
        for (from, to) in [(one, two), (two, three)] {
            assert!(from.pod.ping(to.address(), 2).status.success());
            assert!(network.counters(from.address()).expect("an entry").tx_packets >= 2);
            assert!(!can_spoof(from, to), "{} is held to its addresses", from.address());
        }
    });
}
