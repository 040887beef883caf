//! Who is asked, and who answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::frames::*;
use super::{BRIDGE, PORT, REDIRECT, UNSPEC, loaded};

const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// An ARP request of pod A's.
fn who_has(to: [u8; 6], target: IpAddr) -> Vec<u8> {
    ethernet(to, MAC_A, ARP, &arp(1, (MAC_A, PODS[0][0]), ([0; 6], target)))
}

/// A neighbour solicitation of pod A's, in the frame and to the group that RFC 4861 and 2464 say.
fn solicitation(target: IpAddr, options: &[u8]) -> Vec<u8> {
    let [.., x, y, z] = octets(target);
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(x), u16::from_be_bytes([y, z])).into();
    let body = [&octets(target)[..], options].concat();
    frame([0x33, 0x33, 0xff, x, y, z], &nd(PODS[1][0], group, [135, 0, 0, 0, 0, 0, 0, 0], &body))
}

/// What RFC 4861, section 7.2.4, has the owner of `target` answer to pod A.
fn advertisement(target: IpAddr, mac: [u8; 6], flags: u8) -> Vec<u8> {
    let body = [&octets(target)[..], &mac_option(2, mac)].concat();
    ethernet(MAC_A, mac, IPV6, &nd(target, PODS[1][0], [136, 0, 0, 0, flags, 0, 0, 0], &body))
}

#[test]
fn arp_requests_about_pods_are_answered() {
    loaded(|loaded| {
        let target = PODS[0][1];
        for to in [MAC_ALL, MAC_B] {
            let reply = ethernet(MAC_A, MAC_B, ARP, &arp(2, (MAC_B, target), (MAC_A, PODS[0][0])));
            assert_eq!(loaded.ingress(&who_has(to, target)), (REDIRECT, reply), "{target}");
        }
        assert_eq!((loaded.stats().arp_answers, loaded.stats().nd_answers), (2, 0));
    });
}

/// The host's addresses and its MAC can change at any time, so that the host answers itself. tests/datapath hears it.
#[test]
fn the_host_is_asked_about_the_gateway() {
    loaded(|loaded| {
        for to in [MAC_ALL, MAC_GATEWAY] {
            let asked = who_has(to, GATEWAY[0]);
            assert_eq!(loaded.ingress(&asked), (REDIRECT, asked.clone()));
        }
        let asked = solicitation(GATEWAY[1], &mac_option(1, MAC_A));
        assert_eq!(loaded.ingress(&asked), (REDIRECT, asked.clone()));
        assert_eq!((loaded.stats().arp_answers, loaded.stats().nd_answers), (0, 0));
    });
}

#[test]
fn other_arp_goes_its_way() {
    loaded(|loaded| {
        let [a, b] = PODS[0];
        for (what, frame) in [
            ("an announcement", who_has(MAC_ALL, a)),
            ("about nobody known", who_has(MAC_ALL, STRANGERS[0])),
            ("a reply", ethernet(MAC_B, MAC_A, ARP, &arp(2, (MAC_A, a), (MAC_B, b)))),
            ("a probe", ethernet(MAC_ALL, MAC_A, ARP, &arp(1, (MAC_A, NOBODY), ([0; 6], b)))),
        ] {
            loaded.assert_stack(&frame, what);
        }
        assert_eq!(loaded.stats().arp_answers, 0);
    });
}

#[test]
fn solicitations_about_pods_are_answered() {
    loaded(|loaded| {
        // Solicited and override.
        let (target, mac, flags) = (PODS[1][1], MAC_B, 0x60);
        let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
        for options in [mac_option(1, MAC_A), [&mac_option(1, MAC_A)[..], &nonce].concat()] {
            let (verdict, answer) = loaded.ingress(&solicitation(target, &options));
            assert_eq!((verdict, &answer), (REDIRECT, &advertisement(target, mac, flags)), "{target}");
            assert_eq!(icmpv6_checksum(target, PODS[1][0], &answer[ETHERNET + 40..]), 0, "a valid checksum");
        }
        let body = [&octets(target)[..], &mac_option(1, MAC_A)].concat();
        let unicast = frame(mac, &nd(PODS[1][0], target, [135, 0, 0, 0, 0, 0, 0, 0], &body));
        assert_eq!(loaded.ingress(&unicast), (REDIRECT, advertisement(target, mac, flags)), "is it there still?");
        assert_eq!((loaded.stats().arp_answers, loaded.stats().nd_answers), (0, 3));
    });
}

/// RFC 1071: a sum that folds to all ones, or carries twice, among them.
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
fn other_solicitations_go_their_way() {
    loaded(|loaded| {
        let [a, b] = PODS[1];
        let asked = solicitation(b, &mac_option(1, MAC_A));
        let group = IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 3));
        let from_nobody = nd(Ipv6Addr::UNSPECIFIED.into(), group, [135, 0, 0, 0, 0, 0, 0, 0], &octets(b));
        let mut forwarded = asked.clone();
        forwarded[ETHERNET + 7] = 254;
        let mut coded = asked.clone();
        coded[ETHERNET + 41] = 1;
        let mut behind = asked[ETHERNET..].to_vec();
        behind.splice(40..40, extension(DESTINATION, ICMPV6));
        (behind[5], behind[6]) = (40, DESTINATION);
        for (what, asked) in [
            ("about the asker", solicitation(a, &mac_option(1, MAC_A))),
            ("about nobody known", solicitation(STRANGERS[1], &mac_option(1, MAC_A))),
            ("without a MAC", solicitation(b, &[])),
            ("with a MAC that is not the first option", solicitation(b, &[14, 1, 1, 2, 3, 4, 5, 6])),
            ("by nobody", frame([0x33, 0x33, 0xff, 0, 0, 3], &from_nobody)),
            ("from beyond a router", forwarded),
            ("with a code", coded),
            ("behind another header", frame(MAC_B, &behind)),
        ] {
            loaded.assert_stack(&asked, what);
        }
        assert_eq!(loaded.stats().nd_answers, 0);
    });
}

#[test]
fn the_host_is_answered_at_the_bridge() {
    loaded(|loaded| {
        loaded.configure(|config| config.bridge_ifindex = PORT);
        for gateway in GATEWAY {
            loaded.place(gateway, PORT, MAC_A);
        }
        loaded.links.remove(PORT).unwrap();

        // Pod A's place is the bridge's here, and its addresses are the host's.
        let reply = ethernet(MAC_A, MAC_B, ARP, &arp(2, (MAC_B, PODS[0][1]), (MAC_A, PODS[0][0])));
        assert_eq!(loaded.egress(&who_has(MAC_ALL, PODS[0][1])), (REDIRECT, reply));
        let asked = solicitation(PODS[1][1], &mac_option(1, MAC_A));
        assert_eq!(loaded.egress(&asked), (REDIRECT, advertisement(PODS[1][1], MAC_B, 0x60)));

        let unknown = [who_has(MAC_ALL, STRANGERS[0]), solicitation(STRANGERS[1], &mac_option(1, MAC_A))];
        for asked in unknown.iter().chain([&who_has(MAC_ALL, GATEWAY[0])]) {
            assert_eq!(loaded.egress(asked), (UNSPEC, asked.clone()));
        }
        assert_eq!(loaded.ingress(&who_has(MAC_ALL, PODS[0][1])).0, UNSPEC, "from a pod: answered at its port");
    });
}

#[test]
fn what_the_bridge_asks_of_a_pod_is_not_answered_at_its_port() {
    loaded(|loaded| {
        let asked = ethernet(MAC_ALL, MAC_GATEWAY, ARP, &arp(1, (MAC_GATEWAY, GATEWAY[0]), ([0; 6], PODS[0][1])));
        assert_ne!(BRIDGE, PORT);
        assert_eq!(loaded.egress(&asked), (UNSPEC, asked.clone()));
    });
}
