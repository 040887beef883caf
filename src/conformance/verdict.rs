//! How a rule ends.

use super::Error;

/// What trying a rule comes to: nothing to say when the plugin keeps it.
pub(super) type Verdict<T = ()> = Result<T, Stop>;

/// Why the trial of a rule ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// The plugin breaks the rule.
    Broken {
        /// What was expected, where the rule's own sentence does not say it.
        expected: Option<String>,
        /// What was seen instead.
        seen: String,
    },
    /// The rule cannot be tried on this plugin; why.
    NotTried(String),
    /// The suite itself failed.
    Error(Box<Error>),
}

impl<E: Into<Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Stop::Error(Box::new(error.into()))
    }
}

/// The rule is kept if `holds`; `seen` tells what was there instead.
pub(super) fn ensure(holds: bool, seen: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { broken(seen()) }
}

/// The rule's own sentence does not hold.
pub(super) fn broken<T>(seen: impl Into<String>) -> Verdict<T> {
    Err(Stop::Broken { expected: None, seen: seen.into() })
}

/// Something that the rule builds on does not hold.
pub(super) fn unexpected<T>(expected: impl Into<String>, seen: impl Into<String>) -> Verdict<T> {
    Err(Stop::Broken { expected: Some(expected.into()), seen: seen.into() })
}

/// The rule does not apply.
pub(super) fn not_tried<T>(reason: impl Into<String>) -> Verdict<T> {
    Err(Stop::NotTried(reason.into()))
}
