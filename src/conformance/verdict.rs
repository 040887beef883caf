//! The outcome of a trial.

use super::Error;

/// The result of a trial: `Ok` if the plugin follows the rule.
pub(super) type Verdict<T = ()> = Result<T, Stop>;

/// The reason why a trial ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// The plugin breaks the rule.
    Broken {
        /// The expected behavior, if it differs from the rule's description.
        expected: Option<String>,
        /// The observed behavior.
        seen: String,
    },
    /// The rule cannot be tried on this plugin, with the reason.
    NotTried(String),
    /// The suite itself failed.
    Error(Box<Error>),
}

impl<E: Into<Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Stop::Error(Box::new(error.into()))
    }
}

/// The rule holds if `holds` is true; `seen` describes the observed behavior otherwise.
pub(super) fn ensure(holds: bool, seen: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { broken(seen()) }
}

/// The description of the rule does not hold.
pub(super) fn broken<T>(seen: impl Into<String>) -> Verdict<T> {
    Err(Stop::Broken { expected: None, seen: seen.into() })
}

/// A precondition of the rule does not hold.
pub(super) fn unexpected<T>(expected: impl Into<String>, seen: impl Into<String>) -> Verdict<T> {
    Err(Stop::Broken { expected: Some(expected.into()), seen: seen.into() })
}

/// The rule does not apply.
pub(super) fn not_tried<T>(reason: impl Into<String>) -> Verdict<T> {
    Err(Stop::NotTried(reason.into()))
}
