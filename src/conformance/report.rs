use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::rule::Level;
use super::{Error, Kind};
use crate::spec::Version;

/// The result of a run of the suite.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// The executable of the plugin.
    pub plugin: PathBuf,
    /// The name of the network.
    pub network: String,
    /// The kind of the plugin.
    pub kind: Kind,
    /// The tried versions.
    pub versions: Vec<Version>,
    /// The duration of the run in seconds.
    pub seconds: f64,
    /// The findings of the trials, in the order of the rules.
    pub findings: Vec<Finding>,
}

/// The result of one trial of a rule.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Finding {
    /// The id of the rule.
    pub rule: String,
    /// The level of the rule.
    pub level: Level,
    /// The verb under test.
    pub verb: String,
    /// The section of the specification.
    pub section: String,
    /// The link to the section.
    pub url: String,
    /// The version of the specification in this trial.
    pub version: Version,
    /// The outcome.
    pub outcome: Outcome,
    /// The expected behavior.
    pub expected: String,
    /// The observed behavior; for a skipped rule, the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<String>,
    /// The duration in seconds.
    pub seconds: f64,
}

/// The outcome of a trial.
///
/// Closed: a program that shows a report has a text for each outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The plugin follows the rule.
    Passed,
    /// The rule does not apply, or could not be tried.
    Skipped,
    /// The plugin breaks a "should" rule.
    Warned,
    /// The plugin breaks a "must" rule.
    Failed,
}

impl Report {
    /// Whether at least one rule was tried and none failed. Warnings are not failures.
    #[must_use]
    pub fn is_conformant(&self) -> bool {
        self.require_verdict().is_ok() && self.count(Outcome::Failed) == 0
    }

    /// Checks that at least one rule was not skipped. A report with only skipped rules contains no
    /// verdict.
    ///
    /// # Errors
    ///
    /// [`Error::AllSkipped`].
    pub fn require_verdict(&self) -> Result<(), Error> {
        let is_tried = self.findings.iter().any(|finding| finding.outcome != Outcome::Skipped);
        if is_tried { Ok(()) } else { Err(Error::AllSkipped) }
    }

    /// The number of trials with this outcome.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.findings.iter().filter(|finding| finding.outcome == outcome).count()
    }

    /// The findings of a rule, one for each tried version.
    pub fn of<'a>(&'a self, rule: &'a str) -> impl Iterator<Item = &'a Finding> {
        self.findings.iter().filter(move |finding| finding.rule == rule)
    }

    /// The file name of the executable.
    #[must_use]
    pub fn plugin_name(&self) -> String {
        self.plugin.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

impl Outcome {
    /// The outcome as a word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Skipped => "skipped",
            Outcome::Warned => "warned",
            Outcome::Failed => "failed",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcomes: &[Outcome]) -> Report {
        let finding = |outcome: &Outcome| Finding {
            rule: "gc.succeeds".to_owned(),
            level: Level::Must,
            verb: "GC".to_owned(),
            section: String::new(),
            url: String::new(),
            version: Version::V1_1_0,
            outcome: *outcome,
            expected: String::new(),
            seen: None,
            seconds: 0.0,
        };
        Report {
            plugin: PathBuf::from("/opt/cni/bin/bridge"),
            network: "dbnet".to_owned(),
            kind: Kind::Interface,
            versions: vec![Version::V1_1_0],
            seconds: 0.0,
            findings: outcomes.iter().map(finding).collect(),
        }
    }

    #[test]
    fn a_report_of_skipped_rules_is_not_conformant() {
        use Outcome::{Failed, Passed, Skipped, Warned};
        for outcomes in [&[][..], &[Skipped, Skipped]] {
            let report = report(outcomes);
            assert!(!report.is_conformant() && report.require_verdict().is_err());
            assert!(report.to_string().contains("no verdict: every rule was skipped"), "{report}");
        }
        for (outcomes, is_conformant) in
            [([Skipped, Passed], true), ([Skipped, Warned], true), ([Skipped, Failed], false)]
        {
            let report = report(&outcomes);
            report.require_verdict().unwrap();
            assert_eq!(report.is_conformant(), is_conformant, "{outcomes:?}");
            assert!(!report.to_string().contains("no verdict"), "{report}");
        }
    }
}
