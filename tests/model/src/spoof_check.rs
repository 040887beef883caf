//! The spoof check of a port: the table of docs/datapath.md, from its first line to its last.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::read::{Arp, Content, Packet, Ports, Transport, mac, protocol, v6};
use crate::{Mac, Network, Reason};

/// Neighbor discovery options that the programs parse: docs/datapath.md.
const MAX_OPTIONS: usize = 6;

impl Network {
    /// Why the spoof check drops a frame.
    pub(crate) fn violation(&self, port: u32, frame: &[u8]) -> Option<Reason> {
        let own = self.checked_port(port)?.mac;
        let content = Content::of(frame);
        match &content {
            Content::Malformed => return Some(Reason::Malformed),
            Content::Tagged => return Some(Reason::Vlan),
            _ if mac(&frame[6..]) != own => return Some(Reason::MacSource),
            _ => {}
        }
        match content {
            Content::Arp(arp) => (!self.is_valid_arp(port, own, &arp)).then_some(Reason::ArpSender),
            Content::Ip(packet) => self.packet_violation(port, own, &packet),
            _ => None,
        }
    }

    /// The sender address belongs to the pod, or is unspecified in a probe: RFC 5227, section
    /// 2.1.1. A request from an address that belongs to no pod and not to the gateway becomes a
    /// probe, unless it announces that address.
    fn is_valid_arp(&self, port: u32, own: Mac, arp: &Arp) -> bool {
        let (mac, address) = arp.sender;
        let is_probe = arp.is_request && address == Ipv4Addr::UNSPECIFIED;
        mac == own && (is_probe || self.is_own(port, address.into()) || self.has_unknown_sender(port, arp))
    }

    /// Whether an accepted ARP request has a sender address that is not known to be the pod's.
    pub(crate) fn has_unknown_sender(&self, port: u32, arp: &Arp) -> bool {
        let address = arp.sender.1;
        let is_known = self.owners.contains_key(&address.into()) || self.is_own(port, address.into());
        arp.is_request && address != Ipv4Addr::UNSPECIFIED && address != arp.target && !is_known
    }

    fn packet_violation(&self, port: u32, own: Mac, packet: &Packet<'_>) -> Option<Reason> {
        if !self.is_own(port, packet.header.source) && !may_be_unspecified(packet) {
            return Some(Reason::IpSource);
        }
        if packet.quoted_destination().is_some_and(|destination| !self.is_own(port, destination)) {
            return Some(Reason::Router);
        }
        match packet.transport() {
            // A redirect, or an advertisement of RFC 1256.
            Transport::Icmp(5 | 9, _) if packet.is_v4() => Some(Reason::Router),
            Transport::Icmp(kind, message) if packet.is_icmpv6() => self.icmpv6_violation(port, own, kind, message),
            _ if packet.header.is_non_first_fragment => None,
            // The content after these headers is unknown.
            _ if packet.header.has_extension() => Some(Reason::Extensions),
            // RFC 7112: all headers are in the first fragment.
            Transport::Unknown if packet.is_icmpv6() => Some(Reason::Malformed),
            _ => None,
        }
    }

    /// Neighbor discovery: RFC 4861, section 4.
    fn icmpv6_violation(&self, port: u32, own: Mac, kind: u8, message: &[u8]) -> Option<Reason> {
        match kind {
            // Router advertisement, redirect.
            134 | 137 => Some(Reason::Router),
            // Router solicitation.
            133 => option_violation(own, &message[8..]),
            // Neighbor solicitation and advertisement.
            135 | 136 => {
                let Some((fixed, options)) = message.split_at_checked(24) else { return Some(Reason::Malformed) };
                if kind == 136 && !self.is_own(port, v6(&fixed[8..]).into()) {
                    return Some(Reason::NdOwner);
                }
                option_violation(own, options)
            }
            _ => None,
        }
    }
}

/// RFC 4861, section 4.6: type, length in units of eight bytes, and in types 1 and 2 a MAC.
fn option_violation(own: Mac, mut options: &[u8]) -> Option<Reason> {
    for _ in 0..MAX_OPTIONS {
        if options.is_empty() {
            return None;
        }
        let length = options.get(1).map_or(0, |length| usize::from(*length) * 8);
        if options.len() < 8 || length == 0 {
            return Some(Reason::Malformed);
        }
        if matches!(options[0], 1 | 2) && mac(&options[2..]) != own {
            return Some(Reason::NdOwner);
        }
        let Some(rest) = options.get(length..) else { return Some(Reason::Malformed) };
        options = rest;
    }
    (!options.is_empty()).then_some(Reason::Extensions)
}

/// Whether a sender without an address may send the packet: DHCP (RFC 2131), duplicate address
/// detection (RFC 4862), listener reports (RFC 2710 and 3810).
fn may_be_unspecified(packet: &Packet<'_>) -> bool {
    let (source, destination) = (packet.header.source, packet.header.destination);
    let is_discovery = |ports| packet.header.protocol == protocol::UDP && ports == Ports(68, 67);
    match (packet.transport(), destination) {
        (Transport::Datagram(ports), IpAddr::V4(Ipv4Addr::BROADCAST)) => {
            source == Ipv4Addr::UNSPECIFIED && is_discovery(ports)
        }
        (Transport::Icmp(135 | 131 | 132 | 143, _), IpAddr::V6(group)) => {
            source == Ipv6Addr::UNSPECIFIED && group.is_multicast()
        }
        _ => false,
    }
}
