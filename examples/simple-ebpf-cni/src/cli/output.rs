//! Standard output, with colors if it is a terminal.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write};

use clap::builder::styling::{AnsiColor, Style};
use serde::Serialize;

use super::error::Error;

/// The style of column names and of network names.
pub(crate) const HEADER: Style = AnsiColor::Green.on_default().bold();
/// The style of a passed check.
pub(crate) const OK: Style = AnsiColor::Green.on_default();
/// The style of a warning.
pub(crate) const WARNING: Style = AnsiColor::Yellow.on_default().bold();
/// The style of an absent or outdated value.
pub(crate) const DIM: Style = Style::new().dimmed();
/// The style of a problem.
pub(crate) const ERROR: Style = AnsiColor::Red.on_default().bold();

/// Standard output, locked while a command runs. It has colors if it is a terminal and `NO_COLOR`
/// is not set.
#[derive(Debug)]
pub(crate) struct Output {
    stdout: BufWriter<StdoutLock<'static>>,
    color: bool,
}

impl Output {
    pub(crate) fn to_stdout() -> Self {
        let stdout = io::stdout();
        let color = stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
        Self { stdout: BufWriter::new(stdout.lock()), color }
    }

    /// Writes a line.
    pub(crate) fn line(&mut self, text: impl fmt::Display) -> Result<(), Error> {
        self.styled(Style::new(), text)
    }

    /// Writes a line in a style.
    pub(crate) fn styled(&mut self, style: Style, text: impl fmt::Display) -> Result<(), Error> {
        let style = if self.color { style } else { Style::new() };
        // File names may contain terminal escape sequences.
        let text = text.to_string().replace(|c: char| c.is_control(), "\u{fffd}");
        Ok(writeln!(self.stdout, "{style}{text}{style:#}")?)
    }

    /// Writes a value as indented JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Error> {
        match serde_json::to_writer_pretty(&mut self.stdout, value) {
            Err(error) if error.is_io() => return Err(Error::Output(error.into())),
            written => written?,
        }
        self.line("")
    }

    /// The writer for text that must not be changed.
    #[cfg(feature = "pages")]
    pub(crate) fn raw(&mut self) -> &mut impl Write {
        &mut self.stdout
    }

    /// Clears the terminal.
    pub(crate) fn clear(&mut self) -> Result<(), Error> {
        const HOME_AND_CLEAR: &str = "\x1b[H\x1b[2J";
        Ok(write!(self.stdout, "{HOME_AND_CLEAR}")?)
    }

    /// Flushes the buffer.
    pub(crate) fn flush(&mut self) -> Result<(), Error> {
        Ok(self.stdout.flush()?)
    }
}
