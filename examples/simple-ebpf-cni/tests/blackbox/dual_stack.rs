//! IPv6, alone and beside IPv4: the same paths, counters and leases.

use cnikit_testbed::{Namespace, Pod};
use serde_json::{Value, json};

use crate::support::{Network, code, on_host};

/// Attaches two pods with these subnets, runs the test with their results, and detaches them.
#[track_caller]
fn with_two_pods(subnets: Value, test: impl FnOnce(&Network, &Value, [(&Pod, &Value); 2]) + Send) {
    on_host(|network| {
        for line in ["route fd00:99::/64", "route fe80::/64"] {
            network.host.keep(line);
        }
        let config = network.with_keys(json!({ "subnets": subnets.clone() }));
        let pods = [network.host.pod(), network.host.pod()];
        let results = [("one", &pods[0]), ("two", &pods[1])]
            .map(|(container, pod)| network.plugin.on("ADD", &config, container, pod).run().result());
        test(network, &config, [(&pods[0], &results[0]), (&pods[1], &results[1])]);
        for (container, pod) in [("one", &pods[0]), ("two", &pods[1])] {
            network.plugin.on("DEL", &config, container, pod).run().silent();
        }
    });
}

#[test]
fn ipv6_alone_is_counted_and_forwarded_directly() {
    with_two_pods(json!(["fd00:99::/64"]), |network, _, [(one, result), (_, other)]| {
        assert_eq!(result["ips"][0]["address"], "fd00:99::2/64");
        assert_eq!(result["ips"][0]["gateway"], "fd00:99::1");
        assert_eq!(result["routes"], json!([{ "dst": "::/0", "gw": "fd00:99::1" }]));
        assert_eq!(other["ips"][0]["address"], "fd00:99::3/64");

        // At once: there is no wait for duplicate address detection.
        assert!(one.ping("fd00:99::3", 5).status.success());
        let counted = network.counters("fd00:99::2").expect("an entry");
        assert_eq!((counted.tx_packets, counted.tx_direct, counted.rx_direct), (5, 5, 5));
        // Beside the echo replies, the pod received one neighbor advertisement.
        assert_eq!(counted.rx_packets, 6);
        assert!(one.ping("fd00:99::1", 5).status.success(), "the gateway");
        let from_host = network.host.ping("fd00:99::2", 3);
        assert!(from_host.status.success(), "{from_host:?}");
    });
}

#[test]
fn a_dual_stack_pod_reaches_others_over_both_families() {
    with_two_pods(json!(["10.99.0.0/24", "fd00:99::/64"]), |network, config, [(one, result), _]| {
        assert_eq!(result["ips"][0]["address"], "10.99.0.2/24");
        assert_eq!(result["ips"][1]["address"], "fd00:99::2/64");
        let ways = json!([{ "dst": "0.0.0.0/0", "gw": "10.99.0.1" }, { "dst": "::/0", "gw": "fd00:99::1" }]);
        assert_eq!(result["routes"], ways);
        for (target, own) in [("10.99.0.3", "10.99.0.2"), ("fd00:99::3", "fd00:99::2")] {
            assert!(one.ping(target, 5).status.success(), "{target}");
            assert_eq!(network.counters(own).expect("an entry").tx_direct, 5, "{target}");
        }
        let mut with_result = config.clone();
        with_result["prevResult"] = result.clone();
        network.plugin.on("CHECK", &with_result, "one", one).run().silent();
        one.ip("-6 address delete fd00:99::2/64 dev eth0");
        let error = network.plugin.on("CHECK", &with_result, "one", one).run().error(crate::support::code::DIFFERS);
        assert!(error.contains("eth0 lacks the address fd00:99::2/64"), "{error}");
    });
}

#[test]
fn a_pod_with_ipv6_sends_no_router_solicitations() {
    with_two_pods(json!(["10.99.0.0/24", "fd00:99::/64"]), |_, _, [(one, _), _]| {
        let read = |setting: &str| one.command("cat").arg(format!("/proc/sys/net/ipv6/conf/eth0/{setting}")).run();
        assert_eq!((read("accept_ra").trim(), read("accept_dad").trim()), ("0", "0"));
    });
}

/// No policy and no address plan covers an address that the operator did not configure.
#[test]
fn a_pod_without_ipv6_subnets_has_no_ipv6_address() {
    on_host(|network| {
        let one = network.attach("one");
        assert_eq!(one.pod.ip("-6 address show dev eth0"), json!([]));
        assert_eq!(network.host.ip(&format!("-6 address show dev {}", one.host_veth())), json!([]));
        network.detach(&one);
    });
}

#[test]
fn ipv6_is_enabled_if_the_runtime_disabled_it() {
    on_host(|network| {
        network.host.keep("route fd00:99::/64");
        let mut config = network.config.clone();
        config["subnet"] = "fd00:99::/64".into();
        let pod = network.host.pod();
        pod.command("sh").args(["-c", "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6"]).run();
        network.plugin.on("ADD", &config, "one", &pod).run().result();
        assert!(pod.ping("fd00:99::1", 2).status.success());
        network.plugin.on("DEL", &config, "one", &pod).run().silent();
    });
}

/// RFC 8950: the next hop of an IPv4 route may be a router with an IPv6 address.
#[test]
fn an_ipv4_route_through_the_ipv6_gateway() {
    on_host(|network| {
        for line in ["route fd00:99::/64", "route fe80::/64"] {
            network.host.keep(line);
        }
        let mut config = network.config.clone();
        config.as_object_mut().expect("an object").remove("subnet");
        let ranges = json!([[{ "subnet": "10.99.0.0/24" }], [{ "subnet": "fd00:99::/64" }]]);
        let route = json!({ "dst": "198.51.100.0/24", "gw": "fd00:99::1" });
        config["ipam"] = json!({ "ranges": ranges, "routes": [route] });
        let network = network.by(config);
        network.host.ip("link add far0 type bridge");
        network.host.ip("link set far0 up");
        network.host.ip("address add 198.51.100.1/32 dev far0");
        let pod = network.attach("one");
        assert_eq!(pod.result["routes"], json!([route]));
        let found = pod.pod.ip("route show 198.51.100.0/24");
        assert_eq!(found[0]["via"], json!({ "family": "inet6", "host": "fd00:99::1" }));
        assert!(pod.pod.ping("198.51.100.1", 1).status.success());
        network.check(&pod).silent();
        pod.pod.ip("route del 198.51.100.0/24");
        pod.pod.ip("route add 198.51.100.0/24 dev eth0");
        assert!(network.check(&pod).error(code::DIFFERS).contains("198.51.100.0/24"));
        network.detach(&pod);
        network.host.ip("link del far0");
    });
}
