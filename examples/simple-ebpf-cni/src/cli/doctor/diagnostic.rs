//! The result of a check, and its output.

use serde::Serialize;

use crate::cli::error::Error;
use crate::cli::output::{ERROR, OK, Output, WARNING};

/// The result of a check.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Diagnostic {
    /// The name of the check.
    pub(crate) check: &'static str,
    pub(crate) verdict: Verdict,
    pub(crate) found: String,
    /// The fix.
    pub(crate) remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Ok,
    /// Pods work, with a restriction.
    Warn,
    /// Pods cannot be attached, or do not work.
    Fail,
}

impl Diagnostic {
    pub(crate) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), remedy: None }
    }

    pub(crate) fn warn(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warn, found: found.into(), remedy: Some(remedy.into()) }
    }

    pub(crate) fn fail(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fail, found: found.into(), remedy: Some(remedy.into()) }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.verdict == Verdict::Fail
    }
}

/// The number of failed checks.
pub(crate) fn failures(checks: &[Diagnostic]) -> usize {
    checks.iter().filter(|check| check.has_failed()).count()
}

/// Writes one line for each check, and its fix on the next line.
pub(crate) fn write(checks: &[Diagnostic], output: &mut Output) -> Result<(), Error> {
    for Diagnostic { check, verdict, found, remedy } in checks {
        let (style, verdict) = match verdict {
            Verdict::Ok => (OK, "ok"),
            Verdict::Warn => (WARNING, "warn"),
            Verdict::Fail => (ERROR, "FAIL"),
        };
        output.styled(style, format_args!("{verdict:<5} {check:<13} {found}"))?;
        if let Some(remedy) = remedy {
            output.line(format_args!("{:20}{remedy}", ""))?;
        }
    }
    Ok(())
}
