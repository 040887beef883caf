//! Compares reports in one table.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use cnikit::conformance::{self, Outcome, Report};

/// A report and the name of its column.
#[derive(Debug)]
pub(crate) struct Column {
    name: String,
    report: Report,
}

/// Reads `[NAME=]FILE`.
pub(crate) fn read(argument: &str) -> Result<Column, Box<dyn Error>> {
    let (name, path) = argument.split_once('=').map_or((None, argument), |(name, path)| (Some(name), path));
    let text = fs::read(path).map_err(|error| format!("cannot read {path}: {error}"))?;
    let report: Report = serde_json::from_slice(&text).map_err(|error| format!("{path}: {error}"))?;
    let stem = || Path::new(path).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Column { name: name.map_or_else(stem, str::to_owned), report })
}

/// A Markdown table with a row for each tried rule and a column for each report.
pub(crate) fn table(columns: &[Column]) -> String {
    let mut text = String::from("| rule | level |");
    // Writing to a String cannot fail.
    columns.iter().for_each(|column| _ = write!(text, " {} |", column.name));
    text += "\n|---|---|";
    columns.iter().for_each(|_| text += "---|");
    text += "\n";
    for rule in conformance::rules() {
        let cells: Vec<String> = columns.iter().map(|column| cell(&column.report, rule.id)).collect();
        if cells.iter().any(|cell| !cell.is_empty()) {
            let _ =
                writeln!(text, "| [`{}`]({}) | {} | {} |", rule.id, rule.section.url(), rule.level, cells.join(" | "));
        }
    }
    let _ = write!(text, "| passed / failed / warned / skipped | |");
    for Column { report, .. } in columns {
        let [passed, failed, warned, skipped] =
            [Outcome::Passed, Outcome::Failed, Outcome::Warned, Outcome::Skipped].map(|outcome| report.count(outcome));
        let _ = write!(text, " {passed} / {failed} / {warned} / {skipped} |");
    }
    text + "\n"
}

/// The worst outcome. Includes the versions if not all versions have it.
fn cell(report: &Report, rule: &str) -> String {
    let findings: Vec<_> = report.of(rule).collect();
    let Some(worst) = findings.iter().map(|finding| finding.outcome).max() else { return String::new() };
    let word = match worst {
        Outcome::Passed => "ok",
        Outcome::Skipped => "-",
        Outcome::Warned => "warned",
        Outcome::Failed => "**failed**",
    };
    let runs: Vec<String> = findings
        .chunk_by(|one, other| one.outcome == other.outcome)
        .filter(|run| run[0].outcome == worst)
        .map(|run| match run {
            [only] => only.version.to_string(),
            [first, .., last] => format!("{} to {}", first.version, last.version),
            [] => String::new(),
        })
        .collect();
    if findings.iter().all(|finding| finding.outcome == worst) {
        word.to_owned()
    } else {
        format!("{word} in {}", runs.join(", "))
    }
}
