use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::rule::Level;
use super::{Kind, Table, junit};
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
    /// Whether nothing failed. Warnings are no failures.
    pub fn is_conformant(&self) -> bool {
        self.count(Outcome::Failed) == 0
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
