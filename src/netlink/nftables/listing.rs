//! Objects of other programs, as the kernel lists them.

use super::{
    message::HEADER,
    table::{Chain, Family, Hook, Policy, Priority, Table},
    uapi::*,
};
use crate::netlink::wire::{attribute, attributes, text};

/// A base chain in the kernel, of any program.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BaseChain {
    /// The chain, for [`Socket::rules`](super::Socket::rules) and for rules of a
    /// [`Batch`](super::Batch). It has only the table and the name, so no batch creates it again.
    pub chain: Chain,
    /// The family of its table.
    pub family: Family,
    /// The hook that runs it.
    pub hook: Hook,
    /// Its place among the chains of the hook.
    pub priority: Priority,
    /// The fate of packets that no rule decides.
    pub policy: Policy,
}

impl BaseChain {
    /// Reads the chain from a message of the kernel. `None` for a chain without a hook, and for an
    /// unsupported family or hook.
    pub(in crate::netlink) fn decode(message: &[u8]) -> Option<Self> {
        let family = Family::from_number(*message.first()?)?;
        let attributes = message.get(HEADER..)?;
        let hook = attribute(attributes, NFTA_CHAIN_HOOK)?;
        let policy = attribute(attributes, NFTA_CHAIN_POLICY).and_then(number);
        let name = |kind| attribute(attributes, kind).map(text);
        Some(Self {
            chain: Table::new(family, name(NFTA_CHAIN_TABLE)?).chain(name(NFTA_CHAIN_NAME)?),
            family,
            hook: Hook::from_number(attribute(hook, NFTA_HOOK_HOOKNUM).and_then(number)?)?,
            priority: Priority(attribute(hook, NFTA_HOOK_PRIORITY).and_then(number)?.cast_signed()),
            policy: if policy == Some(Policy::Drop.number()) { Policy::Drop } else { Policy::Accept },
        })
    }
}

/// Whether a rule with these expressions drops or rejects every packet. An unknown expression
/// counts as a condition.
pub(super) fn drops_all(expressions: &[u8]) -> bool {
    let mut drops = false;
    for (name, data) in named(expressions) {
        match name.as_str() {
            "counter" | "log" => {}
            "match" if target_name(data).as_deref() == Some("comment") => {}
            "reject" => drops = true,
            "target" if matches!(target_name(data).as_deref(), Some("REJECT" | "DROP")) => drops = true,
            "immediate" if verdict(data) == Some(NF_DROP) => drops = true,
            _ => return false,
        }
    }
    drops
}

/// The comment of `iptables -m comment`, which restored rules have instead of nft's.
pub(super) fn iptables_comment(expressions: &[u8]) -> Option<String> {
    let (_, data) =
        named(expressions).find(|(name, data)| name == "match" && target_name(data).as_deref() == Some("comment"))?;
    attribute(data, NFTA_MATCH_INFO).map(text)
}

/// The expressions of a rule: names and attributes.
fn named(expressions: &[u8]) -> impl Iterator<Item = (String, &[u8])> {
    attributes(expressions).filter_map(|(_, expression)| {
        let data = attribute(expression, NFTA_EXPR_DATA).unwrap_or_default();
        attribute(expression, NFTA_EXPR_NAME).map(|name| (text(name), data))
    })
}

/// The name of an extension of iptables: a match or a target.
fn target_name(data: &[u8]) -> Option<String> {
    attribute(data, NFTA_MATCH_NAME).map(text)
}

fn verdict(immediate: &[u8]) -> Option<i32> {
    let data = attribute(immediate, NFTA_IMMEDIATE_DATA)?;
    let verdict = attribute(data, NFTA_DATA_VERDICT)?;
    attribute(verdict, NFTA_VERDICT_CODE).and_then(number).map(u32::cast_signed)
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().map(u32::from_be_bytes).ok()
}
