//! Tracking of the flows that the stack delivers.

use std::net::IpAddr;

use libbpf_rs::{MapCore as _, MapFlags};

use super::frames::*;
use super::{BRIDGE, OTHER_PORT, PORT, REDIRECT, SHOT, UNSPEC, loaded};
use crate::datapath::DropReason;
use crate::datapath::map_specs::{PACKET_SCRATCH, SINGLE_KEY};

/// A packet that the stack delivers to pod A.
fn delivered(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(MAC_A, MAC_GATEWAY, if to.is_ipv4() { IPV4 } else { IPV6 }, &ip(from, to, 63, protocol, payload))
}

/// A packet of pod A to pod B.
fn sent(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    frame(MAC_B, &ip(from, to, 64, protocol, payload))
}

#[test]
fn answers_to_flows_of_the_stack_go_to_the_stack() {
    loaded(|loaded| {
        for [a, b] in PODS {
            let icmp = icmp_of(a);
            let cases = [
                (TCP, tcp(1000, 80, SYN), tcp(80, 1000, SYN | ACK), tcp(80, 1001, SYN | ACK)),
                (UDP, udp(1000, 53), udp(53, 1000), udp(54, 1000)),
                (icmp, echo(a, true, 7), echo(a, false, 7), echo(a, false, 8)),
            ];
            for (protocol, question, answer, other) in cases {
                let what = format!("{a}, protocol {protocol}");
                loaded.assert_direct(&sent(a, b, protocol, &answer), &what);
                let question = delivered(b, a, protocol, &question);
                let before = loaded.flows();
                for _ in 0..2 {
                    assert_eq!(loaded.egress(&question), (UNSPEC, question.clone()), "{what}");
                    assert_eq!(loaded.flows(), before + 1, "{what}");
                }
                loaded.assert_routed_back(&sent(a, b, protocol, &answer), &what);
                loaded.assert_direct(&sent(a, b, protocol, &other), &what);
                // Switched by the bridge, as with br_netfilter.
                let bridged = ethernet(MAC_A, MAC_B, if a.is_ipv4() { IPV4 } else { IPV6 }, &question[14..]);
                loaded.egress(&bridged);
                assert_eq!(loaded.flows(), before + 1, "{what}");
                loaded.assert_stack(&sent(a, b, protocol, &answer), &what);
            }
        }
        assert_eq!(loaded.stats().flows_added, 6);
        assert_eq!(loaded.stats().flows_forgotten, 0);
    });
}

/// `packet_scratch` is pinned: programs of another build may leave any bytes in it.
#[test]
fn keys_of_flows_do_not_depend_on_earlier_contents_of_the_scratch_space() {
    loaded(|loaded| {
        let scratch = |byte: u8| {
            let cpus = libbpf_rs::num_possible_cpus().unwrap();
            let value = vec![vec![byte; PACKET_SCRATCH.sizes.1]; cpus];
            loaded.skeleton.maps.packet_scratch.update_percpu(&SINGLE_KEY, &value, MapFlags::ANY).unwrap();
        };
        for [a, b] in PODS {
            for (tracked, read) in [(0, 0xff), (0xff, 0)] {
                let port = 1000 + u16::from(read);
                let question = delivered(b, a, TCP, &tcp(port, 80, SYN));
                let before = loaded.flows();
                scratch(tracked);
                loaded.egress(&question);
                scratch(read);
                loaded.assert_routed_back(&sent(a, b, TCP, &tcp(80, port, SYN | ACK)), &a.to_string());
                loaded.egress(&question);
                assert_eq!(loaded.flows(), before + 1, "{a}");
            }
        }
    });
}

#[test]
fn icmp_errors_for_flows_of_the_stack_go_to_the_stack() {
    loaded(|loaded| {
        for [a, b] in PODS {
            for (protocol, question) in [(TCP, tcp(1000, 80, SYN)), (UDP, udp(1000, 53))] {
                let quoted = ip(b, a, 63, protocol, &question);
                // The minimum quote: RFC 792.
                let short = &quoted[..quoted.len() - question.len() + 8];
                let error = sent(a, b, icmp_of(a), &unreachable(&quoted));
                let short = sent(a, b, icmp_of(a), &unreachable(short));
                loaded.assert_direct(&error, "no flow is tracked");
                loaded.egress(&delivered(b, a, protocol, &question));
                loaded.assert_routed_back(&error, "tracked flow");
                loaded.assert_routed_back(&short, "tracked flow, minimum quote");
            }
            let quoted = ip(b, a, 63, UDP, &udp(1000, 54));
            loaded.assert_direct(&sent(a, b, icmp_of(a), &unreachable(&quoted)), "another flow");
            let truncated = sent(a, b, icmp_of(a), &unreachable(&quoted[..quoted.len() - 10]));
            loaded.assert_stack(&truncated, "truncated quote");
        }
    });
}

/// A pod that accepts a redirect bypasses the translation of the host.
#[test]
fn redirects_do_not_reach_a_pod() {
    loaded(|loaded| {
        for ([a, b], (gateway, kind)) in PODS.into_iter().zip(GATEWAY.into_iter().zip([5, 137])) {
            let quoted = ip(a, b, 64, UDP, &udp(1, 2));
            let mut redirect = unreachable(&quoted);
            redirect[0] = kind;
            let verdict = loaded.egress(&delivered(gateway, a, icmp_of(a), &redirect)).0;
            assert_eq!(verdict, SHOT, "{a}");
        }
        assert_eq!(loaded.drops().of(DropReason::Router), 2);
        // Without the spoof check, the sender's port passes a redirect. It must not be forwarded
        // directly either.
        loaded.configure(|config| config.spoof_check = false);
        for ([a, b], kind) in PODS.into_iter().zip([5, 137]) {
            let mut redirect = unreachable(&ip(b, a, 64, UDP, &udp(1, 2)));
            redirect[0] = kind;
            loaded.assert_stack(&sent(a, b, icmp_of(a), &redirect), "the egress hook drops it");
        }
    });
}

/// ADD configures the routes of a pod. Its kernel may accept other routes.
#[test]
fn router_advertisements_do_not_reach_a_pod() {
    loaded(|loaded| {
        let [a, _] = PODS[1];
        let advertisement = [&[134, 0, 0, 0, 64, 0, 7, 8][..], &[0; 8]].concat();
        assert_eq!(loaded.egress(&delivered(GATEWAY[1], a, ICMPV6, &advertisement)).0, SHOT);
        assert_eq!(loaded.drops().of(DropReason::Router), 1);
    });
}

#[test]
fn only_flows_between_pods_are_tracked() {
    loaded(|loaded| {
        for (family, [a, b]) in PODS.into_iter().enumerate() {
            for from in [EXTERNAL[family], GATEWAY[family], a] {
                loaded.egress(&delivered(from, a, UDP, &udp(1, 2)));
                assert_eq!(loaded.flows(), 0, "from {from}");
            }
            for (protocol, payload) in [(50, vec![0; 24]), (UDP, vec![0; 7])] {
                loaded.egress(&delivered(b, a, protocol, &payload));
                assert_eq!(loaded.flows(), 0, "protocol {protocol}");
            }
        }
        let (IpAddr::V4(a), IpAddr::V4(b)) = (PODS[0][0], PODS[0][1]) else { panic!("IPv4 comes first") };
        loaded.egress(&frame(MAC_A, &ipv4(b, a, 64, UDP, 0x0001, &[], &udp(1, 2))));
        assert_eq!(loaded.flows(), 0, "a later fragment has no ports");
        loaded.egress(&frame(MAC_A, &ipv4(b, a, 64, UDP, 0x2000, &[], &udp(1, 2))));
        assert_eq!(loaded.flows(), 1, "a first fragment has ports");
        loaded.assert_stack(&sent(a.into(), b.into(), UDP, &udp(2, 1)), "the answer");
    });
}

/// Packets of a third pod must not add, change or delete a flow between two other pods.
#[test]
fn third_pods_cannot_change_a_flow() {
    const THIRD: [&str; 2] = ["10.244.1.4", "fd00:244::4"];
    loaded(|loaded| {
        for (family, [a, b]) in PODS.into_iter().enumerate() {
            let third: IpAddr = THIRD[family].parse().unwrap();
            let kind = if a.is_ipv4() { IPV4 } else { IPV6 };
            let flows = loaded.flows() + 1;
            loaded.egress(&delivered(b, a, TCP, &tcp(1000, 80, ACK)));
            assert_eq!(loaded.flows(), flows);

            // The third pod quotes packets of pod A in ICMP messages of every type, in both
            // families.
            let quote = ip(a, b, 64, TCP, &tcp(80, 1000, ACK));
            let quoted = |kind: u8| [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &quote].concat();
            loaded.place(a, OTHER_PORT, MAC_B);
            loaded.place(third, PORT, MAC_A);
            for protocol in [1, 58] {
                for message in 0..=255 {
                    loaded.ingress(&frame(MAC_B, &ip(third, b, 64, protocol, &quoted(message))));
                    assert_eq!(loaded.flows(), flows, "{third}: protocol {protocol}, type {message}");
                }
            }
            loaded.place(a, PORT, MAC_A);
            loaded.place(third, OTHER_PORT, MAC_THIRD);
            for quoted in [quote, ip(EXTERNAL[family], a, 64, TCP, &tcp(80, 1000, ACK))] {
                let error = ip(third, a, 64, icmp_of(a), &unreachable(&quoted));
                loaded.egress(&ethernet(MAC_A, MAC_THIRD, kind, &error));
                assert_eq!(loaded.flows(), flows, "{third}");
            }
            loaded.assert_routed_back(&sent(a, b, TCP, &tcp(80, 1000, ACK)), "unchanged");
        }
    });
}

#[test]
fn flows_are_tracked_while_direct_forwarding_is_off() {
    loaded(|loaded| {
        loaded.configure(|config| config.direct_forwarding = false);
        for [a, b] in PODS {
            loaded.egress(&delivered(b, a, TCP, &tcp(1000, 80, ACK)));
        }
        loaded.configure(|_| ());
        for [a, b] in PODS {
            loaded.assert_routed_back(&sent(a, b, TCP, &tcp(80, 1000, ACK)), "a running flow stays with the stack");
        }
    });
}

/// The kernel of pod A may use one port for two connections: to the service of pod B, and to pod B.
/// The programs cannot distinguish them.
#[test]
fn packets_between_the_ends_of_a_flow_follow_it_in_both_directions() {
    loaded(|loaded| {
        for [a, b] in PODS {
            let icmp = icmp_of(a);
            let cases = [
                (TCP, tcp(1000, 80, ACK), vec![tcp(80, 1000, SYN), tcp(80, 1000, ACK), tcp(80, 1000, FIN | ACK)]),
                (UDP, udp(1000, 53), vec![udp(53, 1000)]),
                (icmp, echo(a, true, 7), vec![echo(a, false, 7), echo(a, true, 7)]),
            ];
            for (protocol, flow, others) in cases {
                loaded.egress(&delivered(b, a, protocol, &flow));
                for other in others {
                    loaded.assert_routed_back(&sent(a, b, protocol, &other), &format!("{a}, protocol {protocol}"));
                }
            }
        }
        assert_eq!((loaded.stats().flows_added, loaded.stats().flows_forgotten), (6, 0));
    });
}

#[test]
fn ports_of_closed_flows_are_reusable() {
    loaded(|loaded| {
        for (family, [a, b]) in PODS.into_iter().enumerate() {
            let client = |flags| drop(loaded.egress(&delivered(b, a, TCP, &tcp(1000, 80, flags))));
            let answer = |flags| sent(a, b, TCP, &tcp(80, 1000, flags));
            let server = |flags| loaded.assert_routed_back(&answer(flags), "an answer");
            let ends: [(&str, &dyn Fn()); 4] = [
                ("closed by the client first", &|| {
                    client(FIN | ACK);
                    server(FIN | ACK);
                }),
                ("closed by the server first", &|| {
                    server(FIN | ACK);
                    client(FIN | ACK);
                }),
                ("reset by the client", &|| client(RST)),
                ("reset by the server", &|| server(RST)),
            ];
            for (number, (what, end)) in ends.into_iter().enumerate() {
                let forgotten = u64::try_from(ends.len() * family + number).unwrap();
                client(SYN);
                end();
                client(ACK);
                server(ACK);
                // The next connection through the stack is open again. Closing one side alone does
                // not end it.
                client(SYN);
                server(SYN);
                client(FIN | ACK);
                server(SYN);
                client(SYN);
                server(FIN | ACK);
                server(SYN);
                assert_eq!((loaded.flows(), loaded.stats().flows_forgotten), (1, forgotten), "{what}");

                end();
                loaded.assert_direct(&answer(SYN), what);
                assert_eq!((loaded.flows(), loaded.stats().flows_forgotten), (0, forgotten + 1), "{what}");
                loaded.assert_direct(&answer(ACK), what);
            }
        }
    });
}

#[test]
fn packets_from_addresses_of_the_bridge_are_not_tracked() {
    loaded(|loaded| {
        for (family, [a, b]) in PODS.into_iter().enumerate() {
            loaded.place(EXTERNAL[family], BRIDGE, MAC_GATEWAY);
            loaded.egress(&delivered(EXTERNAL[family], a, UDP, &udp(1, 2)));
            assert_eq!(loaded.flows(), 0);
            loaded.assert_direct(&sent(a, b, UDP, &udp(2, 1)), "no flow to answer");
        }
    });
}

/// The kernel writes the MAC of the bridge into packets that it routes from the bridge to the
/// bridge: RFC 894.
#[test]
fn routed_packets_teach_the_new_mac_of_the_bridge() {
    loaded(|loaded| {
        if !loaded.takes_origins() {
            return cnikit_testbed::skipped("the kernel takes no ingress_ifindex for BPF_PROG_TEST_RUN");
        }
        for [a, b] in PODS {
            loaded.configure(|_| ());
            let kind = if a.is_ipv4() { IPV4 } else { IPV6 };
            let by = |mac, question: &[u8]| ethernet(MAC_A, mac, kind, &ip(b, a, 63, TCP, question));
            let answer = |port| sent(a, b, TCP, &tcp(80, port, SYN | ACK));
            // From a pod that routes: its MAC must not be taken for the MAC of the bridge.
            assert_eq!(loaded.egress_from(OTHER_PORT, &by(MAC_THIRD, &tcp(1000, 80, SYN))).0, UNSPEC);
            loaded.assert_stack(&answer(1000), "bridged");
            assert_eq!(loaded.egress_from(BRIDGE, &by(MAC_THIRD, &tcp(1001, 80, SYN))).0, UNSPEC);
            let led_back = [&MAC_THIRD[..], &answer(1001)[6..]].concat();
            assert_eq!(loaded.ingress(&answer(1001)), (UNSPEC, led_back), "to the new MAC of the bridge");
            let routed = ethernet(MAC_THIRD, MAC_A, kind, &ip(a, b, 64, UDP, &udp(1, 2)));
            assert_eq!(loaded.ingress(&routed).0, REDIRECT, "direct, through the new MAC");
        }
    });
}
