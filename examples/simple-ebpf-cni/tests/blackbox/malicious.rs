//! Attempts of a pod with raw sockets: each frame is dropped and counted, or has no effect.
//!
//! tests/datapath and the program tests of the library test each frame. The tests here cover the
//! parts around the programs: the bridge, the kernel of the host, and the other pods.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use cnikit_testbed::{Namespace, Pod, eventually, raw};
use serde_json::{Value, json};

use crate::support::{Attached, GATEWAY, Network, on_host};

/// Reasons in `net_drops`: docs/datapath.md.
const MALFORMED: usize = 0;
const VLAN: usize = 1;
const MAC_SOURCE: usize = 2;
const IP_SOURCE: usize = 3;
const ND_OWNER: usize = 5;
const ROUTER: usize = 6;

const ALL: &str = "ff:ff:ff:ff:ff:ff";

/// The number of drops of the network for a reason.
#[track_caller]
fn drops(network: &Network, reason: usize) -> u64 {
    let entries = network.map("net_drops");
    let values = entries[0]["values"].as_array().expect("a value for each CPU").iter();
    values.map(|value| value["value"]["packets"][reason].as_u64().expect("a counter")).sum()
}

/// Sends raw frames from the pod's interface.
#[track_caller]
fn send(pod: &Pod, frames: &[Vec<u8>]) {
    pod.enter(|| frames.iter().try_for_each(|frame| raw::send(frame))).expect("the link takes them");
}

/// Turns the spoof check on or off. It is a setting of the network, so an ADD changes it.
#[track_caller]
fn set_spoof_check(network: &Network, is_on: bool) {
    let network = network.by(network.with("spoofCheck", is_on));
    network.detach(&network.attach("switch"));
}

fn mac(text: &str) -> Vec<u8> {
    text.split(':').map(|octet| u8::from_str_radix(octet, 16).expect("hexadecimal")).collect()
}

fn frame(to: &str, from: &str, ethertype: &[u8], payload: &[u8]) -> Vec<u8> {
    [&mac(to), &mac(from), ethertype, payload].concat()
}

/// RFC 1071, for an even number of bytes.
fn checksum(words: &[u8]) -> [u8; 2] {
    let sum: u32 = words.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes()
}

/// An IPv4 packet, with flags and offset of a fragment.
fn ipv4(from: &str, to: &str, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let [from, to]: [Ipv4Addr; 2] = [from, to].map(|address| address.parse().expect("an address"));
    let length = u16::try_from(20 + payload.len()).expect("a short packet");
    let [[high, low], [flags, offset]] = [length.to_be_bytes(), fragment.to_be_bytes()];
    let mut packet = vec![0x45, 0, high, low, 0, 1, flags, offset, 64, protocol, 0, 0];
    packet.extend([from.octets(), to.octets()].concat());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum);
    packet.extend(payload);
    packet
}

/// A UDP datagram over IPv4 to the discard port, with flags and offset of a fragment.
fn datagram(from: &str, to: &str, fragment: u16, payload: &[u8]) -> Vec<u8> {
    ipv4(from, to, 17, fragment, payload)
}

/// An ICMPv6 packet with a valid checksum.
fn icmpv6(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> Vec<u8> {
    let (addresses, length) = ([from.octets(), to.octets()].concat(), message.len() as u8);
    let sum = checksum(&[&addresses, &[0, length, 0, 58][..], message].concat());
    let mut packet = [&[0x60, 0, 0, 0, 0, length, 58, 255], &addresses[..], message].concat();
    packet[42..44].copy_from_slice(&sum);
    packet
}

/// RFC 4861, section 4.4: a neighbor that has the target in its table must replace the MAC.
fn advertisement(target: Ipv6Addr, mac_of_target: &str) -> Vec<u8> {
    /// Not a router, not solicited, override.
    const FLAGS: u8 = 0xa0;
    [&[136, 0, 0, 0, FLAGS, 0, 0, 0], &target.octets()[..], &[2, 1], &mac(mac_of_target)].concat()
}

/// RFC 4291, appendix A.
fn link_local(of: &str) -> Ipv6Addr {
    let [a, b, c, d, e, f] = <[u8; 6]>::try_from(mac(of)).expect("a MAC");
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// The entries of the bridge's table, except the kernel's own.
fn table(network: &Network) -> Vec<String> {
    let entries = network.host.command("bridge").words("-j fdb show br cbr0").json();
    let of_others = |entry: &&Value| !entry["flags"].as_array().is_some_and(|flags| flags.contains(&json!("self")));
    let mut found: Vec<_> =
        entries.as_array().into_iter().flatten().filter(of_others).map(|entry| entry.to_string()).collect();
    found.sort();
    found
}

#[track_caller]
fn with_pods(test: impl FnOnce(&Network, [&Attached; 2]) + Send) {
    on_host(|network| {
        let pods = ["one", "two"].map(|container| network.attach(container));
        test(network, [&pods[0], &pods[1]]);
        // Both pods still work after the attempt.
        assert!(pods[0].pod.ping(pods[1].address(), 1).status.success());
        assert!(pods[1].pod.ping(GATEWAY, 1).status.success());
        pods.iter().for_each(|attached| network.detach(attached));
    });
}

#[test]
fn a_flood_of_macs_adds_no_entry_to_the_bridge() {
    with_pods(|network, [one, two]| {
        for spoof_check in [true, false] {
            set_spoof_check(network, spoof_check);
            let (before, dropped) = (table(network), drops(network, MAC_SOURCE));
            let frames: Vec<_> = (0..2000_u16)
                .map(|number| {
                    let [high, low] = number.to_be_bytes();
                    let stranger = format!("02:00:5e:00:{high:02x}:{low:02x}");
                    frame(ALL, &stranger, &[0x88, 0xb5], &[0; 46])
                })
                .collect();
            send(&one.pod, &frames);
            // No entry for an unknown MAC, and none for the other pod's MAC at this port.
            send(&one.pod, &[frame(ALL, two.mac(), &[0x88, 0xb5], &[0; 46])]);
            assert_eq!(table(network), before, "spoofCheck {spoof_check}");
            assert_eq!(drops(network, MAC_SOURCE) - dropped, if spoof_check { 2001 } else { 0 });
            assert!(network.host.ping(two.address(), 1).status.success());
        }
        set_spoof_check(network, true);
    });
}

#[test]
fn vlan_tags_do_not_reach_another_network() {
    with_pods(|network, [one, two]| {
        let payload = datagram(one.address(), two.address(), 0, &[0, 9, 0, 9, 0, 8, 0, 0]);
        let tags: [&[u8]; 4] = [
            &[0x81, 0, 0, 5],
            &[0x88, 0xa8, 0, 5],
            &[0x81, 0, 0, 1, 0x81, 0, 0, 5],
            &[0x88, 0xa8, 0, 1, 0x81, 0, 0, 5],
        ];
        let received = network.counters(two.address()).expect("an entry").rx_packets;
        for tag in tags {
            send(&one.pod, &[frame(two.mac(), one.mac(), tag, &[&[0x08, 0x00], &payload[..]].concat())]);
        }
        assert_eq!(drops(network, VLAN), 4);
        assert_eq!(network.counters(two.address()).expect("an entry").rx_packets, received);
    });
}

#[test]
fn overlapping_and_endless_fragments_are_left_to_the_stack() {
    with_pods(|network, [one, two]| {
        let to = |fragment, payload: &[u8]| {
            frame(two.mac(), one.mac(), &[0x08, 0x00], &datagram(one.address(), two.address(), fragment, payload))
        };
        let direct = network.counters(one.address()).expect("an entry").tx_direct;
        // First, the same again, an overlap, a large gap, and one beyond the maximum packet size.
        let frames = [
            to(0x2000, &[7; 64]),
            to(0x2000, &[8; 64]),
            to(0x2004, &[9; 64]),
            to(0x2fff, &[1; 8]),
            to(0x1fff, &[2; 64]),
        ];
        send(&one.pod, &frames);
        assert_eq!(network.counters(one.address()).expect("an entry").tx_direct, direct);
        // A thousand fragments without a last one.
        let endless: Vec<_> = (0..1000).map(|number| to(0x2000 | number, &[3; 8])).collect();
        send(&one.pod, &endless);
    });
}

#[test]
fn a_header_that_claims_more_than_the_frame_has_is_dropped() {
    with_pods(|network, [one, two]| {
        let mut packet = datagram(one.address(), two.address(), 0, &[0; 8]);
        packet[2..4].copy_from_slice(&60_000_u16.to_be_bytes());
        send(&one.pod, &[frame(two.mac(), one.mac(), &[0x08, 0x00], &packet)]);
        assert_eq!(drops(network, MALFORMED), 1);
        // A frame larger than the link's MTU does not leave the pod.
        let mtu = one.pod.link("eth0").expect("the link exists")["mtu"].as_u64().expect("a number");
        let oversize = usize::try_from(mtu).expect("small") + 200;
        let sent = network.counters(one.address()).expect("an entry").tx_packets;
        let big =
            frame(two.mac(), one.mac(), &[0x08, 0x00], &datagram(one.address(), two.address(), 0, &vec![0; oversize]));
        one.pod.enter(|| raw::send(&big)).expect_err("EMSGSIZE");
        assert_eq!(network.counters(one.address()).expect("an entry").tx_packets, sent);
    });
}

/// RFC 4861: an accepted advertisement adds a default route and an address in all other pods. A
/// port without spoof check sends it, and the egress program of the other ports drops it.
#[test]
fn a_router_advertisement_adds_no_routes() {
    with_pods(|network, [one, two]| {
        let routes = |pod: &Pod| pod.ip("-6 route show").to_string();
        let before = routes(&two.pod);
        // From the unspecified address, which a pod without IPv6 can use, and from the link-local
        // address of its MAC.
        let link_local = link_local(one.mac()).octets();
        let all_nodes = [&[0xff, 2][..], &[0; 13], &[1]].concat();
        let message = [&[134, 0, 0, 0, 64, 0, 7, 8][..], &[0; 8]].concat();
        let forms = [(&link_local, &[][..]), (&link_local, &[58, 0, 1, 4, 0, 0, 0, 0]), (&[0; 16], &[])];
        let frames = forms.map(|(source, behind)| {
            let next = if behind.is_empty() { 58 } else { 60 };
            let length = u8::try_from(behind.len() + message.len()).expect("short");
            let packet = [&[0x60, 0, 0, 0, 0, length, next, 255][..], source, &all_nodes, behind, &message].concat();
            frame("33:33:00:00:00:01", one.mac(), &[0x86, 0xdd], &packet)
        });
        for is_checked in [true, false] {
            set_spoof_check(network, is_checked);
            let dropped = || drops(network, ROUTER) + drops(network, IP_SOURCE);
            let already = dropped();
            send(&one.pod, &frames);
            eventually("three drops", Duration::from_secs(5), || dropped() >= already + 3);
            assert_eq!(routes(&two.pod), before, "spoof check: {is_checked}");
        }
    });
}

/// A pod of another network has another bridge and other maps, so no endpoint entry leads there.
#[test]
fn pods_of_another_network_are_unreachable_by_their_macs() {
    with_pods(|network, [one, _]| {
        let mut config = network.with("name", "another");
        config["bridge"] = json!("cbr1");
        config["subnet"] = json!("10.98.0.0/24");
        network.host.keep("link cbr1 ");
        network.host.keep("address cbr1 ");
        network.host.keep("route 10.98.0.");
        network.host.keep("file /var/lib/cni/simple-ebpf-cni/another/lock");
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("a host that routes");
        let other = network.by(config);
        let far = other.attach("far");
        let ear = far.pod.enter(|| raw::Ear::open().expect("a packet socket"));
        let payload = datagram(one.address(), far.address(), 0, &[0, 9, 0, 9, 0, 8, 0, 0]);
        send(&one.pod, &vec![frame(far.mac(), one.mac(), &[0x08, 0x00], &payload); 10]);
        assert_eq!(network.counters(one.address()).expect("an entry").tx_direct, 0);
        // The host routes frames for its own MAC. The routed frame arrives, so the other frame
        // would have arrived, too.
        let gateway =
            network.host.link("cbr0").expect("the link exists")["address"].as_str().expect("a MAC").to_owned();
        send(&one.pod, &[frame(&gateway, one.mac(), &[0x08, 0x00], &payload)]);
        let mut heard = 0;
        eventually("the frame that was routed", Duration::from_secs(5), || {
            heard += ear.frames().iter().filter(|frame| frame.len() >= 34 && frame[26..34] == payload[12..20]).count();
            heard > 0
        });
        assert_eq!(heard, 1, "by the MAC of a pod on another bridge");
        other.detach(&far);
    });
}

/// Runs the test with three dual-stack pods and their IPv6 addresses.
#[track_caller]
fn with_three_pods_of_both_families(test: impl FnOnce(&Network, [&Attached; 3], [Ipv6Addr; 3]) + Send) {
    on_host(|network| {
        ["route fd00:99::/64", "route fe80::/64"].iter().for_each(|line| network.host.keep(line));
        let config = network.with_keys(json!({ "subnets": ["10.99.0.0/24", "fd00:99::/64"] }));
        let network = &network.by(config);
        let pods = ["one", "target", "other"].map(|container| network.attach(container));
        let addresses = pods.each_ref().map(|attached| {
            let address = attached.result["ips"][1]["address"].as_str().expect("of IPv6").replace("/64", "");
            address.parse().expect("an address")
        });
        test(network, pods.each_ref(), addresses);
        pods.iter().for_each(|attached| network.detach(attached));
    });
}

/// A man in the middle needs its MAC in the neighbor table of another pod, for the gateway or for a
/// third pod. The frames go to all and to the target alone, from the own address and from the
/// spoofed one. Without the spoof check the attack succeeds, which shows that the frames are valid.
#[test]
fn neighbors_cannot_be_poisoned_over_ipv6() {
    with_three_pods_of_both_families(|network, [one, target, other], [own, of_target, of_other]| {
        let gateway =
            network.host.link("cbr0").expect("the link exists")["address"].as_str().expect("a MAC").to_owned();
        let known = [("fd00:99::1".parse().expect("an address"), &gateway[..]), (of_other, other.mac())];
        let is_known = |address: Ipv6Addr, mac: &str| {
            let neighbours = target.pod.ip("-6 neighbour show dev eth0");
            let mut neighbours = neighbours.as_array().into_iter().flatten();
            neighbours.any(|neighbour| neighbour["dst"] == address.to_string() && neighbour["lladdr"] == mac)
        };
        for is_checked in [false, true] {
            set_spoof_check(network, is_checked);
            target.pod.ip("-6 neighbour flush dev eth0");
            for (address, mac) in known {
                assert!(target.pod.ping(&address.to_string(), 1).status.success(), "{address}");
                assert!(is_known(address, mac), "{address}");
                let message = advertisement(address, one.mac());
                let all = frame("33:33:00:00:00:01", one.mac(), &[0x86, 0xdd], &[]);
                let alone = frame(target.mac(), one.mac(), &[0x86, 0xdd], &[]);
                let to_all = |from| [&all[..], &icmpv6(from, "ff02::1".parse().expect("a group"), &message)].concat();
                let to_target = |from| [&alone[..], &icmpv6(from, of_target, &message)].concat();
                let (owner, source) = (drops(network, ND_OWNER), drops(network, IP_SOURCE));
                let link_local = link_local(one.mac());
                send(
                    &one.pod,
                    &[to_all(own), to_target(own), to_all(link_local), to_target(link_local), to_all(address)],
                );
                let dropped = (drops(network, ND_OWNER) - owner, drops(network, IP_SOURCE) - source);
                assert_eq!(dropped, if is_checked { (4, 1) } else { (0, 0) }, "{address}, spoof check: {is_checked}");
                if is_checked {
                    assert!(is_known(address, mac), "{address}: {}", target.pod.ip("-6 neighbour show"));
                } else {
                    eventually("the target is deceived", Duration::from_secs(5), || is_known(address, one.mac()));
                }
            }
        }
        for (address, _) in known {
            assert!(target.pod.ping(&address.to_string(), 1).status.success(), "{address}");
        }
    });
}

/// Only a router on the path reports that a packet was too big. Here that is the host. From a pod,
/// the report would make the target fragment all its packets to another pod.
#[test]
fn an_error_about_a_packet_for_others_is_dropped() {
    with_three_pods_of_both_families(|network, [one, target, other], [own, of_target, of_other]| {
        /// "Packet too big" (RFC 1191, RFC 4443), with the least MTU that both families allow.
        const MTU: u64 = 1300;
        let [high, low] = (MTU as u16).to_be_bytes();
        // Echo replies come from the kernel itself, so no socket must match the quoted packet.
        let echo = [0, 0, 0, 0, 0, 7, 0, 1];
        let mut error =
            [&[3, 4, 0, 0, 0, 0, high, low], &ipv4(target.address(), other.address(), 1, 0, &echo)[..]].concat();
        let sum = checksum(&error);
        error[2..4].copy_from_slice(&sum);
        let error = ipv4(one.address(), target.address(), 1, 0, &error);
        let echo = [129, 0, 0, 0, 0, 7, 0, 1];
        let error6 = [&[2, 0, 0, 0, 0, 0, high, low], &icmpv6(of_target, of_other, &echo)[..]].concat();
        let frames = [
            frame(target.mac(), one.mac(), &[0x08, 0x00], &error),
            frame(target.mac(), one.mac(), &[0x86, 0xdd], &icmpv6(own, of_target, &error6)),
        ];
        let address = of_other.to_string();
        for is_checked in [true, false] {
            set_spoof_check(network, is_checked);
            for (frame, address) in frames.iter().zip([other.address(), &address]) {
                let dropped = drops(network, ROUTER);
                let is_accepted =
                    || target.pod.ip(&format!("route get {address}")).to_string().contains("\"mtu\":1300");
                send(&one.pod, std::slice::from_ref(frame));
                if is_checked {
                    assert!(!is_accepted(), "{address}: {}", target.pod.ip(&format!("route get {address}")));
                    assert_eq!(drops(network, ROUTER) - dropped, 1, "{address}");
                } else {
                    eventually("the target is deceived", Duration::from_secs(5), is_accepted);
                }
            }
        }
        set_spoof_check(network, true);
    });
}
