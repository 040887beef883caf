//! Pods with several interfaces. Linux answers from any interface for any of its addresses (the
//! weak host model: RFC 1122, section 3.3.4.2). Each port may therefore send from all addresses of
//! its pod, and from no address of another pod.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use cnikit_testbed::{Namespace, Pod, patience, tool};
use serde_json::{Value, json};

use crate::pins::{Elsewhere, PINS};
use crate::support::{Attached, GATEWAY, Network, code, drop_invalid, on_host};

const OTHER_NETWORK: &str = "other";

/// A second network, with its own bridge.
fn other_network(network: &Network) -> Value {
    for line in [
        "link cbr1 ",
        "address cbr1 ",
        "route 10.98.0.",
        "file /var/lib/cni/simple-ebpf-cni/other/lock",
        "file /var/lib/cni/simple-ebpf-cni/other/damaged/",
    ] {
        network.host.keep(line);
    }
    json!({
        "cniVersion": "1.0.0", "name": OTHER_NETWORK, "type": "simple-ebpf-cni", "bridge": "cbr1", "subnet": "10.98.0.0/24"
    })
}

/// Attaches a second interface, and returns its address.
#[track_caller]
fn attach_net1(network: &Network, config: &Value, attached: &Attached) -> String {
    let add = network.plugin.on("ADD", config, &attached.container, &attached.pod).env("CNI_IFNAME", "net1");
    let result = add.run().result();
    let address = result["ips"][0]["address"].as_str().expect("an address");
    address.split_once('/').expect("a prefix length").0.to_owned()
}

#[track_caller]
fn detach_net1(network: &Network, config: &Value, attached: &Attached) {
    network.plugin.on("DEL", config, &attached.container, &attached.pod).env("CNI_IFNAME", "net1").run().silent();
}

#[track_caller]
fn pings_from(pod: &Pod, source: &str, target: &str) -> bool {
    pod.command("ping").words(&format!("-n -q -c 3 -i 0.01 -W 1 -I {source} {target}")).output().status.success()
}

/// The entries of `port_addresses` of a network.
#[track_caller]
fn shared(network: &Network, name: &str) -> usize {
    let pin = format!("/sys/fs/bpf/simple-ebpf-cni/{name}/v2/port_addresses");
    let dump = network.host.command("bpftool").args(["-j", "map", "dump", "pinned", &pin]).json();
    dump.as_array().map_or(0, Vec::len)
}

/// Turns on forwarding, as every node of a cluster does.
fn route() {
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("a writable /proc");
}

/// The number of spoof check drops at all ports of the network.
#[track_caller]
fn drops(network: &Network) -> u64 {
    let entries = network.map("net_drops");
    let values = entries[0]["values"].as_array().expect("a value for each CPU").iter();
    let of_cpu = |value: &Value| {
        value["value"]["packets"].as_array().expect("counters").iter().filter_map(Value::as_u64).sum::<u64>()
    };
    values.map(of_cpu).sum()
}

#[test]
fn every_address_of_a_pod_with_two_interfaces_of_one_network_works() {
    on_host(|network| {
        let [one, two] = ["one", "two"].map(|container| network.attach(container));
        let second = attach_net1(network, &network.config, &one);
        for target in [one.address(), &second] {
            assert!(two.pod.ping(target, 3).status.success(), "pod to {target}");
            assert!(network.host.ping(target, 3).status.success(), "node to {target}");
            assert!(pings_from(&one.pod, target, two.address()), "{target} to pod");
            assert!(pings_from(&one.pod, target, GATEWAY), "{target} to node");
        }
        assert_eq!(drops(network), 0);
        // Both directions are direct, independent of the interface of the reply.
        let counters = network.counters(&second).expect("an entry");
        assert!(counters.rx_direct >= 6 && counters.tx_direct >= 6, "{counters:?}");
        network.check(&one).silent();

        detach_net1(network, &network.config, &one);
        assert_eq!(shared(network, crate::support::NAME), 0);
        one.pod.ip(&format!("address add {second}/32 dev eth0"));
        assert!(!pings_from(&one.pod, &second, two.address()), "the address is the pod's no more");
        assert!(drops(network) > 0);
        one.pod.ip(&format!("address delete {second}/32 dev eth0"));
        [one, two].iter().for_each(|attached| network.detach(attached));
    });
}

#[test]
fn every_address_of_a_pod_in_two_networks_works() {
    on_host(|network| {
        route();
        let other = other_network(network);
        let [one, two] = ["one", "two"].map(|container| network.attach(container));
        let second = attach_net1(network, &other, &one);
        assert!(two.pod.ping(&second, 3).status.success(), "a pod of the first network, routed by the node");
        assert!(network.host.ping(&second, 3).status.success(), "the node");
        assert!(pings_from(&one.pod, &second, two.address()), "to a pod of the first network");
        assert_eq!(drops(network), 0);
        assert_eq!((shared(network, crate::support::NAME), shared(network, OTHER_NETWORK)), (1, 1));

        // In either order: the first interface may be detached first.
        network.detach(&one);
        assert_eq!((shared(network, crate::support::NAME), shared(network, OTHER_NETWORK)), (0, 0));
        assert!(network.host.ping(&second, 3).status.success(), "the other interface still works");
        detach_net1(network, &other, &one);
        network.detach(&two);
    });
}

/// TCP to an address of another network, on a node that drops invalid packets.
#[test]
fn conntrack_sees_both_directions_of_a_connection_to_the_second_network() {
    if !tool("nft") {
        return;
    }
    on_host(|network| {
        route();
        if !drop_invalid(network.host) {
            return;
        }
        let other = other_network(network);
        let [one, two] = ["one", "two"].map(|container| network.attach(container));
        let second = attach_net1(network, &other, &one);
        for (target, client) in [(&*second, &two), (one.address(), &two)] {
            let at = SocketAddr::new(target.parse().expect("an address"), 8080);
            let listener = one.pod.enter(|| TcpListener::bind(at).expect("the port is free"));
            let connected = client.pod.enter(|| TcpStream::connect_timeout(&at, patience(Duration::from_secs(3))));
            assert!(connected.is_ok(), "{target}: {connected:?}");
            drop(listener);
        }
        detach_net1(network, &other, &one);
        [one, two].iter().for_each(|attached| network.detach(attached));
    });
}

#[test]
fn two_interfaces_share_addresses_of_both_families() {
    on_host(|network| {
        network.host.keep("route fd00:99::/64");
        let config = network.with_keys(json!({ "subnets": ["10.99.0.0/24", "fd00:99::/64"] }));
        let network = network.by(config);
        let [one, two] = ["one", "two"].map(|container| network.attach(container));
        attach_net1(&network, &network.config, &one);
        // An address of each family for each of two ports.
        assert_eq!(shared(&network, crate::support::NAME), 4);
        let addresses = one.pod.addresses("net1");
        let second = addresses.iter().find_map(|address| address.strip_suffix("/64")).expect("an IPv6 address");
        one.pod.ip("-6 route replace fd00:99::/64 dev eth0 metric 1");
        assert!(two.pod.ping(second, 3).status.success(), "by eth0, where the route leads");
        detach_net1(&network, &network.config, &one);
        [one, two].iter().for_each(|attached| network.detach(attached));
    });
}

/// A pod with CAP_NET_ADMIN creates a pair. Its other end has the ifindex of a target's port.
#[test]
fn a_pod_cannot_claim_the_addresses_of_another() {
    on_host(|network| {
        let [attacker, target] = ["attacker", "target"].map(|container| network.attach(container));
        let index = network.host.link(target.host_veth()).expect("the link exists")["ifindex"].clone();
        let accomplice = network.host.pod();
        let netns = accomplice.netns();
        attacker.pod.ip(&format!("link add forged type veth peer name x index {index} netns {}", netns.display()));
        attach_net1(network, &network.config, &attacker);
        // Two entries, for the two ports of the attacker, and none for the target's port.
        let entries = network.map("port_addresses");
        assert_eq!(entries.len(), 2, "{entries:?}");
        assert!(entries.iter().all(|entry| entry["key"]["ifindex"] != index), "{entries:?}");
        attacker.pod.ip(&format!("address add {}/32 dev eth0", target.address()));
        assert!(!pings_from(&attacker.pod, target.address(), GATEWAY));
        attacker.pod.ip("link delete forged");
        detach_net1(network, &network.config, &attacker);
        [attacker, target].iter().for_each(|attached| network.detach(attached));
    });
}

#[test]
fn two_interfaces_attached_in_parallel_share_their_addresses() {
    on_host(|network| {
        let other = other_network(network);
        let [_, two] = ["warm", "two"].map(|container| network.attach(container));
        for round in 0..10 {
            let container = format!("pod{round}");
            let pod = network.host.pod();
            let adds = [(&network.config, "eth0"), (&other, "net1")].map(|(config, name)| {
                network.plugin.on("ADD", config, &container, &pod).env("CNI_IFNAME", name).spawn()
            });
            for mut add in adds {
                assert!(add.wait(patience(Duration::from_secs(20))).success());
            }
            assert_eq!(
                (shared(network, crate::support::NAME), shared(network, OTHER_NETWORK)),
                (1, 1),
                "round {round}"
            );
            for (config, name) in [(&network.config, "eth0"), (&other, "net1")] {
                network.plugin.on("DEL", config, &container, &pod).env("CNI_IFNAME", name).run().silent();
            }
        }
        network.detach(&two);
        network
            .plugin
            .invocation("DEL")
            .env("CNI_CONTAINERID", "warm")
            .env("CNI_IFNAME", "eth0")
            .config(&network.config)
            .run()
            .silent();
    });
}

#[test]
fn check_and_the_next_add_restore_the_entries() {
    on_host(|network| {
        let [one, two] = ["one", "two"].map(|container| network.attach(container));
        let second = attach_net1(network, &network.config, &one);
        let map = network.pin("port_addresses");
        let keys = network.host.command("bpftool").args(["-j", "map", "dump", "pinned"]).arg(&map).json();
        for entry in keys.as_array().expect("entries") {
            let key = entry["key"].as_array().expect("bytes").iter().map(|byte| byte.as_str().expect("hexadecimal"));
            let key: Vec<String> = key.map(|byte| byte.replace("0x", "")).collect();
            network
                .host
                .command("bpftool")
                .args(["map", "delete", "pinned"])
                .arg(&map)
                .args(["key", "hex"])
                .args(key)
                .run();
        }
        let error = network.check(&one).error(code::DIFFERS);
        assert!(error.contains("port_addresses") && error.contains(&second), "{error}");

        // The pins were removed: the next ADD restores the known entries.
        std::fs::remove_dir_all("/sys/fs/bpf/simple-ebpf-cni/blackbox").expect("a writable bpffs");
        let three = network.attach("three");
        network.check(&one).silent();
        assert!(two.pod.ping(&second, 3).status.success());
        detach_net1(network, &network.config, &one);
        [one, two, three].iter().for_each(|attached| network.detach(attached));
    });
}

/// Linux sends ARP requests from the source address of the waiting packet (`arp_announce` 0).
#[test]
fn a_request_from_an_inner_address_delays_nothing() {
    on_host(|network| {
        let [one, two] = ["one", "two"].map(|container| network.attach(container));
        one.pod.ip("link add docker0 type bridge");
        one.pod.ip("address add 172.17.0.1/16 dev docker0");
        one.pod.ip("link set docker0 up");
        for target in [GATEWAY, two.address()] {
            // The program drops the packet itself, because no ADD assigned that address.
            assert!(!pings_from(&one.pod, "172.17.0.1", target), "{target}");
            let neighbor = one.pod.ip(&format!("neighbour show {target}"));
            assert!(neighbor[0]["lladdr"].is_string(), "{target} was answered: {neighbor}");
        }
        // The node and the other pod did not learn the address.
        for neighbors in [network.host.ip("neighbour show"), two.pod.ip("neighbour show")] {
            let has = |address: &str| neighbors.as_array().into_iter().flatten().any(|entry| entry["dst"] == address);
            assert!(!has("172.17.0.1"), "{neighbors}");
        }
        [one, two].iter().for_each(|attached| network.detach(attached));
    });
}

/// Networks may overlap: the second interface has an address that another pod, or the node, has in
/// the first network.
#[test]
fn an_address_in_another_network_does_not_permit_the_address_of_another_pod() {
    on_host(|network| {
        let mut other = other_network(network);
        other["subnet"] = json!("10.99.0.0/24");
        other["isGateway"] = json!(false);
        let [one, two, three] = ["one", "two", "three"].map(|container| network.attach(container));
        other["args"] = json!({ "cni": { "ips": [two.address()] } });
        assert_eq!(attach_net1(network, &other, &one), two.address());
        one.pod.ip(&format!("address add {GATEWAY}/32 dev lo"));
        let device = |source: &str| format!("-n -q -c 3 -i 0.01 -W 1 -I eth0 -I {source} {}", three.address());
        for source in [two.address(), GATEWAY] {
            let _lost = one.pod.command("ping").words(&device(source)).output();
            let neighbors = three.pod.ip(&format!("neighbour show {source}"));
            assert_ne!(neighbors[0]["lladdr"], json!(one.mac()), "{source}");
        }
        assert!(drops(network) > 0);
        network.check(&one).silent();
        detach_net1(network, &other, &one);
        [one, two, three].iter().for_each(|attached| network.detach(attached));
    });
}

/// The programs at the port lead to the maps of the other interface. Pins do not.
#[test]
fn a_detach_without_the_pins_removes_the_permission() {
    on_host(|network| {
        let [one, two] = ["one", "two"].map(|container| network.attach(container));
        let elsewhere = Elsewhere::new(network);
        for is_removed in [false, true] {
            let second = attach_net1(network, &network.config, &one);
            let detach = || detach_net1(network, &network.config, &one);
            if is_removed {
                std::fs::remove_dir_all(PINS).expect("a writable bpffs");
                detach();
                // Pins the maps again.
                network.detach(&network.attach("three"));
            } else {
                elsewhere.enter(detach);
            }
            assert_eq!(shared(network, crate::support::NAME), 0, "the pins are removed: {is_removed}");
            one.pod.ip(&format!("address add {second}/32 dev eth0"));
            assert!(!pings_from(&one.pod, &second, two.address()));
            one.pod.ip(&format!("address delete {second}/32 dev eth0"));
        }
        [one, two].iter().for_each(|attached| network.detach(attached));
    });
}

/// The node stores the sender of each request. Here a pod sends a request from the address of its
/// second interface.
#[test]
fn the_node_reaches_the_next_pod_with_an_address() {
    on_host(|network| {
        let one = network.attach("one");
        let second = attach_net1(network, &network.config, &one);
        assert!(pings_from(&one.pod, &second, GATEWAY));
        detach_net1(network, &network.config, &one);
        let next = network.by(network.with("args", json!({ "cni": { "ips": [second] } }))).attach("next");
        assert_eq!(next.address(), second);
        let lost = network.host.ping(&second, 3);
        assert!(lost.status.success(), "{lost:?}");
        [one, next].iter().for_each(|attached| network.detach(attached));
    });
}
