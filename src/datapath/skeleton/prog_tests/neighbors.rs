//! ARP requests and neighbor solicitations, and the answers of the programs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::frames::*;
use super::{BRIDGE, PORT, REDIRECT, UNSPEC, index, loaded};

const UNSPECIFIED: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// An ARP request of pod A.
fn arp_request(to: [u8; 6], target: IpAddr) -> Vec<u8> {
    ethernet(to, MAC_A, ARP, &arp(1, (MAC_A, PODS[0][0]), ([0; 6], target)))
}

/// A neighbor solicitation of pod A, sent to the multicast group of RFC 4861 in a frame of RFC
/// 2464.
fn solicitation(target: IpAddr, options: &[u8]) -> Vec<u8> {
    let [.., x, y, z] = octets(target);
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(x), u16::from_be_bytes([y, z])).into();
    let body = [&octets(target)[..], options].concat();
    frame([0x33, 0x33, 0xff, x, y, z], &nd(PODS[1][0], group, [135, 0, 0, 0, 0, 0, 0, 0], &body))
}

/// The neighbor advertisement of `target` to pod A: RFC 4861, section 7.2.4.
fn advertisement(target: IpAddr, mac: [u8; 6], flags: u8) -> Vec<u8> {
    let body = [&octets(target)[..], &mac_option(2, mac)].concat();
    ethernet(MAC_A, mac, IPV6, &nd(target, PODS[1][0], [136, 0, 0, 0, flags, 0, 0, 0], &body))
}

#[test]
fn arp_requests_for_pods_are_answered() {
    loaded(|loaded| {
        let target = PODS[0][1];
        for to in [MAC_ALL, MAC_B] {
            let reply = ethernet(MAC_A, MAC_B, ARP, &arp(2, (MAC_B, target), (MAC_A, PODS[0][0])));
            assert_eq!(loaded.ingress(&arp_request(to, target)), (REDIRECT, reply), "{target}");
        }
        assert_eq!((loaded.stats().arp_answers, loaded.stats().nd_answers), (2, 0));
    });
}

/// The addresses and the MAC of the host can change at any time, so the host answers itself.
/// tests/datapath tests the answer.
#[test]
fn requests_for_the_gateway_reach_the_host() {
    loaded(|loaded| {
        for to in [MAC_ALL, MAC_GATEWAY] {
            let asked = arp_request(to, GATEWAY[0]);
            assert_eq!(loaded.ingress(&asked), (REDIRECT, asked.clone()));
        }
        let asked = solicitation(GATEWAY[1], &mac_option(1, MAC_A));
        assert_eq!(loaded.ingress(&asked), (REDIRECT, asked.clone()));
        assert_eq!((loaded.stats().arp_answers, loaded.stats().nd_answers), (0, 0));
    });
}

#[test]
fn other_arp_messages_go_to_the_stack() {
    loaded(|loaded| {
        let [a, b] = PODS[0];
        for (what, frame) in [
            ("an announcement", arp_request(MAC_ALL, a)),
            ("for an unknown address", arp_request(MAC_ALL, EXTERNAL[0])),
            ("a reply", ethernet(MAC_B, MAC_A, ARP, &arp(2, (MAC_A, a), (MAC_B, b)))),
            ("a probe", ethernet(MAC_ALL, MAC_A, ARP, &arp(1, (MAC_A, UNSPECIFIED), ([0; 6], b)))),
        ] {
            loaded.assert_stack(&frame, what);
        }
        assert_eq!(loaded.stats().arp_answers, 0);
    });
}

#[test]
fn solicitations_for_pods_are_answered() {
    loaded(|loaded| {
        // The flags solicited and override.
        let (target, mac, flags) = (PODS[1][1], MAC_B, 0x60);
        let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
        for options in [mac_option(1, MAC_A), [&mac_option(1, MAC_A)[..], &nonce].concat()] {
            let (verdict, answer) = loaded.ingress(&solicitation(target, &options));
            assert_eq!((verdict, &answer), (REDIRECT, &advertisement(target, mac, flags)), "{target}");
            assert_eq!(icmpv6_checksum(target, PODS[1][0], &answer[ETHERNET + 40..]), 0, "a valid checksum");
        }
        let body = [&octets(target)[..], &mac_option(1, MAC_A)].concat();
        let unicast = frame(mac, &nd(PODS[1][0], target, [135, 0, 0, 0, 0, 0, 0, 0], &body));
        assert_eq!(loaded.ingress(&unicast), (REDIRECT, advertisement(target, mac, flags)), "reachability check");
        assert_eq!((loaded.stats().arp_answers, loaded.stats().nd_answers), (0, 3));
    });
}

/// RFC 1071. The cases include a sum that folds to all ones, and a sum that carries twice.
#[test]
fn every_answer_has_a_valid_checksum() {
    loaded(|loaded| {
        for last in 0..=u16::MAX / 251 {
            let target =
                Ipv6Addr::new(0xfd00, 0xffff, 0xffff, last, !last, 0xffff, 0xff00, last.wrapping_mul(251)).into();
            loaded.place(target, 77, MAC_B);
            let (verdict, answer) = loaded.ingress(&solicitation(target, &mac_option(1, MAC_A)));
            assert_eq!(verdict, REDIRECT);
            assert_eq!(icmpv6_checksum(target, PODS[1][0], &answer[ETHERNET + 40..]), 0, "{target}");
            loaded.ports.remove(target).unwrap();
        }
    });
}

#[test]
fn other_solicitations_go_to_the_stack() {
    loaded(|loaded| {
        let [a, b] = PODS[1];
        let asked = solicitation(b, &mac_option(1, MAC_A));
        let group = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 3));
        let from_unspecified = nd(Ipv6Addr::UNSPECIFIED.into(), group, [135, 0, 0, 0, 0, 0, 0, 0], &octets(b));
        let mut forwarded = asked.clone();
        forwarded[ETHERNET + 7] = 254;
        let mut coded = asked.clone();
        coded[ETHERNET + 41] = 1;
        let mut extended = asked[ETHERNET..].to_vec();
        extended.splice(40..40, extension(DESTINATION, ICMPV6));
        (extended[5], extended[6]) = (40, DESTINATION);
        for (what, asked) in [
            ("for the sender itself", solicitation(a, &mac_option(1, MAC_A))),
            ("for an unknown address", solicitation(EXTERNAL[1], &mac_option(1, MAC_A))),
            ("without a MAC", solicitation(b, &[])),
            ("with a MAC that is not the first option", solicitation(b, &[14, 1, 1, 2, 3, 4, 5, 6])),
            ("from the unspecified address", frame([0x33, 0x33, 0xff, 0, 0, 3], &from_unspecified)),
            ("forwarded by a router", forwarded),
            ("with a code", coded),
            ("behind an extension header", frame(MAC_B, &extended)),
        ] {
            loaded.assert_stack(&asked, what);
        }
        assert_eq!(loaded.stats().nd_answers, 0);
    });
}

#[test]
fn requests_of_the_host_are_answered_at_the_bridge() {
    loaded(|loaded| {
        loaded.configure(|config| config.bridge_ifindex = Some(index(PORT)));
        for gateway in GATEWAY {
            loaded.place(gateway, PORT, MAC_A);
        }
        loaded.links.remove(index(PORT)).unwrap();

        // In this test, the port of pod A is the bridge, and the addresses of pod A belong to the
        // host.
        let reply = ethernet(MAC_A, MAC_B, ARP, &arp(2, (MAC_B, PODS[0][1]), (MAC_A, PODS[0][0])));
        assert_eq!(loaded.egress(&arp_request(MAC_ALL, PODS[0][1])), (REDIRECT, reply));
        let asked = solicitation(PODS[1][1], &mac_option(1, MAC_A));
        assert_eq!(loaded.egress(&asked), (REDIRECT, advertisement(PODS[1][1], MAC_B, 0x60)));

        let unknown = [arp_request(MAC_ALL, EXTERNAL[0]), solicitation(EXTERNAL[1], &mac_option(1, MAC_A))];
        for asked in unknown.iter().chain([&arp_request(MAC_ALL, GATEWAY[0])]) {
            assert_eq!(loaded.egress(asked), (UNSPEC, asked.clone()));
        }
        assert_eq!(
            loaded.ingress(&arp_request(MAC_ALL, PODS[0][1])).0,
            UNSPEC,
            "requests of pods are answered at their ports"
        );
    });
}

#[test]
fn requests_from_the_bridge_are_not_answered_at_a_port() {
    loaded(|loaded| {
        let asked = ethernet(MAC_ALL, MAC_GATEWAY, ARP, &arp(1, (MAC_GATEWAY, GATEWAY[0]), ([0; 6], PODS[0][1])));
        assert_ne!(BRIDGE, PORT);
        assert_eq!(loaded.egress(&asked), (UNSPEC, asked.clone()));
    });
}
