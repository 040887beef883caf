//! A bridge that changes under its pods: `status`, `doctor` and CHECK report the change. `repair`
//! and the next ADD revert it.

use std::fs;
use std::path::Path;

use cnikit_testbed::Namespace;
use serde_json::{Value, json};

use crate::cli::command;
use crate::doctor::{configured, doctor, found};
use crate::support::{Attached, GATEWAY, Network, code, on_host};

pub(crate) const GATEWAY_V6: &str = "fd00:99::1";
const MAC: &str = "02:00:5e:00:53:66";

/// A pod of both families, and the directory with its network's configuration.
pub(crate) fn with_pod(test: impl FnOnce(&Network, &Attached, &Path) + Send) {
    on_host(|network| {
        for line in ["route fd00:99::/64", "route fe80::/64"] {
            network.host.keep(line);
        }
        let network = network.by(network.with("subnets", json!(["fd00:99::/64"])));
        let pod = network.attach("one");
        let dir = configured(&network);
        assert_ok(&network, &pod, &dir);
        test(&network, &pod, &dir);
        network.detach(&pod);
    });
}

/// The exit status of `status`, and the problems of the network.
#[track_caller]
pub(crate) fn status(dir: &Path) -> (Option<i32>, Vec<String>) {
    let output = command(&format!("status --json --conf-dir {}", dir.display()));
    let report: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:#?}"));
    let problems = report["networks"][0]["problems"].as_array().expect("a list").clone();
    (output.status.code(), problems.iter().map(|problem| problem.as_str().expect("a text").to_owned()).collect())
}

#[track_caller]
pub(crate) fn assert_ok(network: &Network, pod: &Attached, dir: &Path) {
    assert_eq!(status(dir), (Some(0), Vec::new()));
    let (status, checks) = doctor(dir);
    assert_eq!((status, found(&checks, "gateway", "fail")), (Some(0), String::new()), "{checks:#?}");
    network.check(pod).silent();
    for gateway in [GATEWAY, GATEWAY_V6] {
        assert!(pod.pod.ping(gateway, 2).status.success(), "{gateway}");
    }
}

/// Expects that all three report it with these words. `status` and `doctor` name a fix.
#[track_caller]
fn assert_reported(network: &Network, pod: &Attached, dir: &Path, check: &str, words: &[&str]) {
    let (code, problems) = status(dir);
    assert_eq!(code, Some(1), "{problems:?}");
    let (status, checks) = doctor(dir);
    assert_eq!(status, Some(1), "{checks:#?}");
    let (problems, failed) = (problems.join("\n"), found(&checks, check, "fail"));
    let differences = network.check(pod).error(code::DIFFERS);
    for word in words {
        assert!(problems.contains(word), "status: {word}: {problems}");
        assert!(failed.contains(word), "doctor: {word}: {checks:#?}");
        assert!(differences.contains(word), "CHECK: {word}: {differences}");
    }
    assert!(problems.contains("simple-ebpf-cni repair --network blackbox"), "{problems}");
    assert!(!failed.contains("-> null"), "{failed}");
}

/// Expects that `repair` fixes the network and lists the problems with these words.
#[track_caller]
pub(crate) fn repair(dir: &Path, words: &[&str]) {
    let output = command(&format!("repair --json --conf-dir {}", dir.display()));
    assert_eq!(output.status.code(), Some(0), "{output:#?}");
    let report: Value = serde_json::from_str(&output.stdout).expect("JSON");
    let repaired = report["networks"][0]["repaired"].to_string();
    for word in words {
        assert!(repaired.contains(word), "{word}: {report}");
    }
    assert_eq!(report["networks"][0]["problems"], json!([]), "{report}");
}

#[test]
fn another_mac() {
    with_pod(|network, pod, dir| {
        let before = network.host.link("cbr0").expect("the bridge")["address"].as_str().expect("a MAC").to_owned();
        network.host.ip(&format!("link set cbr0 address {MAC}"));
        assert_reported(network, pod, dir, "gateway", &[MAC, &before, "cbr0"]);
        let (_, problems) = status(dir);
        assert!(!problems.join("").contains("ip link set"), "the MAC in the maps may be the wrong one: {problems:?}");

        // CHECK compares with the ADD result, which has the former MAC.
        repair(dir, &[MAC]);
        assert_eq!(status(dir), (Some(0), Vec::new()));
        for gateway in [GATEWAY, GATEWAY_V6] {
            assert!(pod.pod.ping(gateway, 2).status.success(), "{gateway}");
        }
        network.host.ip(&format!("link set cbr0 address {before}"));
        repair(dir, &[&before]);
        assert_ok(network, pod, dir);
    });
}

#[test]
fn an_ipv4_address_that_was_removed() {
    with_pod(|network, pod, dir| {
        network.host.ip(&format!("address delete {GATEWAY}/24 dev cbr0"));
        assert_reported(network, pod, dir, "gateway", &["cbr0", "10.99.0.1/24"]);
        repair(dir, &["10.99.0.1/24"]);
        assert_ok(network, pod, dir);
    });
}

#[test]
fn an_address_with_another_prefix_length() {
    with_pod(|network, pod, dir| {
        network.host.ip(&format!("address delete {GATEWAY}/24 dev cbr0"));
        network.host.ip(&format!("address add {GATEWAY}/32 dev cbr0"));
        assert_reported(network, pod, dir, "gateway", &["cbr0", "10.99.0.1/24"]);
        network.host.ip(&format!("address delete {GATEWAY}/32 dev cbr0"));
        repair(dir, &["10.99.0.1/24"]);
        assert_ok(network, pod, dir);
    });
}

/// The kernel removes IPv6 addresses when the link goes down, and does not restore them.
#[test]
fn ipv6_addresses_that_a_bridge_lost_when_it_went_down() {
    with_pod(|network, pod, dir| {
        network.host.ip("link set cbr0 down");
        assert_reported(network, pod, dir, "bridge", &["cbr0", "down"]);
        network.host.ip("link set cbr0 up");
        assert_reported(network, pod, dir, "gateway", &["cbr0", "fd00:99::1/64"]);
        assert!(!status(dir).1.join("").contains("10.99.0.1"), "the IPv4 address stays");
        repair(dir, &["fd00:99::1/64"]);
        assert_ok(network, pod, dir);

        network.host.ip("link set cbr0 down");
        repair(dir, &["down", "fd00:99::1/64"]);
        assert_ok(network, pod, dir);
    });
}

#[test]
fn a_deleted_bridge_is_restored() {
    with_pod(|network, pod, dir| {
        network.host.ip("link del cbr0");
        assert_eq!(status(dir).0, Some(1));
        repair(dir, &["is gone"]);
        assert_ok(network, pod, dir);
    });
}

#[test]
fn lost_pins_are_restored_with_their_entries() {
    with_pod(|network, pod, dir| {
        fs::remove_dir_all("/sys/fs/bpf/simple-ebpf-cni").expect("a bpffs is writable");
        // Pods work without pins.
        assert_eq!(status(dir), (Some(0), Vec::new()));
        repair(dir, &["not pinned"]);
        assert_ok(network, pod, dir);
    });
}

#[test]
fn the_next_add_repairs_it_too() {
    with_pod(|network, pod, dir| {
        network.host.ip("link set cbr0 down");
        let two = network.attach("two");
        assert_ok(network, pod, dir);
        network.detach(&two);
    });
}

/// The bridge does not lack a gateway that it never had: the subnet was configured after the ADD.
#[test]
fn a_gateway_that_was_never_added_is_not_reported() {
    with_pod(|network, pod, dir| {
        let config = network.with("subnets", json!(["fd00:99::/64", "10.98.0.0/24"]));
        fs::write(dir.join("10-blackbox.conf"), config.to_string()).expect("room");
        assert_ok(network, pod, dir);
        // `repair` does not add it to the bridge.
        repair(dir, &[]);
        assert!(!network.host.addresses("cbr0").contains(&"10.98.0.1/24".to_owned()));
        // A network that never had a pod lacks nothing.
        fs::remove_file(dir.join("10-blackbox.conf")).expect("it is there");
        fs::write(dir.join("10-other.conf"), json!({
            "cniVersion": "1.0.0", "name": "other", "type": "simple-ebpf-cni", "bridge": "cbr9", "subnet": "10.97.0.0/24",
        }).to_string()).expect("room");
        let output = command(&format!("repair --network other --conf-dir {}", dir.display()));
        assert_eq!(output.status.code(), Some(0), "{output:#?}");
        assert!(output.stdout.contains("no pod"), "{output:#?}");
        assert!(network.host.link("cbr9").is_none(), "nothing is made for a network without pods");
    });
}

/// Masquerade rules are a shared part of the network too.
#[test]
fn flushed_rules_are_restored() {
    on_host(|network| {
        network.host.keep("nftables ");
        let network = network.by(network.with("ipMasq", true));
        let pod = network.attach("one");
        let dir = configured(&network);
        let rules = network.footprint();
        network.host.command("nft").words("flush ruleset").run();
        assert_eq!(status(&dir).0, Some(1));
        repair(&dir, &["nftables"]);
        network.footprint().assert_unchanged(&rules, "repair");
        assert_eq!(status(&dir).0, Some(0));
        network.detach(&pod);
    });
}

/// If an ADD cannot use the bridge, `repair` cannot either, and changes nothing.
#[test]
fn an_impossible_repair_is_reported() {
    with_pod(|network, pod, dir| {
        network.host.ip("link set cbr0 down");
        network.host.ip("link del cbr0");
        network.host.ip("link add cbr0 type veth peer name far");
        let before = network.footprint();
        let output = command(&format!("repair --conf-dir {}", dir.display()));
        assert_eq!(output.status.code(), Some(1), "{output:#?}");
        assert!(output.stdout.contains("is no bridge"), "{output:#?}");
        network.footprint().assert_unchanged(&before, "repair");
        network.host.ip("link del cbr0");
        repair(dir, &["is gone"]);
        assert_ok(network, pod, dir);

        // Without the configuration, the intended state is unknown.
        fs::remove_file(dir.join("10-blackbox.conf")).expect("it is there");
        let output = command(&format!("repair --conf-dir {}", dir.display()));
        assert_eq!(output.status.code(), Some(1), "{output:#?}");
        assert!(output.stdout.contains("no file in"), "{output:#?}");
    });
}
