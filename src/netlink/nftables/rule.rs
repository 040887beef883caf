use std::ops::Not;

use ipnetwork::IpNetwork;

use super::{
    message::HEADER,
    uapi::{NFTA_RULE_HANDLE, NFTA_RULE_USERDATA, NFTNL_UDATA_COMMENT_MAXLEN, NFTNL_UDATA_RULE_COMMENT},
};
use crate::{
    netlink::attrs::{nested, text},
    spec::IfName,
};

/// A rule: an action for packets that match all its [conditions](Match).
///
/// ```
/// use cnikit::netlink::nftables::{Action, Match, PortRandomization, Rule};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pods = "10.244.1.0/24".parse()?;
/// let rule = Rule::new(Action::Masquerade(PortRandomization::FullyRandom))
///     .matching(Match::source(pods))
///     .matching(!Match::destination(pods))
///     .matching(!Match::output_link("cbr0".parse()?));
/// assert_eq!(rule.digest()?.len(), 16);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub(super) matches: Vec<Match>,
    pub(super) action: Action,
    comment: Option<String>,
}

/// A condition; `!` negates it.
///
/// A condition on an address matches only packets of the address's family, negated or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    pub(super) field: Field,
    pub(super) is_negated: bool,
}

/// The action of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Lets the packet pass to the next base chain.
    Accept,
    /// Drops the packet.
    Drop,
    /// Leaves the chain; in a base chain the policy decides.
    Return,
    /// Translates the source to the host's address on the outgoing link. Valid only in a
    /// [`Nat`](super::ChainType::Nat) chain at [`Postrouting`](super::Hook::Postrouting).
    Masquerade(PortRandomization),
}

/// The choice of source ports for masqueraded connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PortRandomization {
    /// The original port if it is free, otherwise a port nearby.
    Kept,
    /// A port from a hash of the addresses, with a random offset.
    Random,
    /// A random port. Connections that start at the same time then rarely collide; a collision
    /// would cost one of them its first packet.
    #[doc(alias = "random-fully")]
    FullyRandom,
}

/// A rule in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuleInfo {
    /// The handle of the rule in the table.
    pub handle: u64,
    /// The comment.
    pub comment: Option<String>,
}

/// The packet field of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Field {
    Source(IpNetwork),
    Destination(IpNetwork),
    InputLink(IfName),
    OutputLink(IfName),
}

impl Rule {
    /// A rule for all packets, until [conditions](Rule::matching) are added.
    #[must_use]
    pub const fn new(action: Action) -> Self {
        Self { matches: Vec::new(), action, comment: None }
    }

    /// Adds a condition. Conditions are evaluated in this order, until one does not match.
    #[must_use]
    pub fn matching(mut self, condition: Match) -> Self {
        self.matches.push(condition);
        self
    }

    /// Sets the comment that nft(8) shows and [`Socket::rules`](super::Socket::rules) reads. It is
    /// truncated at 127 bytes.
    #[must_use]
    pub fn comment(mut self, comment: impl Into<String>) -> Self {
        let mut comment = comment.into();
        while comment.len() >= NFTNL_UDATA_COMMENT_MAXLEN {
            comment.pop();
        }
        self.comment = Some(comment);
        self
    }

    /// The kernel module that the rule needs, if it is a separate module.
    pub(super) const fn module(&self) -> Option<&'static str> {
        match self.action {
            Action::Masquerade(_) => Some("nft_masq"),
            Action::Accept | Action::Drop | Action::Return => None,
        }
    }

    /// The comment in the format of nft(8).
    pub(super) fn user_data(&self) -> Option<Vec<u8>> {
        let comment = self.comment.as_deref()?;
        let length = u8::try_from(comment.len() + 1).ok()?;
        let mut bytes = vec![NFTNL_UDATA_RULE_COMMENT, length];
        bytes.extend(comment.bytes().chain([0]));
        Some(bytes)
    }
}

impl RuleInfo {
    /// Reads the rule from a message of the kernel.
    pub(in crate::netlink) fn decode(message: &[u8]) -> Self {
        let (mut handle, mut user_data) = (0, &[][..]);
        for (kind, payload) in nested(message.get(HEADER..).unwrap_or_default()) {
            match kind {
                NFTA_RULE_HANDLE => handle = payload.try_into().map_or(0, u64::from_be_bytes),
                NFTA_RULE_USERDATA => user_data = payload,
                _ => (),
            }
        }
        Self { handle, comment: comment(user_data) }
    }
}

/// The comment in user data written by nft(8) or this library.
fn comment(mut user_data: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = user_data {
        let (value, others) = rest.split_at_checked(usize::from(*length))?;
        if *kind == NFTNL_UDATA_RULE_COMMENT {
            return Some(text(value));
        }
        user_data = others;
    }
    None
}

impl Match {
    /// The source address is in this prefix.
    #[must_use]
    pub const fn source(prefix: IpNetwork) -> Self {
        Self::new(Field::Source(prefix))
    }

    /// The destination address is in this prefix.
    #[must_use]
    pub const fn destination(prefix: IpNetwork) -> Self {
        Self::new(Field::Destination(prefix))
    }

    /// The packet arrived at the link with this name.
    #[must_use]
    pub const fn input_link(name: IfName) -> Self {
        Self::new(Field::InputLink(name))
    }

    /// The packet leaves through the link with this name.
    #[must_use]
    pub const fn output_link(name: IfName) -> Self {
        Self::new(Field::OutputLink(name))
    }

    const fn new(field: Field) -> Self {
        Self { field, is_negated: false }
    }
}

impl Not for Match {
    type Output = Self;

    fn not(self) -> Self {
        Self { is_negated: !self.is_negated, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_comment_is_truncated() {
        let long = Rule::new(Action::Accept).comment("ä".repeat(100));
        let data = long.user_data().expect("a comment");
        assert_eq!((data[0], usize::from(data[1]), data.len()), (0, 127, 129), "63 letters of two bytes, and a NUL");
        assert_eq!(comment(&data), Some("ä".repeat(63)));
    }

    #[test]
    fn comment_is_found_after_other_user_data() {
        assert_eq!(comment(&[1, 2, 9, 9, 0, 3, b'm', b'e', 0]), Some("me".into()));
        assert_eq!(comment(&[0, 9, b'm']), None);
        assert_eq!(comment(&[]), None);
    }

    #[test]
    fn digest_depends_on_the_effect_only() {
        let pods: IpNetwork = "10.1.0.0/16".parse().expect("a prefix");
        let bridge = |name: &str| Match::output_link(name.parse().expect("a name"));
        let rule = |action| Rule::new(action).matching(Match::source(pods));
        let rules = [
            rule(Action::Accept),
            rule(Action::Drop),
            rule(Action::Masquerade(PortRandomization::Kept)),
            rule(Action::Masquerade(PortRandomization::FullyRandom)),
            rule(Action::Accept).matching(bridge("one")),
            rule(Action::Accept).matching(bridge("two")),
            rule(Action::Accept).matching(!bridge("two")),
        ];
        let digests: std::collections::BTreeSet<_> =
            rules.iter().map(|rule| rule.digest().expect("a digest")).collect();
        assert_eq!(digests.len(), rules.len());
        let commented = rule(Action::Accept).comment("any comment");
        assert_eq!(commented.digest().expect("a digest"), rules[0].digest().expect("a digest"));
    }
}
