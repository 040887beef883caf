//! Messages for the user. Colors appear only on a terminal.

use std::io::{self, IsTerminal as _, Write as _};

/// A step of the program.
pub(crate) fn step(text: &str) {
    line(&styled("1", &format!("==> {text}")));
}

/// A fact beside the steps.
pub(crate) fn note(text: &str) {
    line(&styled("2", &format!("    {text}")));
}

/// A test that has passed.
pub(crate) fn passed(text: &str) {
    line(&format!("    {}      {text}", styled("32", "ok")));
}

/// A test that has failed.
pub(crate) fn failed(text: &str) {
    line(&format!("    {}  {text}", styled("31", "FAILED")));
}

/// A line without a style.
pub(crate) fn line(text: &str) {
    // The output may be a closed pipe.
    let _ = writeln!(io::stdout(), "{text}");
}

fn styled(code: &str, text: &str) -> String {
    let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if io::stdout().is_terminal() && !is_unwanted { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}
