//! What a pod may send: from its own addresses and MAC, and nothing else.

use cnikit_testbed::raw::Ear;
use cnikit_testbed::{Namespace, Pod};

use crate::support::{Attached, GATEWAY, Network, on_host, silence};

/// What the network dropped for a reason, by its number in `bpf/abi.h`.
#[track_caller]
fn drops(network: &Network, reason: usize) -> u64 {
    let rows = network.map("net_drops");
    let values = rows[0]["values"].as_array().expect("a value for each CPU").iter();
    values.map(|value| value["value"]["packets"][reason].as_u64().expect("a counter")).sum()
}

const MAC_SOURCE: usize = 2;
const IP_SOURCE: usize = 3;
const ARP_SENDER: usize = 4;

/// A second address of the pod's interface, which nobody gave it.
#[track_caller]
fn ping_from(pod: &Pod, address: &str, target: &str) -> bool {
    pod.ip(&format!("address add {address}/32 dev eth0"));
    let output =
        pod.command("ping").args(["-n", "-q", "-c", "5", "-i", "0.01", "-W", "1", "-I", address, target]).output();
    pod.ip(&format!("address delete {address}/32 dev eth0"));
    output.status.success()
}

#[track_caller]
fn with_three_pods(test: impl FnOnce(&Network, [&Attached; 3]) + Send) {
    on_host(|network| {
        let pods = ["one", "two", "three"].map(|container| network.attach(container));
        test(network, [&pods[0], &pods[1], &pods[2]]);
        pods.iter().for_each(|attached| network.detach(attached));
    });
}

#[test]
fn an_address_of_another_pod_or_of_nobody_gets_nowhere() {
    with_three_pods(|network, [one, two, three]| {
        // With the neighbour known, nothing is asked before a packet is sent.
        assert!(one.pod.ping(two.address(), 1).status.success());
        let received = |pod: &Attached| network.counters(pod.address()).expect("a row").rx_packets;
        let before = received(two);
        for stolen in [three.address(), "10.99.0.77", "192.0.2.9", GATEWAY] {
            assert!(!ping_from(&one.pod, stolen, two.address()), "{stolen}");
        }
        assert_eq!(received(two), before, "nothing arrived");
        assert!(drops(network, IP_SOURCE) >= 4);
        assert!(one.pod.ping(two.address(), 2).status.success(), "and its own still works");
    });
}

#[test]
fn a_mac_that_is_not_the_pods_gets_nowhere() {
    with_three_pods(|network, [one, two, three]| {
        one.pod.ip(&format!("link set eth0 address {}", three.mac()));
        assert!(!one.pod.ping(two.address(), 3).status.success());
        assert!(drops(network, MAC_SOURCE) >= 1);
        one.pod.ip(&format!("link set eth0 address {}", one.mac()));
        assert!(one.pod.ping(two.address(), 3).status.success());
    });
}

#[test]
fn neighbours_cannot_be_poisoned() {
    with_three_pods(|network, [one, two, three]| {
        two.pod.ping(GATEWAY, 1);
        two.pod.ping(three.address(), 1);
        for stolen in [GATEWAY, three.address()] {
            one.pod.ip(&format!("address add {stolen}/32 dev eth0"));
            let tell = ["arping", "-c", "2", "-w", "1", "-U", "-I", "eth0", stolen];
            let _ = one.pod.command("busybox").args(tell).output();
            one.pod.ip(&format!("address delete {stolen}/32 dev eth0"));
        }
        assert!(drops(network, ARP_SENDER) >= 2);
        let neighbours = two.pod.ip("neighbour show");
        let poisoned = neighbours.as_array().into_iter().flatten().any(|neighbour| neighbour["lladdr"] == one.mac());
        assert!(!poisoned, "{neighbours}");
        assert!(two.pod.ping(GATEWAY, 1).status.success() && two.pod.ping(three.address(), 1).status.success());
    });
}

#[test]
fn without_the_check_a_pod_may_send_from_any_address() {
    on_host(|network| {
        let config = network.with("spoofCheck", false);
        let pods = [network.host.pod(), network.host.pod()];
        for (container, pod) in [("one", &pods[0]), ("two", &pods[1])] {
            network.plugin.on("ADD", &config, container, pod).run().result();
        }
        assert!(ping_from(&pods[0], "10.99.0.77", "10.99.0.3"), "an address of the subnet that nobody gave it");
        for (container, pod) in [("one", &pods[0]), ("two", &pods[1])] {
            network.plugin.on("DEL", &config, container, pod).run().silent();
        }
    });
}

/// Neighbours are answered on the way: a pod that has nothing to do with it hears nothing.
#[test]
fn bystanders_hear_no_requests_for_known_addresses() {
    on_host(|network| {
        silence();
        let pods = ["one", "two", "three"].map(|container| {
            let pod = network.host.pod();
            pod.enter(silence);
            network.attach_pod(container, pod)
        });
        let [one, two, bystander] = &pods;
        // Whatever else a kernel may have to say when links come up is none of this.
        let ear = bystander.pod.enter(Ear::open).expect("open");
        let requests = || ear.frames().into_iter().filter(|frame| frame[12..14] == [0x08, 0x06]).collect::<Vec<_>>();
        assert!(one.pod.ping(two.address(), 1).status.success());
        assert!(one.pod.ping(GATEWAY, 1).status.success());
        assert!(network.host.ping(two.address(), 1).status.success());
        assert_eq!(requests(), [[0_u8; 0]; 0], "of ARP");
        // Nobody has that address, so everybody is asked.
        assert!(!one.pod.ping("10.99.0.99", 1).status.success());
        assert!(!requests().is_empty());
        pods.iter().for_each(|attached| network.detach(attached));
    });
}

/// A MAC can be computed by whoever knows network and address: that others have sent from it must not matter.
#[test]
fn a_mac_that_the_bridge_has_learnt_elsewhere_is_the_pods_from_its_add_on() {
    on_host(|network| {
        let first = network.attach("one");
        let mac = first.mac().to_owned();
        network.detach(&first);
        network.host.ip("link add vm0 type veth peer name vm1");
        for line in ["link set vm0 master cbr0 up", "link set vm1 up"] {
            network.host.ip(line);
        }
        network.host.command("bridge").words(&format!("fdb replace {mac} dev vm0 master static")).run();
        let config = network.with("runtimeConfig", serde_json::json!({ "mac": mac }));
        let pod = network.host.pod();
        let result = network.plugin.on("ADD", &config, "two", &pod).run().result();
        let address = result["ips"][0]["address"].as_str().expect("an address").replace("/24", "");
        assert!(network.host.ping(&address, 3).status.success());
        // A frame of the same MAC from there does not move it.
        network.host.ip(&format!("link set vm1 address {mac}"));
        let shout = ["arping", "-c", "2", "-w", "1", "-U", "-I", "vm1", "192.0.2.1"];
        network.host.ip("address add 192.0.2.1/32 dev vm1");
        let _ = network.host.command("busybox").args(shout).output();
        assert!(network.host.ping(&address, 3).status.success());
        network.plugin.on("DEL", &config, "two", &pod).run().silent();
        network.host.ip("link delete vm0");
    });
}

#[test]
fn a_mac_that_is_in_use_is_refused() {
    with_three_pods(|network, [one, ..]| {
        let bridge = network.host.link("cbr0").expect("there")["address"].as_str().expect("a MAC").to_owned();
        for taken in [one.mac(), &bridge] {
            let config = network.with("runtimeConfig", serde_json::json!({ "mac": taken }));
            let pod = network.host.pod();
            let before = network.footprint();
            let error = network.plugin.on("ADD", &config, "four", &pod).run().error(103);
            assert!(error.contains(taken) && error.contains("in use"), "{error}");
            network.plugin.on("DEL", &config, "four", &pod).run().silent();
            assert_eq!(network.footprint(), before);
        }
        network.check(one).silent();
    });
}
