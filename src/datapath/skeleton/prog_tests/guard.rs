//! What a guarded port may send, and for which reason the rest is dropped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::frames::*;
use super::{BRIDGE, OTHER_PORT, PORT, PORT_ELSEWHERE, REDIRECT, SECOND_PORT, SHOT, UNSPEC, loaded};
use crate::datapath::{DropReason, Drops, PodCounters};
use crate::spec::MacAddr;

const NOBODY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
const ALL_NODES: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
/// The solicited-node address of pod A: RFC 4291, section 2.7.1.
const SOLICITED_A: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 2));

#[test]
fn an_address_of_anothers_is_dropped_before_it_is_counted() {
    loaded(|loaded| {
        for (family, [a, b]) in PODS.into_iter().enumerate() {
            for spoofed in [b, GATEWAY[family], STRANGERS[family], NOBODY[family]] {
                let sent = datagram(MAC_B, spoofed, b, 64);
                loaded.assert_dropped(&sent, DropReason::IpSource, &spoofed.to_string());
            }
            assert_eq!(loaded.counters(b), PodCounters::default());
            loaded.assert_direct(&datagram(MAC_B, a, b, 64), "its own");
        }
        let link_local = MacAddr::new(MAC_A).link_local().into();
        let other = MacAddr::new(MAC_B).link_local().into();
        loaded.assert_direct(&datagram(MAC_B, link_local, other, 64), "its own, on the link");
        loaded.assert_dropped(&datagram(MAC_B, other, link_local, 64), DropReason::IpSource, "another's, on the link");
    });
}

#[test]
fn a_mac_of_anothers_is_dropped_whatever_is_sent() {
    loaded(|loaded| {
        let [a, b] = PODS[0];
        let spanning_tree = [&[0, 38, 0x42, 0x42, 3][..], &[0; 35]].concat();
        for (what, mut sent) in [
            ("IPv4", datagram(MAC_B, a, b, 64)),
            ("IPv6", datagram(MAC_B, PODS[1][0], PODS[1][1], 64)),
            ("ARP", ethernet(MAC_ALL, MAC_A, ARP, &arp(1, (MAC_A, a), ([0; 6], STRANGERS[0])))),
            ("an ethertype of nobody's", ethernet(MAC_B, MAC_A, 0x88b5, &[0; 46])),
            ("802.3", [&[0x01, 0x80, 0xc2, 0, 0, 0][..], &MAC_A, &spanning_tree].concat()),
        ] {
            assert_ne!(loaded.ingress(&sent).0, SHOT, "{what}");
            sent[6..12].copy_from_slice(&MAC_THIRD);
            loaded.assert_dropped(&sent, DropReason::MacSource, what);
        }
    });
}

#[test]
fn a_tagged_frame_is_dropped() {
    loaded(|loaded| {
        let plain = datagram(MAC_B, PODS[0][0], PODS[0][1], 64);
        for tag in [0x8100_u16, 0x88a8] {
            let tag = tag.to_be_bytes();
            let tagged = [&plain[..12], &tag, &[0, 5], &plain[12..]].concat();
            loaded.assert_dropped(&tagged, DropReason::Vlan, "a VLAN");
            let priority = [&plain[..12], &tag, &[0xe0, 0], &plain[12..]].concat();
            loaded.assert_dropped(&priority, DropReason::Vlan, "a priority");
        }
    });
}

#[test]
fn what_is_malformed_is_dropped_at_every_length() {
    loaded(|loaded| {
        let [[a, b], [a6, b6]] = PODS;
        let long_chain = [extension(DESTINATION, AH), extension(AH, UDP), udp(1, 2)].concat();
        // The kernel refuses to try a program on less than an IP header: tests/datapath sends such frames.
        for (what, whole, least) in [
            ("IPv4", datagram(MAC_B, a, b, 64), 20),
            ("IPv6", datagram(MAC_B, a6, b6, 64), 40),
            ("a chain of headers", frame(MAC_B, &ip(a6, b6, 64, DESTINATION, &long_chain)), 40),
            ("ARP", ethernet(MAC_ALL, MAC_A, ARP, &arp(1, (MAC_A, a), ([0; 6], STRANGERS[0]))), 1),
        ] {
            assert_ne!(loaded.ingress(&whole).0, SHOT, "{what}");
            for length in ETHERNET + least..whole.len() {
                loaded.assert_dropped(&whole[..length], DropReason::Malformed, &format!("{what}, {length} bytes"));
            }
        }
        assert_eq!((loaded.counters(a).tx_packets, loaded.counters(a6).tx_packets), (1, 2), "only what was whole");
    });
}

#[test]
fn a_header_that_lies_is_malformed() {
    loaded(|loaded| {
        let v4 = datagram(MAC_B, PODS[0][0], PODS[0][1], 64);
        let v6 = datagram(MAC_B, PODS[1][0], PODS[1][1], 64);
        let asked = ethernet(MAC_ALL, MAC_A, ARP, &arp(1, (MAC_A, PODS[0][0]), ([0; 6], STRANGERS[0])));
        for (what, frame, at, value) in [
            ("version 6", &v4, 0, 0x65),
            ("a header of 16 bytes", &v4, 0, 0x44),
            ("a header longer than the packet", &v4, 0, 0x4f),
            ("a packet longer than the frame", &v4, 3, 37),
            ("a packet shorter than its header", &v4, 3, 19),
            ("version 4", &v6, 0, 0x40),
            ("a payload longer than the frame", &v6, 5, 17),
            ("ARP for other hardware", &asked, 1, 6),
            ("ARP for another protocol", &asked, 2, 9),
            ("ARP with long hardware addresses", &asked, 4, 8),
            ("ARP with long protocol addresses", &asked, 5, 16),
        ] {
            let mut lying = frame.clone();
            lying[ETHERNET + at] = value;
            loaded.assert_dropped(&lying, DropReason::Malformed, what);
        }
        // RFC 791 and 894: short frames are padded, and the header tells where the packet ends.
        loaded.assert_direct(&[&v4[..], &[0; 20]].concat(), "padding");
        let mut padded = [&v4[..ETHERNET + 20], &v4[ETHERNET + 20..], &[0; 20]].concat();
        padded[ETHERNET + 3] = 20;
        loaded.assert_stack(&padded, "ports in the padding are none");
    });
}

#[test]
fn who_has_no_address_may_ask_for_one() {
    loaded(|loaded| {
        let [nobody, nobody6] = NOBODY;
        let all = IpAddr::V4(Ipv4Addr::BROADCAST);
        let dhcp = |source, destination, ports: [u16; 2]| {
            frame(MAC_ALL, &ip(source, destination, 64, UDP, &udp(ports[0], ports[1])))
        };
        loaded.assert_stack(&dhcp(nobody, all, [68, 67]), "RFC 2131");
        loaded.assert_dropped(&dhcp(nobody, all, [67, 68]), DropReason::IpSource, "a server");
        loaded.assert_dropped(&dhcp(nobody, all, [68, 69]), DropReason::IpSource, "another port");

        let from_nobody = |to, kind, body: &[u8]| frame(MAC_ALL, &nd(nobody6, to, [kind, 0, 0, 0, 0, 0, 0, 0], body));
        let target = octets(PODS[1][0]);
        loaded.assert_stack(&from_nobody(SOLICITED_A, 135, &target), "is there a duplicate? RFC 4862");
        loaded.assert_dropped(&from_nobody(PODS[1][1], 135, &target), DropReason::IpSource, "asked of one");
        loaded.assert_dropped(&from_nobody(ALL_NODES, 128, &[]), DropReason::IpSource, "an echo request");
        for kind in [131, 132, 143] {
            loaded.assert_stack(&from_nobody(ALL_NODES, kind, &[0; 16]), "a listener");
        }
        loaded.assert_dropped(&from_nobody(ALL_NODES, 130, &[0; 16]), DropReason::IpSource, "who listens?");
        // RFC 3810, section 5: with the option that alerts routers.
        let mut report = nd(nobody6, ALL_NODES, [143, 0, 0, 0, 0, 0, 0, 0], &[]);
        report.splice(40..40, [ICMPV6, 0, 5, 2, 0, 0, 1, 0]);
        (report[5], report[6]) = (16, HOP_BY_HOP);
        loaded.assert_stack(&frame(MAC_ALL, &report), "a listener, with an alert");
    });
}

#[test]
fn arp_is_the_senders_own() {
    loaded(|loaded| {
        let [a, b] = PODS[0];
        let say = |operation, mac, address, target| {
            ethernet(MAC_ALL, MAC_A, ARP, &arp(operation, (mac, address), ([0; 6], target)))
        };
        loaded.assert_stack(&say(1, MAC_A, a, STRANGERS[0]), "a request");
        loaded.assert_stack(&say(2, MAC_A, a, b), "a reply");
        loaded.assert_stack(&say(1, MAC_A, a, a), "an announcement: RFC 5227");
        loaded.assert_stack(&say(1, MAC_A, NOBODY[0], a), "a probe: RFC 5227");
        for (what, claim) in [
            ("another's address", say(1, MAC_A, b, STRANGERS[0])),
            ("another's address, announced", say(2, MAC_A, b, b)),
            ("the gateway's address", say(2, MAC_A, GATEWAY[0], a)),
            ("another's address, in a request that is answered here", say(1, MAC_A, b, GATEWAY[0])),
            ("a stranger's address, in a reply", say(2, MAC_A, STRANGERS[0], b)),
            ("a stranger's address, announced", say(1, MAC_A, STRANGERS[0], STRANGERS[0])),
            ("another's MAC", say(2, MAC_B, a, b)),
            ("nobody's address, in a reply", say(2, MAC_A, NOBODY[0], b)),
        ] {
            loaded.assert_dropped(&claim, DropReason::ArpSender, what);
        }
    });
}

#[test]
fn neighbour_discovery_is_the_senders_own() {
    loaded(|loaded| {
        let [a, b] = PODS[1];
        let say = |kind, body: &[Vec<u8>]| {
            let packet = nd(a, ALL_NODES, [kind, 0, 0, 0, 0x20, 0, 0, 0], &body.concat());
            ethernet(MAC_ALL, MAC_A, IPV6, &packet)
        };
        let (own, other) = (octets(a).to_vec(), octets(b).to_vec());
        let stranger = octets(STRANGERS[1]).to_vec();
        let nonce = vec![14, 1, 1, 2, 3, 4, 5, 6];
        for (what, said) in [
            ("an advertisement", say(136, &[own.clone(), mac_option(2, MAC_A)])),
            ("an advertisement without options", say(136, std::slice::from_ref(&own))),
            ("a question", say(135, &[stranger.clone(), mac_option(1, MAC_A), nonce.clone()])),
            ("a router is looked for", say(133, &[mac_option(1, MAC_A)])),
        ] {
            loaded.assert_stack(&said, what);
        }
        for (what, said) in [
            ("another's address", say(136, &[other, mac_option(2, MAC_A)])),
            ("a stranger's address", say(136, std::slice::from_ref(&stranger))),
            ("another's MAC", say(136, &[own.clone(), mac_option(2, MAC_B)])),
            ("another's MAC behind its own", say(136, &[own.clone(), mac_option(2, MAC_A), mac_option(2, MAC_B)])),
            ("another's MAC as the asker's", say(135, &[stranger, nonce.clone(), mac_option(1, MAC_B)])),
            ("another's MAC as that of who needs a router", say(133, &[mac_option(1, MAC_B)])),
        ] {
            loaded.assert_dropped(&said, DropReason::NdOwner, what);
        }
        for (what, said) in [
            ("an option of no length", say(136, &[own.clone(), vec![2, 0, 0, 0, 0, 0, 0, 0]])),
            ("an option cut short", say(136, &[own.clone(), vec![2, 1, 0, 0]])),
            ("a target cut short", say(136, &[own[..8].to_vec()])),
        ] {
            loaded.assert_dropped(&said, DropReason::Malformed, what);
        }
        let many = |count| [vec![own.clone()], vec![nonce.clone(); count]].concat();
        loaded.assert_stack(&say(136, &many(6)), "as many options as are looked through");
        loaded.assert_dropped(&say(136, &many(7)), DropReason::Extensions, "one more");
    });
}

#[test]
fn a_pod_is_no_router() {
    loaded(|loaded| {
        let ([a, b], [a6, _]) = (PODS[0], PODS[1]);
        let icmp = |kind| frame(MAC_B, &ip(a, b, 64, ICMP, &[kind, 0, 0, 0, 0, 0, 0, 0]));
        loaded.assert_dropped(&icmp(5), DropReason::Router, "a redirect");
        loaded.assert_dropped(&icmp(9), DropReason::Router, "RFC 1256");
        for kind in [134, 137] {
            let message = nd(a6, ALL_NODES, [kind, 0, 0, 0, 0, 0, 0, 0], &[0; 32]);
            let hidden = |headers: &[u8]| {
                let nexts = headers[1..].iter().chain(&[ICMPV6]);
                let chain: Vec<_> =
                    headers.iter().zip(nexts).flat_map(|(kind, next)| extension(*kind, *next)).collect();
                frame(MAC_ALL, &ip(a6, ALL_NODES, 255, headers[0], &[&chain[..], &message[40..]].concat()))
            };
            loaded.assert_dropped(&frame(MAC_ALL, &message), DropReason::Router, "RFC 4861");
            for headers in [&[DESTINATION][..], &[HOP_BY_HOP, AH], &[ROUTING], &[FRAGMENT], &[DESTINATION; 7]] {
                loaded.assert_dropped(&hidden(headers), DropReason::Router, &format!("behind {headers:?}"));
            }
            loaded.assert_dropped(&hidden(&[DESTINATION; 8]), DropReason::Extensions, "behind too many headers");
        }
    });
}

/// RFC 1191, 4443, 8201: who is told that a packet was too big, believes it of all that it sends there.
#[test]
fn a_pod_complains_of_no_packet_that_was_for_others() {
    loaded(|loaded| {
        for (family, [a, b]) in PODS.into_iter().enumerate() {
            for kind in if a.is_ipv4() { [3, 11, 12] } else { [1, 2, 3] } {
                let error = |about: &[u8]| {
                    let message = [&[kind, 4, 0, 0, 0, 0, 5, 0][..], about].concat();
                    frame(MAC_B, &ip(a, b, 64, icmp_of(a), &message))
                };
                for other in [b, GATEWAY[family], STRANGERS[family]] {
                    let question = udp(1000, 53);
                    let about = ip(b, other, 64, UDP, &question);
                    let header = &about[..about.len() - question.len()];
                    loaded.assert_dropped(&error(&about), DropReason::Router, &format!("type {kind}, for {other}"));
                    loaded.assert_dropped(&error(header), DropReason::Router, "the header alone");
                    loaded.assert_stack(&error(&header[..header.len() - 1]), "cut: it says nothing");
                }
                loaded.assert_direct(&error(&ip(b, a, 64, UDP, &udp(1000, 53))), "for itself");
            }
        }
    });
}

/// RFC 7112: the first fragment must hold all headers; RFC 6980: no neighbour discovery in fragments.
#[test]
fn a_message_that_begins_in_the_second_fragment_is_dropped_with_the_first() {
    loaded(|loaded| {
        let [a, b] = PODS[1];
        let mut first = [extension(FRAGMENT, DESTINATION), extension(DESTINATION, ICMPV6)].concat();
        first[3] = 1;
        let split = |payload: &[u8]| frame(MAC_B, &ip(a, b, 255, FRAGMENT, payload));
        loaded.assert_dropped(&split(&first), DropReason::Malformed, "all of it in the second");
        let some = [&first[..], &[128, 0, 0, 0]].concat();
        loaded.assert_dropped(&split(&some), DropReason::Malformed, "most of it in the second");
        let whole = [&first[..], &echo(a, true, 7)].concat();
        loaded.assert_stack(&split(&whole), "an echo request");
        let mut second = extension(FRAGMENT, DESTINATION);
        second[3] = 0x10;
        loaded.assert_stack(&split(&[second, vec![0; 16]].concat()), "what follows it");
        let mut second = extension(FRAGMENT, ICMPV6);
        second[3] = 0x10;
        loaded.assert_stack(&split(&[second, vec![134; 16]].concat()), "what follows it, of ICMPv6 at once");
    });
}

/// Linux asks in the name of the address that it sends from: one that the pod gave itself, say, for containers inside. RFC
/// 826 has all who hear a request note its sender, and RFC 5227 has nobody note that of a probe.
#[test]
fn a_request_in_a_foreign_name_is_answered_and_tells_nobody_that_name() {
    loaded(|loaded| {
        let b = PODS[0][1];
        let inner: IpAddr = Ipv4Addr::new(172, 17, 0, 1).into();
        let other: IpAddr = Ipv4Addr::new(192, 0, 2, 7).into();
        let ask = |sender, target| ethernet(MAC_ALL, MAC_A, ARP, &arp(1, (MAC_A, sender), ([0; 6], target)));
        let before = loaded.drops();
        let answer = ethernet(MAC_A, MAC_B, ARP, &arp(2, (MAC_B, b), (MAC_A, inner)));
        assert_eq!(loaded.ingress(&ask(inner, b)), (REDIRECT, answer), "about a pod: the asker alone is answered");
        assert_eq!(loaded.ingress(&ask(inner, GATEWAY[0])), (REDIRECT, ask(NOBODY[0], GATEWAY[0])), "the gateway");
        assert_eq!(loaded.ingress(&ask(inner, other)), (UNSPEC, ask(NOBODY[0], other)), "a machine beyond the bridge");
        assert_eq!(loaded.drops(), before);
        let with_others_mac = ethernet(MAC_ALL, MAC_A, ARP, &arp(1, (MAC_B, inner), ([0; 6], other)));
        loaded.assert_dropped(&with_others_mac, DropReason::ArpSender, "another's MAC");
    });
}

/// IEEE 802.1D, 7.7.1: a bridge forwards a frame by every port but the one that it came in by. A hairpin port gives that up
/// for unicast alone.
#[test]
fn a_port_is_not_sent_its_own_broadcasts() {
    loaded(|loaded| {
        if !loaded.takes_origins() {
            return cnikit_testbed::skipped("the kernel takes no ingress_ifindex for BPF_PROG_TEST_RUN");
        }
        let probe = nd(NOBODY[1], SOLICITED_A, [135, 0, 0, 0, 0, 0, 0, 0], &octets(PODS[1][0]));
        let group = [0x33, 0x33, 0xff, 0, 0, 2];
        let question = arp(1, (MAC_THIRD, PODS[0][0]), ([0; 6], STRANGERS[0]));
        let mut dropped = 0;
        for guard in [true, false] {
            loaded.configure(|config| config.spoof_check = guard);
            for (what, own) in [
                ("of its own MAC", ethernet(group, MAC_A, IPV6, &probe)),
                ("of a machine behind a bridge in the pod", ethernet(MAC_ALL, MAC_THIRD, ARP, &question)),
                ("with an ethertype that nobody knows", ethernet(MAC_ALL, MAC_A, 0x88b5, &[0; 46])),
                ("malformed", ethernet(MAC_ALL, MAC_A, IPV4, &[0; 46])),
            ] {
                assert_eq!(loaded.egress_from(PORT, &own).0, SHOT, "{what}, guard {guard}");
                dropped += 1;
                assert_eq!(loaded.drops().of(DropReason::Reflected), dropped, "{what}");
                for origin in [0, OTHER_PORT, BRIDGE] {
                    assert_eq!(loaded.egress_from(origin, &own), (UNSPEC, own.clone()), "{what}, from {origin}");
                }
            }
            let [a, _] = PODS[0];
            for to in [MAC_A, MAC_THIRD] {
                let hairpin = ethernet(to, MAC_A, IPV4, &ip(a, a, 64, UDP, &udp(1, 2)));
                assert_eq!(loaded.egress_from(PORT, &hairpin), (UNSPEC, hairpin.clone()), "unicast to {to:?}");
            }
        }
        assert_eq!(loaded.links.drops(PORT).unwrap().unwrap(), loaded.drops());
    });
}

/// RFC 1122, section 3.3.4.2: a host of the weak model sends from any of its addresses by any of its interfaces.
#[test]
fn a_port_may_send_from_the_addresses_of_the_pods_other_ports() {
    loaded(|loaded| {
        for (family, [a, b]) in PODS.into_iter().enumerate() {
            let (second, elsewhere) = (SECOND[family], ELSEWHERE[family]);
            loaded.assert_direct(&datagram(MAC_B, second, b, 64), "of a port of the network");
            // The answer is routed by the host, which sees both directions then.
            loaded.assert_stack(&datagram(MAC_B, elsewhere, b, 64), "of a port of another network");
            let error = |about: IpAddr| {
                let quote = ip(b, about, 64, UDP, &udp(1000, 53));
                frame(MAC_B, &ip(a, b, 64, icmp_of(a), &unreachable(&quote)))
            };
            for about in [second, elsewhere] {
                assert_ne!(loaded.ingress(&error(about)).0, SHOT, "an error about a packet for {about}");
            }
            loaded.shared.remove(PORT, second).unwrap();
            loaded.shared.remove(PORT, elsewhere).unwrap();
            for source in [second, elsewhere] {
                loaded.assert_dropped(&datagram(MAC_B, source, b, 64), DropReason::IpSource, &source.to_string());
                loaded.assert_dropped(&error(source), DropReason::Router, &source.to_string());
            }
            // Entries of another port, and of the other family's address with the same octets, are of no use here.
            loaded.shared.insert(OTHER_PORT, elsewhere, PORT_ELSEWHERE).unwrap();
            if let IpAddr::V4(v4) = elsewhere {
                let [w, x, y, z] = v4.octets().map(u16::from);
                let other_family = Ipv6Addr::new(w << 8 | x, y << 8 | z, 0, 0, 0, 0, 0, 0);
                loaded.shared.insert(PORT, other_family.into(), PORT_ELSEWHERE).unwrap();
            }
            loaded.assert_dropped(&datagram(MAC_B, elsewhere, b, 64), DropReason::IpSource, "of another pod");
        }
        let say =
            |operation, sender| ethernet(MAC_ALL, MAC_A, ARP, &arp(operation, (MAC_A, sender), ([0; 6], STRANGERS[0])));
        loaded.assert_dropped(&say(2, SECOND[0]), DropReason::ArpSender, "a reply");
        loaded.shared.insert(PORT, SECOND[0], SECOND_PORT).unwrap();
        for operation in [1, 2] {
            loaded.assert_stack(&say(operation, SECOND[0]), "ARP in the name of another address of the pod");
        }
    });
}

/// Networks may have the same addresses: a pod's address of another network is not its own where another pod, or the node,
/// has that number.
#[test]
fn an_address_of_another_network_is_no_right_to_the_address_of_another_pod() {
    loaded(|loaded| {
        for ([a, b], gateway) in PODS.into_iter().zip(GATEWAY) {
            for address in [b, gateway] {
                loaded.shared.insert(PORT, address, PORT_ELSEWHERE).unwrap();
                loaded.assert_dropped(
                    &datagram(MAC_GATEWAY, address, a, 64),
                    DropReason::IpSource,
                    &address.to_string(),
                );
            }
        }
        let claim = ethernet(MAC_ALL, MAC_A, ARP, &arp(2, (MAC_A, GATEWAY[0]), ([0; 6], PODS[0][1])));
        loaded.assert_dropped(&claim, DropReason::ArpSender, "a reply for the gateway");
        let claim = frame(MAC_ALL, &nd(PODS[1][0], ALL_NODES, [136, 0, 0, 0, 0, 0, 0, 0], &octets(GATEWAY[1])));
        loaded.assert_dropped(&claim, DropReason::NdOwner, "an advertisement of the gateway");
    });
}

/// The entries of IPv4 addresses are IPv4-mapped.
#[test]
fn an_ipv4_address_of_another_port_is_no_right_to_the_mapped_ipv6_address() {
    loaded(|loaded| {
        let IpAddr::V4(elsewhere) = ELSEWHERE[0] else { unreachable!("the first family") };
        let mapped = datagram(MAC_B, elsewhere.to_ipv6_mapped().into(), PODS[1][1], 64);
        loaded.assert_dropped(&mapped, DropReason::IpSource, "mapped");
    });
}

#[test]
fn nothing_is_dropped_without_the_guard_or_at_a_port_that_is_nobodys() {
    let [[a, b], [a6, b6]] = PODS;
    let v4 = datagram(MAC_B, STRANGERS[0], b, 64);
    let frames = [
        ("malformed", v4[..ETHERNET + 22].to_vec()),
        ("tagged", [&v4[..12], &[0x81, 0, 0, 5], &v4[12..]].concat()),
        ("another's MAC", ethernet(MAC_GATEWAY, MAC_THIRD, IPV4, &ip(a, STRANGERS[0], 64, UDP, &udp(1, 2)))),
        ("another's address", frame(MAC_GATEWAY, &ip(b6, STRANGERS[1], 64, UDP, &udp(1, 2)))),
        ("another's ARP", ethernet(MAC_ALL, MAC_A, ARP, &arp(2, (MAC_B, b), ([0; 6], a)))),
        ("another's address, advertised", frame(MAC_ALL, &nd(a6, ALL_NODES, [136, 0, 0, 0, 0, 0, 0, 0], &octets(b6)))),
        ("a router", frame(MAC_ALL, &nd(a6, ALL_NODES, [134, 0, 0, 0, 0, 0, 0, 0], &[]))),
    ];
    loaded(|loaded| {
        loaded.configure(|config| config.spoof_check = false);
        frames.iter().for_each(|(what, frame)| loaded.assert_stack(frame, what));
        // Its answer could not be direct.
        loaded.assert_stack(&v4, "a stranger's");
        assert_eq!(loaded.drops(), Drops::default());

        loaded.configure(|_| ());
        for (what, frame) in &frames {
            assert_eq!(loaded.ingress(frame).0, SHOT, "{what}");
        }
        loaded.links.remove(PORT).unwrap();
        frames.iter().for_each(|(what, frame)| loaded.assert_stack(frame, what));
        assert_eq!(loaded.drops().total(), frames.len() as u64);
        assert_eq!(loaded.links.drops(PORT).unwrap(), None);
        assert_eq!(loaded.links.drops(OTHER_PORT).unwrap(), Some(Drops::default()));
    });
}
