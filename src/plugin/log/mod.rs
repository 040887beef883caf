//! What a plugin says of its calls: to whom it is for people, and where.

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

/// A [`tracing`] subscriber for a plugin: warnings and errors go to standard error, and what the configuration asks for
/// to a file.
///
/// On standard error each is one line, behind the plugin's name. The file gets one line for each call when it ends, in
/// [logfmt](https://brandur.org/logfmt), with the time that each step took; warnings are lines as well:
///
/// ```text
/// time=2026-03-01T09:30:00.123Z level=info command=ADD network=podnet container=c1 ifname=eth0 pod=default/web-0 addresses=10.244.1.2/24 result=ok total_ms=2.513 lease_ms=0.301 ...
/// ```
///
/// A step is a span of level [`INFO`](Level::INFO) right inside of that of the call; steps of one name are added up. With
/// [`LogLevel::Debug`] every span, and every event up to [`DEBUG`](Level::DEBUG), is a line of its own as well.
///
/// A value that is more than letters, digits and marks stands in quotes, with escapes for quotes and for all that does
/// not print: no name can end a line, or look like another key. After 4096 characters it is cut.
///
/// # The file
///
/// It is opened with the first line, to append, and made with mode 0600 where it is missing; its directory is not made.
/// Each line is one [write(2)], so that calls which run at once do not mix theirs, on local file systems. It must be a
/// regular file of one name: a symbolic link, a FIFO or a device in its place is refused and not waited for, and so is a
/// hard link to a file elsewhere. A file that was renamed is made again by the next call.
///
/// What cannot be written is lost, and that is said once on standard error. No call fails for its log.
///
/// [write(2)]: https://man7.org/linux/man-pages/man2/write.2.html
#[derive(Debug)]
pub struct Log {
    plugin: &'static str,
    file: Option<LogFile>,
    spans: Mutex<Spans>,
}

/// How much is written to the file of a [`Log`]: the value of the key `logLevel`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum LogLevel {
    /// Calls that failed.
    Error,
    /// Warnings, too; `warn` is another word for it.
    #[serde(alias = "warn")]
    Warning,
    /// All calls.
    #[default]
    Info,
    /// Each step and each event, too.
    Debug,
}

impl Log {
    /// Warnings and errors on standard error, and nothing else. This is what [`run`](super::run) has until the
    /// configuration is read.
    pub fn to_stderr(plugin: &'static str) -> Self {
        Self { plugin, file: None, spans: Mutex::default() }
    }

    /// The same, and the log that the keys `logFile` and `logLevel` ask for; none where `logFile` is no absolute path.
    ///
    /// It takes a `logLevel` that is none for the default, so that a call which fails for just that is in the log. It is
    /// for the plugin's [`Config`](super::Plugin::Config) to refuse what is wrong with the keys.
    pub fn by_config(plugin: &'static str, config: &RawConfig) -> Option<Self> {
        let path = config.value("logFile")?.as_str().map(Path::new).filter(|path| path.is_absolute())?;
        let level = config.value("logLevel").and_then(|level| LogLevel::deserialize(level).ok());
        Some(Self::to_stderr(plugin).with_file(path, level.unwrap_or_default()))
    }

    /// The same, and lines up to a level in a file.
    #[must_use]
    pub fn with_file(self, path: impl Into<PathBuf>, level: LogLevel) -> Self {
        Self { file: Some(LogFile::new(path.into(), level)), ..self }
    }

    /// Whether the file could be written, or made, as far as can be told without a line. Makes and writes nothing.
    ///
    /// # Errors
    ///
    /// [`io::Error`], with the words that would be on standard error.
    pub fn probe(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |file| file.probe().map_err(io::Error::other))
    }

    fn most(&self) -> Level {
        // Spans are measured at whatever level: the line of a call that failed tells its steps, too.
        self.file.as_ref().map_or(Level::WARN, |file| file.level.as_tracing().max(Level::INFO))
    }

    fn spans(&self) -> MutexGuard<'_, Spans> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a line for people, who get each with one system call, whoever else writes there.
    fn say(&self, text: &dyn fmt::Display) {
        let mut line = format!("{}: ", self.plugin);
        line::push_visible(&mut line, &text.to_string());
        line.push('\n');
        // Nobody is left to tell.
        let _ = io::stderr().write_all(line.as_bytes());
    }

    /// Writes a line to the file, if it takes lines of this level.
    fn write(&self, level: Level, line: impl FnOnce(&mut Line)) {
        if let Some(file) = self.file.as_ref().filter(|file| level <= file.level.as_tracing())
            && let Err(error) = file.append(&Line::with(level, line))
        {
            self.say(&error);
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
        *metadata.level() <= self.most()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.most().into())
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let mut spans = self.spans();
        let parent = spans.place(attributes.parent(), attributes.is_contextual());
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
            self.say(&fields.message);
        }
        self.write(level, |line| {
            let spans = self.spans();
            let place = spans.place(event.parent(), event.is_contextual());
            spans.tell(place.as_ref(), line);
            line.fields(&fields);
            // This is how the library ends a call.
            if fields.have_result {
                spans.tell_times(place.as_ref(), line);
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
                self.write(Level::DEBUG, |line| spans.tell_step(&span, ended, line));
            }
            spans.end(&span, ended);
        }
        is_last
    }

    fn current_span(&self) -> Current {
        self.spans().current().map_or_else(Current::none, |(id, metadata)| Current::new(id, metadata))
    }
}
