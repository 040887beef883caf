use std::error::Error as StdError;
use std::fmt;

use crate::spec::{ErrorCode, ErrorDocument, HasErrorCode, Version};

/// The result type of a verb.
pub type Result<T, E = PluginError> = std::result::Result<T, E>;

/// The error of a verb: the content of the error document.
///
/// `?` converts any [`HasErrorCode`] error. The error's text becomes the message, the chain of its
/// sources the details.
///
/// ```
/// use cnikit::plugin::{Context, PluginError};
/// use cnikit::spec::ErrorCode;
///
/// fn mtu_of(bridge: &str) -> Result<u32, PluginError> {
///     let path = format!("/sys/class/net/{bridge}/mtu");
///     let text = std::fs::read_to_string(&path).context(format!("read {path}"))?;
///     let no_number = |_| PluginError::new(ErrorCode::DECODE, format!("{path} does not contain a number"));
///     text.trim().parse().map_err(no_number)
/// }
///
/// let error = mtu_of("no-such-bridge").unwrap_err();
/// assert_eq!(error.code, ErrorCode::IO);
/// assert!(error.msg.starts_with("read /sys/class/net/no-such-bridge/mtu: No such file"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PluginError {
    /// The code for the error document.
    pub code: ErrorCode,
    /// A short message.
    pub msg: String,
    /// Details of the cause; may be empty.
    pub details: String,
}

/// Adds the failed step of a verb to an error.
pub trait Context<T> {
    /// Prepends the step to the message of an error: `create the veth pair: <message>`.
    ///
    /// # Errors
    ///
    /// The error, with the step.
    fn context(self, step: impl fmt::Display) -> Result<T, PluginError>;
}

/// Collects the errors of a verb that continues after an error, as `DEL` and `GC` must.
///
/// ```
/// use cnikit::plugin::{Context, ErrorCollector};
///
/// let mut errors = ErrorCollector::default();
/// errors.push(std::fs::remove_file("/nonexistent/lease").context("free the lease"));
/// errors.push(std::fs::read("/dev/null").context("read nothing"));
/// let error = errors.into_result().unwrap_err();
/// assert!(error.msg.starts_with("free the lease: No such file"));
/// ```
#[derive(Debug, Default)]
pub struct ErrorCollector {
    all: Vec<PluginError>,
}

impl PluginError {
    /// Creates an error without details.
    pub fn new(code: ErrorCode, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// Sets the details.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// Creates the error document for a configuration of this version.
    #[must_use]
    pub fn into_document(self, version: Version) -> ErrorDocument {
        let Self { code, msg, details } = self;
        ErrorDocument { cni_version: version.to_string(), code, msg, details }
    }
}

impl ErrorCollector {
    /// Keeps the error of a result, and returns the value of a success.
    pub fn push<T>(&mut self, outcome: Result<T, impl Into<PluginError>>) -> Option<T> {
        outcome.map_err(|error| self.all.push(error.into())).ok()
    }

    /// Returns success if no error was collected. Otherwise returns one error with all messages and
    /// the code of the first error.
    ///
    /// # Errors
    ///
    /// The combined error.
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
            let error: PluginError = error.into();
            PluginError { msg: format!("{step}: {}", error.msg), ..error }
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
