//! The log of a plugin: lines for users on standard error, and a log file.

mod file;
mod line;
mod spans;

use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Deserialize;
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_core::span::Current;

use self::file::LogFile;
use self::line::{Fields, Line};
use self::spans::Spans;
use crate::spec::RawConfig;

/// A [`tracing`] subscriber for a plugin: warnings and errors on standard error, and a log file if
/// the configuration names one.
///
/// On standard error each event is one line, prefixed with the plugin's name. The file has one line
/// for each call, written when the call ends, in [logfmt](https://brandur.org/logfmt) and with the
/// duration of each step. Each warning is also a line:
///
/// ```text
/// time=2026-03-01T09:30:00.123Z level=info command=ADD network=podnet container=c1 ifname=eth0 pod=default/web-0 addresses=10.244.1.2/24 result=ok total_ms=2.513 lease_ms=0.301 ...
/// ```
///
/// A step is a span of level [`INFO`](Level::INFO) directly inside the span of the call. The
/// durations of steps of the same name are added. With [`LogLevel::Debug`], every span, and every
/// event up to [`DEBUG`](Level::DEBUG), is also a line.
///
/// A value with spaces, quotes or unprintable characters is quoted, with escapes for quotes and
/// unprintable characters. No value can therefore end a line or imitate another key. Values are
/// truncated after 4096 characters.
///
/// # The file
///
/// The first line opens the file for append, and creates it with mode 0600 if it is missing. The
/// directory is not created. Each line is one [write(2)], so that concurrent calls do not mix their
/// lines on local file systems.
///
/// The file must be a regular file with one hard link. A symbolic link, a FIFO or a device in its
/// place is rejected without blocking, and so is a hard link to another file. The next call
/// creates a renamed file again.
///
/// If the log cannot be written, the plugin prints one warning to standard error and the call
/// proceeds.
///
/// [write(2)]: https://man7.org/linux/man-pages/man2/write.2.html
#[derive(Debug)]
pub struct Log {
    plugin: &'static str,
    file: Option<LogFile>,
    spans: Mutex<Spans>,
}

/// The level of the file of a [`Log`]: the value of the key `logLevel`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LogLevel {
    /// Failed calls.
    Error,
    /// Warnings too. `warn` is an alias.
    #[serde(alias = "warn")]
    Warning,
    /// All calls.
    #[default]
    Info,
    /// Each step and each event too.
    Debug,
}

impl Log {
    /// Creates a log that writes only warnings and errors, to standard error. [`run`](super::run)
    /// uses it until the configuration is read.
    #[must_use]
    pub fn to_stderr(plugin: &'static str) -> Self {
        Self { plugin, file: None, spans: Mutex::default() }
    }

    /// Creates a log with the file that the keys `logFile` and `logLevel` name; `None` if `logFile`
    /// is not an absolute path.
    ///
    /// An invalid `logLevel` counts as the default, so that the log contains the call that fails
    /// because of it. The plugin's [`Config`](super::Plugin::Config) must reject invalid values.
    pub fn by_config(plugin: &'static str, config: &RawConfig) -> Option<Self> {
        let path = config.value("logFile")?.as_str().map(Path::new).filter(|path| path.is_absolute())?;
        let level = config.value("logLevel").and_then(|level| LogLevel::deserialize(level).ok());
        Some(Self::to_stderr(plugin).file(path, level.unwrap_or_default()))
    }

    /// Adds a file for lines up to a level.
    #[must_use]
    pub fn file(self, path: impl Into<PathBuf>, level: LogLevel) -> Self {
        Self { file: Some(LogFile::new(path.into(), level)), ..self }
    }

    /// Checks whether the file can be written or created, as far as possible without writing.
    /// Creates and writes nothing.
    ///
    /// # Errors
    ///
    /// [`io::Error`], with the message for standard error.
    pub fn probe(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| file.probe().map_err(io::Error::other))
    }

    fn max_level(&self) -> Level {
        // Spans are measured at every level: the line of a failed call also contains its steps.
        self.file.as_ref().map_or(Level::WARN, |file| file.level.as_tracing().max(Level::INFO))
    }

    fn spans(&self) -> MutexGuard<'_, Spans> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a line to standard error with one system call, so that lines of other writers do not
    /// mix.
    fn write_stderr(&self, text: &dyn fmt::Display) {
        let mut line = format!("{}: ", self.plugin);
        line::push_visible(&mut line, &text.to_string());
        line.push('\n');
        // There is no other place to report an error.
        let _ = io::stderr().write_all(line.as_bytes());
    }

    /// Writes a line to the file, if its level includes this level.
    fn write(&self, level: Level, line: impl FnOnce(&mut Line)) {
        if let Some(file) = self.file.as_ref().filter(|file| level <= file.level.as_tracing())
            && let Err(error) = file.append(&Line::with(level, line))
        {
            self.write_stderr(&error);
        }
    }
}

impl LogLevel {
    const fn as_tracing(self) -> Level {
        match self {
            Self::Error => Level::ERROR,
            Self::Warning => Level::WARN,
            Self::Info => Level::INFO,
            Self::Debug => Level::DEBUG,
        }
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.max_level()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.max_level().into())
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let mut spans = self.spans();
        let parent = spans.parent(attributes.parent(), attributes.is_contextual());
        spans.begin(attributes.metadata(), parent, fields)
    }

    fn record(&self, span: &Id, values: &Record<'_>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        self.spans().add(span, &fields);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let level = *event.metadata().level();
        let mut fields = Fields::default();
        event.record(&mut fields);
        if level <= Level::WARN {
            self.write_stderr(&fields.message);
        }
        self.write(level, |line| {
            let spans = self.spans();
            let parent = spans.parent(event.parent(), event.is_contextual());
            spans.write_fields(parent.as_ref(), line);
            line.fields(&fields);
            // The library ends each call with such an event.
            if fields.has_result {
                spans.write_times(parent.as_ref(), line);
            }
            if !fields.message.is_empty() {
                line.field("msg", &fields.message);
            }
        });
    }

    fn enter(&self, span: &Id) {
        self.spans().enter(span);
    }

    fn exit(&self, span: &Id) {
        self.spans().exit(span);
    }

    fn clone_span(&self, span: &Id) -> Id {
        self.spans().hold(span);
        span.clone()
    }

    fn try_close(&self, span: Id) -> bool {
        let ended = Instant::now();
        let mut spans = self.spans();
        let is_last = spans.release(&span);
        if is_last {
            if spans.is_step(&span) {
                self.write(Level::DEBUG, |line| spans.write_step(&span, ended, line));
            }
            spans.end(&span, ended);
        }
        is_last
    }

    fn current_span(&self) -> Current {
        self.spans().current().map_or_else(Current::none, |(id, metadata)| Current::new(id, metadata))
    }
}
