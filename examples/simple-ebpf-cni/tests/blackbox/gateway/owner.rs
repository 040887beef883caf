//! The machine that has the gateway's address: the node or another one.

use std::fs;

use cnikit_testbed::Namespace;
use cnikit_testbed::raw::Ear;
use serde_json::{Value, json};

use crate::gateway::{GATEWAY_V6, INVALID_CONFIG, NODE, by_pools, by_static, on_lan, probes};
use crate::support::{GATEWAY, code};

#[test]
fn a_router_named_by_a_delegate_keeps_its_addresses() {
    on_lan(|lan| {
        lan.start_router();
        for has_route in [false, true] {
            if has_route {
                lan.route();
            }
            let (config, pod) = (by_static(lan.network, true), lan.network.host.pod());
            let result = lan.call("ADD", &config, &pod).result();
            let routes = json!([{ "dst": "0.0.0.0/0", "gw": GATEWAY }, { "dst": "::/0", "gw": GATEWAY_V6 }]);
            assert_eq!(result["routes"], routes);
            for target in [GATEWAY, GATEWAY_V6, "10.99.0.10", "10.99.0.50"] {
                assert!(pod.ping(target, 3).status.success(), "the pod reaches {target}");
            }
            for target in [GATEWAY, GATEWAY_V6, "10.99.0.60", "fd00:99::60"] {
                assert!(lan.network.host.ping(target, 3).status.success(), "the node reaches {target}");
            }
            lan.assert_unaffected();
            lan.check(&config, &result, &pod).silent();
            lan.assert_no_fault(&config);
            lan.call("DEL", &config, &pod).silent();
            lan.assert_unaffected();
        }
    });
}

/// A restarting router answers no probe, and comes back with its address.
#[test]
fn an_unreachable_router_keeps_its_addresses() {
    on_lan(|lan| {
        let (config, pod) = (by_static(lan.network, true), lan.network.host.pod());
        let ear = lan.other.enter(Ear::open).expect("open");
        let result = lan.call("ADD", &config, &pod).result();
        assert_eq!(result["routes"][0], json!({ "dst": "0.0.0.0/0", "gw": GATEWAY }));
        assert_eq!(probes(&ear.frames()), 0, "a probe although a route names the router");
        lan.assert_unaffected();
        lan.check(&config, &result, &pod).silent();
        lan.assert_no_fault(&config);
        lan.start_router();
        assert!(pod.ping(GATEWAY, 3).status.success() && pod.ping(GATEWAY_V6, 3).status.success());
        lan.call("DEL", &config, &pod).silent();
        lan.assert_unaffected();
    });
}

/// Without a LAN, a node without such a route has the gateway's address.
#[test]
fn a_next_hop_of_the_node_is_another_machine_in_any_table() {
    on_lan(|lan| {
        let host = lan.network.host;
        lan.unplug();
        for route in [
            format!("route add default via {GATEWAY}"),
            format!("route add default via {GATEWAY} dev cbr0 table 77"),
            format!("route add 192.0.2.0/24 nexthop via 10.99.0.9 nexthop via {GATEWAY}"),
        ] {
            host.ip(&route);
            let mut config = by_static(lan.network, true);
            config["ipam"]["addresses"].as_array_mut().expect("a list").truncate(1);
            let pod = host.pod();
            lan.call("ADD", &config, &pod).result();
            assert_eq!(host.addresses("cbr0"), NODE, "for {route}");
            lan.call("DEL", &config, &pod).silent();
            host.ip(&route.replace("add", "del"));
        }
    });
}

/// Another network with the same addresses, behind its own link, and its policy route.
#[test]
fn a_policy_route_through_another_link_does_not_prevent_the_gateway() {
    on_lan(|lan| {
        let host = lan.network.host;
        host.ip("link add wan0 type veth peer name wan1");
        host.ip("link set wan0 up");
        host.ip("link set wan1 up");
        let policy = format!("route add default via {GATEWAY} dev wan0 onlink table 77");
        host.ip(&policy);
        let pod = host.pod();
        let error = lan.call("ADD", &by_pools(lan.network), &pod).error(INVALID_CONFIG);
        assert!(error.contains("next hop") && error.contains("by wan0"), "without a request: {error}");
        for mut config in [by_pools(lan.network), by_static(lan.network, true)] {
            config["isGateway"] = true.into();
            for by_bridge in [
                format!("route add default via {GATEWAY} dev cbr0 table 78"),
                format!("route add 192.0.2.0/24 via {GATEWAY} dev wan0 onlink"),
            ] {
                host.ip(&by_bridge);
                let error = lan.call("ADD", &config, &pod).error(INVALID_CONFIG);
                assert!(error.contains("next hop"), "{error}");
                host.ip(&by_bridge.replace("add", "del"));
            }
            lan.call("ADD", &config, &pod).result();
            assert!(pod.ping(GATEWAY, 2).status.success());
            lan.assert_no_fault(&config);
            lan.call("DEL", &config, &pod).silent();
            for address in [format!("{GATEWAY}/24"), format!("{GATEWAY_V6}/64")] {
                host.ip(&format!("address del {address} dev cbr0"));
            }
        }
        host.ip(&policy.replace("add", "del"));
        host.ip("link del wan0");
    });
}

#[test]
fn a_next_hop_object_is_a_next_hop() {
    on_lan(|lan| {
        let host = lan.network.host;
        host.command("sysctl").words("-q -w net.ipv4.nexthop_compat_mode=0").run();
        host.ip(&format!("nexthop add id 1 via {GATEWAY} dev cbr0"));
        host.ip("nexthop add id 2 via 10.99.0.9 dev cbr0");
        host.ip("nexthop add id 10 group 1/2");
        for id in [1, 10] {
            host.ip(&format!("route add 192.0.2.0/24 nhid {id}"));
            // The kernel deletes such objects if their link loses its carrier, so the bridge keeps
            // its LAN.
            let mut config = by_static(lan.network, true);
            config["ipam"]["addresses"].as_array_mut().expect("a list").truncate(1);
            config["isGateway"] = true.into();
            let error = lan.call("ADD", &config, &host.pod()).error(INVALID_CONFIG);
            assert!(error.contains("10.99.0.1: it is the next hop"), "for the object {id}: {error}");
            host.ip("route del 192.0.2.0/24");
        }
        for id in [10, 2, 1] {
            host.ip(&format!("nexthop del id {id}"));
        }
    });
}

/// A link-local address belongs to another machine on each link: RFC 4007, section 4.
#[test]
fn a_link_local_gateway_belongs_to_the_bridge_alone() {
    on_lan(|lan| {
        let (host, pod) = (lan.network.host, lan.network.host.pod());
        host.ip("link add wan0 type veth peer name wan1");
        host.ip("link set wan0 up");
        host.ip("link set wan1 up");
        let mut config = by_static(lan.network, true);
        config["ipam"]["addresses"] = json!([{ "address": "fd00:99::60/64", "gateway": "fe80::1" }]);
        config["isGateway"] = true.into();
        host.ip("-6 route add default via fe80::1 dev wan0");
        lan.call("ADD", &config, &pod).result();
        assert!(pod.ping("fe80::1%eth0", 2).status.success(), "the bridge has the gateway's address");
        lan.assert_no_fault(&config);
        lan.call("DEL", &config, &pod).silent();
        host.ip("address del fe80::1/64 dev cbr0");

        host.ip("-6 route add default via fe80::1 dev cbr0 metric 5");
        let error = lan.call("ADD", &config, &pod).error(INVALID_CONFIG);
        assert!(error.contains("fe80::1: it is the next hop"), "{error}");
        let shown = host.ip("-6 address show dev cbr0 to fe80::1");
        assert_eq!(shown, json!([]), "the address belongs to the router");
        host.ip("-6 route flush default");
        host.ip("link del wan0");
    });
}

/// An address of the node with a route to the whole subnet is sufficient.
#[test]
fn an_address_with_a_shorter_prefix_is_accepted_as_the_gateway() {
    on_lan(|lan| {
        let (host, pod) = (lan.network.host, lan.network.host.pod());
        host.ip("address add 10.99.0.3/16 dev cbr0");
        let before = host.addresses("cbr0");
        let mut config = by_static(lan.network, true);
        config["ipam"]["addresses"] = json!([{ "address": "10.99.0.60/24", "gateway": "10.99.0.3" }]);
        let result = lan.call("ADD", &config, &pod).result();
        assert_eq!(host.addresses("cbr0"), before);
        assert!(pod.ping("10.99.0.3", 2).status.success());
        lan.check(&config, &result, &pod).silent();
        lan.call("DEL", &config, &pod).silent();
        host.ip("address del 10.99.0.3/16 dev cbr0");
    });
}

#[test]
fn no_gateway_is_invented() {
    on_lan(|lan| {
        let (config, pod) = (by_static(lan.network, false), lan.network.host.pod());
        let result = lan.call("ADD", &config, &pod).result();
        assert_eq!((&result["ips"][0]["gateway"], &result["routes"]), (&Value::Null, &Value::Null));
        assert!(pod.ping("10.99.0.50", 3).status.success());
        lan.assert_unaffected();
        lan.check(&config, &result, &pod).silent();
        lan.call("DEL", &config, &pod).silent();
    });
}

/// The operator assigned the addresses to the bridge, so they are the node's. Without them, they
/// are the router's.
#[test]
fn an_address_of_the_bridge_is_the_nodes_until_its_removal() {
    on_lan(|lan| {
        let (config, host, pod) = (by_static(lan.network, true), lan.network.host, lan.network.host.pod());
        let addresses = [(format!("{GATEWAY}/24"), ""), (format!("{GATEWAY_V6}/64"), "nodad")];
        for (address, nodad) in &addresses {
            host.ip(&format!("address add {address} dev cbr0 {nodad}"));
        }
        let result = lan.call("ADD", &config, &pod).result();
        assert!(pod.ping(GATEWAY, 2).status.success() && pod.ping(GATEWAY_V6, 2).status.success());
        lan.check(&config, &result, &pod).silent();
        for (address, _) in &addresses {
            host.ip(&format!("address del {address} dev cbr0"));
        }
        let error = lan.check(&config, &result, &pod).error(code::DIFFERS);
        assert!(error.contains("lacks the gateway's address 10.99.0.1/24"), "{error}");
        lan.call("DEL", &config, &pod).silent();
        lan.start_router();
        let result = lan.call("ADD", &config, &pod).result();
        assert!(pod.ping(GATEWAY, 2).status.success() && pod.ping(GATEWAY_V6, 2).status.success());
        lan.assert_unaffected();
        lan.check(&config, &result, &pod).silent();
        lan.call("DEL", &config, &pod).silent();
    });
}

/// The node gets its IPv6 addresses and its default route from the advertisements of a router on
/// that LAN.
#[test]
fn a_bridge_with_other_machines_still_accepts_router_advertisements() {
    on_lan(|lan| {
        let read =
            |setting: &str| fs::read_to_string(format!("/proc/sys/net/ipv6/conf/cbr0/{setting}")).expect("a setting");
        let before = ["accept_ra", "accept_dad"].map(read);
        let (config, pod) = (by_static(lan.network, false), lan.network.host.pod());
        lan.call("ADD", &config, &pod).result();
        assert_eq!(["accept_ra", "accept_dad"].map(read), before);
        lan.call("DEL", &config, &pod).silent();
    });
}
