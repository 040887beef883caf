//! Existing routes: no ADD fails because of them, the first one stays, and the result lists the
//! routes of the pod.

use cnikit_testbed::{Namespace as _, Pod};
use serde_json::{Value, json};

use crate::support::{Network, code, on_host};

/// A network of version 1.1.0. Its results have all keys of a route.
fn config(number: u8, subnet: &str, routes: Value) -> Value {
    json!({
        "cniVersion": "1.1.0", "name": format!("net{number}"), "type": "simple-ebpf-cni", "bridge": format!("br{number}"),
        "ipam": { "ranges": [[{ "subnet": subnet }]], "routes": routes },
    })
}

/// Calls a verb for an interface of one pod, with the container id `one`.
fn call(network: &Network, verb: &str, config: &Value, pod: &Pod, ifname: &str) -> cnikit_testbed::Outcome {
    network.plugin.on(verb, config, "one", pod).env("CNI_IFNAME", ifname).run()
}

#[track_caller]
fn check(network: &Network, config: &Value, pod: &Pod, ifname: &str, result: &Value) -> cnikit_testbed::Outcome {
    let mut config = config.clone();
    config["prevResult"] = result.clone();
    call(network, "CHECK", &config, pod, ifname)
}

/// The shared parts of the networks stay.
fn keep(network: &Network) {
    for line in [
        "link br",
        "address br",
        "route 10.9",
        "pin /sys/fs/bpf/simple-ebpf-cni/net",
        "file /var/lib/cni/simple-ebpf-cni/net",
    ] {
        network.host.keep(line);
    }
}

/// The destinations in a result, in their order.
fn destinations(result: &Value) -> Vec<&str> {
    let routes = result["routes"].as_array().map_or(&[][..], Vec::as_slice);
    routes.iter().map(|route| route["dst"].as_str().expect("a destination")).collect()
}

#[test]
fn of_two_networks_with_one_route_the_first_keeps_it() {
    on_host(|network| {
        keep(network);
        for (number, family, [default, services], subnets, gateways) in [
            (1, "-4", ["0.0.0.0/0", "10.96.0.0/12"], ["10.91.0.0/24", "10.92.0.0/24"], ["10.91.0.1", "10.92.0.1"]),
            (3, "-6", ["::/0", "fd00:96::/112"], ["fd00:91::/64", "fd00:92::/64"], ["fd00:91::1", "fd00:92::1"]),
        ] {
            let routes = json!([{ "dst": default }, { "dst": services }]);
            let first = config(number, subnets[0], routes.clone());
            let second = config(number + 1, subnets[1], routes);
            let pod = network.host.pod();
            let one = call(network, "ADD", &first, &pod, "eth0").result();
            let two = call(network, "ADD", &second, &pod, "net1").result();
            assert_eq!(destinations(&one), [default, services]);
            assert_eq!(destinations(&two), [""; 0], "the pod has none of them by net1: {two}");
            for dst in [default, services] {
                let shown = pod.ip(&format!("{family} route show {dst}"));
                assert_eq!(
                    (&shown[0]["gateway"], shown.as_array().map(Vec::len)),
                    (&json!(gateways[0]), Some(1)),
                    "{shown}"
                );
            }
            check(network, &first, &pod, "eth0", &one).silent();
            check(network, &second, &pod, "net1", &two).silent();
            call(network, "DEL", &second, &pod, "net1").silent();
            call(network, "DEL", &first, &pod, "eth0").silent();
        }
    });
}

#[test]
fn one_network_may_be_attached_twice() {
    on_host(|network| {
        keep(network);
        for (number, subnet, dst) in [(1, "10.91.0.0/24", "10.96.0.0/12"), (2, "fd00:91::/64", "fd00:96::/112")] {
            let config = config(number, subnet, json!([{ "dst": dst }]));
            let pod = network.host.pod();
            let one = call(network, "ADD", &config, &pod, "eth0").result();
            let two = call(network, "ADD", &config, &pod, "net1").result();
            assert_eq!((destinations(&one), destinations(&two)), (vec![dst], vec![]));
            check(network, &config, &pod, "eth0", &one).silent();
            check(network, &config, &pod, "net1", &two).silent();
            for ifname in ["net1", "eth0"] {
                call(network, "DEL", &config, &pod, ifname).silent();
            }
        }
    });
}

/// A route of the runtime or of an earlier plugin.
#[test]
fn a_route_of_the_namespace_stays() {
    on_host(|network| {
        keep(network);
        let pod = network.host.pod();
        pod.ip("link add before type bridge");
        pod.ip("link set before up");
        pod.ip("route add 10.96.0.0/12 dev before");
        pod.ip("-6 route add fd00:96::/112 dev before metric 1024");
        let routes = json!([{ "dst": "10.96.0.0/12" }, { "dst": "10.97.0.0/16" }]);
        let config = config(1, "10.91.0.0/24", routes);
        let result = call(network, "ADD", &config, &pod, "eth0").result();
        assert_eq!(destinations(&result), ["10.97.0.0/16"]);
        assert_eq!(pod.ip("route show 10.96.0.0/12")[0]["dev"], "before");
        check(network, &config, &pod, "eth0", &result).silent();
        call(network, "DEL", &config, &pod, "eth0").silent();
        assert_eq!(pod.ip("route show 10.96.0.0/12")[0]["dev"], "before");
    });
}

#[test]
fn a_route_listed_twice_is_one() {
    on_host(|network| {
        keep(network);
        let routes = json!([
            { "dst": "10.96.0.0/12" },
            { "dst": "10.96.0.0/12", "gw": "10.91.0.1" },
            { "dst": "10.96.0.0/12", "gw": "10.91.0.9" },
            { "dst": "10.96.0.0/12", "gw": "10.91.0.1", "table": 254, "scope": 0 },
            { "dst": "10.96.0.0/12", "priority": 7 },
        ]);
        let config = config(1, "10.91.0.0/24", routes);
        let pod = network.host.pod();
        let result = call(network, "ADD", &config, &pod, "eth0").result();
        let expected = json!([
            { "dst": "10.96.0.0/12", "gw": "10.91.0.1" },
            { "dst": "10.96.0.0/12", "gw": "10.91.0.1", "priority": 7 },
        ]);
        assert_eq!(result["routes"], expected, "the first route, and the one that differs for the kernel");
        assert_eq!(pod.ip("route show 10.96.0.0/12").as_array().map(Vec::len), Some(2));
        check(network, &config, &pod, "eth0", &result).silent();
        call(network, "DEL", &config, &pod, "eth0").silent();
    });
}

/// The kernel adds the route to the subnet with the address.
#[test]
fn a_route_to_the_own_subnet_is_listed_if_it_equals_the_kernels() {
    on_host(|network| {
        keep(network);
        for (route, expected) in [
            (json!({ "dst": "10.91.0.0/24" }), json!(null)),
            (json!({ "dst": "10.91.0.0/24", "scope": 253 }), json!([{ "dst": "10.91.0.0/24", "scope": 253 }])),
        ] {
            let config = config(1, "10.91.0.0/24", json!([route]));
            let pod = network.host.pod();
            let result = call(network, "ADD", &config, &pod, "eth0").result();
            assert_eq!(result["routes"], expected, "for {route}");
            assert_eq!(pod.ip("route show 10.91.0.0/24")[0]["gateway"], json!(null));
            check(network, &config, &pod, "eth0", &result).silent();
            call(network, "DEL", &config, &pod, "eth0").silent();
        }
    });
}

#[test]
fn check_finds_routes_of_other_tables() {
    on_host(|network| {
        keep(network);
        let routes = json!([
            { "dst": "0.0.0.0/0", "table": 100 },
            { "dst": "0.0.0.0/0", "table": 70_000, "priority": 5 },
            { "dst": "0.0.0.0/0", "table": 100 },
        ]);
        let config = config(1, "10.91.0.0/24", routes);
        let pod = network.host.pod();
        let result = call(network, "ADD", &config, &pod, "eth0").result();
        let expected = json!([
            { "dst": "0.0.0.0/0", "gw": "10.91.0.1", "table": 100 },
            { "dst": "0.0.0.0/0", "gw": "10.91.0.1", "table": 70_000, "priority": 5 },
        ]);
        assert_eq!(result["routes"], expected);
        check(network, &config, &pod, "eth0", &result).silent();
        pod.ip("route del default table 100");
        let error = check(network, &config, &pod, "eth0", &result).error(code::DIFFERS);
        assert!(error.contains("no route to 0.0.0.0/0 by eth0"), "{error}");
        call(network, "DEL", &config, &pod, "eth0").silent();
    });
}

/// Source-based routing: the plugin moves the routes of the interface to another table.
#[test]
fn check_finds_routes_that_sbr_moved() {
    on_host(|network| {
        let one = network.attach("one");
        let sbr = json!({ "cniVersion": "1.0.0", "name": "blackbox", "type": "sbr", "prevResult": one.result });
        let sbr = cnikit_testbed::Plugin::new("/usr/lib/cni/sbr").on("ADD", &sbr, "one", &one.pod).run().result();
        assert_eq!(one.pod.ip("route show default"), json!([]), "it is in another table");
        let check = |network: &Network| {
            let config = network.with("prevResult", sbr.clone());
            network.plugin.on("CHECK", &config, "one", &one.pod).run()
        };
        check(network).silent();
        one.pod.ip("route flush table 100");
        let error = check(network).error(code::DIFFERS);
        assert!(error.contains("no route to 0.0.0.0/0 by eth0"), "{error}");
        network.detach(&one);
    });
}

/// DHCP servers write a destination on the link with the next hop 0.0.0.0 (RFC 3442).
/// Results have these keys since 1.1.0. The kernel gets them with every version.
#[test]
fn an_older_version_omits_attributes_from_the_result_alone() {
    on_host(|network| {
        keep(network);
        for version in ["0.4.0", "1.0.0"] {
            let route = json!({ "dst": "198.51.100.0/24", "mtu": 1400, "priority": 7 });
            let mut config = config(1, "10.91.0.0/24", json!([route]));
            config["cniVersion"] = version.into();
            let pod = network.host.pod();
            let added = call(network, "ADD", &config, &pod, "eth0");
            for omitted in ["routes[0].mtu 1400", "routes[0].priority 7"] {
                let line = format!("simple-ebpf-cni: the result omits {omitted} (needs cniVersion 1.1.0 or later)");
                assert_eq!(
                    added.stderr.lines().filter(|shown| *shown == line).count(),
                    1,
                    "{version}: {}",
                    added.stderr
                );
            }
            let result = added.result();
            assert_eq!(result["routes"], json!([{ "dst": "198.51.100.0/24", "gw": "10.91.0.1" }]), "{version}");
            let shown = pod.ip("route show 198.51.100.0/24");
            assert_eq!(shown[0]["metric"], 7, "{shown}");
            assert!(shown.to_string().contains("\"mtu\":1400"), "{shown}");
            check(network, &config, &pod, "eth0", &result).silent();
            call(network, "DEL", &config, &pod, "eth0").silent();
        }
    });
}

#[test]
fn routes_of_a_delegate_follow_the_same_rules() {
    on_host(|network| {
        keep(network);
        let mut config = config(1, "10.91.0.0/24", json!([]));
        config["cniVersion"] = "1.0.0".into();
        config["ipam"] = json!({
            "type": "static",
            "addresses": [{ "address": "10.91.0.5/24", "gateway": "10.91.0.1" }],
            "routes": [
                { "dst": "10.96.0.0/12" }, { "dst": "10.96.0.0/12", "gw": "10.91.0.1" },
                { "dst": "10.91.0.0/24", "gw": "10.91.0.1" }, { "dst": "10.97.0.0/16", "gw": "0.0.0.0" },
            ],
        });
        let pod = network.host.pod();
        let plugin = network.plugin.clone().beside("/usr/lib/cni");
        let result = plugin.on("ADD", &config, "one", &pod).run().result();
        let expected = json!([{ "dst": "10.96.0.0/12", "gw": "10.91.0.1" }, { "dst": "10.97.0.0/16" }]);
        assert_eq!(result["routes"], expected);
        assert_eq!(pod.ip("route show 10.97.0.0/16")[0]["scope"], "link");
        let mut with_result = config.clone();
        with_result["prevResult"] = result;
        plugin.on("CHECK", &with_result, "one", &pod).run().silent();
        plugin.on("DEL", &config, "one", &pod).run().silent();
    });
}
