//! CHECK: silent without a difference, and an error that names a difference.

use std::fs;
use std::path::Path;

use cnikit_testbed::Namespace;
use serde_json::json;

use crate::support::{Attached, DATA_DIR, Network, code, on_host};

/// Attaches a pod, changes something, and expects CHECK to name `difference`.
#[track_caller]
fn check_names(difference: impl Fn(&Attached) -> String + Sync, tamper: impl Fn(&Network, &Attached) + Sync) {
    on_host(|network| {
        let one = network.attach("one");
        network.check(&one).silent();
        tamper(network, &one);
        let message = network.check(&one).error(code::DIFFERS);
        let difference = difference(&one);
        assert!(message.contains(&difference), "{difference:?} is not in {message:?}");
        network.detach(&one);
    });
}

#[test]
fn check_is_silent_without_a_difference() {
    on_host(|network| {
        let (one, two) = (network.attach("one"), network.attach("two"));
        one.pod.ping(two.address(), 3);
        let before = network.footprint();
        for attached in [&one, &two, &one] {
            network.check(attached).silent();
        }
        network.footprint().assert_unchanged(&before, "CHECK");
        network.detach(&one);
        network.detach(&two);
    });
}

#[test]
fn check_names_an_address_that_was_removed() {
    check_names(
        |one| one.address().to_owned(),
        |_, one| drop(one.pod.ip(&format!("address del {}/24 dev eth0", one.address()))),
    );
}

#[test]
fn check_names_a_route_that_was_removed() {
    check_names(|_| "route".to_owned(), |_, one| drop(one.pod.ip("route del default")));
}

#[test]
fn check_names_a_link_that_is_down() {
    check_names(
        |one| one.host_veth().to_owned(),
        |network, one| drop(network.host.ip(&format!("link set {} down", one.host_veth()))),
    );
}

#[test]
fn check_names_a_pod_end_that_is_down() {
    // The route disappears with the link. CHECK must name the link.
    check_names(|_| "eth0 is down".to_owned(), |_, one| drop(one.pod.ip("link set eth0 down")));
}

#[test]
fn check_names_a_link_that_is_missing() {
    check_names(
        |one| one.host_veth().to_owned(),
        |network, one| drop(network.host.ip(&format!("link del {}", one.host_veth()))),
    );
}

#[test]
fn check_names_a_port_that_left_the_bridge() {
    check_names(
        |one| one.host_veth().to_owned(),
        |network, one| drop(network.host.ip(&format!("link set {} nomaster", one.host_veth()))),
    );
}

#[test]
fn check_names_a_program_that_was_removed() {
    check_names(|_| "cni_tc_main".to_owned(), |network, _| network.detach_programs());
}

#[test]
fn check_names_a_port_without_the_block() {
    check_names(
        |one| one.host_veth().to_owned(),
        |network, one| {
            network.host.command("tc").words(&format!("qdisc del dev {} clsact", one.host_veth())).run();
        },
    );
}

#[test]
fn check_names_a_map_entry_that_was_removed() {
    for map in ["pkt_count", "pod_ifindex"] {
        check_names(
            |one| format!("{map} has no entry for {}", one.address()),
            |network, one| network.remove_entry(map, one.address()),
        );
    }
}

#[test]
fn check_names_a_lease_that_was_removed() {
    on_host(|network| {
        let one = network.attach("one");
        // Moved, not written again: the lease is one file with several names.
        let elsewhere = Path::new(DATA_DIR).join("elsewhere");
        fs::rename(network.lease("one"), &elsewhere).unwrap();
        let message = network.check(&one).error(code::DIFFERS);
        assert!(message.contains("lease"), "{message}");
        fs::rename(&elsewhere, network.lease("one")).unwrap();
        network.check(&one).silent();
        network.detach(&one);
    });
}

#[test]
fn check_names_an_address_that_differs_from_prev_result() {
    on_host(|network| {
        let mut one = network.attach("one");
        one.result["ips"][0]["address"] = json!("10.99.0.77/24");
        let message = network.check(&one).error(code::DIFFERS);
        assert!(message.contains("10.99.0."), "{message}");
        network.detach(&one);
    });
}

#[test]
fn check_requires_a_prev_result() {
    on_host(|network| {
        let one = network.attach("one");
        let message = network.call("CHECK", "one", &one.pod).error(7);
        assert!(message.contains("prevResult"), "{message}");
        network.detach(&one);
    });
}

/// A later plugin of a chain may add objects, and change values that this plugin does not
/// guarantee.
#[test]
fn check_tolerates_additions_of_other_plugins() {
    on_host(|network| {
        // The first version with the MTU in its results.
        let config = network.with("cniVersion", "1.1.0");
        let network = &Network { host: network.host, plugin: network.plugin.clone(), config };
        let one = network.attach("one");
        one.pod.ip("address add 192.0.2.7/32 dev eth0");
        one.pod.ip("route add 198.51.100.0/24 via 10.99.0.1");
        one.pod.ip("link set eth0 txqueuelen 500 mtu 1400");
        network.check(&one).silent();
        network.detach(&one);
    });
}
