//! Rule messages: `struct fib_rule_hdr` and its attributes.

use std::ops::RangeInclusive;

use ipnetwork::IpNetwork;
use neli::{consts::rtnl::RtAddrFamily, types::Buffer};

use super::rule::{Other, RoutingRule, RuleAction};
use crate::netlink::{
    error::Result,
    operation::EncodeError,
    routes::RTPROT_STATIC,
    wire::{Attributes, attributes, ip_addr, number, text},
};

const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_GOTO: u16 = 4;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_IFGROUP: u16 = 13;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_OIFNAME: u16 = 17;
const FRA_PAD: u16 = 18;
const FRA_UID_RANGE: u16 = 20;
const FRA_PROTOCOL: u16 = 21;
const FRA_IP_PROTO: u16 = 22;
const FRA_SPORT_RANGE: u16 = 23;
const FRA_DPORT_RANGE: u16 = 24;
const FRA_SPORT_MASK: u16 = 28;
const FRA_DPORT_MASK: u16 = 29;

const FR_ACT_TO_TBL: u8 = 1;
const FR_ACT_GOTO: u8 = 2;
const FR_ACT_NOP: u8 = 3;
const FR_ACT_BLACKHOLE: u8 = 6;
const FR_ACT_UNREACHABLE: u8 = 7;
const FR_ACT_PROHIBIT: u8 = 8;

const FIB_RULE_INVERT: u32 = 2;

/// A subnet of another family than the rule.
#[derive(Debug, thiserror::Error)]
#[error("{0} is of another address family than the rule")]
struct OtherFamily(IpNetwork);

impl RoutingRule {
    pub(super) fn message(&self) -> Result<Buffer, EncodeError> {
        let mut attrs = Attributes::new();
        let mut lengths = [0, 0];
        for (length, kind, subnet) in [(0, FRA_DST, self.to), (1, FRA_SRC, self.from)] {
            let Some(subnet) = subnet else { continue };
            if subnet.is_ipv6() != self.ipv6 {
                return Err(EncodeError::new(OtherFamily(subnet)));
            }
            if subnet.prefix() > 0 {
                // Not the network's address: the kernel keeps and compares the host bits.
                attrs = attrs.put_ip(kind, subnet.ip());
                lengths[length] = subnet.prefix();
            }
        }
        for (kind, link) in [(FRA_IIFNAME, &self.iif), (FRA_OIFNAME, &self.oif)] {
            if let Some(link) = link {
                attrs = attrs.put_text(kind, link.as_str());
            }
        }
        if let Some(priority) = self.priority {
            attrs = attrs.put_u32(FRA_PRIORITY, priority);
        }
        let (mark, mask) = self.mark();
        if (mark, mask) != (0, 0) {
            attrs = attrs.put_u32(FRA_FWMARK, mark).put_u32(FRA_FWMASK, mask);
        }
        if let Some(protocol) = self.ip_proto {
            attrs = attrs.put_u8(FRA_IP_PROTO, protocol);
        }
        for (kind, ports) in [(FRA_SPORT_RANGE, &self.sport), (FRA_DPORT_RANGE, &self.dport)] {
            if let Some(ports) = ports {
                attrs = attrs.put(kind, &[ports.start().to_ne_bytes(), ports.end().to_ne_bytes()].concat());
            }
        }
        if let Some(uid) = &self.uid {
            attrs = attrs.put(FRA_UID_RANGE, &[uid.start().to_ne_bytes(), uid.end().to_ne_bytes()].concat());
        }
        let action = match self.action {
            RuleAction::Lookup(table) => {
                attrs = attrs.put_u32(FRA_TABLE, table);
                FR_ACT_TO_TBL
            }
            RuleAction::Goto(priority) => {
                attrs = attrs.put_u32(FRA_GOTO, priority);
                FR_ACT_GOTO
            }
            RuleAction::Nop => FR_ACT_NOP,
            RuleAction::Blackhole => FR_ACT_BLACKHOLE,
            RuleAction::Unreachable => FR_ACT_UNREACHABLE,
            RuleAction::Prohibit => FR_ACT_PROHIBIT,
            RuleAction::Unknown(action) => action,
        };
        attrs = attrs.put_u8(FRA_PROTOCOL, self.protocol.unwrap_or(RTPROT_STATIC));
        for (kind, payload) in &self.other.attributes {
            attrs = attrs.put(*kind, payload);
        }
        let flags = if self.invert { FIB_RULE_INVERT } else { 0 };
        let [dst_len, src_len] = lengths;
        let header = [family(self.ipv6).into(), dst_len, src_len, self.other.tos, 0, 0, 0, action];
        Ok(Buffer::from([&header[..], &flags.to_ne_bytes(), &attrs.encode()?].concat()))
    }

    pub(in crate::netlink) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[family_number, dst_len, src_len, tos, table, _, _, action], rest) = bytes.split_first_chunk()?;
        let (flags, attrs) = rest.split_first_chunk()?;
        let mut rule = Self::new(RuleAction::Nop);
        rule.ipv6 = match family_number {
            number if number == u8::from(RtAddrFamily::Inet) => false,
            number if number == u8::from(RtAddrFamily::Inet6) => true,
            _ => return None,
        };
        rule.invert = u32::from_ne_bytes(*flags) & FIB_RULE_INVERT != 0;
        // The kernel omits a priority of 0.
        rule.priority = Some(0);
        let (mut table, mut goto) = (u32::from(table), 0);
        let mut other = Other { tos, attributes: Vec::new() };
        for (kind, bytes) in attributes(attrs) {
            let is_known = match kind {
                FRA_DST => subnet(bytes, dst_len).map(|to| rule.to = Some(to)).is_some(),
                FRA_SRC => subnet(bytes, src_len).map(|from| rule.from = Some(from)).is_some(),
                FRA_IIFNAME => text(bytes).parse().map(|iif| rule.iif = Some(iif)).is_ok(),
                FRA_OIFNAME => text(bytes).parse().map(|oif| rule.oif = Some(oif)).is_ok(),
                FRA_GOTO => number(bytes).map(|priority| goto = priority).is_some(),
                FRA_PRIORITY => number(bytes).map(|priority| rule.priority = Some(priority)).is_some(),
                FRA_FWMARK => number(bytes).map(|mark| rule.fwmark = Some(mark)).is_some(),
                FRA_FWMASK => number(bytes).map(|mask| rule.fwmask = Some(mask)).is_some(),
                FRA_TABLE => number(bytes).map(|number| table = number).is_some(),
                FRA_UID_RANGE => uids(bytes).map(|uid| rule.uid = Some(uid)).is_some(),
                FRA_PROTOCOL => bytes.first().map(|protocol| rule.protocol = Some(*protocol)).is_some(),
                FRA_IP_PROTO => bytes.first().map(|protocol| rule.ip_proto = Some(*protocol)).is_some(),
                FRA_SPORT_RANGE => ports(bytes).map(|ports| rule.sport = Some(ports)).is_some(),
                FRA_DPORT_RANGE => ports(bytes).map(|ports| rule.dport = Some(ports)).is_some(),
                // These values are the default.
                FRA_SUPPRESS_IFGROUP | FRA_SUPPRESS_PREFIXLEN => bytes == [0xff; 4],
                FRA_SPORT_MASK | FRA_DPORT_MASK => bytes == [0xff; 2],
                FRA_PAD => true,
                _ => false,
            };
            if !is_known {
                other.attributes.push((kind, bytes.to_vec()));
            }
        }
        rule.action = match action {
            FR_ACT_TO_TBL => RuleAction::Lookup(table),
            FR_ACT_GOTO => RuleAction::Goto(goto),
            FR_ACT_NOP => RuleAction::Nop,
            FR_ACT_BLACKHOLE => RuleAction::Blackhole,
            FR_ACT_UNREACHABLE => RuleAction::Unreachable,
            FR_ACT_PROHIBIT => RuleAction::Prohibit,
            action => RuleAction::Unknown(action),
        };
        rule.other = other;
        Some(rule)
    }

    /// Whether a deletion of this rule could remove `found` instead. The kernel compares only the
    /// conditions of the request, and neither `goto` nor `not`.
    pub(super) fn may_delete(&self, found: &Self) -> bool {
        fn agree<T: PartialEq>(wanted: &Option<T>, found: &Option<T>) -> bool {
            wanted.is_none() || wanted == found
        }
        let tables = (self.table(), found.table());
        let has = |attribute| found.other.attributes.contains(attribute);
        let ((mark, mask), (found_mark, found_mask)) = (self.mark(), found.mark());
        std::mem::discriminant(&self.action) == std::mem::discriminant(&found.action)
            && (tables.0 == tables.1 || tables.0 == Some(0))
            && agree(&self.priority, &found.priority)
            && agree(&self.from.filter(|net| net.prefix() > 0), &found.from)
            && agree(&self.to.filter(|net| net.prefix() > 0), &found.to)
            && agree(&self.iif, &found.iif)
            && agree(&self.oif, &found.oif)
            && (mark == 0 || mark == found_mark)
            && (mask == 0 || mask == found_mask)
            && agree(&self.ip_proto, &found.ip_proto)
            && agree(&self.sport, &found.sport)
            && agree(&self.dport, &found.dport)
            && agree(&self.uid, &found.uid)
            && agree(&self.protocol, &found.protocol)
            && (self.other.tos == 0 || self.other.tos == found.other.tos)
            && self.other.attributes.iter().all(has)
    }
}

pub(super) const fn family(is_ipv6: bool) -> RtAddrFamily {
    if is_ipv6 { RtAddrFamily::Inet6 } else { RtAddrFamily::Inet }
}

fn subnet(bytes: &[u8], length: u8) -> Option<IpNetwork> {
    IpNetwork::new(ip_addr(bytes)?, length).ok()
}

/// `struct fib_rule_port_range`.
fn ports(bytes: &[u8]) -> Option<RangeInclusive<u16>> {
    let (first, last) = bytes.split_first_chunk()?;
    Some(u16::from_ne_bytes(*first)..=u16::from_ne_bytes(last.try_into().ok()?))
}

/// `struct fib_rule_uid_range`.
fn uids(bytes: &[u8]) -> Option<RangeInclusive<u32>> {
    let (first, last) = bytes.split_first_chunk()?;
    Some(u32::from_ne_bytes(*first)..=number(last)?)
}
