use super::{
    action::Action,
    condition::Match,
    listing::{drops_all, iptables_comment},
    message::{HEADER, comment, truncated, user_data},
    raw::Expression,
    table::Table,
    uapi::{NFTA_RULE_EXPRESSIONS, NFTA_RULE_HANDLE, NFTA_RULE_USERDATA, NFTNL_UDATA_RULE_COMMENT},
};
use crate::netlink::wire::attributes;

/// A rule: an action for packets that match all its [conditions](Match).
///
/// ```
/// use cnikit::netlink::nftables::{Action, Match, PortRandomization, Rule};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pods = "10.244.1.0/24".parse()?;
/// let rule = Rule::new(Action::Masquerade(PortRandomization::FullyRandom))
///     .with_match(Match::source(pods))
///     .with_match(!Match::destination(pods))
///     .with_match(!Match::output_link("cbr0".parse()?));
/// assert_eq!(rule.digest()?.len(), 16);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub(super) parts: Vec<Part>,
    pub(super) action: Action,
    comment: Option<String>,
}

/// A part of a rule before its action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Match(Match),
    Expression(Expression),
}

/// A rule in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuleInfo {
    /// The handle of the rule in the table.
    pub handle: u64,
    /// The comment of nft(8), or of the match `comment` of iptables.
    pub comment: Option<String>,
    /// Whether the rule drops or rejects every packet that reaches it.
    pub drops_all: bool,
}

impl Rule {
    /// A rule for all packets, until [conditions](Rule::with_match) are added.
    #[must_use]
    pub const fn new(action: Action) -> Self {
        Self { parts: Vec::new(), action, comment: None }
    }

    /// Adds a condition. Conditions are evaluated in this order, until one does not match.
    #[must_use]
    pub fn with_match(mut self, condition: Match) -> Self {
        self.parts.push(Part::Match(condition));
        self
    }

    /// Sets the comment that nft(8) shows and [`Socket::rules`](super::Socket::rules) reads. It is
    /// truncated at 127 bytes.
    #[must_use]
    pub fn comment(mut self, comment: impl Into<String>) -> Self {
        self.comment = Some(truncated(comment.into()));
        self
    }

    /// Adds an expression of the kernel. Conditions and expressions are evaluated in the order of
    /// their addition, the action last.
    #[must_use]
    pub fn with_expression(mut self, expression: Expression) -> Self {
        self.parts.push(Part::Expression(expression));
        self
    }

    /// The kernel module that the rule needs, if it is a separate module. For a rule that refers to
    /// a chain or set, the same error of the kernel means that the chain or set is absent.
    pub(super) fn module(&self) -> Option<&'static str> {
        if self.references().next().is_some() {
            return None;
        }
        self.action.module().or_else(|| self.matches().find_map(Match::module))
    }

    /// The tables of the chains and sets that the rule refers to.
    pub(super) fn references(&self) -> impl Iterator<Item = &Table> {
        let sets = self.matches().filter_map(Match::set).map(|set| &set.table);
        self.action.table().into_iter().chain(sets)
    }

    /// The comment in the format of nft(8).
    pub(super) fn user_data(&self) -> Option<Vec<u8>> {
        user_data(NFTNL_UDATA_RULE_COMMENT, self.comment.as_deref()?)
    }

    fn matches(&self) -> impl Iterator<Item = &Match> {
        self.parts.iter().filter_map(|part| match part {
            Part::Match(condition) => Some(condition),
            Part::Expression(_) => None,
        })
    }
}

impl RuleInfo {
    /// Reads the rule from a message of the kernel.
    pub(in crate::netlink) fn decode(message: &[u8]) -> Self {
        let (mut handle, mut user_data, mut expressions) = (0, &[][..], &[][..]);
        for (kind, payload) in attributes(message.get(HEADER..).unwrap_or_default()) {
            match kind {
                NFTA_RULE_HANDLE => handle = payload.try_into().map_or(0, u64::from_be_bytes),
                NFTA_RULE_USERDATA => user_data = payload,
                NFTA_RULE_EXPRESSIONS => expressions = payload,
                _ => (),
            }
        }
        let comment = comment(NFTNL_UDATA_RULE_COMMENT, user_data).or_else(|| iptables_comment(expressions));
        Self { handle, comment, drops_all: drops_all(expressions) }
    }
}

#[cfg(test)]
mod tests {
    use ipnetwork::IpNetwork;

    use super::*;
    use crate::netlink::nftables::PortRandomization;

    #[test]
    fn long_comment_is_truncated() {
        let long = Rule::new(Action::Accept).comment("ä".repeat(100));
        let data = long.user_data().expect("a comment");
        assert_eq!((data[0], usize::from(data[1]), data.len()), (0, 127, 129), "63 letters of two bytes, and a NUL");
        assert_eq!(comment(0, &data), Some("ä".repeat(63)));
    }

    #[test]
    fn comment_is_found_after_other_user_data() {
        assert_eq!(comment(0, &[1, 2, 9, 9, 0, 3, b'm', b'e', 0]), Some("me".into()));
        assert_eq!(comment(0, &[0, 9, b'm']), None);
        assert_eq!(comment(0, &[]), None);
    }

    /// Comments of rules in the kernel have digests of earlier versions of this library.
    #[cfg(target_endian = "little")]
    #[test]
    fn digest_does_not_depend_on_the_version() {
        let prefix = |text: &str| text.parse().expect("a prefix");
        let masquerade = Rule::new(Action::Masquerade(PortRandomization::FullyRandom))
            .with_match(Match::source(prefix("10.244.1.0/24")))
            .with_match(!Match::destination(prefix("10.244.1.0/24")))
            .with_match(!Match::output_link("cbr0".parse().expect("a name")));
        let drop = Rule::new(Action::Drop).with_match(Match::source(prefix("fd00::7/128")));
        let digests = [masquerade, drop].map(|rule| rule.digest().expect("a digest"));
        assert_eq!(digests, ["17eb39fc63793f88", "7d8e67ae8b290499"]);
    }

    #[test]
    fn digest_depends_on_the_effect_only() {
        let pods: IpNetwork = "10.1.0.0/16".parse().expect("a prefix");
        let bridge = |name: &str| Match::output_link(name.parse().expect("a name"));
        let rule = |action| Rule::new(action).with_match(Match::source(pods));
        let rules = [
            rule(Action::Accept),
            rule(Action::Drop),
            rule(Action::Masquerade(PortRandomization::Kept)),
            rule(Action::Masquerade(PortRandomization::FullyRandom)),
            rule(Action::Accept).with_match(bridge("one")),
            rule(Action::Accept).with_match(bridge("two")),
            rule(Action::Accept).with_match(!bridge("two")),
        ];
        let digests: std::collections::BTreeSet<_> =
            rules.iter().map(|rule| rule.digest().expect("a digest")).collect();
        assert_eq!(digests.len(), rules.len());
        let commented = rule(Action::Accept).comment("any comment");
        assert_eq!(commented.digest().expect("a digest"), rules[0].digest().expect("a digest"));
    }
}
