use std::ops::Not;

use ipnetwork::IpNetwork;
use sha2::{Digest, Sha256};

use super::{
    expression::Expressions,
    table::Family,
    uapi::{NFTNL_UDATA_COMMENT_MAXLEN, NFTNL_UDATA_RULE_COMMENT},
};
use crate::{
    netlink::error::{EncodeError, Operation, Result},
    spec::IfName,
};

/// What is done with packets that all [matches](Match) hold for.
///
/// ```
/// use cnikit::netlink::nftables::{Action, Match, Ports, Rule};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pods = "10.244.1.0/24".parse()?;
/// let rule = Rule::new(Action::Masquerade(Ports::FullyRandom))
///     .when(Match::source(pods))
///     .when(!Match::destination(pods))
///     .when(!Match::output_link("cbr0".parse()?));
/// assert_eq!(rule.digest()?.len(), 16);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    matches: Vec<Match>,
    action: Action,
    comment: Option<String>,
}

/// A condition; `!` turns it round.
///
/// One on an address holds for packets of the address's family only, turned round or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    pub(super) field: Field,
    pub(super) is_negated: bool,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Lets the packet pass to the next base chain.
    Accept,
    /// Drops it.
    Drop,
    /// Leaves the chain; a base chain's policy decides.
    Return,
    /// Gives it the source address that the host has on the link by which it leaves. In a [`Nat`](super::ChainType::Nat)
    /// chain at [`Postrouting`](super::Hook::Postrouting) only.
    Masquerade(PortRandomization),
}

/// Which source ports masqueraded connections get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortRandomization {
    /// The same if it is free, else one nearby.
    Kept,
    /// One by a hash of the addresses, with a random offset.
    Random,
    /// Any. Connections that begin at the same moment rarely choose the same one, which would cost one of them its first
    /// packet.
    #[doc(alias = "random-fully")]
    FullyRandom,
}

/// A rule that the kernel has.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuleInfo {
    /// Its number in the table.
    pub handle: u64,
    /// Its comment.
    pub comment: Option<String>,
}

/// What a condition looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Field {
    Source(IpNetwork),
    Destination(IpNetwork),
    InputLink(IfName),
    OutputLink(IfName),
}

impl Rule {
    /// A rule for all packets, until it is told [when](Rule::matching).
    #[must_use]
    pub const fn new(action: Action) -> Self {
        Self { matches: Vec::new(), action, comment: None }
    }

    /// Adds a condition. They are looked at in this order, up to the first that does not hold.
    #[must_use]
    pub fn matching(mut self, condition: Match) -> Self {
        self.matches.push(condition);
        self
    }

    /// Sets the comment that nft(8) shows and [`Socket::rules`](super::Socket::rules) reads. It ends at 127 bytes.
    #[must_use]
    pub fn comment(mut self, comment: impl Into<String>) -> Self {
        let mut comment = comment.into();
        while comment.len() >= NFTNL_UDATA_COMMENT_MAXLEN {
            comment.pop();
        }
        self.comment = Some(comment);
        self
    }

    /// Sixteen hexadecimal digits that differ between rules that do different things. In the comment, they tell later
    /// whether the kernel's rule is this one, without comparing what kernels of all versions make of it.
    ///
    /// # Errors
    ///
    /// [`Error::Message`](crate::netlink::Error::Message) for more conditions than a message holds.
    pub fn digest(&self) -> Result<String> {
        let operation = Operation::new("encode", "a rule");
        let expressions = self.expressions(Family::Inet).and_then(Expressions::into_bytes);
        let digest = Sha256::digest(expressions.map_err(|fault| operation.malformed(fault))?);
        Ok(digest.iter().take(8).map(|octet| format!("{octet:02x}")).collect())
    }

    /// The kernel module that the rule needs, where it is one of its own.
    pub(super) const fn module(&self) -> Option<&'static str> {
        match self.action {
            Action::Masquerade(_) => Some("nft_masq"),
            Action::Accept | Action::Drop | Action::Return => None,
        }
    }

    pub(super) fn expressions(&self, table: Family) -> Result<Expressions, EncodeError> {
        let mut expressions = Expressions::new(table);
        for condition in &self.matches {
            expressions = expressions.condition(condition)?;
        }
        expressions.action(self.action)
    }

    /// The comment in the form in which nft(8) keeps it.
    pub(super) fn user_data(&self) -> Option<Vec<u8>> {
        let comment = self.comment.as_deref()?;
        let length = u8::try_from(comment.len() + 1).ok()?;
        let mut bytes = vec![NFTNL_UDATA_RULE_COMMENT, length];
        bytes.extend(comment.bytes().chain([0]));
        Some(bytes)
    }
}

impl RuleInfo {
    pub(super) fn new(handle: u64, user_data: &[u8]) -> Self {
        Self { handle, comment: comment(user_data) }
    }
}

/// The comment in user data that nft(8) or this library wrote.
fn comment(mut user_data: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = user_data {
        let (value, others) = rest.split_at_checked(usize::from(*length))?;
        if *kind == NFTNL_UDATA_RULE_COMMENT {
            return Some(crate::netlink::attrs::text(value));
        }
        user_data = others;
    }
    None
}

impl Match {
    /// The source address is of this prefix.
    #[must_use]
    pub const fn source(prefix: IpNetwork) -> Self {
        Self::new(Field::Source(prefix))
    }

    /// The destination address is of this prefix.
    #[must_use]
    pub const fn destination(prefix: IpNetwork) -> Self {
        Self::new(Field::Destination(prefix))
    }

    /// The packet came in by the link of this name.
    #[must_use]
    pub const fn input_link(name: IfName) -> Self {
        Self::new(Field::InputLink(name))
    }

    /// The packet goes out by the link of this name.
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
    fn comments_end_at_what_nft_takes() {
        let long = Rule::new(Action::Accept).comment("ä".repeat(100));
        let data = long.user_data().expect("a comment");
        assert_eq!((data[0], usize::from(data[1]), data.len()), (0, 127, 129), "63 letters of two bytes, and a NUL");
        assert_eq!(comment(&data), Some("ä".repeat(63)));
    }

    #[test]
    fn comments_are_found_behind_other_data_and_not_beyond_the_end() {
        assert_eq!(comment(&[1, 2, 9, 9, 0, 3, b'm', b'e', 0]), Some("me".into()));
        assert_eq!(comment(&[0, 9, b'm']), None);
        assert_eq!(comment(&[]), None);
    }

    #[test]
    fn digests_tell_rules_apart_by_what_they_do() {
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
        let commented = rule(Action::Accept).comment("of no matter");
        assert_eq!(commented.digest().expect("a digest"), rules[0].digest().expect("a digest"));
    }
}
