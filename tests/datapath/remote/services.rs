//! Service addresses with a pod of another node behind them, under the rules of kube-proxy.
//!
//! kube-proxy translates on the node of the client. That node must see both directions, or its
//! connection tracking drops the replies.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use cnikit_testbed::{Namespace as _, Pod, tool};

use super::nodes::{Node, Nodes, PORT, TIMEOUT, Way, answers, on_nodes, sysctl};

/// The ports of the service, and of the service on each node.
const SERVICE_PORT: u16 = 80;
const NODE_PORT: u16 = 30_080;

/// The service address of each family.
const SERVICE: [&str; 2] = ["10.96.0.1", "fd00:96::1"];
/// A CIDR that covers the pods of all nodes.
const CLUSTER: [&str; 2] = ["10.244.0.0/16", "fd00:244::/32"];

/// The packet filter of kube-proxy.
#[derive(Clone, Copy, Debug)]
enum Mode {
    Iptables,
    Nftables,
}

/// Installs the rules of kube-proxy for a service with one pod.
fn install(mode: Mode, node: &Node, server: &Node) {
    for family in [0, 1] {
        let (service, cluster, own) = (SERVICE[family], CLUSTER[family], node.pod_cidrs()[family]);
        let (address, pod) = (node.node_addresses()[family], SocketAddr::from((server.addresses()[family], PORT)));
        match mode {
            Mode::Iptables => {
                let mut nat = format!(
                    "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-POSTROUTING - [0:0]\n\
                     -A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n\
                     -A POSTROUTING -s {own} ! -d {cluster} -j MASQUERADE --random-fully\n\
                     -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
                     -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
                     -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
                     -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n"
                );
                for protocol in ["tcp", "udp"] {
                    let rule = format!("-p {protocol} -m {protocol}");
                    nat += &format!(
                        "-A KUBE-SERVICES -d {service} {rule} --dport {SERVICE_PORT} ! -s {cluster} -j KUBE-MARK-MASQ\n\
                         -A KUBE-SERVICES -d {service} {rule} --dport {SERVICE_PORT} -j DNAT --to-destination {pod}\n\
                         -A KUBE-SERVICES -d {address} {rule} --dport {NODE_PORT} -j KUBE-MARK-MASQ\n\
                         -A KUBE-SERVICES -d {address} {rule} --dport {NODE_PORT} -j DNAT --to-destination {pod}\n"
                    );
                }
                let filter = "*filter\n-A FORWARD -m conntrack --ctstate INVALID -j DROP\n\
                              -A FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
                              -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n";
                let program = ["iptables-restore", "ip6tables-restore"][family];
                node.netns.command(program).stdin(format!("{nat}COMMIT\n{filter}COMMIT\n")).run();
            }
            Mode::Nftables => {
                let ip = ["ip", "ip6"][family];
                let rules = format!(
                    "table {ip} kube-proxy {{
                        chain mark-masq {{ meta mark set meta mark or 0x4000; }}
                        chain services {{
                            {ip} daddr {service} meta l4proto {{ tcp, udp }} th dport {SERVICE_PORT} {ip} saddr != {cluster} jump mark-masq
                            {ip} daddr {service} meta l4proto {{ tcp, udp }} th dport {SERVICE_PORT} dnat to {pod}
                            {ip} daddr {address} meta l4proto {{ tcp, udp }} th dport {NODE_PORT} jump mark-masq
                            {ip} daddr {address} meta l4proto {{ tcp, udp }} th dport {NODE_PORT} dnat to {pod}
                        }}
                        chain prerouting {{ type nat hook prerouting priority dstnat; jump services; }}
                        chain output {{ type nat hook output priority -100; jump services; }}
                        chain forward {{ type filter hook forward priority filter; ct state invalid drop; }}
                        chain postrouting {{
                            type nat hook postrouting priority srcnat
                            meta mark & 0x4000 == 0x4000 meta mark set meta mark xor 0x4000 masquerade fully-random
                            {ip} saddr {own} {ip} daddr != {cluster} masquerade fully-random
                        }}
                    }}\n"
                );
                node.netns.command("nft").args(["-f", "-"]).stdin(rules).run();
            }
        }
    }
}

/// Each client with an address of a service or of its server, for one family.
fn cases(nodes: &Nodes, family: usize) -> [(&'static str, &Pod, SocketAddr); 9] {
    let [a, b] = &nodes.0;
    let service: IpAddr = SERVICE[family].parse().expect("an address");
    let (service, pod) = ((service, SERVICE_PORT).into(), (b.addresses()[family], PORT).into());
    let port_of = |node: &Node| (node.node_addresses()[family], NODE_PORT).into();
    [
        ("pod to pod", &a.pod, pod),
        ("pod to service", &a.pod, service),
        ("node to pod", &a.netns, pod),
        ("node to service", &a.netns, service),
        ("pod to node", &a.pod, (b.node_addresses()[family], PORT).into()),
        ("other node to node port", &b.netns, port_of(a)),
        ("pod to node port of its node", &a.pod, port_of(a)),
        ("pod to node port of the other node", &a.pod, port_of(b)),
        ("server's pod to service of its own", &b.pod, port_of(a)),
    ]
}

fn with_services(way: Way, mode: Mode, test: impl FnOnce(&Nodes) + Send) {
    if matches!(mode, Mode::Iptables) && !tool("iptables-restore") {
        return;
    }
    on_nodes(way, |nodes| {
        let [a, b] = &nodes.0;
        install(mode, a, b);
        install(mode, b, b);
        test(nodes);
    });
}

fn sent(node: &Node) -> u64 {
    let stats = node.stats();
    stats.sent_direct + stats.sent_tunnel
}

/// The redirected packets, when the last connection has sent its last acknowledgement.
fn sent_at_rest(node: &Node) -> u64 {
    let mut last = sent(node);
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(50));
        let now = sent(node);
        if now == last {
            break;
        }
        last = now;
    }
    last
}

/// All cases are answered. Only packets between two pods without translation are redirected.
fn assert_answers(way: Way, mode: Mode, what: &str, nodes: &Nodes) {
    let [a, b] = &nodes.0;
    for family in [0, 1] {
        for (case, client, to) in cases(nodes, family) {
            let before = sent_at_rest(a);
            assert_eq!(answers(client, to, TIMEOUT), [true, true], "{way:?}, {mode:?}{what}: {case}, {to}");
            let sent = sent(a) - before;
            let is_redirected = case == "pod to pod";
            assert_eq!(sent > 0, is_redirected, "{way:?}, {mode:?}{what}: {case}, {to}: {sent} packets redirected");
        }
    }
    // A connection and a datagram of the pod to the service, in each family. Those to a node port
    // are masqueraded, so their replies are for the node.
    assert!(a.flows() >= 4, "{way:?}, {mode:?}{what}: {} translated flows", a.flows());
    assert!(b.redirected() > 0);
}

#[test]
fn all_clients_reach_a_service_with_a_remote_pod() {
    for way in [Way::Direct, Way::Tunnel] {
        for mode in [Mode::Iptables, Mode::Nftables] {
            with_services(way, mode, |nodes| assert_answers(way, mode, "", nodes));
        }
    }
}

#[test]
fn strict_reverse_path_filters_accept_all_clients() {
    with_services(Way::Direct, Mode::Iptables, |nodes| {
        for node in &nodes.0 {
            sysctl(
                &node.netns,
                "net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.up0.rp_filter=1 net.ipv4.conf.cbr0.rp_filter=1",
            );
        }
        assert_answers(Way::Direct, Mode::Iptables, " with rp_filter", nodes);
    });
}
