use neli::consts::nl::NlmF;

use super::{
    element::{Element, element_list, elements_of},
    rule::Rule,
    set::Set,
    step::{Place, Step},
    table::{Chain, Table},
    uapi::{NFT_MSG_DELSET, NFT_MSG_DELSETELEM, NFT_MSG_NEWSET, NFT_MSG_NEWSETELEM},
};

/// The number of elements in one message, because an attribute has at most 64 KiB. The longest
/// element has 560 bytes: two bounds of 64 bytes, the name of a chain and a comment.
const MAX_ELEMENTS: usize = 100;

/// An atomic set of changes: all are applied or none, and no packet sees only a part.
///
/// The steps run in the order of their addition. See
/// [`Socket::commit`](super::Socket::commit).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    pub(super) steps: Vec<Step>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub const fn new() -> Self {
        Self { steps: Vec::new() }
    }

    /// Creates the table, unless it exists.
    #[must_use]
    pub fn ensure_table(self, table: &Table) -> Self {
        self.then(Step::ensure_table(table))
    }

    /// Creates the chain, unless it exists. If a chain with another type, hook or priority exists,
    /// the batch fails with [`Error::Exists`](crate::netlink::Error::Exists).
    #[must_use]
    pub fn ensure_chain(self, chain: &Chain) -> Self {
        self.then(Step::ensure_chain(chain))
    }

    /// Deletes all rules of the chain.
    #[must_use]
    pub fn flush_chain(self, chain: &Chain) -> Self {
        self.then(Step::flush_chain(chain))
    }

    /// Appends the rule to the chain.
    #[must_use]
    pub fn append_rule(self, chain: &Chain, rule: Rule) -> Self {
        self.then(Step::add_rule(chain, &rule, Place::Last))
    }

    /// Inserts the rule as the first of the chain.
    #[must_use]
    pub fn insert_rule(self, chain: &Chain, rule: Rule) -> Self {
        self.then(Step::add_rule(chain, &rule, Place::First))
    }

    /// Inserts the rule before the rule with this [handle](super::RuleInfo::handle). If no such
    /// rule exists, the batch fails with `ENOENT`.
    #[must_use]
    pub fn insert_rule_before(self, chain: &Chain, handle: u64, rule: Rule) -> Self {
        self.then(Step::add_rule(chain, &rule, Place::Before(handle)))
    }

    /// Replaces the rule with this [handle](super::RuleInfo::handle). If no such rule exists, the
    /// batch fails with `ENOENT`.
    #[must_use]
    pub fn replace_rule(self, chain: &Chain, handle: u64, rule: Rule) -> Self {
        self.then(Step::add_rule(chain, &rule, Place::InsteadOf(handle)))
    }

    /// Deletes the rule with this [handle](super::RuleInfo::handle). If no such rule exists, the
    /// batch fails with `ENOENT`; [`Socket::delete_rule`](super::Socket::delete_rule) succeeds.
    #[must_use]
    pub fn delete_rule(self, chain: &Chain, handle: u64) -> Self {
        self.then(Step::delete_rule(chain, handle))
    }

    /// Deletes the chain with its rules. If no such chain exists, the batch fails with `ENOENT`;
    /// [`Socket::delete_chain`](super::Socket::delete_chain) succeeds.
    #[must_use]
    pub fn delete_chain(self, chain: &Chain) -> Self {
        self.then(Step::delete_chain(chain))
    }

    /// Creates the set or map, unless it exists. If a set with other types exists, the batch fails
    /// with [`Error::Exists`](crate::netlink::Error::Exists), on Linux 6.2 and later.
    #[must_use]
    pub fn ensure_set(self, set: &Set) -> Self {
        let step = Step::new("ensure the nftables set", set, NFT_MSG_NEWSET, &set.table, set.attrs());
        self.then(step.flags(NlmF::CREATE))
    }

    /// Deletes all elements of the set or map.
    #[must_use]
    pub fn flush_set(self, set: &Set) -> Self {
        self.then(Step::new("flush the nftables set", set, NFT_MSG_DELSETELEM, &set.table, elements_of(set)))
    }

    /// Deletes the set or map. If no such set exists, the batch fails with `ENOENT`;
    /// [`Socket::delete_set`](super::Socket::delete_set) succeeds.
    #[must_use]
    pub fn delete_set(self, set: &Set) -> Self {
        self.then(delete_set(set))
    }

    /// Adds the elements that the set or map does not have. If a map has another value for a key,
    /// or a set with intervals has another interval that overlaps, the batch fails with
    /// [`Error::Exists`](crate::netlink::Error::Exists).
    #[must_use]
    pub fn add_elements(self, set: &Set, elements: impl IntoIterator<Item = Element>) -> Self {
        self.chunks(elements, |chunk| {
            let (name, attrs) = ("add elements to the nftables set", element_list(set, chunk, false));
            let step = Step::new(name, set, NFT_MSG_NEWSETELEM, &set.table, attrs);
            step.flags(NlmF::CREATE).of_elements()
        })
    }

    /// Deletes the elements with these keys. If the set does not have one of them, the batch fails
    /// with `ENOENT`; [`Socket::delete_elements`](super::Socket::delete_elements) succeeds.
    #[must_use]
    pub fn delete_elements(self, set: &Set, elements: impl IntoIterator<Item = Element>) -> Self {
        self.chunks(elements, |chunk| {
            let (name, attrs) = ("delete elements of the nftables set", element_list(set, chunk, true));
            Step::new(name, set, NFT_MSG_DELSETELEM, &set.table, attrs)
        })
    }

    fn chunks(self, elements: impl IntoIterator<Item = Element>, step: impl Fn(&[Element]) -> Step) -> Self {
        let elements: Vec<_> = elements.into_iter().collect();
        elements.chunks(MAX_ELEMENTS).fold(self, |batch, chunk| batch.then(step(chunk)))
    }

    pub(super) fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}

pub(super) fn delete_set(set: &Set) -> Step {
    Step::new("delete the nftables set", set, NFT_MSG_DELSET, &set.table, set.name_attrs())
}
