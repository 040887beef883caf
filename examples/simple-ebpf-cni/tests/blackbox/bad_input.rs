//! Bad input: the correct error code, a message that names the invalid value, and no change.

use std::fs;
use std::path::Path;

use cnikit_testbed::{Footprint, Invocation, Namespace};
use serde_json::{Value, json};

use crate::support::{Network, on_host};

/// Changes a valid ADD and expects `code`, all of `words` in the message, and no change. Runs on an
/// empty host, and on a host with pods.
#[track_caller]
fn refused(code: u64, words: &[&str], change: impl Fn(&Network, Invocation) -> Invocation + Sync) {
    on_host(|network| {
        let pod = network.host.pod();
        let attempt = |what: &str| {
            let add = change(network, network.plugin.on("ADD", &network.config, "one", &pod));
            let before = network.footprint();
            let message = add.run().error(code);
            for word in words {
                assert!(message.contains(word), "{word:?} is missing in {message:?}");
            }
            network.footprint().assert_unchanged(&before, what);
            Footprint::of_network(&pod).assert_unchanged(&Footprint::default(), what);
        };
        attempt("the refused ADD");
        let other = network.attach("other");
        attempt("the refused ADD beside a pod");
        network.check(&other).silent();
        network.detach(&other);
    });
}

/// The configuration with `key` set to `value`.
#[track_caller]
fn refused_value(key: &str, value: impl Into<Value>, words: &[&str]) {
    let value = value.into();
    refused(7, words, |network, add| add.config(&network.with(key, value.clone())));
}

/// The configuration without `key`.
#[track_caller]
fn refused_without(key: &str) {
    refused(7, &[key], |network, add| {
        let mut config = network.config.clone();
        config.as_object_mut().expect("an object").remove(key);
        add.config(&config)
    });
}

#[test]
fn malformed_json() {
    for input in ["", "{", "[]", "null", "hello"] {
        refused(6, &[], |_, add| add.stdin(input));
    }
    // The specification: code 6 if the version cannot be decoded.
    refused(6, &["cniVersion"], |network, add| add.config(&network.with("cniVersion", 1)));
}

#[test]
fn a_missing_key() {
    refused_without("name");
    refused_without("subnet");
}

#[test]
fn an_invalid_network_name() {
    refused_value("name", "", &["name"]);
    refused_value("name", "../up", &["../up"]);
}

#[test]
fn a_subnet_with_host_bits() {
    refused_value("subnet", "10.99.0.7/24", &["10.99.0.7/24", "10.99.0.0/24"]);
}

#[test]
fn an_invalid_subnet() {
    refused_value("subnet", "10.99.0.0/33", &["10.99.0.0/33"]);
    refused_value("subnet", "the lot", &["the lot"]);
    refused_value("subnet", 24, &["subnet"]);
}

#[test]
fn a_subnet_without_usable_addresses() {
    refused_value("subnet", "10.99.0.0/31", &["10.99.0.0/31"]);
    refused_value("subnet", "10.99.0.0/32", &["10.99.0.0/32"]);
}

#[test]
fn a_gateway_outside_the_subnet() {
    refused_value("gateway", "10.98.0.1", &["10.98.0.1", "10.99.0.0/24"]);
}

#[test]
fn a_gateway_that_is_a_reserved_address() {
    refused_value("gateway", "10.99.0.0", &["10.99.0.0"]);
    refused_value("gateway", "10.99.0.255", &["10.99.0.255"]);
}

#[test]
fn an_mtu_outside_the_limits_of_links() {
    refused_value("mtu", 10, &["10"]);
    refused_value("mtu", 1_000_000, &["1000000"]);
    refused_value("mtu", "big", &["mtu"]);
}

#[test]
fn a_bridge_name_that_no_link_can_have() {
    refused_value("bridge", "a-name-that-is-too-long", &["a-name-that-is-too-long"]);
    refused_value("bridge", "cbr/0", &["cbr/0"]);
}

#[test]
fn a_relative_data_dir() {
    refused_value("dataDir", "leases", &["leases"]);
}

#[test]
fn a_missing_or_empty_variable() {
    for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        refused(4, &[name], |_, add| add.without(name));
        refused(4, &[name], |_, add| add.env(name, ""));
    }
}

#[test]
fn all_missing_variables_in_one_message() {
    let missing = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"];
    refused(4, &missing, |_, add| missing.iter().fold(add, |add, name| add.without(name)));
}

#[test]
fn an_invalid_container_id() {
    for id in ["-x", "a/b", "a b"] {
        refused(4, &["CNI_CONTAINERID"], |_, add| add.env("CNI_CONTAINERID", id));
    }
}

#[test]
fn an_ifname_that_no_link_can_have() {
    for ifname in ["sixteen-letters-", "..", "a/b", "a:b", "a b"] {
        refused(4, &["CNI_IFNAME"], |_, add| add.env("CNI_IFNAME", ifname));
    }
}

#[test]
fn an_unknown_verb() {
    refused(4, &["FROB"], |_, add| add.env("CNI_COMMAND", "FROB"));
}

#[test]
fn a_missing_namespace() {
    refused(8, &["/run/netns/gone"], |_, add| add.env("CNI_NETNS", "/run/netns/gone"));
}

#[test]
fn a_path_that_is_not_a_namespace() {
    refused(8, &["/run/no-namespace"], |_, add| {
        fs::write("/run/no-namespace", "").unwrap();
        add.env("CNI_NETNS", "/run/no-namespace")
    });
    refused(8, &["/proc/self/ns/mnt"], |_, add| add.env("CNI_NETNS", "/proc/self/ns/mnt"));
}

#[test]
fn a_namespace_that_is_the_plugins_own() {
    refused(8, &["CNI_NETNS"], |network, add| add.env("CNI_NETNS", network.host.netns()));
    refused(8, &["CNI_NETNS"], |_, add| add.env("CNI_NETNS", "/proc/self/ns/net"));
}

/// User 0 without any capability.
#[test]
fn no_permission() {
    on_host(|network| {
        let pod = network.host.pod();
        let other = network.attach("other");
        let before = network.footprint();
        let command = network.host.command("setpriv").args(["--bounding-set=-all", "--inh-caps=-all"]);
        let output = command
            .arg(Path::new(env!("CARGO_BIN_EXE_simple-ebpf-cni")))
            .env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", "one")
            .env("CNI_NETNS", pod.netns())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/")
            .stdin(network.config.to_string())
            .output();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let error: Value = serde_json::from_str(&output.stdout).expect("an error is JSON");
        let message = format!("{} {}", error["msg"], error["details"]).to_lowercase();
        assert!(error["code"].is_u64(), "{error}");
        assert!(["permi", "privileg", "cap_", "root"].iter().any(|word| message.contains(word)), "{error}");
        network.footprint().assert_unchanged(&before, "the refused ADD");
        Footprint::of_network(&pod).assert_unchanged(&Footprint::default(), "the refused ADD");
        network.detach(&other);
    });
}

/// The plugin reports an error before any change, also if several values are invalid.
#[test]
fn the_environment_is_checked_before_the_configuration() {
    refused(4, &["CNI_IFNAME"], |_, add| add.without("CNI_IFNAME").stdin("{"));
}

#[test]
fn unknown_keys_are_tolerated() {
    on_host(|network| {
        let pod = network.host.pod();
        let mut config = network.with("ipMasq", false);
        config["runtimeConfig"] = json!({ "portMappings": [] });
        config["args"] = json!({ "cni": { "labels": [] } });
        config["x"] = json!(null);
        network.plugin.on("ADD", &config, "one", &pod).run().result();
        network.plugin.on("DEL", &config, "one", &pod).run().silent();
    });
}

#[test]
fn a_subnet_that_overlaps_another_links() {
    on_host(|network| {
        network.host.ip("link add near type veth peer name far");
        network.host.ip("address add 10.99.0.200/28 dev near");
        let before = network.footprint();
        let message = network.call("ADD", "one", &network.host.pod()).error(7);
        assert!(
            ["subnet", "10.99.0.0/24", "10.99.0.200/28", "near"].iter().all(|word| message.contains(word)),
            "{message}"
        );
        network.footprint().assert_unchanged(&before, "the refused ADD");
        network.host.ip("link del near");
    });
}

#[test]
fn a_bridge_with_a_pods_address_of_the_subnet() {
    on_host(|network| {
        network.host.ip("link add cbr0 type bridge");
        network.host.ip("address add 10.99.0.3/24 dev cbr0");
        let before = network.footprint();
        let message = network.call("ADD", "one", &network.host.pod()).error(7);
        assert!(["cbr0", "10.99.0.3/24", "gateway"].iter().all(|word| message.contains(word)), "{message}");
        network.footprint().assert_unchanged(&before, "the refused ADD");
        network.host.ip("link del cbr0");
    });
}

/// The name of a chain has at most 255 bytes. The plugin adds a prefix.
#[test]
fn a_name_too_long_for_a_chain_is_refused_with_the_configuration() {
    on_host(|network| {
        let network = network.by(network.with("ipMasq", true));
        let named = |length: usize| network.with("name", "n".repeat(length));
        let pod = network.host.pod();
        let before = network.footprint();
        let message = network.by(named(245)).call("ADD", "one", &pod).error(7);
        assert!(message.contains("245") && message.contains("shorter"), "{message}");
        network.footprint().assert_unchanged(&before, "a refused ADD");
        let mut longest = named(244);
        longest["cniVersion"] = "1.1.0".into();
        network.plugin.invocation("STATUS").config(&longest).run().silent();
    });
}
