//! The spoof check: which packets a port may send, and the drop reason of all others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::frames::*;
use super::{BRIDGE, OTHER_PORT, PORT, PORT_ELSEWHERE, REDIRECT, SECOND_PORT, SHOT, UNSPEC, index, loaded};
use crate::datapath::{DropReason, Drops, PodCounters};
use crate::spec::MacAddr;

const UNSPECIFIED: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
const ALL_NODES: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
/// The solicited-node address of pod A: RFC 4291, section 2.7.1.
const SOLICITED_A: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 2));

#[test]
fn packets_from_foreign_addresses_are_dropped_and_not_counted() {
    loaded(|loaded| {
        for (family, [a, b]) in PODS.into_iter().enumerate() {
            for spoofed in [b, GATEWAY[family], EXTERNAL[family], UNSPECIFIED[family]] {
                let sent = datagram(MAC_B, spoofed, b, 64);
                loaded.assert_dropped(&sent, DropReason::IpSource, &spoofed.to_string());
            }
            assert_eq!(loaded.counters(b), PodCounters::default());
            loaded.assert_direct(&datagram(MAC_B, a, b, 64), "own address");
        }
        let link_local = MacAddr::new(MAC_A).link_local().into();
        let other = MacAddr::new(MAC_B).link_local().into();
        loaded.assert_direct(&datagram(MAC_B, link_local, other, 64), "own link-local address");
        loaded.assert_dropped(
            &datagram(MAC_B, other, link_local, 64),
            DropReason::IpSource,
            "link-local address of another pod",
        );
    });
}

#[test]
fn frames_with_a_foreign_mac_are_dropped() {
    loaded(|loaded| {
        let [a, b] = PODS[0];
        let spanning_tree = [&[0, 38, 0x42, 0x42, 3][..], &[0; 35]].concat();
        for (what, mut sent) in [
            ("IPv4", datagram(MAC_B, a, b, 64)),
            ("IPv6", datagram(MAC_B, PODS[1][0], PODS[1][1], 64)),
            ("ARP", ethernet(MAC_ALL, MAC_A, ARP, &arp(1, (MAC_A, a), ([0; 6], EXTERNAL[0])))),
            ("an unassigned ethertype", ethernet(MAC_B, MAC_A, 0x88b5, &[0; 46])),
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
            loaded.assert_dropped(&tagged, DropReason::Vlan, "VLAN tag");
            let priority = [&plain[..12], &tag, &[0xe0, 0], &plain[12..]].concat();
            loaded.assert_dropped(&priority, DropReason::Vlan, "priority tag");
        }
    });
}

#[test]
fn truncated_frames_are_malformed_at_every_length() {
    loaded(|loaded| {
        let [[a, b], [a6, b6]] = PODS;
        let long_chain = [extension(DESTINATION, AH), extension(AH, UDP), udp(1, 2)].concat();
        // `BPF_PROG_TEST_RUN` needs at least an IP header. tests/datapath sends shorter frames.
        for (what, whole, minimum) in [
            ("IPv4", datagram(MAC_B, a, b, 64), 20),
            ("IPv6", datagram(MAC_B, a6, b6, 64), 40),
            ("a chain of headers", frame(MAC_B, &ip(a6, b6, 64, DESTINATION, &long_chain)), 40),
            ("ARP", ethernet(MAC_ALL, MAC_A, ARP, &arp(1, (MAC_A, a), ([0; 6], EXTERNAL[0]))), 1),
        ] {
            assert_ne!(loaded.ingress(&whole).0, SHOT, "{what}");
            for length in ETHERNET + minimum..whole.len() {
                loaded.assert_dropped(&whole[..length], DropReason::Malformed, &format!("{what}, {length} bytes"));
            }
        }
        assert_eq!((loaded.counters(a).tx_packets, loaded.counters(a6).tx_packets), (1, 2), "only complete packets");
    });
}

#[test]
fn inconsistent_headers_are_malformed() {
    loaded(|loaded| {
        let v4 = datagram(MAC_B, PODS[0][0], PODS[0][1], 64);
        let v6 = datagram(MAC_B, PODS[1][0], PODS[1][1], 64);
        let request = ethernet(MAC_ALL, MAC_A, ARP, &arp(1, (MAC_A, PODS[0][0]), ([0; 6], EXTERNAL[0])));
        for (what, frame, at, value) in [
            ("version 6", &v4, 0, 0x65),
            ("a header of 16 bytes", &v4, 0, 0x44),
            ("a header longer than the packet", &v4, 0, 0x4f),
            ("a packet longer than the frame", &v4, 3, 37),
            ("a packet shorter than its header", &v4, 3, 19),
            ("version 4", &v6, 0, 0x40),
            ("a payload longer than the frame", &v6, 5, 17),
            ("ARP for other hardware", &request, 1, 6),
            ("ARP for another protocol", &request, 2, 9),
            ("ARP with long hardware addresses", &request, 4, 8),
            ("ARP with long protocol addresses", &request, 5, 16),
        ] {
            let mut inconsistent = frame.clone();
            inconsistent[ETHERNET + at] = value;
            loaded.assert_dropped(&inconsistent, DropReason::Malformed, what);
        }
        // RFC 791 and 894: short frames are padded, and the length in the header ends the packet.
        loaded.assert_direct(&[&v4[..], &[0; 20]].concat(), "padding");
        let mut padded = [&v4[..ETHERNET + 20], &v4[ETHERNET + 20..], &[0; 20]].concat();
        padded[ETHERNET + 3] = 20;
        loaded.assert_stack(&padded, "padding contains no ports");
    });
}

#[test]
fn address_configuration_from_the_unspecified_address_passes() {
    loaded(|loaded| {
        let [unspecified, unspecified6] = UNSPECIFIED;
        let all = IpAddr::V4(Ipv4Addr::BROADCAST);
        let dhcp = |source, destination, ports: [u16; 2]| {
            frame(MAC_ALL, &ip(source, destination, 64, UDP, &udp(ports[0], ports[1])))
        };
        loaded.assert_stack(&dhcp(unspecified, all, [68, 67]), "DHCP client: RFC 2131");
        loaded.assert_dropped(&dhcp(unspecified, all, [67, 68]), DropReason::IpSource, "DHCP server");
        loaded.assert_dropped(&dhcp(unspecified, all, [68, 69]), DropReason::IpSource, "another port");

        let from_unspecified =
            |to, kind, body: &[u8]| frame(MAC_ALL, &nd(unspecified6, to, [kind, 0, 0, 0, 0, 0, 0, 0], body));
        let target = octets(PODS[1][0]);
        loaded.assert_stack(&from_unspecified(SOLICITED_A, 135, &target), "duplicate address detection: RFC 4862");
        loaded.assert_dropped(
            &from_unspecified(PODS[1][1], 135, &target),
            DropReason::IpSource,
            "to a unicast address",
        );
        loaded.assert_dropped(&from_unspecified(ALL_NODES, 128, &[]), DropReason::IpSource, "an echo request");
        for kind in [131, 132, 143] {
            loaded.assert_stack(&from_unspecified(ALL_NODES, kind, &[0; 16]), "listener report");
        }
        loaded.assert_dropped(&from_unspecified(ALL_NODES, 130, &[0; 16]), DropReason::IpSource, "listener query");
        // RFC 3810, section 5: with the router alert option.
        let mut report = nd(unspecified6, ALL_NODES, [143, 0, 0, 0, 0, 0, 0, 0], &[]);
        report.splice(40..40, [ICMPV6, 0, 5, 2, 0, 0, 1, 0]);
        (report[5], report[6]) = (16, HOP_BY_HOP);
        loaded.assert_stack(&frame(MAC_ALL, &report), "listener report with router alert");
    });
}

#[test]
fn arp_senders_must_be_the_pod_itself() {
    loaded(|loaded| {
        let [a, b] = PODS[0];
        let send = |operation, mac, address, target| {
            ethernet(MAC_ALL, MAC_A, ARP, &arp(operation, (mac, address), ([0; 6], target)))
        };
        loaded.assert_stack(&send(1, MAC_A, a, EXTERNAL[0]), "a request");
        loaded.assert_stack(&send(2, MAC_A, a, b), "a reply");
        loaded.assert_stack(&send(1, MAC_A, a, a), "an announcement: RFC 5227");
        loaded.assert_stack(&send(1, MAC_A, UNSPECIFIED[0], a), "a probe: RFC 5227");
        for (what, claim) in [
            ("address of another pod", send(1, MAC_A, b, EXTERNAL[0])),
            ("address of another pod, announced", send(2, MAC_A, b, b)),
            ("the gateway's address", send(2, MAC_A, GATEWAY[0], a)),
            ("address of another pod, in a request that the program answers", send(1, MAC_A, b, GATEWAY[0])),
            ("external address, in a reply", send(2, MAC_A, EXTERNAL[0], b)),
            ("external address, announced", send(1, MAC_A, EXTERNAL[0], EXTERNAL[0])),
            ("MAC of another pod", send(2, MAC_B, a, b)),
            ("unspecified address, in a reply", send(2, MAC_A, UNSPECIFIED[0], b)),
        ] {
            loaded.assert_dropped(&claim, DropReason::ArpSender, what);
        }
    });
}

#[test]
fn neighbor_discovery_must_name_the_pod_itself() {
    loaded(|loaded| {
        let [a, b] = PODS[1];
        let send = |kind, body: &[Vec<u8>]| {
            let packet = nd(a, ALL_NODES, [kind, 0, 0, 0, 0x20, 0, 0, 0], &body.concat());
            ethernet(MAC_ALL, MAC_A, IPV6, &packet)
        };
        let (own, other) = (octets(a).to_vec(), octets(b).to_vec());
        let stranger = octets(EXTERNAL[1]).to_vec();
        let nonce = vec![14, 1, 1, 2, 3, 4, 5, 6];
        for (what, sent) in [
            ("an advertisement", send(136, &[own.clone(), mac_option(2, MAC_A)])),
            ("an advertisement without options", send(136, std::slice::from_ref(&own))),
            ("a solicitation", send(135, &[stranger.clone(), mac_option(1, MAC_A), nonce.clone()])),
            ("a router solicitation", send(133, &[mac_option(1, MAC_A)])),
        ] {
            loaded.assert_stack(&sent, what);
        }
        for (what, sent) in [
            ("address of another pod", send(136, &[other, mac_option(2, MAC_A)])),
            ("an external address", send(136, std::slice::from_ref(&stranger))),
            ("MAC of another pod", send(136, &[own.clone(), mac_option(2, MAC_B)])),
            (
                "MAC of another pod behind its own MAC",
                send(136, &[own.clone(), mac_option(2, MAC_A), mac_option(2, MAC_B)]),
            ),
            ("MAC of another pod in a solicitation", send(135, &[stranger, nonce.clone(), mac_option(1, MAC_B)])),
            ("MAC of another pod in a router solicitation", send(133, &[mac_option(1, MAC_B)])),
        ] {
            loaded.assert_dropped(&sent, DropReason::NdOwner, what);
        }
        for (what, sent) in [
            ("an option of length 0", send(136, &[own.clone(), vec![2, 0, 0, 0, 0, 0, 0, 0]])),
            ("a truncated option", send(136, &[own.clone(), vec![2, 1, 0, 0]])),
            ("a truncated target", send(136, &[own[..8].to_vec()])),
        ] {
            loaded.assert_dropped(&sent, DropReason::Malformed, what);
        }
        let many = |count| [vec![own.clone()], vec![nonce.clone(); count]].concat();
        loaded.assert_stack(&send(136, &many(6)), "the maximum number of options");
        loaded.assert_dropped(&send(136, &many(7)), DropReason::Extensions, "one more");
    });
}

#[test]
fn router_messages_of_pods_are_dropped() {
    loaded(|loaded| {
        let ([a, b], [a6, _]) = (PODS[0], PODS[1]);
        let icmp = |kind| frame(MAC_B, &ip(a, b, 64, ICMP, &[kind, 0, 0, 0, 0, 0, 0, 0]));
        loaded.assert_dropped(&icmp(5), DropReason::Router, "a redirect");
        loaded.assert_dropped(&icmp(9), DropReason::Router, "router advertisement: RFC 1256");
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

/// RFC 1191, 4443, 8201: a host that receives a packet-too-big message lowers the path MTU for all
/// packets to that destination.
#[test]
fn icmp_errors_may_quote_only_packets_to_the_pod() {
    loaded(|loaded| {
        for (family, [a, b]) in PODS.into_iter().enumerate() {
            for kind in if a.is_ipv4() { [3, 11, 12] } else { [1, 2, 3] } {
                let error = |quoted: &[u8]| {
                    let message = [&[kind, 4, 0, 0, 0, 0, 5, 0][..], quoted].concat();
                    frame(MAC_B, &ip(a, b, 64, icmp_of(a), &message))
                };
                for other in [b, GATEWAY[family], EXTERNAL[family]] {
                    let question = udp(1000, 53);
                    let quoted = ip(b, other, 64, UDP, &question);
                    let header = &quoted[..quoted.len() - question.len()];
                    loaded.assert_dropped(
                        &error(&quoted),
                        DropReason::Router,
                        &format!("type {kind}, quotes a packet to {other}"),
                    );
                    loaded.assert_dropped(&error(header), DropReason::Router, "the header alone");
                    loaded.assert_stack(&error(&header[..header.len() - 1]), "truncated header");
                }
                loaded.assert_direct(&error(&ip(b, a, 64, UDP, &udp(1000, 53))), "quotes a packet to the pod itself");
            }
        }
    });
}

/// RFC 7112: the first fragment must contain all headers. RFC 6980: no neighbor discovery in
/// fragments.
#[test]
fn first_fragments_without_the_icmp_header_are_dropped() {
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
        loaded.assert_stack(&split(&[second, vec![0; 16]].concat()), "a later fragment");
        let mut second = extension(FRAGMENT, ICMPV6);
        second[3] = 0x10;
        loaded.assert_stack(&split(&[second, vec![134; 16]].concat()), "a later fragment of ICMPv6");
    });
}

/// Linux uses the source address of the packet as sender of the ARP request. This can be an address
/// that the pod configured itself, for example for containers inside the pod. RFC 826: receivers of
/// a request cache its sender. RFC 5227: receivers of a probe cache nothing.
#[test]
fn requests_with_a_foreign_sender_are_answered_or_become_probes() {
    loaded(|loaded| {
        let b = PODS[0][1];
        let inner: IpAddr = Ipv4Addr::new(172, 17, 0, 1).into();
        let other: IpAddr = Ipv4Addr::new(192, 0, 2, 7).into();
        let request = |sender, target| ethernet(MAC_ALL, MAC_A, ARP, &arp(1, (MAC_A, sender), ([0; 6], target)));
        let before = loaded.drops();
        let answer = ethernet(MAC_A, MAC_B, ARP, &arp(2, (MAC_B, b), (MAC_A, inner)));
        assert_eq!(loaded.ingress(&request(inner, b)), (REDIRECT, answer), "for a pod: answered to the sender only");
        assert_eq!(
            loaded.ingress(&request(inner, GATEWAY[0])),
            (REDIRECT, request(UNSPECIFIED[0], GATEWAY[0])),
            "the gateway"
        );
        assert_eq!(
            loaded.ingress(&request(inner, other)),
            (UNSPEC, request(UNSPECIFIED[0], other)),
            "a host behind the bridge"
        );
        assert_eq!(loaded.drops(), before);
        let with_others_mac = ethernet(MAC_ALL, MAC_A, ARP, &arp(1, (MAC_B, inner), ([0; 6], other)));
        loaded.assert_dropped(&with_others_mac, DropReason::ArpSender, "MAC of another pod");
    });
}

/// IEEE 802.1D, 7.7.1: a bridge never forwards a frame to the port of its arrival. A hairpin port
/// makes an exception for unicast only.
#[test]
fn broadcasts_are_not_reflected_to_their_port() {
    loaded(|loaded| {
        if !loaded.takes_origins() {
            return cnikit_testbed::skipped("the kernel takes no ingress_ifindex for BPF_PROG_TEST_RUN");
        }
        let probe = nd(UNSPECIFIED[1], SOLICITED_A, [135, 0, 0, 0, 0, 0, 0, 0], &octets(PODS[1][0]));
        let group = [0x33, 0x33, 0xff, 0, 0, 2];
        let request = arp(1, (MAC_THIRD, PODS[0][0]), ([0; 6], EXTERNAL[0]));
        let mut dropped = 0;
        for guard in [true, false] {
            loaded.configure(|config| config.spoof_check = guard);
            for (what, own) in [
                ("from its own MAC", ethernet(group, MAC_A, IPV6, &probe)),
                ("from a machine behind a bridge in the pod", ethernet(MAC_ALL, MAC_THIRD, ARP, &request)),
                ("with an unassigned ethertype", ethernet(MAC_ALL, MAC_A, 0x88b5, &[0; 46])),
                ("malformed", ethernet(MAC_ALL, MAC_A, IPV4, &[0; 46])),
            ] {
                assert_eq!(loaded.egress_from(PORT, &own).0, SHOT, "{what}, spoof check {guard}");
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
        assert_eq!(loaded.links.drops(index(PORT)).unwrap().unwrap(), loaded.drops());
    });
}

/// RFC 1122, section 3.3.4.2: with the weak host model, a host sends from any of its addresses
/// through any of its interfaces.
#[test]
fn ports_may_send_from_addresses_of_other_ports_of_the_pod() {
    loaded(|loaded| {
        for (family, [a, b]) in PODS.into_iter().enumerate() {
            let (second, elsewhere) = (SECOND[family], ELSEWHERE[family]);
            loaded.assert_direct(&datagram(MAC_B, second, b, 64), "from a port in the network");
            // The host routes the answer, so the stack must see both directions.
            loaded.assert_stack(&datagram(MAC_B, elsewhere, b, 64), "from a port in another network");
            let error = |to: IpAddr| {
                let quote = ip(b, to, 64, UDP, &udp(1000, 53));
                frame(MAC_B, &ip(a, b, 64, icmp_of(a), &unreachable(&quote)))
            };
            for to in [second, elsewhere] {
                assert_ne!(loaded.ingress(&error(to)).0, SHOT, "an error that quotes a packet to {to}");
            }
            loaded.shared.remove(index(PORT), second).unwrap();
            loaded.shared.remove(index(PORT), elsewhere).unwrap();
            for source in [second, elsewhere] {
                loaded.assert_dropped(&datagram(MAC_B, source, b, 64), DropReason::IpSource, &source.to_string());
                loaded.assert_dropped(&error(source), DropReason::Router, &source.to_string());
            }
            // These entries must not match: another port, and an IPv6 address with the octets of
            // the IPv4 address.
            loaded.shared.insert(index(OTHER_PORT), elsewhere, index(PORT_ELSEWHERE)).unwrap();
            if let IpAddr::V4(v4) = elsewhere {
                let [w, x, y, z] = v4.octets().map(u16::from);
                let other_family = Ipv6Addr::new(w << 8 | x, y << 8 | z, 0, 0, 0, 0, 0, 0);
                loaded.shared.insert(index(PORT), other_family.into(), index(PORT_ELSEWHERE)).unwrap();
            }
            loaded.assert_dropped(&datagram(MAC_B, elsewhere, b, 64), DropReason::IpSource, "from another pod");
        }
        let send =
            |operation, sender| ethernet(MAC_ALL, MAC_A, ARP, &arp(operation, (MAC_A, sender), ([0; 6], EXTERNAL[0])));
        loaded.assert_dropped(&send(2, SECOND[0]), DropReason::ArpSender, "a reply");
        loaded.shared.insert(index(PORT), SECOND[0], index(SECOND_PORT)).unwrap();
        for operation in [1, 2] {
            loaded.assert_stack(&send(operation, SECOND[0]), "ARP with another address of the pod as sender");
        }
    });
}

/// Networks may use the same addresses. An address of the pod in another network must not permit
/// the same address of another pod, or of the node, in this network.
#[test]
fn shared_addresses_do_not_permit_addresses_of_other_pods() {
    loaded(|loaded| {
        for ([a, b], gateway) in PODS.into_iter().zip(GATEWAY) {
            for address in [b, gateway] {
                loaded.shared.insert(index(PORT), address, index(PORT_ELSEWHERE)).unwrap();
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
        loaded.assert_dropped(&claim, DropReason::NdOwner, "an advertisement for the gateway");
    });
}

/// `port_addresses` stores IPv4 addresses as IPv4-mapped IPv6 addresses.
#[test]
fn shared_ipv4_addresses_do_not_permit_mapped_ipv6_addresses() {
    loaded(|loaded| {
        let IpAddr::V4(elsewhere) = ELSEWHERE[0] else { unreachable!("the first family") };
        let mapped = datagram(MAC_B, elsewhere.to_ipv6_mapped().into(), PODS[1][1], 64);
        loaded.assert_dropped(&mapped, DropReason::IpSource, "mapped address");
    });
}

#[test]
fn nothing_is_dropped_without_the_spoof_check_or_a_port_entry() {
    let [[a, b], [a6, b6]] = PODS;
    let v4 = datagram(MAC_B, EXTERNAL[0], b, 64);
    let frames = [
        ("malformed", v4[..ETHERNET + 22].to_vec()),
        ("tagged", [&v4[..12], &[0x81, 0, 0, 5], &v4[12..]].concat()),
        ("MAC of another pod", ethernet(MAC_GATEWAY, MAC_THIRD, IPV4, &ip(a, EXTERNAL[0], 64, UDP, &udp(1, 2)))),
        ("address of another pod", frame(MAC_GATEWAY, &ip(b6, EXTERNAL[1], 64, UDP, &udp(1, 2)))),
        ("ARP for another pod", ethernet(MAC_ALL, MAC_A, ARP, &arp(2, (MAC_B, b), ([0; 6], a)))),
        ("advertisement for another pod", frame(MAC_ALL, &nd(a6, ALL_NODES, [136, 0, 0, 0, 0, 0, 0, 0], &octets(b6)))),
        ("a router", frame(MAC_ALL, &nd(a6, ALL_NODES, [134, 0, 0, 0, 0, 0, 0, 0], &[]))),
    ];
    loaded(|loaded| {
        loaded.configure(|config| config.spoof_check = false);
        frames.iter().for_each(|(what, frame)| loaded.assert_stack(frame, what));
        // The answer could not be forwarded directly.
        loaded.assert_stack(&v4, "external source address");
        assert_eq!(loaded.drops(), Drops::default());

        loaded.configure(|_| ());
        for (what, frame) in &frames {
            assert_eq!(loaded.ingress(frame).0, SHOT, "{what}");
        }
        loaded.links.remove(index(PORT)).unwrap();
        frames.iter().for_each(|(what, frame)| loaded.assert_stack(frame, what));
        assert_eq!(loaded.drops().total(), frames.len() as u64);
        assert_eq!(loaded.links.drops(index(PORT)).unwrap(), None);
        assert_eq!(loaded.links.drops(index(OTHER_PORT)).unwrap(), Some(Drops::default()));
    });
}
