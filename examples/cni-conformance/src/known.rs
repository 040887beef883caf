//! Rules that plugins are known to break, with the reasons.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::path::Path;

use cnikit::conformance::{self, Finding, Outcome, Report};
use serde::Deserialize;

/// A list of such rules.
#[derive(Debug)]
pub(crate) struct Known {
    entries: Vec<Entry>,
}

/// Where a report and the list differ.
#[derive(Debug)]
pub(crate) struct Difference<'r> {
    /// For each rule that is broken and not in the list, where it is broken first.
    unknown: Vec<&'r Finding>,
    /// The ids of those that are in the list, and kept.
    kept: Vec<&'static str>,
}

/// Rules that are broken for one reason.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// By rule the plugins that break it: `bridge` stands for all that are called so or `bridge-` and something.
    rules: BTreeMap<String, Vec<String>>,
    /// Whether it depends on the moment, so that a run may not show it.
    #[serde(default)]
    sometimes: bool,
    // For people, and for the table in docs/conformance.md.
    #[serde(rename = "verdict")]
    _verdict: String,
    #[serde(rename = "why")]
    _why: String,
    #[serde(rename = "source")]
    _source: String,
}

impl Known {
    /// Reads a list: verdict, reason and source are required of each entry, and each rule must be one.
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

    /// Compares a report with what is known of the plugin of this name.
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
    /// Whether no rule is broken that must be kept and is not in the list.
    pub(crate) fn is_conformant(&self) -> bool {
        self.unknown.iter().all(|finding| finding.outcome < Outcome::Failed)
    }
}

impl fmt::Display for Difference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { rule, outcome, version, seen, .. } in &self.unknown {
            let seen = seen.as_deref().unwrap_or_default();
            writeln!(f, "{rule}: {outcome} in {version}, which is not known: {seen}")?;
        }
        self.kept.iter().try_for_each(|rule| writeln!(f, "{rule}: kept, and known to be broken: take it off the list"))
    }
}
