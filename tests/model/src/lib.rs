//! A model of the TC programs' decision on a frame, for tests that compare both.
//!
//! The model follows docs/datapath.md and the RFCs, not the C sources. If both differ, one of the
//! three is wrong. It is meant to be read with the documentation, so it is simple and slow.
//!
//! ```
//! use cnikit_model::{Hook, Network, Origin, Port, Reason, Verdict};
//!
//! let [gateway_mac, mac] = [[2, 0, 0, 0, 0, 0xfe], [2, 0, 0, 0, 0, 0x0a]];
//! let mut network = Network::new(99, gateway_mac);
//! network.own("10.244.1.2".parse().unwrap(), 1, mac);
//! network.ports.insert(1, Port { mac, stack_only: false });
//!
//! // A frame without any content, from a MAC that is not the port's.
//! let frame = [&gateway_mac[..], &gateway_mac, &[0x88, 0xb5]].concat();
//! assert_eq!(network.judge(Hook::Ingress, 1, Origin::Elsewhere, &frame), Verdict::Drop(Reason::MacSource));
//! ```

mod flow;
mod neighbor;
mod read;
mod scenario;
mod spoof_check;

use std::collections::HashMap;
use std::net::IpAddr;

use flow::{Closes, Flow, FlowEffect, FlowKey};
use read::{Content, Header, Packet, Transport, protocol};
pub use scenario::{Scenario, Step};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The content of the maps, with the flows and counters of the programs.
#[derive(Debug, Clone)]
pub struct Network {
    /// The index of the bridge.
    pub bridge: u32,
    /// The bridge's MAC.
    pub gateway_mac: Mac,
    /// Whether direct forwarding between pods is on.
    pub direct: bool,
    /// Whether the spoof check is on.
    pub guard: bool,
    /// The port of each address: `pod_ifindex`.
    pub owners: HashMap<IpAddr, Owner>,
    /// The ports with spoof check or restrictions: `port_config`.
    pub ports: HashMap<u32, Port>,
    /// Addresses that the pod of a port has at another port, with that port: `port_addresses`.
    pub shared: HashMap<(u32, IpAddr), u32>,
    /// The counters.
    pub counts: Counts,
    flows: HashMap<FlowKey, Flow>,
}

/// The endpoint of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The index of the port, or of the bridge.
    pub port: u32,
    /// The MAC for frames to the address.
    pub mac: Mac,
}

/// The configuration of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// The pod's MAC.
    pub mac: Mac,
    /// Whether the port is excluded from direct forwarding.
    pub stack_only: bool,
}

/// The device that the frame arrived at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Origin {
    /// Another device, or the host created the frame.
    #[default]
    Elsewhere,
    /// The port of the hook.
    ThisPort,
    /// The bridge device: the host routes the frame.
    Bridge,
}

/// The hook of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Frames from the pod, or from the bridge to the host.
    Ingress,
    /// Frames to the pod, or from the host to the bridge.
    Egress,
}

/// The outcome for a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The frame is dropped.
    Drop(Reason),
    /// The frame is redirected to another pod, or back to the sender as an answer, with these
    /// bytes.
    Redirect(Vec<u8>),
    /// The frame continues in the stack, with these bytes.
    Stack(Vec<u8>),
}

/// The reasons for drops, with the numbers of docs/datapath.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "docs/datapath.md describes them")]
pub enum Reason {
    Malformed,
    Vlan,
    MacSource,
    IpSource,
    ArpSender,
    NdOwner,
    Router,
    Extensions,
    Reflected,
}

/// The counters of a network, summed over all addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "`net_stats` and `pkt_count` describe them")]
pub struct Counts {
    pub direct: u64,
    pub to_stack: u64,
    pub to_host: u64,
    pub from_stack: u64,
    pub arp_answers: u64,
    pub nd_answers: u64,
    pub flows_added: u64,
    pub flows_forgotten: u64,
    pub sent: u64,
    pub received: u64,
}

impl Network {
    /// A network without pods, with spoof check and direct forwarding.
    #[must_use]
    pub fn new(bridge: u32, gateway_mac: Mac) -> Self {
        Self {
            bridge,
            gateway_mac,
            direct: true,
            guard: true,
            owners: HashMap::new(),
            ports: HashMap::new(),
            shared: HashMap::new(),
            counts: Counts::default(),
            flows: HashMap::new(),
        }
    }

    /// Assigns an address to a port.
    pub fn own(&mut self, address: IpAddr, port: u32, mac: Mac) {
        self.owners.insert(address, Owner { port, mac });
    }

    /// The number of flows, of routed flows, and of closed flow sides.
    #[must_use]
    pub fn flows(&self) -> [usize; 3] {
        let flows = || self.flows.values();
        let closed = flows().map(|flow| flow.closed_sides()).sum();
        [flows().count(), flows().filter(|flow| flow.is_routed).count(), closed]
    }

    /// The outcome for a frame of at least 14 bytes at a hook of a port or of the bridge.
    pub fn judge(&mut self, hook: Hook, port: u32, origin: Origin, frame: &[u8]) -> Verdict {
        match hook {
            Hook::Ingress if port == self.bridge => {
                // Not parsed: the hook of the sending port already decided a frame that arrived at
                // a port.
                self.counts.to_host += u64::from(matches!(frame[12..14], [0x08, 0x00] | [0x86, 0xdd]));
                stack(frame)
            }
            Hook::Ingress => self.sent_by_pod(port, frame),
            Hook::Egress if port == self.bridge => self.answer(port, frame).unwrap_or_else(|| stack(frame)),
            Hook::Egress => self.delivered_to_pod(port, origin, frame),
        }
    }

    fn sent_by_pod(&mut self, port: u32, frame: &[u8]) -> Verdict {
        if let Some(reason) = self.violation(port, frame) {
            return Verdict::Drop(reason);
        }
        if let Some(answer) = self.answer(port, frame) {
            return answer;
        }
        match Content::of(frame) {
            Content::Ip(packet) => self.forward(port, frame, &packet),
            _ => stack(frame),
        }
    }

    /// The path of a packet from a pod.
    fn forward(&mut self, port: u32, frame: &[u8], packet: &Packet<'_>) -> Verdict {
        self.counts.sent += 1;
        if let Some(target) = self.other_pod(port, packet.header.destination) {
            match self.look_up_flow(packet) {
                // The host routed the packets of the other direction, so it must receive the
                // answer.
                Some(flow) if flow.is_routed => {
                    self.counts.to_stack += 1;
                    return Verdict::Stack([&self.gateway_mac[..], &frame[6..]].concat());
                }
                Some(_) => {}
                None => {
                    if let Some(delivered) = self.direct(port, target, frame, packet) {
                        self.counts.direct += 1;
                        self.counts.received += 1;
                        return Verdict::Redirect(delivered);
                    }
                }
            }
        }
        self.counts.to_stack += 1;
        stack(frame)
    }

    /// The frame that the target receives, if no condition prevents direct forwarding.
    fn direct(&self, port: u32, target: Owner, frame: &[u8], packet: &Packet<'_>) -> Option<Vec<u8>> {
        let is_stack_only = |port: u32| self.ports.get(&port).is_some_and(|port| port.stack_only);
        let is_free = self.direct && !is_stack_only(port) && !is_stack_only(target.port);
        let answer_can_be_direct = self.answer_can_be_direct(port, read::mac(&frame[6..]), packet.header.source);
        if !is_free
            || !answer_can_be_direct
            || packet.header.is_special
            || packet.flow_key().is_none()
            || packet.is_from_router()
        {
            return None;
        }
        match read::mac(frame) {
            mac if mac == target.mac => Some(frame.to_vec()),
            mac if mac == self.gateway_mac && self.guard => self.routed(target, frame, &packet.header),
            _ => None,
        }
    }

    /// Whether the answer can be forwarded directly too: the source is the address of a pod, and
    /// the frame comes from that pod's MAC.
    fn answer_can_be_direct(&self, port: u32, mac: Mac, source: IpAddr) -> bool {
        let Some(owner) = self.owners.get(&source).filter(|owner| owner.port != self.bridge) else { return false };
        mac == self.ports.get(&port).map_or(owner.mac, |port| port.mac)
    }

    /// The changes of a router to a frame: RFC 1812, section 5.2.3 and 5.3.1; RFC 8200, section 3.
    fn routed(&self, target: Owner, frame: &[u8], header: &Header) -> Option<Vec<u8>> {
        if header.hops <= 1 {
            return None;
        }
        let mut routed = [&target.mac[..], &self.gateway_mac, &frame[12..]].concat();
        if header.source.is_ipv4() {
            // RFC 1624, equation 3.
            let (old, sum) = (read::number(&frame[22..]), read::number(&frame[24..]));
            routed[22] -= 1;
            let new = read::number(&routed[22..]);
            let sum = !add(add(!sum, !old), new);
            routed[24..26].copy_from_slice(&sum.to_be_bytes());
        } else {
            routed[21] -= 1;
        }
        Some(routed)
    }

    fn delivered_to_pod(&mut self, port: u32, origin: Origin, frame: &[u8]) -> Verdict {
        let is_to_many = frame[0] & 1 == 1;
        if is_to_many && origin == Origin::ThisPort {
            return Verdict::Drop(Reason::Reflected);
        }
        let Content::Ip(packet) = Content::of(frame) else {
            return stack(frame);
        };
        if packet.is_from_router() {
            return Verdict::Drop(Reason::Router);
        }
        self.counts.from_stack += 1;
        self.counts.received += 1;
        let begins_or_continues = packet.flow_key().is_some_and(|(_, effect)| effect.closes != Closes::Elsewhere);
        if begins_or_continues && self.other_pod(port, packet.header.source).is_some() {
            let source = read::mac(&frame[6..]);
            // The kernel wrote the bridge's MAC into a routed frame. The gateway now has another
            // MAC.
            if origin == Origin::Bridge {
                self.gateway_mac = source;
            }
            self.track_flow(&packet, source == self.gateway_mac);
        }
        stack(frame)
    }

    /// The pod of an address at another port.
    fn other_pod(&self, port: u32, address: IpAddr) -> Option<Owner> {
        self.owners.get(&address).copied().filter(|owner| owner.port != self.bridge && owner.port != port)
    }

    /// The flow of the packet that the stack delivered, and that the packet must follow.
    fn look_up_flow(&mut self, packet: &Packet<'_>) -> Option<Flow> {
        let (flow_key, effect) = packet.flow_key()?;
        let flow = self.flows.get_mut(&flow_key)?;
        if effect.opens && flow.is_closed() {
            self.flows.remove(&flow_key);
            self.counts.flows_forgotten += 1;
            return None;
        }
        flow.close(effect.closes);
        Some(*flow)
    }

    fn track_flow(&mut self, packet: &Packet<'_>, is_routed: bool) {
        let Some((flow_key, effect)) = packet.flow_key() else { return };
        let known = self.flows.get(&flow_key).copied();
        self.counts.flows_added += u64::from(known.is_none());
        let mut flow = known.filter(|_| !effect.opens).unwrap_or_default();
        flow.is_routed = is_routed;
        flow.close(effect.closes);
        self.flows.insert(flow_key, flow);
    }

    /// A port with spoof check.
    fn checked_port(&self, port: u32) -> Option<Port> {
        self.ports.get(&port).copied().filter(|_| self.guard)
    }

    /// Whether an address belongs to the pod of a port.
    fn is_own(&self, port: u32, address: IpAddr) -> bool {
        let is_at = |port: u32| self.owners.get(&address).map(|owner| owner.port == port);
        // For an address that is unknown in this network, the other network decides.
        let is_at_sibling = |sibling: &u32| is_at(*sibling).unwrap_or(true);
        is_at(port) == Some(true) || self.shared.get(&(port, address)).is_some_and(is_at_sibling)
    }
}

impl Packet<'_> {
    /// The flow of the packet, and the packet's effect on the flow.
    fn flow_key(&self) -> Option<(FlowKey, FlowEffect)> {
        FlowEffect::of(self)
    }

    /// Redirects of RFC 792 and RFC 4861, section 4.5; router advertisements, section 4.2.
    fn is_from_router(&self) -> bool {
        let kinds: &[u8] = if self.is_v4() { &[5] } else { &[137, 134] };
        matches!(self.transport(), Transport::Icmp(kind, _) if kinds.contains(&kind))
    }

    /// For an ICMP error: the destination of the quoted packet, if it is readable.
    fn quoted_destination(&self) -> Option<IpAddr> {
        let is_v4 = self.is_v4();
        match self.transport() {
            Transport::Icmp(kind, message) if flow::is_error(kind, is_v4) => {
                Some(read::quoted(message, is_v4)?.0.destination)
            }
            _ => None,
        }
    }

    fn is_icmpv6(&self) -> bool {
        !self.is_v4() && self.header.protocol == protocol::ICMPV6
    }
}

fn stack(frame: &[u8]) -> Verdict {
    Verdict::Stack(frame.to_vec())
}

/// RFC 1071: one's complement.
fn add(a: u16, b: u16) -> u16 {
    let (sum, carried) = a.overflowing_add(b);
    sum + u16::from(carried)
}
