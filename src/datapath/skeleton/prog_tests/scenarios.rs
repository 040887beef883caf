//! Random scenarios of nearly valid frames: built according to the RFCs, and then changed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cnikit_model::{Hook, Origin, Scenario, Step};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::frames::*;
use crate::spec::MacAddr;

/// A network with random flags, and 1 to 23 frames.
pub(super) fn scenario() -> impl Strategy<Value = Scenario> {
    let flags = (mostly(true), mostly(true), mostly(false), mostly(false), mostly(false), mostly(false));
    (flags, vec(step(), 1..24)).prop_map(|(flags, steps)| {
        let (guard, direct, is_nobodys, stack_only, other_stack_only, at_bridge) = flags;
        Scenario { guard, direct, is_nobodys, stack_only, other_stack_only, at_bridge, steps }
    })
}

fn step() -> impl Strategy<Value = Step> {
    let at = |hook| {
        let origin = prop_oneof![4 => Just(Origin::Elsewhere), 1 => Just(Origin::ThisPort), 1 => Just(Origin::Bridge)];
        (changed(any_frame(hook)), origin).prop_map(move |(frame, origin)| Step { hook, origin, frame })
    };
    prop_oneof![5 => at(Hook::Ingress), 2 => at(Hook::Egress)]
}

/// The frame, possibly with a few changed bytes, truncated, or followed by padding.
fn changed(frame: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let bytes = prop_oneof![5 => Just(Vec::new()), 1 => vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)];
    let cut = prop_oneof![9 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)];
    let padding = prop_oneof![4 => Just(Vec::new()), 1 => vec(any::<u8>(), 0..40)];
    (frame, bytes, cut, padding).prop_map(|(mut frame, bytes, cut, padding)| {
        for (at, value) in bytes {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        if let Some(cut) = cut {
            frame.truncate(Step::SHORTEST + cut.index(frame.len() - Step::SHORTEST));
        }
        frame.extend(padding);
        frame
    })
}

fn any_frame(hook: Hook) -> BoxedStrategy<Vec<u8>> {
    // Mostly from pod A to pod B at ingress, and from pod B to pod A at egress.
    let (to, from) = match hook {
        Hook::Ingress => (select(vec![MAC_B, MAC_GATEWAY]), select(vec![MAC_A])),
        Hook::Egress => (select(vec![MAC_A]), select(vec![MAC_B, MAC_GATEWAY])),
    };
    let [to, from] = [to, from].map(|usual| prop_oneof![6 => usual, 1 => mac()].boxed());
    let framed = |ethertype: u16| {
        move |(to, from, payload): ([u8; 6], [u8; 6], Vec<u8>)| ethernet(to, from, ethertype, &payload)
    };
    prop_oneof![
        8 => (to.clone(), from.clone(), packet_v4(hook)).prop_map(framed(IPV4)),
        8 => (to.clone(), from.clone(), packet_v6(hook)).prop_map(framed(IPV6)),
        3 => (mac(), from.clone(), any_arp()).prop_map(framed(ARP)),
        4 => (mac(), from.clone(), discovery(hook)).prop_map(framed(IPV6)),
        1 => (to, from, select(vec![0x8100, 0x88a8, 0x9100, 0x0026, 0x88b5]), packet_v4(hook))
            .prop_map(|(to, from, kind, payload)| ethernet(to, from, kind, &[&[0, 5, 8, 0][..], &payload].concat())),
    ]
    .boxed()
}

fn packet_v4(hook: Hook) -> BoxedStrategy<Vec<u8>> {
    let others =
        [GATEWAY[0], EXTERNAL[0], SECOND[0], ELSEWHERE[0], Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into()];
    let fragment = prop_oneof![6 => Just(0x4000_u16), 1 => select(vec![0x2000, 0x2001, 0x0001, 0x1fff, 0x8000])];
    let options = prop_oneof![6 => Just(0), 1 => 1..=10_usize];
    (between(hook, PODS[0], others.to_vec()), hops(), fragment, options, any::<u8>(), end())
        .prop_flat_map(|((source, destination), hops, fragment, words, option, end)| {
            let [source, destination] = [source, destination].map(|address| match address {
                IpAddr::V4(v4) => v4,
                IpAddr::V6(v6) => panic!("{v6} is not an IPv4 address"),
            });
            upper(source.into(), destination.into()).prop_map(move |(protocol, payload)| {
                let (payload, padding) = payload.split_at(end.index(payload.len()));
                let options = vec![option; words * 4];
                [ipv4(source, destination, hops, protocol, fragment, &options, payload), padding.to_vec()].concat()
            })
        })
        .boxed()
}

fn packet_v6(hook: Hook) -> BoxedStrategy<Vec<u8>> {
    (between(hook, PODS[1], others_v6()), hops(), chain(), end())
        .prop_flat_map(|((source, destination), hops, chain, end)| {
            upper(source, destination).prop_map(move |(protocol, payload)| {
                let (payload, padding) = payload.split_at(end.index(payload.len()));
                [behind(&chain, source, destination, hops, protocol, payload), padding.to_vec()].concat()
            })
        })
        .boxed()
}

/// Neighbor discovery messages, and similar ICMPv6 messages.
fn discovery(hook: Hook) -> BoxedStrategy<Vec<u8>> {
    let option = (
        prop_oneof![4 => select(vec![1_u8, 2]), 1 => select(vec![0, 3, 5, 14])],
        prop_oneof![6 => Just(1_u8), 1 => 0..4_u8],
        prop_oneof![4 => Just(MAC_A), 1 => mac()],
        mostly(true),
    );
    let options = vec(option, 0..9).prop_map(|options| {
        let bytes = options.into_iter().map(|(kind, length, mac, is_whole)| {
            let mut option = vec![kind, length];
            option.extend(mac);
            option.resize(if is_whole { usize::from(length.max(1)) * 8 } else { 8 }, 0);
            option
        });
        bytes.collect::<Vec<_>>().concat()
    });
    let target = prop_oneof![Just(PODS[1][0]), Just(PODS[1][1]), select(others_v6())];
    let kind = prop_oneof![6 => select(vec![133_u8, 134, 135, 135, 135, 136, 136, 137]), 1 => any::<u8>()];
    let hops = prop_oneof![6 => Just(255), 1 => hops()];
    let chain = prop_oneof![4 => Just(Vec::new()), 1 => chain()];
    (between(hook, PODS[1], others_v6()), kind, zero(), target, options, hops, chain, end())
        .prop_map(|((source, destination), kind, code, target, options, hops, chain, end)| {
            let head = [kind, code, 0, 0, 0x60, 0, 0, 0];
            let body = if kind == 133 { options } else { [&octets(target)[..], &options].concat() };
            let message = [&head[..], &body].concat();
            let (message, padding) = message.split_at(end.index(message.len()));
            [behind(&chain, source, destination, hops, ICMPV6, message), padding.to_vec()].concat()
        })
        .boxed()
}

fn any_arp() -> BoxedStrategy<Vec<u8>> {
    let [[a, b], _] = PODS;
    let others = vec![a, b, a, b, GATEWAY[0], EXTERNAL[0], SECOND[0], ELSEWHERE[0], Ipv4Addr::UNSPECIFIED.into()];
    let operation = prop_oneof![3 => Just(1), 2 => Just(2), 1 => any::<u16>()];
    let sender = (prop_oneof![4 => Just(MAC_A), 1 => mac()], select(others.clone()));
    (operation, sender, (mac(), select(others)))
        .prop_map(|(operation, sender, target)| arp(operation, sender, target))
        .boxed()
}

/// Protocol and payload, mostly of a known protocol.
fn upper(source: IpAddr, destination: IpAddr) -> BoxedStrategy<(u8, Vec<u8>)> {
    let transport = (select(vec![TCP, TCP, TCP, UDP, 132, 136, 50]), port(), port(), any::<u8>(), few_flags())
        .prop_map(|(protocol, from, to, flags, few)| {
            let segment = if protocol == TCP { tcp(from, to, few.unwrap_or(flags)) } else { udp(from, to) };
            (protocol, segment)
        });
    let echoes =
        (any::<bool>(), 0..3_u16).prop_map(move |(is_request, id)| (icmp_of(source), echo(source, is_request, id)));
    let other_family = (select(vec![ICMP, ICMPV6]), select(vec![0_u8, 3, 8, 128, 129]), 0..3_u16)
        .prop_map(|(protocol, kind, id)| (protocol, [&[kind, 0, 0, 0][..], &id.to_be_bytes(), &[0, 1]].concat()));
    let control = (prop_oneof![3 => any::<u8>(), 1 => select(vec![0, 127, 128, 255])], vec(any::<u8>(), 0..32))
        .prop_map(move |(kind, body)| (icmp_of(source), [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &body].concat()));
    let quote = (select(vec![1_u8, 2, 3, 4, 5, 11, 12]), port(), port(), mostly(true), chain(), any::<bool>())
        .prop_map(move |(kind, from, to, is_answer, chain, is_tcp)| {
            let (from_address, to_address) = if is_answer { (destination, source) } else { (source, destination) };
            let (protocol, segment) = if is_tcp { (TCP, tcp(from, to, ACK)) } else { (UDP, udp(from, to)) };
            let quoted = match (from_address, to_address) {
                (IpAddr::V6(_), IpAddr::V6(_)) => behind(&chain, from_address, to_address, 64, protocol, &segment),
                _ => ip(from_address, to_address, 64, protocol, &segment),
            };
            (icmp_of(source), [&[kind, 1, 0, 0, 0, 0, 0, 0][..], &quoted].concat())
        });
    let nothing = any::<u8>().prop_map(|protocol| (protocol, Vec::new()));
    let dhcp = Just((UDP, udp(68, 67)));
    prop_oneof![8 => transport, 2 => echoes, 1 => other_family, 2 => control, 2 => quote, 1 => nothing, 1 => dhcp]
        .boxed()
}

/// An IPv6 packet with extension headers of valid lengths.
fn behind(chain: &[(u8, u16)], from: IpAddr, to: IpAddr, hops: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let nexts = chain.iter().skip(1).map(|(kind, _)| *kind).chain([protocol]);
    let headers = chain.iter().zip(nexts).map(|((kind, offset), next)| {
        let mut header = extension(*kind, next);
        if *kind == FRAGMENT {
            header[2..4].copy_from_slice(&offset.to_be_bytes());
        }
        header
    });
    let whole = [headers.collect::<Vec<_>>().concat(), payload.to_vec()].concat();
    ip(from, to, hops, chain.first().map_or(protocol, |(kind, _)| *kind), &whole)
}

/// The end of a packet according to its headers. The bytes behind it are padding of the frame.
#[derive(Debug, Clone, Copy)]
struct End(Option<prop::sample::Index>);

impl End {
    /// The index of the end in a payload of this length.
    fn index(self, length: usize) -> usize {
        self.0.map_or(length, |index| index.index(length + 1))
    }
}

/// Mostly the end of the payload.
fn end() -> impl Strategy<Value = End> {
    let early = any::<prop::sample::Index>().prop_map(|index| End(Some(index)));
    prop_oneof![6 => Just(End(None)), 1 => early]
}

/// The kinds of extension headers, with offset and flag for fragment headers.
fn chain() -> impl Strategy<Value = Vec<(u8, u16)>> {
    let kind = select(vec![HOP_BY_HOP, ROUTING, FRAGMENT, AH, DESTINATION, DESTINATION]);
    let offset = prop_oneof![2 => Just(1), 1 => Just(0), 1 => Just(8), 1 => Just(6), 1 => any::<u16>()];
    prop_oneof![3 => Just(Vec::new()), 2 => vec((kind, offset), 0..10)]
}

/// Source and destination, mostly the two pods.
fn between(hook: Hook, [a, b]: [IpAddr; 2], others: Vec<IpAddr>) -> impl Strategy<Value = (IpAddr, IpAddr)> {
    let usual = if hook == Hook::Ingress { (a, b) } else { (b, a) };
    let all = [others, vec![a, b]].concat();
    prop_oneof![6 => Just(usual), 1 => (select(all.clone()), select(all))]
}

fn others_v6() -> Vec<IpAddr> {
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 3);
    let [own, other] = [MAC_A, MAC_B].map(|mac| MacAddr::new(mac).link_local());
    let others = [Ipv6Addr::UNSPECIFIED, group, own, other].map(IpAddr::from);
    [&others[..], &[GATEWAY[1], EXTERNAL[1], SECOND[1], ELSEWHERE[1]]].concat()
}

fn mac() -> impl Strategy<Value = [u8; 6]> {
    select(vec![
        MAC_A,
        MAC_B,
        MAC_B,
        MAC_GATEWAY,
        MAC_GATEWAY,
        MAC_SECOND,
        MAC_THIRD,
        MAC_ALL,
        [0x33, 0x33, 0xff, 0, 0, 3],
    ])
}

fn hops() -> impl Strategy<Value = u8> {
    prop_oneof![4 => Just(64), 1 => 0..3_u8, 1 => Just(255)]
}

fn port() -> impl Strategy<Value = u16> {
    1000..1003_u16
}

/// Valid TCP flags, or `None` for random flags.
fn few_flags() -> impl Strategy<Value = Option<u8>> {
    let usual = vec![SYN, SYN | ACK, ACK, FIN | ACK, FIN | ACK, RST, RST | ACK];
    prop_oneof![9 => select(usual).prop_map(Some), 1 => Just(None)]
}

fn zero() -> impl Strategy<Value = u8> {
    prop_oneof![8 => Just(0), 1 => any::<u8>()]
}

fn mostly(usual: bool) -> impl Strategy<Value = bool> {
    prop_oneof![6 => Just(usual), 1 => Just(!usual)]
}
