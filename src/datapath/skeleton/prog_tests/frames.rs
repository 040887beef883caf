//! Builders for frames, written from the RFCs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) const MAC_A: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];
pub(super) const MAC_B: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0b];
pub(super) const MAC_SECOND: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0c];
pub(super) const MAC_GATEWAY: [u8; 6] = [0x02, 0, 0, 0, 0, 0xfe];
pub(super) const MAC_THIRD: [u8; 6] = [0x02, 0, 0, 0, 0, 0x33];
pub(super) const MAC_ALL: [u8; 6] = [0xff; 6];

/// The addresses of the pods A and B, by family.
pub(super) const PODS: [[IpAddr; 2]; 2] = [
    [IpAddr::V4(Ipv4Addr::new(10, 244, 1, 2)), IpAddr::V4(Ipv4Addr::new(10, 244, 1, 3))],
    [
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 2)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 3)),
    ],
];
/// An address of pod A at a second port on the same bridge, by family.
pub(super) const SECOND: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 244, 1, 5)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 5))];
/// An address of pod A at a port of another network, by family.
pub(super) const ELSEWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 245, 1, 2)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x245, 0, 0, 0, 0, 0, 2))];
pub(super) const GATEWAY: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 244, 1, 1)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 1))];
/// Addresses outside the cluster, by family.
pub(super) const EXTERNAL: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

pub(super) const IPV4: u16 = 0x0800;
pub(super) const IPV6: u16 = 0x86dd;
pub(super) const ARP: u16 = 0x0806;

pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMPV6: u8 = 58;

/// Extension headers of RFC 8200.
pub(super) const HOP_BY_HOP: u8 = 0;
pub(super) const ROUTING: u8 = 43;
pub(super) const FRAGMENT: u8 = 44;
pub(super) const AH: u8 = 51;
pub(super) const DESTINATION: u8 = 60;

/// TCP flags.
pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const RST: u8 = 0x04;
pub(super) const ACK: u8 = 0x10;

pub(super) const ETHERNET: usize = 14;

/// An Ethernet frame.
pub(super) fn ethernet(to: [u8; 6], from: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &ethertype.to_be_bytes(), payload].concat()
}

/// A packet in a frame from the MAC of pod A.
pub(super) fn frame(to: [u8; 6], packet: &[u8]) -> Vec<u8> {
    ethernet(to, MAC_A, if packet[0] >> 4 == 4 { IPV4 } else { IPV6 }, packet)
}

/// A UDP datagram with eight bytes of payload, from port 1000 to port 2000, in a frame from the MAC
/// of pod A.
pub(super) fn datagram(to: [u8; 6], source: IpAddr, destination: IpAddr, hops: u8) -> Vec<u8> {
    frame(to, &ip(source, destination, hops, UDP, &udp(1000, 2000)))
}

/// An IP packet of the family of the addresses.
pub(super) fn ip(source: IpAddr, destination: IpAddr, hops: u8, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4(source, destination, hops, protocol, 0, &[], payload),
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
            packet.extend([protocol, hops]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            packet.extend(payload);
            packet
        }
        _ => panic!("{source} and {destination} have different families"),
    }
}

/// An IPv4 packet with fragment flags, fragment offset and options.
pub(super) fn ipv4(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    ttl: u8,
    protocol: u8,
    fragment: u16,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let header = 20 + options.len();
    let [high, low] = u16::try_from(header + payload.len()).unwrap().to_be_bytes();
    let [flags, offset] = fragment.to_be_bytes();
    let version = 0x40 | u8::try_from(header / 4).unwrap();
    let mut packet = vec![version, 0, high, low, 0, 1, flags, offset, ttl, protocol, 0, 0];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(options);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

pub(super) fn udp(source: u16, destination: u16) -> Vec<u8> {
    [&source.to_be_bytes()[..], &destination.to_be_bytes(), &[0, 16, 0, 0], &[0; 8]].concat()
}

pub(super) fn tcp(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    [&ports[..], &[0; 8], &[0x50, flags], &[0; 6]].concat()
}

/// The protocol number of ICMP for the family of an address.
pub(super) fn icmp_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { ICMP } else { ICMPV6 }
}

/// An echo request or reply for the family of an address.
pub(super) fn echo(address: IpAddr, is_request: bool, id: u16) -> Vec<u8> {
    let kind = match (address.is_ipv4(), is_request) {
        (true, true) => 8,
        (true, false) => 0,
        (false, true) => 128,
        (false, false) => 129,
    };
    [&[kind, 0, 0, 0][..], &id.to_be_bytes(), &[0, 1]].concat()
}

/// A destination unreachable message that quotes a packet.
pub(super) fn unreachable(quoted: &[u8]) -> Vec<u8> {
    let kind = if quoted[0] >> 4 == 4 { 3 } else { 1 };
    [&[kind, 1, 0, 0, 0, 0, 0, 0][..], quoted].concat()
}

/// An extension header of eight bytes. AH is longer.
pub(super) fn extension(kind: u8, next: u8) -> Vec<u8> {
    match kind {
        // RFC 4302: the length is in 4-byte words minus 2. The integrity check value has 12 bytes
        // here.
        AH => [&[next, 4][..], &[0; 22]].concat(),
        _ => vec![next, 0, 0, 0, 0, 0, 0, 0],
    }
}

/// An ARP message for IPv4 over Ethernet: RFC 826.
pub(super) fn arp(operation: u16, sender: ([u8; 6], IpAddr), target: ([u8; 6], IpAddr)) -> Vec<u8> {
    let octets = |address| match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => panic!("{v6} is not an IPv4 address"),
    };
    let head = [0, 1, 8, 0, 6, 4];
    [&head[..], &operation.to_be_bytes(), &sender.0, &octets(sender.1), &target.0, &octets(target.1)].concat()
}

/// A packet with a neighbor discovery message and a valid checksum: RFC 4861.
pub(super) fn nd(source: IpAddr, destination: IpAddr, head: [u8; 8], body: &[u8]) -> Vec<u8> {
    let mut message = [&head[..], body].concat();
    let sum = icmpv6_checksum(source, destination, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    ip(source, destination, 255, ICMPV6, &message)
}

/// A link-layer address option of the source (1) or of the target (2).
pub(super) fn mac_option(kind: u8, mac: [u8; 6]) -> Vec<u8> {
    [&[kind, 1][..], &mac].concat()
}

pub(super) fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(v6) => v6.octets(),
        IpAddr::V4(v4) => panic!("{v4} is not an IPv6 address"),
    }
}

/// RFC 4443, section 2.3. The result is 0 for a message with a valid checksum.
pub(super) fn icmpv6_checksum(source: IpAddr, destination: IpAddr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    checksum(&[&octets(source)[..], &octets(destination), &length, &[0, 0, 0, ICMPV6], message].concat())
}

/// RFC 1071. The result is 0 for a header with a valid checksum.
pub(super) fn checksum(header: &[u8]) -> u16 {
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()
}
