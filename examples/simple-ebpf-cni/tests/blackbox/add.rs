//! ADD: the result, the state after it, and the objects that a second ADD reuses.

use std::fs;
use std::net::Ipv4Addr;

use cnikit_testbed::Namespace;
use serde_json::{Value, json};

use crate::support::{GATEWAY, NAME, Network, config, on_host};

/// Attaches and detaches a pod with a configuration of this version, and returns the result.
fn result(network: &Network, version: &str) -> (String, Value) {
    let pod = network.host.pod();
    let mut config = network.with("dns", json!({ "nameservers": ["10.96.0.10"] }));
    config["cniVersion"] = version.into();
    let result = network.plugin.on("ADD", &config, "one", &pod).run().result();
    network.plugin.on("DEL", &config, "one", &pod).run().silent();
    (pod.netns().display().to_string(), result)
}

#[test]
fn the_result_lists_bridge_host_end_and_pod_end_in_this_order() {
    on_host(|network| {
        let (netns, result) = result(network, "1.0.0");
        assert_eq!(result["cniVersion"], "1.0.0");
        let interfaces = result["interfaces"].as_array().expect("there are interfaces");
        assert_eq!(interfaces.len(), 3, "{result}");
        assert_eq!(interfaces[0]["name"], "cbr0");
        assert!(interfaces[1]["name"].as_str().unwrap().starts_with("veth"), "{result}");
        assert_eq!(interfaces[2]["name"], "eth0");
        assert_eq!(interfaces[2]["sandbox"], netns.as_str());
        for host in &interfaces[..2] {
            assert!(matches!(&host["sandbox"], Value::Null) || host["sandbox"] == "", "{result}");
        }
        for interface in interfaces {
            let mac = interface["mac"].as_str().unwrap();
            assert_eq!(mac.split(':').count(), 6, "{mac} is no MAC");
        }
        let ips = result["ips"].as_array().expect("there are addresses");
        assert_eq!(ips.len(), 1, "{result}");
        assert_eq!(ips[0]["interface"], 2);
        assert_eq!(ips[0]["gateway"], GATEWAY);
        assert_eq!(result["routes"][0]["dst"], "0.0.0.0/0");
        assert_eq!(result["dns"], json!({ "nameservers": ["10.96.0.10"] }));
    });
}

#[test]
fn the_result_has_the_shape_of_its_version() {
    on_host(|network| {
        for version in ["0.3.1", "0.4.0"] {
            let (_, result) = result(network, version);
            assert_eq!(result["cniVersion"], version);
            assert_eq!(result["ips"][0]["version"], "4", "{version}: {result}");
        }
        for version in ["1.0.0", "1.1.0"] {
            let (_, result) = result(network, version);
            assert_eq!(result["cniVersion"], version);
            assert!(result["ips"][0].get("version").is_none(), "{version}: {result}");
            let mtu = &result["interfaces"][2]["mtu"];
            assert_eq!(*mtu, if version == "1.1.0" { json!(1500) } else { Value::Null }, "{version}: {result}");
        }
    });
}

/// Before 1.0.0 each result has `dns`. From 1.0.0 on an empty `dns` is omitted.
#[test]
fn an_empty_dns_is_omitted_from_1_0_0_on() {
    on_host(|network| {
        for (version, dns) in [("0.4.0", Some(json!({}))), ("1.0.0", None)] {
            let pod = network.host.pod();
            let config = network.with("cniVersion", version);
            let result = network.plugin.on("ADD", &config, "one", &pod).run().result();
            network.plugin.on("DEL", &config, "one", &pod).run().silent();
            assert_eq!(result.get("dns").cloned(), dns, "{version}: {result}");
        }
    });
}

#[test]
fn the_kernel_state_matches_the_result() {
    on_host(|network| {
        let one = network.attach("one");
        let bridge = network.host.link("cbr0").expect("the bridge exists");
        assert_eq!(bridge["linkinfo"]["info_kind"], "bridge");
        assert_eq!(bridge["linkinfo"]["info_data"]["mcast_snooping"], 0);
        assert_eq!(bridge["address"], one.result["interfaces"][0]["mac"]);
        assert_eq!(network.host.addresses("cbr0"), [format!("{GATEWAY}/24")]);

        let outside = network.host.link(one.host_veth()).expect("the host end exists");
        assert_eq!(outside["master"], "cbr0");
        assert_eq!(outside["address"], one.result["interfaces"][1]["mac"]);
        let inside = one.pod.link("eth0").expect("the pod end exists");
        assert_eq!(inside["address"], one.mac());
        for link in [&bridge, &outside, &inside, &one.pod.link("lo").expect("there is a lo")] {
            assert!(link["flags"].as_array().unwrap().iter().any(|flag| flag == "UP"), "{link}");
        }
        assert_eq!(one.pod.addresses("eth0"), [one.result["ips"][0]["address"].as_str().unwrap()]);
        let routes = one.pod.routes();
        let default = routes.iter().find(|route| route["dst"] == "default").expect("there is a default route");
        assert_eq!((&default["gateway"], &default["dev"]), (&json!(GATEWAY), &json!("eth0")));
        network.detach(&one);
    });
}

#[test]
fn names_and_macs_derive_from_attachment_and_address() {
    on_host(|network| {
        let first = network.attach("one");
        let other = network.attach("two");
        // printf 'blackbox/10.99.0.2' | sha256sum, as a local unicast address.
        assert_eq!((first.address(), first.mac()), ("10.99.0.2", "aa:e6:a3:dd:b4:07"));
        network.detach(&first);
        let again = network.attach("one");
        assert_eq!(first.result["interfaces"][1], again.result["interfaces"][1]);
        assert_ne!(first.host_veth(), other.host_veth());
        assert_ne!(first.mac(), other.mac());
        network.detach(&again);
        network.detach(&other);
    });
}

/// Peers keep the address and MAC of a pod in their neighbor tables, for longer than a pod lives.
#[test]
fn the_next_pod_with_an_address_is_reachable_at_once() {
    on_host(|network| {
        network.host.keep("route 10.99.0.0/29 ");
        let config = network.with("subnet", "10.99.0.0/29");
        let network = &Network { host: network.host, plugin: network.plugin.clone(), config };
        let peer = network.attach("peer");
        let gone = network.attach("gone");
        assert!(peer.pod.ping(gone.address(), 1).status.success());
        let address = gone.address().to_owned();
        network.detach(&gone);
        // Four of the pool's five addresses are free, so the last of four pods gets the released
        // one.
        let pods = ["a", "b", "c", "next"].map(|name| network.attach(name));
        let [.., next] = &pods;
        assert_eq!(next.address(), address);
        assert!(peer.pod.ping(&address, 1).status.success(), "the first ping arrives");
        pods.iter().for_each(|pod| network.detach(pod));
        network.detach(&peer);
    });
}

#[test]
fn the_bridge_keeps_its_mac_as_ports_come_and_go() {
    on_host(|network| {
        let mac = |network: &Network| network.host.link("cbr0").expect("the bridge exists")["address"].clone();
        let one = network.attach("one");
        let before = mac(network);
        let two = network.attach("two");
        network.detach(&one);
        assert_eq!(mac(network), before);
        network.detach(&two);
        assert_eq!(mac(network), before);
    });
}

#[test]
fn the_second_add_does_not_load_the_programs_again() {
    on_host(|network| {
        let ids = |network: &Network| ["cni_tc_main", "cni_tc_egress"].map(|name| network.program_id(name));
        let one = network.attach("one");
        let before = (ids(network), network.blocks());
        let two = network.attach("two");
        assert_eq!((ids(network), network.blocks()), before);
        network.detach(&one);
        network.detach(&two);
        let three = network.attach("three");
        assert_eq!((ids(network), network.blocks()), before);
        network.detach(&three);
    });
}

#[test]
fn the_lease_is_a_readable_file() {
    on_host(|network| {
        let one = network.attach("one");
        let text = fs::read_to_string(network.lease("one")).expect("the lease is a file");
        let _: Value = serde_json::from_str(&text).expect("it is JSON");
        assert!(text.contains(one.address()), "{text}");
        assert!(network.taken().contains(one.address()), "{:?}", network.taken());
        network.detach(&one);
        assert!(!network.lease("one").exists());
        assert!(network.taken().is_empty(), "{:?}", network.taken());
    });
}

#[test]
fn the_keys_of_the_configuration_apply() {
    on_host(|network| {
        let data_dir = network.host.scratch();
        let config = json!({
            "cniVersion": "1.1.0", "name": NAME, "type": "simple-ebpf-cni", "bridge": "br-own", "subnet": "10.98.0.0/28",
            "gateway": "10.98.0.14", "mtu": 1400, "dataDir": data_dir,
        });
        for line in ["link br-own ", "address br-own ", "route 10.98.0.0/28 "] {
            network.host.keep(line);
        }
        let pod = network.host.pod();
        let result = network.plugin.on("ADD", &config, "one", &pod).run().result();
        assert_eq!(network.host.addresses("br-own"), ["10.98.0.14/28"]);
        assert_eq!(result["ips"][0]["gateway"], "10.98.0.14");
        assert_eq!(pod.link("eth0").expect("the pod end exists")["mtu"], 1400);
        let outside = result["interfaces"][1]["name"].as_str().unwrap();
        assert_eq!(network.host.link(outside).expect("the host end exists")["mtu"], 1400);
        assert!(data_dir.join(NAME).join("leases/one@eth0.json").exists());
        network.plugin.on("DEL", &config, "one", &pod).run().silent();
    });
}

/// Sixteen addresses minus network, gateway and broadcast leave thirteen.
#[test]
fn reserved_addresses_are_never_assigned() {
    on_host(|network| {
        let mut config = config();
        config["subnet"] = "10.99.0.16/28".into();
        config["gateway"] = "10.99.0.20".into();
        network.host.keep("route 10.99.0.16/28 ");
        let pods: Vec<_> = (0..13).map(|_| network.host.pod()).collect();
        for (number, pod) in pods.iter().enumerate() {
            let result = network.plugin.on("ADD", &config, &format!("pod-{number}"), pod).run().result();
            let address = result["ips"][0]["address"].as_str().unwrap().strip_suffix("/28").expect("a /28");
            let last = address.parse::<Ipv4Addr>().expect("an address").octets()[3];
            assert!((17..31).contains(&last) && last != 20, "{address} is reserved");
        }
        assert_eq!(network.taken().len(), 13);
        for (number, pod) in pods.iter().enumerate() {
            network.plugin.on("DEL", &config, &format!("pod-{number}"), pod).run().silent();
        }
    });
}

#[test]
fn a_pod_may_have_a_second_interface() {
    on_host(|network| {
        let one = network.attach("one");
        let second = network.plugin.on("ADD", &network.config, "one", &one.pod).env("CNI_IFNAME", "net1");
        let result = second.run().result();
        assert_eq!(result["interfaces"][2]["name"], "net1");
        assert!(one.pod.link("net1").is_some() && one.pod.link("eth0").is_some());
        let del = network.plugin.on("DEL", &network.config, "one", &one.pod).env("CNI_IFNAME", "net1");
        del.run().silent();
        assert!(one.pod.link("net1").is_none() && one.pod.link("eth0").is_some());
        network.check(&one).silent();
        network.detach(&one);
    });
}
