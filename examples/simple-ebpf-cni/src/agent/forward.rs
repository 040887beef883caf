//! Packet filters of other programs that drop forwarded packets of pods.
//!
//! A packet passes all base chains of the hook `forward`, and an accept ends only its own chain.
//! So the rules that accept packets of pods must be in the chain that drops.

use std::collections::BTreeSet;
use std::fmt;

use cnikit::netlink::nftables::{Action, Batch, Chain, Family, Hook, Match, Policy, Rule, RuleInfo, Socket};
use cnikit::netlink::{Error, Result};
use ipnetwork::IpNetwork;

use super::NAME;

/// The table of firewalld, and its command.
const FIREWALLD: &str = "inet firewalld ";

/// A base chain at the hook `forward`, of another program than the agent.
#[derive(Debug)]
pub struct ForwardChain {
    chain: Chain,
    family: Family,
    cause: Option<Cause>,
    rules: Vec<RuleInfo>,
}

/// The reason why a chain drops packets that no rule accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Policy,
    LastRule,
}

/// A chain that drops packets of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The chain and the cause.
    pub found: String,
    /// The command that adds the missing rules.
    pub remedy: String,
    /// Whether other rules of the chain may accept packets of pods.
    pub is_uncertain: bool,
}

/// A rule that accepts packets of pods.
struct Accept {
    cidr: IpNetwork,
    is_source: bool,
}

/// The base chains at the hook `forward`, except those for Ethernet frames. A kernel without
/// nftables has none.
///
/// # Errors
///
/// Fails if the kernel refuses the list.
pub fn chains(nftables: &Socket) -> Result<Vec<ForwardChain>> {
    let found = match nftables.base_chains() {
        Err(Error::Unsupported { .. }) => return Ok(Vec::new()),
        found => found?,
    };
    let forward = found.into_iter().filter(|base| base.hook == Hook::Forward && base.family != Family::Bridge);
    let read = |base: cnikit::netlink::nftables::BaseChain| {
        let rules = nftables.rules(&base.chain)?;
        let last = rules.iter().rfind(|rule| !is_own(rule));
        let cause = match last {
            _ if base.policy == Policy::Drop => Some(Cause::Policy),
            Some(last) if last.drops_all => Some(Cause::LastRule),
            _ => None,
        };
        Ok(ForwardChain { chain: base.chain, family: base.family, cause, rules })
    };
    forward.map(read).collect()
}

impl ForwardChain {
    /// Whether the agent has rules in this chain.
    #[must_use]
    pub fn has_own_rules(&self) -> bool {
        self.rules.iter().any(is_own)
    }

    /// The changes after which the chain accepts packets of pods with these CIDRs, and has no other
    /// rule of the agent. `None` if there is no difference.
    #[must_use]
    pub fn changes(&self, own: &[IpNetwork]) -> Option<Batch> {
        let wanted = self.wanted(own);
        let mut kept: BTreeSet<String> = wanted.iter().map(Accept::own_comment).collect();
        let is_stale = |rule: &&RuleInfo| is_own(rule) && !rule.comment.as_ref().is_some_and(|own| kept.remove(own));
        let stale: Vec<u64> = self.rules.iter().filter(is_stale).map(|rule| rule.handle).collect();
        // Each insertion is the new head.
        let missing: Vec<_> = wanted.into_iter().filter(|accept| !self.has(accept)).rev().collect();
        if stale.is_empty() && missing.is_empty() {
            return None;
        }
        let batch = stale.into_iter().fold(Batch::new(), |batch, handle| batch.delete_rule(&self.chain, handle));
        Some(missing.iter().fold(batch, |batch, accept| batch.insert_rule(&self.chain, accept.rule())))
    }

    /// The problem of pods with these CIDRs. `None` if the chain accepts their packets.
    #[must_use]
    pub fn problem(&self, own: &[IpNetwork]) -> Option<Problem> {
        let missing: Vec<_> = self.wanted(own).into_iter().filter(|accept| !self.has(accept)).collect();
        if missing.is_empty() {
            return None;
        }
        let cause = match self.cause {
            Some(Cause::Policy) => "its policy is drop",
            _ => "its last rule drops or rejects all packets",
        };
        let is_uncertain = self.is_firewalld();
        let unless = if is_uncertain { ", unless the zone trusted has the pod CIDRs" } else { "" };
        Some(Problem {
            found: format!("the nftables chain {} drops forwarded packets of pods: {cause}{unless}", self.chain),
            remedy: self.remedy(&missing),
            is_uncertain,
        })
    }

    fn remedy(&self, missing: &[Accept]) -> String {
        if self.is_firewalld() {
            let sources = missing.iter().filter(|accept| accept.is_source);
            let sources: Vec<_> = sources.map(|accept| format!("--add-source={}", accept.cidr)).collect();
            let sources = sources.join(" ");
            return format!("firewall-cmd --permanent --zone=trusted {sources} && firewall-cmd --reload");
        }
        let command = |accept: &Accept| {
            let Accept { cidr, is_source } = accept;
            let comment = accept.comment();
            match self.chain.to_string().as_str() {
                name @ ("ip filter FORWARD" | "ip6 filter FORWARD") => {
                    let program = if name.starts_with("ip ") { "iptables-nft" } else { "ip6tables-nft" };
                    let field = if *is_source { "-s" } else { "-d" };
                    format!("{program} -I FORWARD {field} {cidr} -m comment --comment '{comment}' -j ACCEPT")
                }
                name => {
                    let family = if cidr.is_ipv4() { "ip" } else { "ip6" };
                    let field = if *is_source { "saddr" } else { "daddr" };
                    format!("nft 'insert rule {name} {family} {field} {cidr} accept comment \"{comment}\"'")
                }
            }
        };
        missing.iter().map(command).collect::<Vec<_>>().join(" && ")
    }

    fn is_firewalld(&self) -> bool {
        self.chain.to_string().starts_with(FIREWALLD)
    }

    /// The rules that the chain needs.
    fn wanted(&self, own: &[IpNetwork]) -> Vec<Accept> {
        let is_of_family = |cidr: &&IpNetwork| match self.family {
            Family::Ip => cidr.is_ipv4(),
            Family::Ip6 => cidr.is_ipv6(),
            _ => true,
        };
        let cidrs = own.iter().filter(is_of_family).filter(|_| self.cause.is_some());
        cidrs.flat_map(|cidr| [true, false].map(|is_source| Accept { cidr: *cidr, is_source })).collect()
    }

    /// Whether the chain has the rule, of the agent or of the command of a [`Problem`].
    fn has(&self, accept: &Accept) -> bool {
        let comments = [accept.own_comment(), accept.comment()];
        self.rules.iter().any(|rule| rule.comment.as_ref().is_some_and(|comment| comments.contains(comment)))
    }
}

impl fmt::Display for ForwardChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.chain.fmt(f)
    }
}

impl Accept {
    fn rule(&self) -> Rule {
        let condition = if self.is_source { Match::source(self.cidr) } else { Match::destination(self.cidr) };
        Rule::new(Action::Accept).with_match(condition).comment(self.own_comment())
    }

    /// The comment of a rule that the operator adds. The agent does not delete such a rule.
    fn comment(&self) -> String {
        let end = if self.is_source { "from" } else { "to" };
        format!("{end} pods of {}", self.cidr)
    }

    /// The comment of the agent's rule.
    fn own_comment(&self) -> String {
        format!("{NAME}: {}", self.comment())
    }
}

fn is_own(rule: &RuleInfo) -> bool {
    let rest = rule.comment.as_ref().and_then(|comment| comment.strip_prefix(NAME));
    rest.is_some_and(|rest| rest.starts_with(": "))
}
