use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime};

use tracing::Level;
use tracing::field::{Field, Visit};

use crate::utc;

/// The maximum number of characters of a value: an error may contain the whole output of another
/// program.
const MAX_VALUE: usize = 4096;

/// A line under construction: `key=value` pairs.
#[derive(Debug)]
pub(super) struct Line(String);

/// The fields of a span or an event, formatted for a line.
#[derive(Debug, Default)]
pub(super) struct Fields {
    text: String,
    /// The message of an event, which is not one of the fields.
    pub(super) message: String,
    /// Whether the event reports the result of a call.
    pub(super) has_result: bool,
}

impl Line {
    /// Formats a complete line, which begins with the time and the level.
    pub(super) fn with(level: Level, fill: impl FnOnce(&mut Self)) -> String {
        let now = humantime::format_rfc3339_millis(utc::clamp(SystemTime::now()));
        let mut line = Self(format!("time={now}"));
        line.field("level", level_name(level));
        fill(&mut line);
        line.0.push('\n');
        line.0
    }

    pub(super) fn field(&mut self, key: &str, value: &str) {
        push(&mut self.0, key, value);
    }

    pub(super) fn fields(&mut self, fields: &Fields) {
        self.0.push_str(&fields.text);
    }

    /// Appends a duration in milliseconds.
    pub(super) fn time(&mut self, key: &str, time: Duration) {
        let micros = time.as_secs() * 1_000_000 + u64::from(time.subsec_micros());
        // Writing to a String cannot fail.
        let _ = write!(self.0, " {key}_ms={}.{:03}", micros / 1_000, micros % 1_000);
    }
}

impl Fields {
    pub(super) fn append(&mut self, more: &Self) {
        self.text.push_str(&more.text);
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.to_owned(),
            name => {
                self.has_result |= name == "result";
                push(&mut self.text, name, value);
            }
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// Appends a text with escapes for all unprintable characters.
pub(super) fn push_visible(line: &mut String, text: &str) {
    for c in text.chars() {
        if matches!(c, '"' | '\'' | '\\') { line.push(c) } else { line.extend(c.escape_debug()) }
    }
}

fn push(line: &mut String, key: &str, value: &str) {
    let end = value.char_indices().nth(MAX_VALUE).map_or(value.len(), |(end, _)| end);
    let value = &value[..end];
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\');
    // Writing to a String cannot fail.
    let _ = if !value.is_empty() && value.bytes().all(is_plain) {
        write!(line, " {key}={value}")
    } else {
        write!(line, " {key}={value:?}")
    };
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed(value: &str) -> String {
        let mut line = String::new();
        push(&mut line, "key", value);
        line
    }

    #[test]
    fn plain_values_are_not_quoted() {
        for value in ["podnet", "10.244.1.2/24,fd00::2/64", "a-b_c.d", "7", "eth0@if2"] {
            assert_eq!(pushed(value), format!(" key={value}"));
        }
    }

    #[test]
    fn no_value_can_end_a_line_or_its_quotes() {
        let known = [
            ("", r#" key="""#),
            ("two words", r#" key="two words""#),
            ("a\nlevel=error", r#" key="a\nlevel=error""#),
            (r#"say "no""#, r#" key="say \"no\"""#),
            (r"a\", r#" key="a\\""#),
            ("a\u{1b}[2J", r#" key="a\u{1b}[2J""#),
            ("a\u{85}b\u{2028}c\u{202e}d", r#" key="a\u{85}b\u{2028}c\u{202e}d""#),
        ];
        for (value, line) in known {
            assert_eq!(pushed(value), line);
        }
    }

    #[test]
    fn a_long_value_is_truncated_between_characters() {
        let cut = pushed(&"é".repeat(MAX_VALUE + 1));
        assert_eq!(cut.chars().filter(|c| *c == 'é').count(), MAX_VALUE);
    }

    #[test]
    fn unprintable_characters_are_escaped() {
        let mut line = String::new();
        push_visible(&mut line, "one\ntwo \u{1b}[2J \u{9b} \u{202e} \"é\" it's \\");
        assert_eq!(line, r#"one\ntwo \u{1b}[2J \u{9b} \u{202e} "é" it's \"#);
    }
}
