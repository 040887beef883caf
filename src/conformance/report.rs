use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::rule::Level;
use super::{Error, Kind, Table, junit};
use crate::spec::Version;

/// What a run of the suite found.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// The plugin's executable.
    pub plugin: PathBuf,
    /// The network's name.
    pub network: String,
    /// What kind of plugin it is.
    pub kind: Kind,
    /// The versions that were tried.
    pub versions: Vec<Version>,
    /// How long the run took, in seconds.
    pub seconds: f64,
    /// What each trial found, in the order of the rules.
    pub findings: Vec<Finding>,
}

/// What one trial of a rule found.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Finding {
    /// The rule's id.
    pub rule: String,
    /// How binding the rule is.
    pub level: Level,
    /// The verb that it is about.
    pub verb: String,
    /// The section of the specification.
    pub section: String,
    /// Where to read that.
    pub url: String,
    /// The version of the specification that it was tried with.
    pub version: Version,
    /// How it ended.
    pub outcome: Outcome,
    /// What the rule expects.
    pub expected: String,
    /// What was seen instead; for a rule that was skipped, why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<String>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// How a trial ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The plugin keeps the rule.
    Passed,
    /// The rule does not apply, or could not be tried.
    Skipped,
    /// It breaks a rule that it should keep.
    Warned,
    /// It breaks a rule that it must keep.
    Failed,
}

impl Report {
    /// Whether at least one rule was tried and none failed. Warnings are no failures.
    pub fn is_conformant(&self) -> bool {
        self.require_verdict().is_ok() && self.count(Outcome::Failed) == 0
    }

    /// Checks that at least one rule was not skipped. A report of skipped rules says nothing about the plugin.
    ///
    /// # Errors
    ///
    /// [`Error::AllSkipped`].
    pub fn require_verdict(&self) -> Result<(), Error> {
        let is_tried = self.findings.iter().any(|finding| finding.outcome != Outcome::Skipped);
        if is_tried { Ok(()) } else { Err(Error::AllSkipped) }
    }

    /// How many trials ended so.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.findings.iter().filter(|finding| finding.outcome == outcome).count()
    }

    /// The findings about a rule, one for each version that it was tried with.
    pub fn of<'a>(&'a self, rule: &'a str) -> impl Iterator<Item = &'a Finding> {
        self.findings.iter().filter(move |finding| finding.rule == rule)
    }

    /// The report in the form of JUnit, which CI systems show: a test suite for each theme, a test case for each trial.
    /// A warning is a test case that passed, with its text as output.
    pub fn to_junit(&self) -> String {
        junit::write(self)
    }

    /// The plugin's name: that of its executable.
    pub fn plugin_name(&self) -> String {
        self.plugin.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Table::new(self).fmt(f)
    }
}

impl Outcome {
    /// The word for it.
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
