//! Packets between pods of two nodes.

mod nodes;
mod packets;
mod services;

use std::net::SocketAddr;

use cnikit_testbed::Namespace as _;

use self::nodes::{Nodes, PORT, SHORT, TIMEOUT, Way, answers, on_nodes};

/// The pod of the second node, by its address of each family.
fn targets(nodes: &Nodes) -> [SocketAddr; 2] {
    nodes.0[1].addresses().map(|address| SocketAddr::from((address, PORT)))
}

const FORWARDED: [Way; 4] = [Way::Direct, Way::DirectOverIpv6, Way::Tunnel, Way::TunnelOverIpv6];

#[test]
fn pods_of_two_nodes_reach_each_other_directly() {
    for way in FORWARDED {
        on_nodes(way, |nodes| {
            let [a, b] = &nodes.0;
            for to in targets(nodes) {
                let before = [a, b].map(|node| (node.stats(), node.flows()));
                assert_eq!(answers(&a.pod, to, TIMEOUT), [true, true], "{way:?} to {to}");
                for (node, (stats, flows)) in [a, b].into_iter().zip(before) {
                    let now = node.stats();
                    let direct = [now.sent_direct - stats.sent_direct, now.received_direct - stats.received_direct];
                    let tunnel = [now.sent_tunnel - stats.sent_tunnel, now.received_tunnel - stats.received_tunnel];
                    let (used, unused) = if matches!(way, Way::Tunnel | Way::TunnelOverIpv6) {
                        (tunnel, direct)
                    } else {
                        (direct, tunnel)
                    };
                    assert!(used.iter().all(|packets| *packets >= 4), "{way:?} to {to}: {now:?}");
                    assert_eq!(unused, [0, 0], "{way:?} to {to}");
                    assert_eq!(node.flows(), flows, "{way:?} to {to}: nothing through the stack");
                }
            }
        });
    }
}

#[test]
fn without_entries_all_packets_go_through_the_stack() {
    on_nodes(Way::Stack, |nodes| {
        let [a, b] = &nodes.0;
        for to in targets(nodes) {
            assert_eq!(answers(&a.pod, to, TIMEOUT), [true, true], "{to}");
        }
        assert_eq!((a.redirected(), b.redirected(), a.flows(), b.flows()), (0, 0, 0, 0));
        for (cidr, to) in b.pod_cidrs().into_iter().zip(targets(nodes)) {
            a.netns.ip(&format!("route delete {cidr}"));
            a.netns.ip(&format!("route add unreachable {cidr}"));
            assert_eq!(answers(&a.pod, to, SHORT), [false, false], "{to}");
        }
    });
}
