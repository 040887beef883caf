//! The rules themselves: a table for each theme, and the function that tries each.

mod add;
mod check;
mod del;
mod delegate;
mod error;
mod gc;
mod kernel;
mod kill;
mod misuse;
mod parallel;
mod result;
mod status;
mod version;

use super::rule::Rule;

pub(super) use misuse::Misuse;

/// Every rule, in the order in which they are tried.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    const THEMES: [&[Rule]; 14] = [
        version::RULES,
        misuse::REFUSED,
        misuse::ANSWERED,
        error::RULES,
        add::RULES,
        result::RULES,
        kernel::RULES,
        del::RULES,
        check::RULES,
        gc::RULES,
        status::RULES,
        delegate::RULES,
        parallel::RULES,
        kill::RULES,
    ];
    THEMES.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_rule_has_an_id_of_its_own_and_themes_stand_together() {
        let ids: Vec<&str> = all().map(|rule| rule.id).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
        let themes: Vec<&str> = ids.iter().map(|id| id.split_once('.').unwrap().0).collect();
        let runs = themes.chunk_by(|one, other| one == other).count();
        assert_eq!(themes.iter().collect::<BTreeSet<_>>().len(), runs, "{themes:?}");
    }

    #[test]
    fn no_rule_is_older_than_its_verb() {
        for rule in all() {
            assert!(rule.since >= rule.verb.spec().since, "{}", rule.id);
        }
    }
}
