//! The rules: a table and the check functions for each group.

mod add;
mod chain;
mod check;
mod del;
mod delegate;
mod error;
mod gc;
mod invalid_calls;
mod kernel;
mod kill;
mod parallel;
mod result;
mod status;
mod version;

use super::rule::Rule;

/// Every rule, in the order of the trials.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    const GROUPS: [&[Rule]; 15] = [
        version::RULES,
        invalid_calls::REFUSED,
        invalid_calls::ANSWERED,
        error::RULES,
        add::RULES,
        result::RULES,
        kernel::RULES,
        chain::RULES,
        del::RULES,
        check::RULES,
        gc::RULES,
        status::RULES,
        delegate::RULES,
        parallel::RULES,
        kill::RULES,
    ];
    GROUPS.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn rule_ids_are_unique_and_groups_are_contiguous() {
        let ids: Vec<&str> = all().map(|rule| rule.id).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
        let groups: Vec<&str> = ids.iter().map(|id| id.split_once('.').unwrap().0).collect();
        let runs = groups.chunk_by(|one, other| one == other).count();
        assert_eq!(groups.iter().collect::<BTreeSet<_>>().len(), runs, "{groups:?}");
    }

    #[test]
    fn no_rule_is_older_than_its_verb() {
        for rule in all() {
            assert!(rule.since >= rule.verb.spec().since, "{}", rule.id);
        }
    }
}
