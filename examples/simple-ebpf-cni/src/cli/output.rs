use std::fmt;
use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write};

use clap::builder::styling::{AnsiColor, Style};
use serde::Serialize;

use super::Error;

/// How names of columns are set off.
pub(crate) const HEADER: Style = AnsiColor::Green.on_default().bold();
/// How is set off what is well.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// How is set off what may need a look.
pub(crate) const DOUBTFUL: Style = AnsiColor::Yellow.on_default().bold();
/// How is set off what does not count any more.
pub(crate) const VOID: Style = Style::new().dimmed();
/// How is set off what needs a look.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();

/// Standard output, which is locked for as long as a command runs, and colours where it is a terminal.
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

    /// Writes a line that is set off from others.
    pub(crate) fn styled(&mut self, style: Style, text: impl fmt::Display) -> Result<(), Error> {
        let style = if self.color { style } else { Style::new() };
        // The names of files may hold what would command a terminal.
        let text = text.to_string().replace(|c: char| c.is_control(), "\u{fffd}");
        Ok(writeln!(self.stdout, "{style}{text}{style:#}")?)
    }

    /// Writes a value for programs.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Error> {
        match serde_json::to_writer_pretty(&mut self.stdout, value) {
            Err(error) if error.is_io() => return Err(Error::Output(error.into())),
            written => written?,
        }
        self.line("")
    }

    /// Where text goes that is to stay as it is.
    #[cfg(feature = "pages")]
    pub(crate) fn raw(&mut self) -> &mut impl Write {
        &mut self.stdout
    }

    /// Clears the terminal.
    pub(crate) fn clear(&mut self) -> Result<(), Error> {
        const HOME_AND_CLEAR: &str = "\x1b[H\x1b[2J";
        Ok(write!(self.stdout, "{HOME_AND_CLEAR}")?)
    }

    /// Writes what is not written yet.
    pub(crate) fn flush(&mut self) -> Result<(), Error> {
        Ok(self.stdout.flush()?)
    }
}
