//! A report as JUnit XML.

use std::fmt::Write as _;

use super::report::{Finding, Outcome, Report};

impl Report {
    /// The report as JUnit XML, which CI systems display. Each group of rules is a test suite, and
    /// each trial is a test case. A warning is a passed test case with its text as output.
    #[must_use]
    pub fn to_junit(&self) -> String {
        write(self)
    }
}

/// Writes one test suite for each group of rules: the first part of their ids.
fn write(report: &Report) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let name = escape(&report.plugin_name());
    // Writing to a String cannot fail.
    let _ = writeln!(xml, "<testsuites name=\"{name}\"{}>", totals(&report.findings));
    for group in report.findings.chunk_by(|one, other| group(one) == group(other)) {
        let _ = writeln!(xml, "  <testsuite name=\"{name}.{}\"{}>", self::group(&group[0]), totals(group));
        group.iter().for_each(|finding| test_case(&mut xml, &name, finding));
        xml.push_str("  </testsuite>\n");
    }
    xml.push_str("</testsuites>\n");
    xml
}

fn test_case(xml: &mut String, plugin: &str, finding: &Finding) {
    let Finding { rule, version, seconds, .. } = finding;
    let class = format!("{plugin}.{}", group(finding));
    let _ = write!(xml, "    <testcase classname=\"{class}\" name=\"{rule}@{version}\" time=\"{seconds:.3}\"");
    let seen = escape(finding.seen.as_deref().unwrap_or_default());
    let expected = escape(&finding.expected);
    let source = escape(&format!("{} ({})", finding.url, finding.level));
    let text = format!("expected: {expected}\nseen: {seen}\n{source}");
    let _ = match finding.outcome {
        Outcome::Passed => writeln!(xml, "/>"),
        Outcome::Skipped => writeln!(xml, "><skipped message=\"{seen}\"/></testcase>"),
        Outcome::Warned => writeln!(xml, "><system-out>warning\n{text}</system-out></testcase>"),
        Outcome::Failed => writeln!(xml, "><failure message=\"{expected}\">{text}</failure></testcase>"),
    };
}

fn totals(findings: &[Finding]) -> String {
    let count = |outcome| findings.iter().filter(|finding| finding.outcome == outcome).count();
    let seconds: f64 = findings.iter().map(|finding| finding.seconds).sum();
    let (failed, skipped) = (count(Outcome::Failed), count(Outcome::Skipped));
    format!(" tests=\"{}\" failures=\"{failed}\" skipped=\"{skipped}\" time=\"{seconds:.3}\"", findings.len())
}

fn group(finding: &Finding) -> &str {
    finding.rule.split_once('.').map_or(&finding.rule, |(group, _)| group)
}

/// Escapes text for an attribute or an element. XML cannot represent most control characters.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            '\t' => escaped.push_str("&#9;"),
            control if control.is_control() || matches!(control, '\u{fffe}' | '\u{ffff}') => {
                escaped.push(char::REPLACEMENT_CHARACTER);
            }
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn output_of_a_plugin_cannot_break_the_document() {
        assert_eq!(escape("<a b=\"&\">\n\u{1b}[31m"), "&lt;a b=&quot;&amp;&quot;&gt;&#10;\u{fffd}[31m");
    }
}
