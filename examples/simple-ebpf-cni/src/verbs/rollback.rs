//! The rollback of a failed ADD.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing::{info_span, warn};

/// A stack of steps that undo an ADD.
///
/// Dropping the stack runs the steps in reverse order, also during a panic. A step that fails does
/// not stop the others, unless it is a [barrier](Self::push_barrier). The runtime's DEL removes the
/// rest.
#[derive(Default)]
pub(crate) struct Rollback<'a> {
    steps: Vec<Step<'a>>,
}

struct Step<'a> {
    name: &'static str,
    /// Returns the message of a failure.
    undo: Box<dyn FnOnce() -> Option<String> + 'a>,
    is_barrier: bool,
}

impl<'a> Rollback<'a> {
    /// Adds a step. A log message of its failure contains `name`.
    pub(crate) fn push<T, E: Display>(&mut self, name: &'static str, undo: impl FnOnce() -> Result<T, E> + 'a) {
        let undo = Box::new(|| undo().err().map(|error| error.to_string()));
        self.steps.push(Step { name, undo, is_barrier: false });
    }

    /// Adds a step that the earlier steps depend on: if it fails, they do not run.
    pub(crate) fn push_barrier<T, E: Display>(&mut self, name: &'static str, undo: impl FnOnce() -> Result<T, E> + 'a) {
        let undo = Box::new(|| undo().err().map(|error| error.to_string()));
        self.steps.push(Step { name, undo, is_barrier: true });
    }

    /// Discards all steps, because the ADD has succeeded.
    pub(crate) fn commit(mut self) {
        self.steps.clear();
    }
}

impl Drop for Rollback<'_> {
    fn drop(&mut self) {
        if self.steps.is_empty() {
            return;
        }
        let _span = info_span!("undo").entered();
        while let Some(Step { name, undo, is_barrier }) = self.steps.pop() {
            // A panic in one step must not lose the others.
            let undone = catch_unwind(AssertUnwindSafe(undo));
            if let Some(error) = undone.unwrap_or_else(|_| Some("it panicked".to_owned())) {
                warn!("cannot undo the failed ADD: {name}: {error}");
                if is_barrier {
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::Rollback;

    fn fails() -> Result<(), &'static str> {
        Err("refused")
    }

    /// Runs a rollback with a step before and after `middle`, and returns the names of the steps
    /// that ran.
    fn run(middle: fn(&mut Rollback<'_>), is_committed: bool) -> Vec<&'static str> {
        let ran = RefCell::new(Vec::new());
        let note = |name| {
            ran.borrow_mut().push(name);
            Ok::<(), &str>(())
        };
        let mut rollback = Rollback::default();
        rollback.push("first", || note("first"));
        middle(&mut rollback);
        rollback.push("last", || note("last"));
        if is_committed {
            rollback.commit();
        } else {
            drop(rollback);
        }
        ran.into_inner()
    }

    #[test]
    fn steps_run_in_reverse_order() {
        assert_eq!(run(|_| {}, false), ["last", "first"]);
    }

    #[test]
    fn a_failure_does_not_stop_the_other_steps() {
        assert_eq!(run(|rollback| rollback.push("fails", fails), false), ["last", "first"]);
    }

    #[test]
    fn a_failed_barrier_stops_the_earlier_steps() {
        assert_eq!(run(|rollback| rollback.push_barrier("fails", fails), false), ["last"]);
    }

    #[test]
    fn a_barrier_that_succeeds_stops_nothing() {
        assert_eq!(run(|rollback| rollback.push_barrier("works", || Ok::<(), &str>(())), false), ["last", "first"]);
    }

    #[test]
    fn a_commit_discards_all_steps() {
        assert!(run(|_| {}, true).is_empty());
    }
}
