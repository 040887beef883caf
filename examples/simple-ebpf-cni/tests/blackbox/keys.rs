//! The effect of the keys that change the datapath.

use cnikit_testbed::{Namespace, Pod, kernel};
use serde_json::Value;

use crate::support::{Network, on_host};

/// Two pods, attached with one key of the configuration set.
#[track_caller]
fn with_key(key: &str, value: impl Into<Value> + Send, test: impl FnOnce(&Network, &Value, [&Pod; 2]) + Send) {
    on_host(|network| {
        let config = network.with(key, value);
        let pods = [network.host.pod(), network.host.pod()];
        for (container, pod) in [("one", &pods[0]), ("two", &pods[1])] {
            network.plugin.on("ADD", &config, container, pod).run().result();
        }
        test(network, &config, [&pods[0], &pods[1]]);
        for (container, pod) in [("one", &pods[0]), ("two", &pods[1])] {
            network.plugin.on("DEL", &config, container, pod).run().silent();
        }
    });
}

#[test]
fn without_direct_forwarding_the_bridge_forwards_all_packets() {
    with_key("directForwarding", false, |network, _, [one, _]| {
        assert!(one.ping("10.99.0.3", 5).status.success());
        let counted = network.counters("10.99.0.2").expect("an entry");
        assert_eq!((counted.tx_packets, counted.tx_direct, counted.rx_packets, counted.rx_direct), (5, 0, 5, 0));
    });
}

#[test]
fn the_hairpin_flag_follows_its_key() {
    for on in [true, false] {
        with_key("hairpinMode", on, |network, _, _| {
            let ports = network.host.command("bridge").args(["-j", "-d", "link", "show"]).json();
            let ports: Vec<&Value> = ports.as_array().into_iter().flatten().collect();
            assert_eq!(ports.len(), 2, "{ports:?}");
            assert!(ports.iter().all(|port| port["hairpin"] == on && port["learning"] == false), "{ports:?}");
        });
    }
}

#[test]
fn the_mtu_is_the_uplinks_by_default() {
    on_host(|network| {
        network.host.ip("link add uplink mtu 1420 up type bridge");
        network.host.ip("address add 192.0.2.2/24 dev uplink");
        network.host.ip("route add default via 192.0.2.1");
        let pod = network.attach("one");
        assert_eq!(pod.pod.link("eth0").expect("the link exists")["mtu"], 1420);
        assert_eq!(network.host.link("cbr0").expect("the link exists")["mtu"], 1420);
        network.detach(&pod);
        network.host.ip("link delete uplink");
    });
}

#[test]
fn tcx_links_leave_the_clsact_slot_free_and_end_with_the_pod() {
    if kernel() < (6, 6) {
        on_host(|network| {
            let pod = network.host.pod();
            let error = network.plugin.on("ADD", &network.with("attach", "tcx"), "one", &pod).run().error(50);
            assert!(error.contains("Linux 6.6"), "{error}");
        });
        return;
    }
    with_key("attach", "tcx", |network, config, [one, _]| {
        let names = network.host.links().into_iter().filter_map(|link| link["ifname"].as_str().map(String::from));
        let ports: Vec<String> = names.filter(|name| name.starts_with("veth")).collect();
        assert_eq!(ports.len(), 2);
        for port in &ports {
            let qdiscs = network.host.tc(&format!("qdisc show dev {port}"));
            assert!(qdiscs.as_array().into_iter().flatten().all(|qdisc| qdisc["kind"] != "clsact"), "{qdiscs}");
        }
        assert!(one.ping("10.99.0.3", 5).status.success());
        assert_eq!(network.counters("10.99.0.2").expect("an entry").tx_direct, 5);
        let links = || std::fs::read_dir("/sys/fs/bpf/simple-ebpf-cni/blackbox/links").expect("a directory").count();
        assert_eq!(links(), 4);

        let mut with_result = config.clone();
        let again = network.host.pod();
        with_result["prevResult"] = network.plugin.on("ADD", config, "three", &again).run().result();
        network.plugin.on("CHECK", &with_result, "three", &again).run().silent();
        network.plugin.on("DEL", config, "three", &again).run().silent();
        assert_eq!(links(), 4, "the links of the detached pod remain");
    });
}

#[test]
fn an_invalid_attach_value() {
    on_host(|network| {
        let pod = network.host.pod();
        let error = network.plugin.on("ADD", &network.with("attach", "xdp"), "one", &pod).run().error(7);
        assert!(error.contains("attach") && error.contains("clsact") && error.contains("tcx"), "{error}");
    });
}
