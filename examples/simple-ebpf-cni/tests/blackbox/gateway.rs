//! Bridges that lead to other machines, one of them the gateway: the owner of the gateway's
//! address.

use std::fs;
use std::time::{Duration, Instant};

use cnikit_testbed::raw::Ear;
use cnikit_testbed::{Host, Namespace, Outcome, Pod, tool};
use serde_json::{Value, json};

use crate::doctor::{doctor, found};
use crate::people::command;
use crate::support::{GATEWAY, Network, code, on_host};

const UNAVAILABLE: u64 = 50;
const INVALID_CONFIG: u64 = 7;

/// The gateway of the other family.
const GATEWAY_V6: &str = "fd00:99::1";

/// The node's addresses on the LAN.
const NODE: [&str; 2] = ["10.99.0.10/24", "fd00:99::10/64"];

/// A LAN: the bridge with the node's addresses, and two machines on it.
struct Lan<'n> {
    network: &'n Network<'n>,
    router: Pod,
    other: Pod,
}

impl Lan<'_> {
    /// The node's default routes through the router.
    fn route(&self) {
        self.network.host.ip(&format!("route add default via {GATEWAY}"));
        self.network.host.ip(&format!("-6 route add default via {GATEWAY_V6}"));
    }

    /// Adds the router's addresses, so that the router answers requests for them.
    fn start_router(&self) {
        for address in [format!("{GATEWAY}/24"), format!("{GATEWAY_V6}/64 nodad")] {
            self.router.ip(&format!("address add {address} dev eth0"));
        }
    }

    /// Adds one address to the router.
    fn start_router_with_only(&self, address: &str) {
        self.router.ip("address flush dev eth0");
        let nodad = if address.contains(':') { "nodad" } else { "" };
        self.router.ip(&format!("address add {address} dev eth0 {nodad}"));
    }

    /// Removes the link between the bridge and the machines.
    fn unplug(&self) {
        for port in ["lan0", "lan1"] {
            self.network.host.ip(&format!("link set {port} nomaster"));
        }
    }

    fn call(&self, verb: &str, config: &Value, pod: &Pod) -> Outcome {
        self.call_for(verb, config, "one", pod)
    }

    fn call_for(&self, verb: &str, config: &Value, container: &str, pod: &Pod) -> Outcome {
        self.network.plugin.clone().beside("/usr/lib/cni").on(verb, config, container, pod).run()
    }

    #[track_caller]
    fn check(&self, config: &Value, result: &Value, pod: &Pod) -> Outcome {
        let mut config = config.clone();
        config["prevResult"] = result.clone();
        self.call("CHECK", &config, pod)
    }

    /// The node has only its own addresses, and no pod sends to the node as its gateway.
    #[track_caller]
    fn is_left_alone(&self) {
        assert_eq!(self.network.host.addresses("cbr0"), NODE);
        for map in ["pod_ifindex", "pod_ifindex_v6"] {
            let rows = self.network.map(map);
            assert!(rows.iter().all(|row| ![GATEWAY, GATEWAY_V6].contains(&shown(&row["key"]).as_str())), "{rows:?}");
        }
    }

    /// CHECK, STATUS, `status` and `doctor` report no fault.
    #[track_caller]
    fn is_well(&self, config: &Value) {
        let dir = configured(self.network.host, config);
        let (_, checks) = doctor(&dir);
        // The directory of the binary under test contains no other plugin.
        let mut failed = checks.iter().filter(|check| check["verdict"] == "fail" && check["check"] != "plugins");
        assert!(failed.next().is_none() && found(&checks, "gateway", "warn").is_empty(), "{checks:#?}");
        let output = command(&format!("status --conf-dir {}", dir.display()));
        assert!(output.status.success(), "{output:#?}");
        let mut asked = config.clone();
        asked["cniVersion"] = "1.1.0".into();
        if config.get("subnet").is_some() {
            self.network.plugin.invocation("STATUS").config(&asked).run().silent();
        }
    }
}

/// The key of a map entry as text.
fn shown(key: &Value) -> String {
    let octets: Vec<u8> = serde_json::from_value(key["octet"].clone()).expect("octets");
    match <[u8; 4]>::try_from(octets.as_slice()) {
        Ok(octets) => std::net::Ipv4Addr::from(octets).to_string(),
        Err(_) => std::net::Ipv6Addr::from(<[u8; 16]>::try_from(octets).expect("16 octets")).to_string(),
    }
}

fn configured(host: &Host, config: &Value) -> std::path::PathBuf {
    let dir = host.scratch();
    fs::write(dir.join("10-blackbox.conf"), config.to_string()).expect("room");
    dir
}

/// Runs a test beside a LAN. Its router has no addresses yet.
#[track_caller]
fn on_lan(test: impl FnOnce(&Lan) + Send) {
    on_host(|network| {
        let (host, router, other) = (network.host, network.host.pod(), network.host.pod());
        host.ip("link add cbr0 type bridge");
        host.ip("link set cbr0 up");
        for address in NODE {
            host.ip(&format!("address add {address} dev cbr0 {}", if address.contains(':') { "nodad" } else { "" }));
        }
        for (port, machine, address) in [("lan0", &router, None), ("lan1", &other, Some("10.99.0.50/24"))] {
            host.ip(&format!("link add {port} type veth peer name eth0 netns {}", machine.netns().display()));
            host.ip(&format!("link set {port} master cbr0 up"));
            machine.ip("link set eth0 up");
            if let Some(address) = address {
                machine.ip(&format!("address add {address} dev eth0"));
            }
        }
        host.keep("route fd00:99::");
        let lan = Lan { network, router, other };
        test(&lan);
        host.ip("route flush default");
        for port in ["lan0", "lan1"] {
            host.ip(&format!("link del {port}"));
        }
    });
}

/// Addresses of both families by `static`, with or without the router as their gateway.
fn by_static(network: &Network, names_gateways: bool) -> Value {
    let mut config = network.config.clone();
    config.as_object_mut().expect("an object").remove("subnet");
    let mut addresses = json!([{ "address": "10.99.0.60/24" }, { "address": "fd00:99::60/64" }]);
    if names_gateways {
        (addresses[0]["gateway"], addresses[1]["gateway"]) = (GATEWAY.into(), GATEWAY_V6.into());
    }
    config["ipam"] = json!({ "type": "static", "addresses": addresses });
    config
}

/// Pools of the network in the LAN's subnets.
fn by_pools(network: &Network) -> Value {
    let mut config = network.config.clone();
    config.as_object_mut().expect("an object").remove("subnet");
    config["subnets"] = json!([
        { "subnet": "10.99.0.0/24", "rangeStart": "10.99.0.100" }, { "subnet": "fd00:99::/64", "rangeStart": "fd00:99::100" },
    ]);
    config
}

/// The ARP probes among the frames (RFC 5227: requests without a sender address).
fn probes(frames: &[Vec<u8>]) -> usize {
    frames.iter().filter(|frame| frame[12..14] == [8, 6] && frame[28..32] == [0; 4]).count()
}

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
            lan.is_left_alone();
            lan.check(&config, &result, &pod).silent();
            lan.is_well(&config);
            lan.call("DEL", &config, &pod).silent();
            lan.is_left_alone();
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
        assert_eq!(probes(&ear.frames()), 0, "the answer would not matter");
        lan.is_left_alone();
        lan.check(&config, &result, &pod).silent();
        lan.is_well(&config);
        lan.start_router();
        assert!(pod.ping(GATEWAY, 3).status.success() && pod.ping(GATEWAY_V6, 3).status.success());
        lan.call("DEL", &config, &pod).silent();
        lan.is_left_alone();
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
        assert!(error.contains("next hop") && error.contains("by wan0"), "not without being asked: {error}");
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
            lan.is_well(&config);
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
        assert!(pod.ping("fe80::1%eth0", 2).status.success(), "the node has it on the bridge");
        lan.is_well(&config);
        lan.call("DEL", &config, &pod).silent();
        host.ip("address del fe80::1/64 dev cbr0");

        host.ip("-6 route add default via fe80::1 dev cbr0 metric 5");
        let error = lan.call("ADD", &config, &pod).error(INVALID_CONFIG);
        assert!(error.contains("fe80::1: it is the next hop"), "{error}");
        let shown = host.ip("-6 address show dev cbr0 to fe80::1");
        assert_eq!(shown, json!([]), "the router on the bridge has it");
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
        lan.is_left_alone();
        lan.check(&config, &result, &pod).silent();
        lan.call("DEL", &config, &pod).silent();
    });
}

#[test]
fn own_pools_with_the_gateway_of_another_machine_are_refused() {
    on_lan(|lan| {
        let (config, host) = (by_pools(lan.network), lan.network.host);
        let mut asked = config.clone();
        asked["cniVersion"] = "1.1.0".into();
        let dir = configured(host, &config);
        let is_refused = |words: &str, shows_without_a_probe: bool| {
            let before = lan.network.footprint();
            let pod = host.pod();
            let (_, checks) = doctor(&dir);
            let status = lan.network.plugin.invocation("STATUS").config(&asked).run();
            let mut messages = vec![lan.call("ADD", &config, &pod).error(INVALID_CONFIG)];
            if shows_without_a_probe {
                let told = found(&checks, "gateway", "fail");
                assert!(told.contains(dir.to_str().expect("a text")), "{told}");
                messages.extend([status.error(UNAVAILABLE), told]);
            } else {
                status.silent();
                assert_eq!(found(&checks, "gateway", "fail"), "");
            }
            for message in messages {
                assert!(message.contains("isGateway"), "{message}");
                assert_eq!(message.matches("if that machine").count(), 1, "{message}");
                assert!(message.contains(words), "{words} in {message}");
            }
            assert!(pod.link("eth0").is_none());
            lan.call("DEL", &config, &pod).silent();
            lan.network.footprint().assert_unchanged(&before, "a refused ADD");
            assert!(lan.network.taken().is_empty(), "{:?}", lan.network.taken());
        };
        lan.route();
        is_refused("10.99.0.1: it is the next hop of the node's route to 0.0.0.0/0 by cbr0", true);
        host.ip("route flush default");
        host.ip("-6 route flush default");
        lan.start_router();
        let mac = lan.router.link("eth0").expect("the router's link")["address"].as_str().expect("a MAC").to_owned();
        is_refused(&format!("the machine with the MAC {mac} has it"), false);
        for (address, gateway) in [("10.99.0.1/24", GATEWAY), ("fd00:99::1/64", GATEWAY_V6)] {
            lan.start_router_with_only(address);
            is_refused(&format!("the gateway's address {gateway}: the machine with the MAC {mac} has it"), false);
        }
    });
}

#[test]
fn own_pools_with_is_gateway_false_leave_the_gateway_to_another_machine() {
    if !tool("nft") {
        return;
    }
    on_lan(|lan| {
        lan.start_router();
        lan.route();
        let mut config = by_pools(lan.network);
        (config["isGateway"], config["ipMasq"]) = (false.into(), true.into());
        lan.is_well(&config);
        let pod = lan.network.host.pod();
        let result = lan.call("ADD", &config, &pod).result();
        assert_eq!(result["ips"][0]["gateway"], GATEWAY);
        assert_eq!(result["routes"][0], json!({ "dst": "0.0.0.0/0", "gw": GATEWAY }));
        let ear = lan.router.enter(Ear::open).expect("open");
        for target in [GATEWAY, GATEWAY_V6] {
            assert!(pod.ping(target, 3).status.success(), "{target}");
        }
        let sources: Vec<[u8; 4]> = { ear.frames() }
            .iter()
            // Echo requests.
            .filter(|frame| frame[12..14] == [8, 0] && frame[23] == 1 && frame[34] == 8)
            .map(|frame| frame[26..30].try_into().expect("4 octets"))
            .collect();
        assert!(!sources.is_empty() && sources.iter().all(|source| *source == [10, 99, 0, 100]), "{sources:?}");
        lan.is_left_alone();
        lan.check(&config, &result, &pod).silent();
        lan.is_well(&config);
        lan.call("DEL", &config, &pod).silent();
        lan.is_left_alone();
        lan.network.host.command("nft").words("delete table inet simple-ebpf-cni").run();
    });
}

#[test]
fn a_requested_gateway_is_assigned_or_refused() {
    on_lan(|lan| {
        let host = lan.network.host;
        for mut config in [by_pools(lan.network), by_static(lan.network, true), by_static(lan.network, false)] {
            config["isGateway"] = true.into();
            lan.start_router();
            let pod = host.pod();
            let error = lan.call("ADD", &config, &pod).error(INVALID_CONFIG);
            assert!(error.contains("\"isGateway\" is true") && error.contains("has it"), "{error}");
            assert_eq!(host.addresses("cbr0"), NODE);
            assert!(pod.link("eth0").is_none());

            lan.router.ip("address flush dev eth0");
            let result = lan.call("ADD", &config, &pod).result();
            assert_eq!(result["ips"][0]["gateway"], GATEWAY, "the subnet's first, if none is named");
            assert!(pod.ping(GATEWAY, 2).status.success() && pod.ping(GATEWAY_V6, 2).status.success());
            lan.check(&config, &result, &pod).silent();
            for address in [format!("{GATEWAY}/24"), format!("{GATEWAY_V6}/64")] {
                host.ip(&format!("address del {address} dev cbr0"));
                let error = lan.check(&config, &result, &pod).error(code::DIFFERS);
                assert!(error.contains(&format!("lacks the gateway's address {address}")), "{error}");
            }
            lan.call("DEL", &config, &pod).silent();
        }
    });
}

/// RFC 5227 requires three probes. No other link of the host receives them, and no ADD sends them
/// if the address is assigned.
#[test]
fn a_free_gateway_is_probed_once_on_the_bridge_alone() {
    on_lan(|lan| {
        let (config, host) = (by_pools(lan.network), lan.network.host);
        let elsewhere = host.pod();
        host.ip(&format!("link add wan0 type veth peer name eth0 netns {}", elsewhere.netns().display()));
        host.ip("link set wan0 up");
        elsewhere.ip("link set eth0 up");
        let [there, beside] = [&lan.other, &elsewhere].map(|machine| machine.enter(Ear::open).expect("open"));
        let (one, two) = (host.pod(), host.pod());
        let start = Instant::now();
        lan.call("ADD", &config, &one).result();
        // The other work of the verb takes some 50 ms, beside the wait of 900 ms.
        assert!(start.elapsed() < cnikit_testbed::patience(Duration::from_secs(3)), "{:?}", start.elapsed());
        assert_eq!((probes(&there.frames()), probes(&beside.frames())), (3, 0));
        assert!(one.ping(GATEWAY, 2).status.success());
        lan.call_for("ADD", &config, "two", &two).result();
        assert_eq!(probes(&there.frames()), 0);
        lan.call_for("DEL", &config, "two", &two).silent();
        lan.call("DEL", &config, &one).silent();
        host.ip("link del wan0");
    });
}

/// A bridge with pods as its only ports leads to no other machine, so ADD sends no probe and loses
/// no time.
#[test]
fn a_bridge_without_other_machines_is_not_probed() {
    on_host(|network| {
        let one = network.attach("one");
        let ear = one.pod.enter(Ear::open).expect("open");
        network.host.ip(&format!("address del {GATEWAY}/24 dev cbr0"));
        let two = network.attach("two");
        assert_eq!(probes(&ear.frames()), 0);
        assert!(two.pod.ping(GATEWAY, 2).status.success());
        network.detach(&one);
        network.detach(&two);
    });
}

#[test]
fn two_parallel_adds_assign_one_gateway() {
    on_lan(|lan| {
        let host = lan.network.host;
        for (config, number) in [(by_pools(lan.network), 1), (by_static(lan.network, true), 6)] {
            let mut configs = [config.clone(), config];
            if number == 6 {
                configs.iter_mut().for_each(|config| config["isGateway"] = true.into());
                configs[1]["ipam"]["addresses"][0]["address"] = "10.99.0.61/24".into();
                configs[1]["ipam"]["addresses"][1]["address"] = "fd00:99::61/64".into();
            }
            let pods = [host.pod(), host.pod()];
            std::thread::scope(|scope| {
                let first = scope.spawn(|| lan.call_for("ADD", &configs[0], "one", &pods[0]));
                lan.call_for("ADD", &configs[1], "two", &pods[1]).result();
                first.join().expect("the thread ends").result();
            });
            for pod in &pods {
                assert!(pod.ping(GATEWAY, 2).status.success() && pod.ping(GATEWAY_V6, 2).status.success());
            }
            lan.call_for("DEL", &configs[0], "one", &pods[0]).silent();
            lan.call_for("DEL", &configs[1], "two", &pods[1]).silent();
            for address in [format!("{GATEWAY}/24"), format!("{GATEWAY_V6}/64")] {
                host.ip(&format!("address del {address} dev cbr0"));
            }
        }
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
        lan.is_left_alone();
        lan.check(&config, &result, &pod).silent();
        lan.call("DEL", &config, &pod).silent();
    });
}

/// Monitoring calls STATUS and `status` all the time.
#[test]
fn read_only_commands_send_no_probe() {
    on_lan(|lan| {
        let (config, pod) = (by_pools(lan.network), lan.network.host.pod());
        let ear = lan.other.enter(Ear::open).expect("open");
        // STATUS, `status` and `doctor`.
        lan.is_well(&config);
        assert_eq!(probes(&ear.frames()), 0);
        lan.call("ADD", &config, &pod).result();
        assert_eq!(probes(&ear.frames()), 3);
        lan.call("DEL", &config, &pod).silent();
    });
}

#[test]
fn a_gateway_address_kept_against_the_configuration_is_reported() {
    on_host(|network| {
        let pod = network.attach("one");
        let mut config = network.config.clone();
        config["isGateway"] = false.into();
        let (status, checks) = doctor(&configured(network.host, &config));
        assert_eq!(status, Some(0), "{checks:#?}");
        let told = found(&checks, "gateway", "warn");
        assert!(told.contains("cbr0 has 10.99.0.1/24") && told.contains("ip address delete"), "{told}");
        network.detach(&pod);
    });
}

/// An older version or an operator's mistake can cause this state.
#[test]
fn a_next_hop_that_is_the_nodes_own_address_is_reported() {
    on_lan(|lan| {
        let (host, config) = (lan.network.host, by_static(lan.network, true));
        lan.route();
        host.ip("address add 10.99.0.1/24 dev cbr0");
        let dir = configured(host, &config);
        let (_, checks) = doctor(&dir);
        let told = found(&checks, "gateway", "fail");
        assert!(told.contains("cbr0 has 10.99.0.1/24") && told.contains("route to 0.0.0.0/0"), "{told}");
        assert!(told.contains("ip address delete 10.99.0.1/24 dev cbr0"), "{told}");
        let output = command(&format!("status --conf-dir {}", dir.display()));
        assert!(!output.status.success() && output.stdout.contains("cbr0 has 10.99.0.1/24"), "{output:#?}");

        // A setting that the configuration already has is no advice, and one address is one
        // finding.
        let mut left = by_pools(lan.network);
        left["isGateway"] = false.into();
        let (_, checks) = doctor(&configured(host, &left));
        let told = found(&checks, "gateway", "fail");
        assert!(told.contains("ip address delete 10.99.0.1/24 dev cbr0") && !told.contains("isGateway"), "{told}");
        assert_eq!(found(&checks, "gateway", "warn"), "");
        host.ip("address del 10.99.0.1/24 dev cbr0");
        lan.is_well(&config);
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

#[test]
fn a_capability_that_the_probe_lacks_is_named() {
    on_lan(|lan| {
        let (config, pod) = (by_pools(lan.network), lan.network.host.pod());
        let before = lan.network.footprint();
        let output = lan.network.host.command("setpriv").args(["--bounding-set=-net_raw", "--inh-caps=-all"]);
        let output = output.arg(crate::people::BINARY).env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", "one");
        let output = output.env("CNI_NETNS", pod.netns()).env("CNI_IFNAME", "eth0").env("CNI_PATH", "/");
        let output = output.stdin(config.to_string()).output();
        let error: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        let message = error["msg"].as_str().expect("a message");
        assert!(message.contains("cbr0") && message.contains("CAP_NET_RAW"), "{message}");
        lan.network.footprint().beyond(&before, &["pin ".to_owned()]).assert_unchanged(&Default::default(), "the ADD");
        assert!(lan.network.taken().is_empty());
    });
}

#[test]
fn an_invalid_value_is_refused() {
    on_host(|network| {
        let error =
            network.by(network.with("isGateway", "no")).call("ADD", "one", &network.host.pod()).error(INVALID_CONFIG);
        assert!(error.contains("isGateway"), "{error}");
    });
}
