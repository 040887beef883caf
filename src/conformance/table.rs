use std::fmt;

use super::report::{Finding, Outcome, Report};

const RESET: &str = "\x1b[0m";
const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";

/// A report as a table: one line for each rule, and the observed behavior below each broken rule.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a> {
    report: &'a Report,
    color: bool,
}

impl<'a> Table<'a> {
    /// The table of a report, in plain text.
    #[must_use]
    pub fn new(report: &'a Report) -> Self {
        Self { report, color: false }
    }

    /// Whether to use the color sequences of terminals.
    #[must_use]
    pub fn color(mut self, color: bool) -> Self {
        self.color = color;
        self
    }

    fn paint(&self, style: &'static str) -> &'static str {
        if self.color { style } else { "" }
    }

    /// One line for a rule in all tried versions, with the worst outcome.
    fn line(&self, f: &mut fmt::Formatter<'_>, trials: &[Finding]) -> fmt::Result {
        let Some(worst) = trials.iter().max_by_key(|finding| finding.outcome) else { return Ok(()) };
        let seconds: f64 = trials.iter().map(|finding| finding.seconds).sum();
        let (paint, reset) = (self.paint(style(worst.outcome)), self.paint(RESET));
        let Finding { outcome, level, rule, section, .. } = worst;
        writeln!(f, "{paint}{outcome:<8}{reset}{level:<7} {rule:<32} {section:<24} {seconds:>6.2} s")?;
        if worst.outcome == Outcome::Passed {
            return Ok(());
        }
        let dim = self.paint(DIM);
        let mut printed: Vec<&str> = Vec::new();
        for finding in trials.iter().filter(|finding| finding.outcome == worst.outcome) {
            let seen = finding.seen.as_deref().unwrap_or_default();
            if finding.outcome == Outcome::Skipped {
                return writeln!(f, "        {dim}{seen}{reset}");
            }
            if !printed.contains(&finding.expected.as_str()) {
                writeln!(f, "        {dim}expected{reset}  {}", finding.expected)?;
                printed.push(&finding.expected);
            }
            writeln!(f, "        {dim}in {:<6}{reset} {seen}", finding.version)?;
        }
        writeln!(f, "        {dim}see{reset}       {}", worst.url)
    }
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.report;
        for trials in report.findings.chunk_by(|one, other| one.rule == other.rule) {
            self.line(f, trials)?;
        }
        let versions: Vec<&str> = report.versions.iter().map(|version| version.as_str()).collect();
        let [passed, failed, warned, skipped] =
            [Outcome::Passed, Outcome::Failed, Outcome::Warned, Outcome::Skipped].map(|outcome| report.count(outcome));
        let (bold, reset) = (self.paint(BOLD), self.paint(RESET));
        let verdict = if report.is_conformant() { Outcome::Passed } else { Outcome::Failed };
        writeln!(f, "\n{bold}{}{reset} with {}", report.plugin.display(), versions.join(", "))?;
        let paint = self.paint(style(verdict));
        write!(f, "{paint}{passed} passed, {failed} failed{reset}, {warned} warned, {skipped} skipped")?;
        writeln!(f, " in {:.1} s", report.seconds)?;
        if let Err(error) = report.require_verdict() {
            writeln!(f, "{paint}{error}{reset}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Table::new(self).fmt(f)
    }
}

const fn style(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "\x1b[32m",
        Outcome::Skipped => "\x1b[2m",
        Outcome::Warned => "\x1b[33m",
        Outcome::Failed => "\x1b[31m",
    }
}
