use std::error::Error as StdError;
use std::fmt;

use crate::spec::{ErrorCode, ErrorDocument, HasErrorCode, Version};

/// Why a verb failed: what becomes the error document.
///
/// `?` makes one of any [`HasErrorCode`] error: its text is the message, the chain of its sources the
/// details.
///
/// ```
/// use cnikit::plugin::{Failure, Step};
/// use cnikit::spec::ErrorCode;
///
/// fn mtu_of(bridge: &str) -> Result<u32, Failure> {
///     let path = format!("/sys/class/net/{bridge}/mtu");
///     let text = std::fs::read_to_string(&path).context(format!("read {path}"))?;
///     let no_number = |_| Failure::new(ErrorCode::DECODE, format!("{path} holds no number"));
///     text.trim().parse().map_err(no_number)
/// }
///
/// let failure = mtu_of("no-such-bridge").unwrap_err();
/// assert_eq!(failure.code, ErrorCode::IO);
/// assert!(failure.msg.starts_with("read /sys/class/net/no-such-bridge/mtu: No such file"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PluginError {
    /// The number on the wire.
    pub code: ErrorCode,
    /// A short sentence.
    pub msg: String,
    /// What led to it; may be empty.
    pub details: String,
}

/// Says which step of a verb failed.
pub trait Context<T> {
    /// Puts the step before the message of a failure: `make the veth pair: <message>`.
    ///
    /// # Errors
    ///
    /// The failure, with the step.
    fn context(self, step: impl fmt::Display) -> Result<T, PluginError>;
}

/// The failures of a verb that goes on past them, as `DEL` and `GC` must.
///
/// ```
/// use cnikit::plugin::{Failures, Step};
///
/// let mut failures = Failures::default();
/// failures.note(std::fs::remove_file("/nonexistent/lease").context("free the lease"));
/// failures.note(std::fs::read("/dev/null").context("look at nothing"));
/// let failure = failures.into_result().unwrap_err();
/// assert!(failure.msg.starts_with("free the lease: No such file"));
/// ```
#[derive(Debug, Default)]
pub struct ErrorCollector {
    all: Vec<PluginError>,
}

impl PluginError {
    /// A failure without details.
    pub fn new(code: ErrorCode, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// The failure with these details.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The error document, for a configuration of this version.
    pub fn into_document(self, version: Version) -> ErrorDocument {
        let Self { code, msg, details } = self;
        ErrorDocument { cni_version: version.to_string(), code, msg, details }
    }
}

impl ErrorCollector {
    /// Keeps the failure of an outcome; its value, where there is one, is returned.
    pub fn push<T>(&mut self, outcome: Result<T, impl Into<PluginError>>) -> Option<T> {
        outcome.map_err(|failure| self.all.push(failure.into())).ok()
    }

    /// Success if there was no failure; else one failure that tells all, with the number of the
    /// first.
    ///
    /// # Errors
    ///
    /// That failure.
    pub fn into_result(self) -> Result<(), PluginError> {
        let Some(code) = self.all.first().map(|first| first.code) else {
            return Ok(());
        };
        let (msgs, details): (Vec<_>, Vec<_>) = self.all.into_iter().map(|one| (one.msg, one.details)).unzip();
        let details: Vec<String> = details.into_iter().filter(|details| !details.is_empty()).collect();
        Err(PluginError { code, msg: msgs.join("; "), details: details.join("; ") })
    }
}

impl<E: HasErrorCode> From<E> for PluginError {
    fn from(error: E) -> Self {
        let sources = std::iter::successors(error.source(), |source| (*source).source());
        let details: Vec<String> = sources.map(ToString::to_string).collect();
        Self { code: error.code(), msg: error.to_string(), details: details.join(": ") }
    }
}

impl<T, E: Into<PluginError>> Context<T> for Result<T, E> {
    fn context(self, step: impl fmt::Display) -> Result<T, PluginError> {
        self.map_err(|error| {
            let failure: PluginError = error.into();
            PluginError { msg: format!("{step}: {}", failure.msg), ..failure }
        })
    }
}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.msg)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, ": {}", self.details) }
    }
}

impl StdError for PluginError {}
