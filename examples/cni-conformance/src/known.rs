//! Known violations of plugins, with the reasons.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::path::Path;

use cnikit::conformance::{self, Finding, Outcome, Report};
use serde::Deserialize;

/// A list of known violations.
#[derive(Debug)]
pub(crate) struct Known {
    entries: Vec<Entry>,
}

/// The differences between a report and the list.
#[derive(Debug)]
pub(crate) struct Difference<'r> {
    /// One finding for each broken rule that is not in the list.
    unknown: Vec<&'r Finding>,
    /// The ids of listed rules that the plugin follows.
    kept: Vec<&'static str>,
}

/// Rules that are broken for one reason.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// The plugins that break each rule. `bridge` matches the name `bridge` and names that start
    /// with `bridge-`.
    rules: BTreeMap<String, Vec<String>>,
    /// Whether the violation depends on timing, so a run may not show it.
    #[serde(default)]
    sometimes: bool,
    // For readers, and for the table in docs/conformance.md.
    #[serde(rename = "verdict")]
    _verdict: String,
    #[serde(rename = "why")]
    _why: String,
    #[serde(rename = "source")]
    _source: String,
}

impl Known {
    /// Reads a list. Each entry needs a verdict, a reason and a source, and each rule must exist.
    pub(crate) fn read(path: &Path) -> Result<Self, Box<dyn Error>> {
        let text = std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let entries: Vec<Entry> =
            serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        let exists = |id: &str| conformance::rules().any(|rule| rule.id == id);
        match entries.iter().flat_map(|entry| entry.rules.keys()).find(|id| !exists(id)) {
            Some(id) => Err(format!("{}: there is no rule {id}; see --list", path.display()).into()),
            None => Ok(Self { entries }),
        }
    }

    /// Compares a report with the known violations of the plugin `name`.
    pub(crate) fn difference<'r>(&self, name: &str, report: &'r Report) -> Difference<'r> {
        let mut difference = Difference { unknown: Vec::new(), kept: Vec::new() };
        for rule in conformance::rules() {
            let Some(worst) = report.of(rule.id).map(|finding| finding.outcome).max() else { continue };
            match self.of(name, rule.id) {
                None if worst >= Outcome::Warned => {
                    difference.unknown.extend(report.of(rule.id).find(|finding| finding.outcome == worst));
                }
                Some(entry) if worst == Outcome::Passed && !entry.sometimes => difference.kept.push(rule.id),
                _ => {}
            }
        }
        difference
    }

    fn of(&self, name: &str, rule: &str) -> Option<&Entry> {
        let stands_for = |entry: &String| {
            name.strip_prefix(entry.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        self.entries.iter().find(|entry| entry.rules.get(rule).is_some_and(|plugins| plugins.iter().any(stands_for)))
    }
}

impl Difference<'_> {
    /// Whether every broken "must" rule is in the list.
    pub(crate) fn is_conformant(&self) -> bool {
        self.unknown.iter().all(|finding| finding.outcome < Outcome::Failed)
    }
}

impl fmt::Display for Difference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { rule, outcome, version, seen, .. } in &self.unknown {
            let seen = seen.as_deref().unwrap_or_default();
            writeln!(f, "{rule}: {outcome} in {version}, not in the list of known violations: {seen}")?;
        }
        self.kept.iter().try_for_each(|rule| {
            writeln!(f, "{rule}: passed, but listed as a known violation: remove it from the list")
        })
    }
}
