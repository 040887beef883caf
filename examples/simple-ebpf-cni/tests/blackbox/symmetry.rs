//! Both directions of a flow take the same path. A node that filters bridged packets and drops
//! invalid ones otherwise disconnects a pod that sends directly and receives through the bridge:
//! kubernetes#94861.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use cnikit_testbed::{Namespace, Pod, patience, tool};

use crate::support::{Attached, Network, drop_invalid, on_host};

/// Two pods without the spoof check, on a node as kubeadm and kube-proxy configure it, and a server
/// in the second pod.
#[track_caller]
fn with_conntrack(test: impl FnOnce(&Network, [&Attached; 2], SocketAddr) + Send) {
    if !tool("nft") {
        return;
    }
    on_host(|network| {
        if !drop_invalid(network.host) {
            return;
        }
        let network = network.by(network.with("spoofCheck", false));
        let [one, two] = ["one", "two"].map(|container| network.attach(container));
        let at = SocketAddr::new(two.address().parse().expect("an address"), 8080);
        let listener = two.pod.enter(|| TcpListener::bind(at).expect("the port is free"));
        thread::spawn(move || for _ in listener.incoming() {});
        test(&network, [&one, &two], at);
        [one, two].iter().for_each(|attached| network.detach(attached));
    });
}

#[track_caller]
fn assert_connects(pod: &Pod, to: SocketAddr, what: &str) {
    let connected = pod.enter(|| TcpStream::connect_timeout(&to, patience(Duration::from_secs(3))));
    assert!(connected.is_ok(), "{what}: {connected:?}");
}

#[test]
fn a_pod_connects_from_its_assigned_and_its_own_second_address() {
    with_conntrack(|network, [one, two], to| {
        assert_connects(&one.pod, to, "its own address");
        let own = network.counters(one.address()).expect("an entry");
        assert!(own.tx_direct > 0 && own.rx_direct > 0, "{own:?}");
        one.pod.ip("address add 10.99.0.200/32 dev eth0");
        one.pod.ip(&format!("route add {}/32 dev eth0 src 10.99.0.200", two.address()));
        assert_connects(&one.pod, to, "another address");
    });
}

#[test]
fn a_macvlan_in_a_pod_connects() {
    with_conntrack(|network, [one, _], to| {
        let inner = network.host.pod();
        let netns = inner.netns();
        one.pod.ip("link add mv0 link eth0 type macvlan mode bridge");
        one.pod.ip(&format!("link set mv0 netns {} name eth0", netns.display()));
        inner.ip("link set eth0 up");
        inner.ip("address add 10.99.0.201/24 dev eth0");
        assert_connects(&inner, to, "a MAC and an address of its own");
        // A virtual machine often has the pod's address, and may have another MAC.
        one.pod.ip("address flush dev eth0");
        inner.ip("address flush dev eth0");
        inner.ip(&format!("address add {}/24 dev eth0", one.address()));
        assert_connects(&inner, to, "a MAC of its own, the pod's address");
    });
}

#[test]
fn a_client_behind_a_pod_that_routes_connects() {
    with_conntrack(|network, [one, two], to| {
        let client = network.host.pod();
        let netns = client.netns();
        one.pod.ip(&format!("link add tun0 type veth peer name eth0 netns {}", netns.display()));
        for (namespace, link, address) in [(&one.pod, "tun0", "10.200.0.1/24"), (&client, "eth0", "10.200.0.9/24")] {
            namespace.ip(&format!("link set {link} up"));
            namespace.ip(&format!("address add {address} dev {link}"));
        }
        client.ip("route add default via 10.200.0.1");
        one.pod.command("sysctl").words("-q -w net.ipv4.ip_forward=1").run();
        two.pod.ip(&format!("route add 10.200.0.0/24 via {}", one.address()));
        assert_connects(&client, to, "an address that only the two pods know");
        one.pod.ip("link delete tun0");
    });
}
