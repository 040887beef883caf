//! Direct forwarding, packets that are left to the stack, and the counters of both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::frames::*;
use super::{OTHER_PORT, PORT, REDIRECT, SHOT, UNSPEC, index, loaded, run_super_frame};
use crate::datapath::{NetStats, PodCounters, PortConfig};
use crate::spec::MacAddr;

#[test]
fn packets_for_pods_are_redirected_unchanged_and_counted_for_both_pods() {
    loaded(|loaded| {
        for [a, b] in PODS {
            let before = loaded.stats();
            let sent = datagram(MAC_B, a, b, 64);
            loaded.assert_direct(&sent, &a.to_string());

            let bytes = sent.len() as u64;
            let tx = PodCounters { tx_packets: 1, tx_bytes: bytes, tx_direct: 1, ..PodCounters::default() };
            let rx = PodCounters { rx_packets: 1, rx_bytes: bytes, rx_direct: 1, ..PodCounters::default() };
            assert_eq!((loaded.counters(a), loaded.counters(b)), (tx, rx));
            assert_eq!(loaded.stats(), NetStats { direct: before.direct + 1, ..before });
        }
    });
}

#[test]
fn known_protocols_are_redirected_and_others_go_to_the_stack() {
    loaded(|loaded| {
        for [a, b] in PODS {
            let send = |protocol, payload: &[u8]| frame(MAC_B, &ip(a, b, 64, protocol, payload));
            for (protocol, payload) in [
                (TCP, tcp(1, 2, SYN)),
                (TCP, tcp(1, 2, ACK)),
                (UDP, udp(1, 2)),
                (132, udp(1, 2)), // SCTP
                (136, udp(1, 2)), // UDP-Lite
                (icmp_of(a), echo(a, true, 7)),
                (icmp_of(a), echo(a, false, 7)),
                (icmp_of(a), unreachable(&ip(b, a, 64, UDP, &udp(1, 2)))),
            ] {
                loaded.assert_direct(&send(protocol, &payload), &format!("{a}, protocol {protocol}"));
            }
            // ESP, GRE, an unassigned protocol, a timestamp request or listener query, and two
            // truncated headers.
            for (protocol, payload) in [
                (50, vec![0; 24]),
                (47, vec![0; 24]),
                (253, vec![0; 24]),
                (icmp_of(a), vec![if a.is_ipv4() { 13 } else { 130 }, 0, 0, 0, 0, 0, 0, 0]),
                (UDP, vec![0; 7]),
                (TCP, vec![]),
            ] {
                loaded.assert_stack(&send(protocol, &payload), &format!("{a}, protocol {protocol}"));
            }
        }
    });
}

#[test]
fn packets_to_the_mac_of_the_gateway_are_routed() {
    loaded(|loaded| {
        for ([a, b], hops_at) in PODS.into_iter().zip([ETHERNET + 8, ETHERNET + 7]) {
            let sent = datagram(MAC_GATEWAY, a, b, 64);
            let (verdict, routed) = loaded.ingress(&sent);

            assert_eq!(verdict, REDIRECT);
            let mut expected = datagram(MAC_B, a, b, 63);
            expected[6..12].copy_from_slice(&MAC_GATEWAY);
            assert_eq!(routed, expected, "to the pod, from the gateway, with a lower hop limit");
            assert_eq!((sent[hops_at], routed[hops_at]), (64, 63));
        }
        let (_, routed) = loaded.ingress(&datagram(MAC_GATEWAY, PODS[0][0], PODS[0][1], 2));
        assert_eq!(checksum(&routed[ETHERNET..ETHERNET + 20]), 0, "a valid header");
    });
}

#[test]
fn packets_that_must_not_be_routed_directly_go_to_the_stack() {
    loaded(|loaded| {
        // The pod may answer through a port in another network.
        let siblings = |port, mac, has_siblings| {
            let mut config = PortConfig::new(MacAddr::new(mac));
            config.has_siblings = has_siblings;
            loaded.links.insert(index(port), config).unwrap();
        };
        for (port, mac) in [(PORT, MAC_A), (OTHER_PORT, MAC_B)] {
            siblings(port, mac, true);
            for [a, b] in PODS {
                loaded.assert_stack(&datagram(MAC_GATEWAY, a, b, 64), "to another subnet");
                loaded.assert_direct(&datagram(MAC_B, a, b, 64), "on the link");
            }
            siblings(port, mac, false);
        }
        // Without the spoof check, the pod may use another MAC than the MAC of its entry.
        loaded.configure(|config| config.spoof_check = false);
        loaded.assert_stack(&datagram(MAC_GATEWAY, PODS[0][0], PODS[0][1], 64), "without spoof check");
        loaded.assert_direct(&datagram(MAC_B, PODS[0][0], PODS[0][1], 64), "without spoof check, on the link");
        siblings(OTHER_PORT, MAC_B, true);
        loaded.assert_stack(&datagram(MAC_B, PODS[0][0], PODS[0][1], 64), "without spoof check, with siblings");
        siblings(OTHER_PORT, MAC_B, false);
        loaded.configure(|_| ());
        for [a, b] in PODS {
            for hops in [0, 1] {
                loaded.assert_stack(&datagram(MAC_GATEWAY, a, b, hops), &format!("{a}, {hops} hops"));
            }
            loaded.assert_direct(&datagram(MAC_B, a, b, 1), "no hop on the link");
        }
    });
}

#[test]
fn packets_to_addresses_without_an_entry_go_to_the_stack() {
    loaded(|loaded| {
        let all: [IpAddr; 2] = [Ipv4Addr::BROADCAST.into(), Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into()];
        for (family, [a, b]) in PODS.into_iter().enumerate() {
            let cases = [
                ("an external address", datagram(MAC_GATEWAY, a, EXTERNAL[family], 64)),
                ("the gateway", datagram(MAC_GATEWAY, a, GATEWAY[family], 64)),
                ("a pod that routes", datagram(MAC_THIRD, a, b, 64)),
                ("a pod by the broadcast MAC", datagram(MAC_ALL, a, b, 64)),
                ("the pod itself", datagram(MAC_A, a, a, 64)),
                ("the pod itself, routed", datagram(MAC_GATEWAY, a, a, 64)),
                ("broadcast or all nodes", datagram(MAC_ALL, a, all[family], 64)),
            ];
            let before = loaded.stats().to_stack;
            for (what, sent) in &cases {
                loaded.assert_stack(sent, what);
            }
            let counters = loaded.counters(a);
            assert_eq!((counters.tx_packets, counters.tx_direct), (cases.len() as u64, 0));
            assert_eq!(loaded.stats().to_stack - before, cases.len() as u64);
            assert_eq!(loaded.counters(b).rx_packets, 0, "the egress hook counts packets from the bridge");
        }
    });
}

#[test]
fn packets_to_a_deleted_endpoint_go_to_the_stack() {
    loaded(|loaded| {
        for [a, b] in PODS {
            loaded.ports.remove(b).unwrap();
            loaded.assert_stack(&datagram(MAC_B, a, b, 64), &b.to_string());
        }
    });
}

#[test]
fn direct_forwarding_can_be_turned_off() {
    loaded(|loaded| {
        loaded.configure(|config| config.direct_forwarding = false);
        for [a, b] in PODS {
            loaded.assert_stack(&datagram(MAC_B, a, b, 64), &a.to_string());
            assert_eq!(loaded.counters(a).tx_packets, 1);
        }
        loaded.configure(|config| config.spoof_check = false);
        for [a, b] in PODS {
            loaded.assert_direct(&datagram(MAC_B, a, b, 64), "independent of the spoof check");
        }
    });
}

#[test]
fn stack_only_ports_neither_send_nor_receive_directly() {
    for (restricted, mac) in [(PORT, MAC_A), (OTHER_PORT, MAC_B)] {
        loaded(|loaded| {
            loaded.restrict(restricted, mac);
            for [a, b] in PODS {
                loaded.assert_stack(&datagram(MAC_B, a, b, 64), &format!("port {restricted}"));
            }
            loaded.links.remove(index(OTHER_PORT)).unwrap();
            let is_free = restricted == OTHER_PORT;
            let verdict = loaded.ingress(&datagram(MAC_B, PODS[0][0], PODS[0][1], 64)).0;
            assert_eq!(verdict == REDIRECT, is_free, "a port without an entry is not restricted");
        });
    }
}

#[test]
fn programs_do_nothing_before_configuration() {
    loaded(|loaded| {
        loaded.configure(|config| config.bridge_ifindex = None);
        for [a, b] in PODS {
            loaded.assert_stack(&datagram(MAC_B, a, b, 64), "unconfigured");
            assert_eq!(loaded.egress(&datagram(MAC_A, b, a, 64)).0, UNSPEC);
        }
        assert_eq!(loaded.stats(), NetStats::default());
    });
}

#[test]
fn fragments_and_ip_options_go_to_the_stack() {
    loaded(|loaded| {
        let [[a, b], [a6, b6]] = PODS;
        let (IpAddr::V4(a), IpAddr::V4(b)) = (a, b) else { panic!("IPv4 comes first") };
        let v4 = |fragment, options: &[u8]| frame(MAC_B, &ipv4(a, b, 64, UDP, fragment, options, &udp(1, 2)));
        loaded.assert_direct(&v4(0x4000, &[]), "don't fragment");
        loaded.assert_stack(&v4(0x2000, &[]), "the first fragment");
        loaded.assert_stack(&v4(0x2001, &[]), "a fragment in the middle");
        loaded.assert_stack(&v4(0x0001, &[]), "the last fragment");
        loaded.assert_stack(&v4(0, &[1, 1, 1, 0]), "IP options");

        let v6 = |kinds: &[u8], fragment: u16| {
            let nexts = kinds[1..].iter().chain(&[UDP]);
            let mut headers: Vec<_> = kinds.iter().zip(nexts).map(|(kind, next)| extension(*kind, *next)).collect();
            for (header, _) in headers.iter_mut().zip(kinds).filter(|(_, kind)| **kind == FRAGMENT) {
                header[2..4].copy_from_slice(&fragment.to_be_bytes());
            }
            frame(MAC_B, &ip(a6, b6, 64, kinds[0], &[headers.concat(), udp(1, 2)].concat()))
        };
        loaded
            .assert_direct(&v6(&[HOP_BY_HOP, DESTINATION, AH, DESTINATION], 0), "headers without effect on forwarding");
        loaded.assert_stack(&v6(&[ROUTING], 0), "a routing header");
        loaded.assert_stack(&v6(&[HOP_BY_HOP, FRAGMENT], 0x0001), "the first fragment");
        loaded.assert_stack(&v6(&[FRAGMENT, DESTINATION], 0x0008), "a later fragment");
        loaded.assert_stack(&v6(&[FRAGMENT], 0), "an atomic fragment");

        loaded.configure(|config| config.spoof_check = false);
        loaded.assert_direct(&v6(&[DESTINATION; 7], 0), "the maximum number of headers");
        loaded.assert_stack(&v6(&[DESTINATION; 8], 0), "one more");
    });
}

/// BIG TCP: a super-frame of more than 64 KiB has length 0 in its header. Only the stack creates
/// such frames.
#[test]
fn length_zero_is_valid_only_for_super_frames() {
    loaded(|loaded| {
        for ([a, b], length_at) in PODS.into_iter().zip([2, 4]) {
            let mut sent = frame(MAC_B, &ip(a, b, 64, TCP, &tcp(1, 2, ACK)));
            sent[ETHERNET + length_at..ETHERNET + length_at + 2].fill(0);
            assert_eq!(run_super_frame(&loaded.skeleton.progs.cni_tc_main, &sent, 8), REDIRECT, "{a}");
            let verdict = loaded.ingress(&sent).0;
            // Otherwise length 0 means no payload in IPv6, and no header in IPv4.
            assert_eq!(verdict, if a.is_ipv4() { SHOT } else { UNSPEC });
        }
    });
}

#[test]
fn packets_from_the_bridge_are_counted_for_the_receiver() {
    loaded(|loaded| {
        for (family, [a, b]) in PODS.into_iter().enumerate() {
            let before = loaded.stats();
            let delivered = datagram(MAC_B, EXTERNAL[family], b, 64);
            assert_eq!(loaded.egress(&delivered), (UNSPEC, delivered.clone()));

            let rx = PodCounters { rx_packets: 1, rx_bytes: delivered.len() as u64, ..PodCounters::default() };
            assert_eq!((loaded.counters(b), loaded.counters(a)), (rx, PodCounters::default()));
            assert_eq!(loaded.stats(), NetStats { from_stack: before.from_stack + 1, ..before });
        }
    });
}

#[test]
fn addresses_without_counters_share_one_entry() {
    loaded(|loaded| {
        loaded.configure(|config| config.spoof_check = false);
        for (family, [a, b]) in PODS.into_iter().enumerate() {
            let before = loaded.stats().unknown;
            let sent = datagram(MAC_B, a, b, 64);
            let bytes = sent.len() as u64;
            loaded.assert_stack(&datagram(MAC_B, EXTERNAL[family], b, 64), "from an external address");
            loaded.counters.remove(a).unwrap();
            loaded.assert_direct(&sent, "from a pod without counters");
            assert_eq!(loaded.counters(b).rx_direct, 1);
            loaded.counters.remove(b).unwrap();
            loaded.assert_direct(&sent, "to a pod without counters");

            let expected = PodCounters {
                tx_packets: before.tx_packets + 3,
                tx_bytes: before.tx_bytes + 3 * bytes,
                tx_direct: before.tx_direct + 2,
                rx_packets: before.rx_packets + 1,
                rx_bytes: before.rx_bytes + bytes,
                rx_direct: before.rx_direct + 1,
            };
            assert_eq!(loaded.stats().unknown, expected);
        }
    });
}

/// conntrack marks a flow invalid if it sees only one direction. So a packet is not forwarded
/// directly if its answer goes through the stack.
#[test]
fn packets_go_to_the_stack_if_their_answers_do() {
    loaded(|loaded| {
        loaded.configure(|config| config.spoof_check = false);
        for (family, [a, b]) in PODS.into_iter().enumerate() {
            let from = |mac: [u8; 6], source| {
                let packet = ip(source, b, 64, TCP, &tcp(1000, 80, SYN));
                ethernet(MAC_B, mac, if b.is_ipv4() { IPV4 } else { IPV6 }, &packet)
            };
            loaded.assert_direct(&from(MAC_A, a), "the pod's own address and MAC");
            loaded.assert_direct(&from(MAC_A, SECOND[family]), "the address of its other port");
            for (what, frame) in [
                ("an address that the pod configured itself", from(MAC_A, EXTERNAL[family])),
                ("the gateway's address", from(MAC_A, GATEWAY[family])),
                ("a machine in the pod with the pod's address", from(MAC_THIRD, a)),
                ("a machine in the pod with an address of its own", from(MAC_THIRD, EXTERNAL[family])),
            ] {
                loaded.assert_stack(&frame, what);
            }
            // A port without an entry: the MAC of the endpoint entry is compared.
            loaded.links.remove(index(PORT)).unwrap();
            loaded.assert_direct(&from(MAC_A, a), "a port without an entry");
            loaded.assert_stack(&from(MAC_THIRD, a), "a port without an entry, from another MAC");
            loaded.restrict(PORT, MAC_A);
            loaded.assert_stack(&from(MAC_A, a), "a stack-only port");
            loaded.links.insert(index(PORT), PortConfig::new(MacAddr::new(MAC_A))).unwrap();
        }
    });
}

#[test]
fn the_bridge_neither_counts_twice_nor_redirects() {
    loaded(|loaded| {
        loaded.configure(|config| config.bridge_ifindex = Some(index(PORT)));
        for [a, b] in PODS {
            let sent = datagram(MAC_B, a, b, 64);
            loaded.assert_stack(&sent, "up to the host");
            assert_eq!(loaded.egress(&sent), (UNSPEC, sent.clone()));
            assert_eq!(loaded.counters(a), PodCounters::default());
        }
        assert_eq!(loaded.stats(), NetStats { to_host: 2, ..NetStats::default() });
    });
}
