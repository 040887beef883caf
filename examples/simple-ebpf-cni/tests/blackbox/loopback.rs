//! The plugin `loopback`, which the binary serves under that name.

use std::os::unix::fs::symlink;

use cnikit_testbed::{Namespace as _, Outcome, Plugin, Pod, tool};
use serde_json::{Value, json};

use crate::cli::BINARY;
use crate::support::{Network, on_host};

/// Debian's plugin of this name.
const REFERENCE: &str = "/usr/lib/cni/loopback";

const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A link `loopback` to the binary, as `install` creates it.
fn ours(network: &Network) -> Plugin {
    let path = network.host.scratch().join("loopback");
    symlink(BINARY, &path).expect("room");
    Plugin::new(path)
}

/// The configuration that containerd passes, with another version.
fn config(version: &str) -> Value {
    json!({ "cniVersion": version, "name": "cni-loopback", "type": "loopback" })
}

#[track_caller]
fn call(plugin: &Plugin, verb: &str, config: &Value, pod: &Pod) -> Outcome {
    plugin.on(verb, config, "one", pod).env("CNI_IFNAME", "lo").run()
}

fn with_result(version: &str, result: &Value) -> Value {
    let mut config = config(version);
    config["prevResult"] = result.clone();
    config
}

/// Whether `lo` is up, and its addresses.
#[track_caller]
fn lo(pod: &Pod) -> (bool, Vec<String>) {
    let link = pod.link("lo").expect("each namespace has it");
    let is_up = link["flags"].as_array().is_some_and(|flags| flags.contains(&json!("UP")));
    (is_up, pod.addresses("lo"))
}

#[test]
fn add_brings_lo_up_and_del_sets_it_down() {
    on_host(|network| {
        let plugin = ours(network);
        for version in VERSIONS {
            let (pod, config) = (network.host.pod(), config(version));
            assert_eq!(lo(&pod), (false, vec![]));
            let result = call(&plugin, "ADD", &config, &pod).result();
            assert_eq!(lo(&pod), (true, vec!["127.0.0.1/8".into(), "::1/128".into()]));
            let sandbox = pod.netns();
            assert_eq!(
                result["interfaces"],
                json!([{ "name": "lo", "mac": "00:00:00:00:00:00", "sandbox": sandbox.to_str() }])
            );
            let addresses: Vec<_> = result["ips"].as_array().expect("a list").iter().map(|ip| &ip["address"]).collect();
            assert_eq!(addresses, ["127.0.0.1/8", "::1/128"]);
            // A runtime repeats a call if it has lost the answer.
            assert_eq!(call(&plugin, "ADD", &config, &pod).result(), result);
            for _ in 0..2 {
                call(&plugin, "DEL", &config, &pod).silent();
                assert_eq!(lo(&pod), (false, vec!["127.0.0.1/8".into()]));
            }
        }
    });
}

/// Debian's plugin supports no newer version than 1.0.0, and omits the key `version` of addresses.
#[test]
fn results_equal_those_of_the_reference_plugin() {
    if !tool(REFERENCE) {
        return;
    }
    on_host(|network| {
        let plugins = [ours(network), Plugin::new(REFERENCE)];
        let without_defaults = |mut result: Value| {
            for ip in result["ips"].as_array_mut().into_iter().flatten() {
                ip.as_object_mut().expect("an object").remove("version");
            }
            if result["dns"] == json!({}) {
                result.as_object_mut().expect("an object").remove("dns");
            }
            result
        };
        for version in &VERSIONS[..3] {
            let earlier = json!({ "cniVersion": version, "interfaces": [{ "name": "eth0", "sandbox": "/run/netns/one" }],
                "ips": [{ "address": "10.99.0.7/24", "version": "4", "interface": 0 }], "routes": [{ "dst": "10.0.0.0/8" }] });
            for config in [config(version), with_result(version, &earlier)] {
                let pod = network.host.pod();
                let [ours, theirs] = plugins.each_ref().map(|plugin| {
                    let result = call(plugin, "ADD", &config, &pod).result();
                    assert!(lo(&pod).0);
                    call(plugin, "DEL", &config, &pod).silent();
                    assert!(!lo(&pod).0);
                    without_defaults(result)
                });
                assert_eq!(ours, theirs, "{config}");
            }
        }
    });
}

#[test]
fn add_returns_the_addresses_of_an_existing_lo_and_no_foreign_ones() {
    on_host(|network| {
        let (plugin, pod) = (ours(network), network.host.pod());
        pod.enter(|| std::fs::write("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "1")).expect("a kernel with IPv6");
        call(&plugin, "ADD", &config("1.0.0"), &pod).result();
        pod.ip("address add 192.0.2.1/32 dev lo");
        let result = call(&plugin, "ADD", &config("1.0.0"), &pod).result();
        assert_eq!(result["ips"], json!([{ "address": "127.0.0.1/8", "interface": 0 }]));
    });
}

#[test]
fn check_finds_a_lo_that_is_down_or_lacks_an_address() {
    on_host(|network| {
        let (plugin, pod) = (ours(network), network.host.pod());
        let result = call(&plugin, "ADD", &config("1.0.0"), &pod).result();
        let check = |result: &Value| call(&plugin, "CHECK", &with_result("1.0.0", result), &pod);
        check(&result).silent();
        // The result of a chain, where this plugin was not the first.
        let chained = json!({ "cniVersion": "1.0.0", "interfaces": [{ "name": "eth0", "sandbox": "/run/netns/one" }],
            "ips": [{ "address": "10.99.0.7/24", "interface": 0 }] });
        check(&chained).silent();
        pod.ip("address del 127.0.0.1/8 dev lo");
        assert!(check(&result).error(104).contains("127.0.0.1/8"));
        pod.ip("link set lo down");
        for result in [&result, &chained] {
            assert!(check(result).error(104).contains("lo is down"));
        }
    });
}

#[test]
fn del_needs_no_namespace_and_keeps_another_process_up() {
    on_host(|network| {
        let (plugin, pod, config) = (ours(network), network.host.pod(), config("1.0.0"));
        for netns in ["", "/run/netns/gone", "/dev/null", "/proc/self/ns/mnt"] {
            plugin.on("DEL", &config, "one", &pod).env("CNI_NETNS", netns).run().silent();
        }
        // The process id of the container may belong to another pod by now.
        pod.ip("link set lo up");
        let mut other = pod.command("sleep").arg("infinity").spawn();
        let netns = format!("/proc/{}/ns/net", other.pid());
        plugin.on("DEL", &config, "one", &pod).env("CNI_NETNS", netns).run().silent();
        assert!(lo(&pod).0);
        other.kill();
        // The plugin's own namespace is not a pod's.
        network.host.ip("link set lo up");
        plugin.on("DEL", &config, "one", &pod).env("CNI_NETNS", "/proc/self/ns/net").run().silent();
        let own = network.host.link("lo").expect("each namespace has it");
        assert!(own["flags"].as_array().is_some_and(|flags| flags.contains(&json!("UP"))));
    });
}

#[test]
fn the_other_verbs_succeed_without_a_pod() {
    on_host(|network| {
        let plugin = ours(network);
        for verb in ["STATUS", "GC"] {
            let mut config = config("1.1.0");
            config["cni.dev/valid-attachments"] = json!([]);
            plugin.invocation(verb).config(&config).run().silent();
        }
        let versions = plugin.invocation("VERSION").config(&config("1.1.0")).run().result();
        assert_eq!(versions["supportedVersions"], json!(VERSIONS));
        let described = plugin.invocation("").without("CNI_COMMAND").run();
        let text = format!("{}{}", described.stdout, described.stderr);
        assert!(described.status.success() && text.contains("loopback"), "{text}");
    });
}

/// Only the name of the file counts: a configuration with another type does not.
#[test]
fn under_its_own_name_the_binary_is_the_other_plugin() {
    on_host(|network| {
        let network = network.by(network.with("type", "loopback"));
        let pod = network.attach("one");
        assert_eq!(pod.address(), "10.99.0.2");
        assert!(pod.pod.link("eth0").is_some());
        network.detach(&pod);
    });
}
