//! ARP requests and neighbor solicitations that the programs answer at the port of the sender.

use std::net::{IpAddr, Ipv4Addr};

use crate::read::{Arp, Content, Packet, Transport, mac, v6};
use crate::{Mac, Network, Owner, Verdict};

impl Network {
    /// The outcome of an ARP request or solicitation at a port or at the bridge; `None` if it takes
    /// the usual path.
    pub(crate) fn answer(&mut self, port: u32, frame: &[u8]) -> Option<Verdict> {
        if !self.guard {
            return None;
        }
        match Content::of(frame) {
            Content::Arp(arp) if is_answered(&arp) => {
                let owner = self.target(port, arp.target.into());
                if let Some(pod) = owner.filter(|owner| owner.port != self.bridge) {
                    self.counts.arp_answers += 1;
                    return Some(Verdict::Redirect(reply(frame, &arp, pod)));
                }
                // RFC 5227, section 1.1: no host records the sender of a probe.
                let is_foreign =
                    port != self.bridge && self.checked_port(port).is_some() && self.has_unknown_sender(port, &arp);
                let solicitation =
                    if is_foreign { [&frame[..28], &[0; 4], &frame[32..]].concat() } else { frame.to_vec() };
                match owner {
                    Some(_) => Some(Verdict::Redirect(solicitation)),
                    None if is_foreign => Some(Verdict::Stack(solicitation)),
                    None => None,
                }
            }
            Content::Ip(packet) => {
                let (target, sender_mac) = solicitation(&packet)?;
                let owner = self.target(port, target)?;
                // The host answers for its own addresses.
                if owner.port == self.bridge {
                    return Some(Verdict::Redirect(frame.to_vec()));
                }
                self.counts.nd_answers += 1;
                Some(Verdict::Redirect(advertisement(frame, sender_mac, owner)))
            }
            _ => None,
        }
    }

    /// The endpoint of the target address, unless it is the sender's own port.
    fn target(&self, port: u32, address: IpAddr) -> Option<Owner> {
        self.owners.get(&address).copied().filter(|owner| owner.port != port)
    }
}

/// RFC 4861, section 7.2.4.
fn advertisement(frame: &[u8], sender_mac: Mac, owner: Owner) -> Vec<u8> {
    let (source, target) = (&frame[22..38], &frame[62..78]);
    // Solicited and override.
    let message = [&[136, 0, 0, 0, 0x60, 0, 0, 0][..], target, &[2, 1], &owner.mac].concat();
    // RFC 8200, section 8.1: the pseudo-header.
    let covered = [target, source, &[0, 0, 0, 32, 0, 0, 0, 58], &message].concat();
    let sum = covered.chunks(2).fold(0, |sum, word| crate::add(sum, crate::read::number(word)));
    let message = [&message[..2], &(!sum).to_be_bytes(), &message[4..]].concat();
    // Traffic class and flow label are copied from the solicitation.
    let header = [&frame[14..18], &[0, 32, 58, 255], target, source].concat();
    [&sender_mac[..], &owner.mac, &[0x86, 0xdd], &header, &message].concat()
}

/// A request from a sender with an address.
fn is_answered(arp: &Arp) -> bool {
    arp.is_request && arp.sender.1 != Ipv4Addr::UNSPECIFIED
}

/// RFC 826. The padding after the message is kept.
fn reply(frame: &[u8], arp: &Arp, owner: Owner) -> Vec<u8> {
    let (sender_mac, address) = arp.sender;
    let head = [&sender_mac[..], &owner.mac, &frame[12..20], &[0, 2]].concat();
    [&head[..], &owner.mac, &arp.target.octets(), &sender_mac, &address.octets(), &frame[42..]].concat()
}

/// The target of a neighbor solicitation, and the sender's MAC. The message must be complete,
/// on-link (hop limit 255), and from a sender with an address. It must have no extension headers,
/// and the MAC as its first option.
fn solicitation(packet: &Packet<'_>) -> Option<(IpAddr, Mac)> {
    let header = &packet.header;
    let Transport::Icmp(135, message) = packet.transport() else { return None };
    let is_plain = !packet.is_v4() && header.extensions == 0 && header.hops == 255 && message.len() >= 32;
    if !is_plain || header.source.is_unspecified() || message[1] != 0 || message[24..26] != [1, 1] {
        return None;
    }
    Some((v6(&message[8..]).into(), mac(&message[26..])))
}
