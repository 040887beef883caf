//! Flows: their keys, and when they end.

use std::net::IpAddr;

use crate::read::{Header, Packet, Ports, Transport, quoted};

/// Two ends and a protocol, independent of the direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    protocol: u8,
    lower: End,
    higher: End,
}

type End = (IpAddr, u16);

/// The state of a flow that the stack delivers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Flow {
    /// The host routed the last packet of the flow, so the answers go through the host.
    pub(crate) is_routed: bool,
    lower_closed: bool,
    higher_closed: bool,
}

/// The effect of a packet on its flow.
pub(crate) struct FlowEffect {
    /// The packet may be the first of the flow.
    pub(crate) opens: bool,
    pub(crate) closes: Closes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closes {
    Nothing,
    LowerSide,
    HigherSide,
    Both,
    /// The packet is an ICMP error about the flow, and not a part of it.
    Elsewhere,
}

impl Flow {
    pub(crate) fn is_closed(&self) -> bool {
        self.closed_sides() == 2
    }

    pub(crate) fn closed_sides(&self) -> usize {
        usize::from(self.lower_closed) + usize::from(self.higher_closed)
    }

    pub(crate) fn close(&mut self, closes: Closes) {
        self.lower_closed |= matches!(closes, Closes::LowerSide | Closes::Both);
        self.higher_closed |= matches!(closes, Closes::HigherSide | Closes::Both);
    }
}

impl FlowEffect {
    /// Flows exist for TCP, UDP, UDP-Lite, SCTP, ICMP echoes and errors, and for no other protocol.
    pub(crate) fn of(packet: &Packet<'_>) -> Option<(FlowKey, Self)> {
        let transport = packet.transport();
        let flow_key = FlowKey::of(&packet.header, transport);
        let is_v4 = packet.is_v4();
        match transport {
            Transport::Icmp(kind, message) if is_error(kind, is_v4) => {
                let (header, transport) = quoted(message, is_v4)?;
                // Only the receiver of a packet may report an error about it, and only to the
                // packet's sender.
                let is_answer =
                    header.source == packet.header.destination && header.destination == packet.header.source;
                let quoted = FlowKey::of(&header, transport).filter(|_| is_answer)?;
                Some((quoted, Self { opens: false, closes: Closes::Elsewhere }))
            }
            Transport::Icmp(kind, _) => {
                Some((flow_key?, Self { opens: kind == echo_request(is_v4), closes: Closes::Nothing }))
            }
            // RFC 9293, section 3.1. Flags beyond the end of a fragment are unknown.
            Transport::Tcp(_, flags) => {
                let flags = flags.unwrap_or(ACK);
                let side = if is_lower(&packet.header) { Closes::LowerSide } else { Closes::HigherSide };
                let closes = match flags {
                    flags if flags & RST != 0 => Closes::Both,
                    flags if flags & FIN != 0 => side,
                    _ => Closes::Nothing,
                };
                Some((flow_key?, Self { opens: flags & (SYN | ACK) == SYN, closes }))
            }
            Transport::Datagram(_) => Some((flow_key?, Self { opens: true, closes: Closes::Nothing })),
            Transport::Unknown => None,
        }
    }
}

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

impl FlowKey {
    fn of(header: &Header, transport: Transport<'_>) -> Option<Self> {
        let Ports(from, to) = match transport {
            Transport::Tcp(ports, _) | Transport::Datagram(ports) => ports,
            Transport::Icmp(kind, message) if is_echo(kind, header.source.is_ipv4()) => {
                let id = crate::read::number(&message[4..]);
                Ports(id, id)
            }
            Transport::Icmp(..) | Transport::Unknown => return None,
        };
        let (source, destination) = ((header.source, from), (header.destination, to));
        let (lower, higher) = if is_lower(header) { (source, destination) } else { (destination, source) };
        Some(Self { protocol: header.protocol, lower, higher })
    }
}

/// Whether the sender is the lower of the two ends, by address, because no two pods share one.
fn is_lower(header: &Header) -> bool {
    header.source < header.destination
}

/// RFC 792; RFC 4443, section 2.1.
pub(crate) fn is_error(kind: u8, is_v4: bool) -> bool {
    if is_v4 { matches!(kind, 3 | 4 | 5 | 11 | 12) } else { kind < 128 }
}

fn is_echo(kind: u8, is_v4: bool) -> bool {
    if is_v4 { matches!(kind, 0 | 8) } else { matches!(kind, 128 | 129) }
}

fn echo_request(is_v4: bool) -> u8 {
    if is_v4 { 8 } else { 128 }
}
