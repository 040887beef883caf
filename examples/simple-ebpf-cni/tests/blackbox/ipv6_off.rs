//! Nodes with IPv6 disabled, or with read-only settings.

use std::fs;

use cnikit_testbed::{Footprint, Namespace as _};
use serde_json::{Value, json};

use crate::doctor::{doctor, found};
use crate::support::{Network, on_host};

/// "The plugin is not available."
const UNAVAILABLE: u64 = 50;

const ALL_OFF: &str = "/proc/sys/net/ipv6/conf/all/disable_ipv6";
const DEFAULT_OFF: &str = "/proc/sys/net/ipv6/conf/default/disable_ipv6";

fn dual_stack(network: &Network) -> Value {
    let mut config = network.with_keys(json!({ "subnets": ["10.99.0.0/24", "fd00:99::/64"] }));
    config["cniVersion"] = "1.1.0".into();
    config
}

/// Disables IPv6 as an operator does for a node.
fn switch_off() {
    for setting in [ALL_OFF, DEFAULT_OFF] {
        fs::write(setting, "1").expect("a kernel with IPv6");
    }
}

#[track_caller]
fn setting(link: &str) -> String {
    let value = fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6")).expect("a setting");
    value.trim().to_owned()
}

/// Makes the settings read-only, for this host alone.
fn freeze_settings(network: &Network) {
    for line in ["--bind /proc/sys /proc/sys", "-o remount,bind,ro /proc/sys"] {
        network.host.command("mount").words(line).run();
    }
}

/// Each check before an ADD reports the cause. Then the ADD fails with this cause and leaves
/// nothing.
#[track_caller]
fn is_refused(network: &Network, config: &Value, words: &[&str]) {
    let before = network.footprint();
    let pod = network.host.pod();
    let mut messages = vec![
        network.plugin.invocation("STATUS").config(config).run().error(UNAVAILABLE),
        network.plugin.on("ADD", config, "one", &pod).run().error(UNAVAILABLE),
    ];
    let dir = network.host.scratch();
    fs::write(dir.join("10-blackbox.conf"), config.to_string()).expect("room");
    let (status, checks) = doctor(&dir);
    assert_eq!(status, Some(1), "{checks:#?}");
    messages.push(found(&checks, "ipv6", "fail"));
    for message in messages {
        assert!(words.iter().all(|word| message.contains(word)), "{words:?} in {message}");
    }
    assert!(pod.link("eth0").is_none());
    network.plugin.on("DEL", config, "one", &pod).run().silent();
    network.footprint().assert_unchanged(&before, "a refused ADD");
    assert!(network.taken().is_empty());
}

#[test]
fn it_is_enabled_on_the_bridge_alone() {
    on_host(|network| {
        switch_off();
        network.host.ip("link add other type bridge");
        let (config, pod) = (dual_stack(network), network.host.pod());
        network.plugin.invocation("STATUS").config(&config).run().silent();
        network.plugin.on("ADD", &config, "one", &pod).run().result();
        for target in ["10.99.0.1", "fd00:99::1"] {
            assert!(pod.ping(target, 2).status.success(), "{target}");
        }
        assert!(network.host.ping("fd00:99::2", 2).status.success());
        assert_eq!((setting("cbr0"), setting("other"), setting("default")), ("0".into(), "1".into(), "1".into()));
        network.plugin.on("DEL", &config, "one", &pod).run().silent();

        // Disabled again on an existing network: the next ADD finds the bridge without its address.
        switch_off();
        assert_eq!(network.host.addresses("cbr0"), ["10.99.0.1/24"]);
        network.plugin.on("ADD", &config, "one", &pod).run().result();
        assert!(pod.ping("fd00:99::1", 2).status.success());
        network.plugin.on("DEL", &config, "one", &pod).run().silent();
        network.host.ip("link del other");
    });
}

#[test]
fn delegates_and_runtimes_may_assign_the_addresses() {
    on_host(|network| {
        switch_off();
        let plugin = network.plugin.clone().beside("/usr/lib/cni");
        let mut delegated = network.config.clone();
        delegated.as_object_mut().expect("an object").remove("subnet");
        let mut named = delegated.clone();
        delegated["ipam"] =
            json!({ "type": "static", "addresses": [{ "address": "fd00:98::5/64", "gateway": "fd00:98::1" }] });
        named["capabilities"] = json!({ "ipRanges": true });
        named["runtimeConfig"] = json!({ "ipRanges": [[{ "subnet": "fd00:98::/64" }]] });
        for config in [delegated, named] {
            network.host.command("sysctl").words("-q -w net.ipv6.conf.all.disable_ipv6=1").run();
            let pod = network.host.pod();
            plugin.on("ADD", &config, "one", &pod).run().result();
            assert!(pod.ping("fd00:98::1", 2).status.success());
            plugin.on("DEL", &config, "one", &pod).run().silent();
        }
    });
}

/// Linux has no IPv6 on links with an MTU below 1,280 bytes (RFC 8200, section 5).
#[test]
fn an_mtu_that_is_too_small_is_named() {
    on_host(|network| {
        let plugin = network.plugin.clone().beside("/usr/lib/cni");
        let config = network.with_keys(json!({
            "ipam": { "type": "static", "addresses": [{ "address": "fd00:98::5/64", "gateway": "fd00:98::1" }] },
        }));
        let pod = network.host.pod();
        let mut small = config.clone();
        small["mtu"] = 1000.into();
        let error = plugin.on("ADD", &small, "one", &pod).run().error(UNAVAILABLE);
        assert!(error.contains("MTU 1000") && error.contains("1280"), "{error}");
        assert!(pod.link("eth0").is_none());
        network.host.ip("link set cbr0 mtu 1000");
        let error = plugin.on("ADD", &config, "one", &pod).run().error(UNAVAILABLE);
        assert!(error.contains("cbr0") && error.contains("1280"), "{error}");
        network.host.ip("link set cbr0 mtu 1500");
        plugin.on("ADD", &config, "one", &pod).run().result();
        assert!(pod.ping("fd00:98::1", 2).status.success());
        plugin.on("DEL", &config, "one", &pod).run().silent();
    });
}

#[test]
fn an_ipv4_network_needs_no_ipv6() {
    on_host(|network| {
        switch_off();
        let pod = network.attach("one");
        assert_eq!(setting("cbr0"), "1");
        network.detach(&pod);
    });
}

/// With `accept_ra` and an uplink in the bridge, IPv6 would open the node to the link.
#[test]
fn an_existing_bridge_keeps_its_settings() {
    on_host(|network| {
        switch_off();
        network.host.ip("link add cbr0 type bridge");
        let config = dual_stack(network);
        is_refused(network, &config, &["cbr0", "net.ipv6.conf.cbr0.disable_ipv6=0"]);
        assert_eq!(setting("cbr0"), "1");
        network.host.command("sysctl").words("-q -w net.ipv6.conf.cbr0.disable_ipv6=0").run();
        let pod = network.host.pod();
        network.plugin.on("ADD", &config, "one", &pod).run().result();
        assert!(pod.ping("fd00:99::1", 2).status.success());
        network.plugin.on("DEL", &config, "one", &pod).run().silent();
    });
}

#[test]
fn read_only_settings_are_reported_before_an_add() {
    on_host(|network| {
        let config = dual_stack(network);
        switch_off();
        freeze_settings(network);
        is_refused(network, &config, &["/proc/sys", "remount,rw"]);
        network.host.command("umount").arg("/proc/sys").run();

        // The bridge has IPv6 now. The plugin cannot write the settings of the pods.
        let pod = network.host.pod();
        network.plugin.on("ADD", &config, "one", &pod).run().result();
        network.plugin.on("DEL", &config, "one", &pod).run().silent();
        freeze_settings(network);
        is_refused(network, &config, &["/proc/sys"]);
        let pod = network.attach("four");
        network.detach(&pod);
    });
}

/// `ipv6.disable=1`: the kernel has no such settings. Here no process sees them.
#[test]
fn a_kernel_without_ipv6_is_reported_before_an_add() {
    on_host(|network| {
        network.host.command("mount").words("-t tmpfs tmpfs /proc/sys/net/ipv6").run();
        is_refused(network, &dual_stack(network), &["the kernel has no IPv6", "ipv6.disable=1"]);
    });
}

/// A delegate's addresses are known too late for an early refusal, so ADD releases them.
#[test]
fn an_unusable_address_is_released_to_the_delegate() {
    on_host(|network| {
        switch_off();
        freeze_settings(network);
        let dir = network.host.scratch();
        let config =
            network.with_keys(json!({ "ipam": { "type": "host-local", "subnet": "fd00:99::/64", "dataDir": dir } }));
        let plugin = network.plugin.clone().beside("/usr/lib/cni");
        let pod = network.host.pod();
        let error = plugin.on("ADD", &config, "one", &pod).run().error(UNAVAILABLE);
        assert!(error.contains("/proc/sys"), "{error}");
        assert!(pod.link("eth0").is_none());
        let held = Footprint::of_files(&dir).beyond(
            &Footprint::default(),
            &["lock", "last_reserved_ip.0"].map(|file| format!("file {}/blackbox/{file}", dir.display())),
        );
        assert!(held.is_empty(), "{held}");
        let configured = network.host.scratch();
        fs::write(configured.join("10-blackbox.conf"), config.to_string()).expect("room");
        let (_, checks) = doctor(&configured);
        assert!(found(&checks, "ipv6", "fail").contains("/proc/sys"), "{checks:#?}");
        plugin.on("DEL", &config, "one", &pod).run().silent();
    });
}

/// Runtimes disable IPv6 in pods without IPv6 addresses, also on `lo`.
#[test]
fn a_pod_reaches_itself() {
    on_host(|network| {
        let (config, pod) = (dual_stack(network), network.host.pod());
        pod.command("sysctl")
            .words("-q -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
            .run();
        network.plugin.on("ADD", &config, "one", &pod).run().result();
        for target in ["10.99.0.2", "fd00:99::2", "::1"] {
            assert!(pod.ping(target, 2).status.success(), "{target}");
        }
        network.plugin.on("DEL", &config, "one", &pod).run().silent();
    });
}
