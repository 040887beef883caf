//! The progress of a run, on one line of a terminal.

use std::io::{IsTerminal as _, Write as _};

use cnikit::conformance::Progress;

/// Erases the line and returns to its start.
const ERASE: &str = "\r\x1b[K";

/// A status line on standard error. Prints nothing if standard error is not a terminal.
#[derive(Debug)]
pub(crate) struct Line {
    terminal: bool,
    color: bool,
}

impl Line {
    pub(crate) fn new(color: bool) -> Self {
        Self { terminal: std::io::stderr().is_terminal(), color }
    }

    pub(crate) fn show(&mut self, Progress { done, total, rule, .. }: Progress<'_>) {
        if self.terminal {
            let (dim, reset) = if self.color { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
            // Ignore errors: the line is only informative.
            let _ = write!(std::io::stderr(), "{ERASE}{dim}{done}/{total}{reset} {}", rule.id);
        }
    }

    pub(crate) fn clear(&mut self) {
        if self.terminal {
            let _ = write!(std::io::stderr(), "{ERASE}");
        }
    }
}
