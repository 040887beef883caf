use std::error::Error as StdError;
use std::fmt;

use crate::spec::{ErrorCode, ErrorDocument, HasErrorCode, Version};

/// The result type of a verb.
pub type Result<T, E = PluginError> = std::result::Result<T, E>;

/// The error of a verb: the content of the error document.
///
/// `?` converts any [`HasErrorCode`] error. The error's text becomes the message, the chain of its
/// sources the details. The text of an error of this library contains the reason, so its details
/// are empty. Any other [`std::error::Error`] needs a code of the plugin's choice:
/// [`Context::with_code`].
///
/// ```
/// use cnikit::plugin::{Context, PluginError};
/// use cnikit::spec::ErrorCode;
///
/// fn mtu_of(bridge: &str) -> Result<u32, PluginError> {
///     let path = format!("/sys/class/net/{bridge}/mtu");
///     // An `io::Error` has a code. A `ParseIntError` has none.
///     let text = std::fs::read_to_string(&path).context(format!("read {path}"))?;
///     text.trim().parse().with_code(ErrorCode::DECODE).context(format!("parse {path}"))
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

/// Adds the failed step of a verb, or an error code, to an error.
///
/// If [`context`](Self::context) or `?` fails to compile because an error of another crate is not
/// [`HasErrorCode`], put [`with_code`](Self::with_code) before it:
///
/// ```
/// use std::net::IpAddr;
///
/// use cnikit::plugin::{Context, PluginError};
/// use cnikit::spec::ErrorCode;
///
/// fn gateway(text: &str) -> Result<IpAddr, PluginError> {
///     text.parse().with_code(ErrorCode::DECODE).context("parse the gateway")
/// }
///
/// let error = gateway("here").unwrap_err();
/// assert_eq!(error.code, ErrorCode::DECODE);
/// assert_eq!(error.msg, "parse the gateway: invalid IP address syntax");
/// ```
pub trait Context<T, E> {
    /// Prepends the step to the message of an error: `create the veth pair: <message>`.
    ///
    /// # Errors
    ///
    /// The error, with the step.
    fn context(self, step: impl fmt::Display) -> Result<T, PluginError>
    where
        PluginError: From<E>;

    /// Converts any error with this code. If the error has a code already, this one replaces it. A
    /// [`PluginError`] keeps its message and details.
    ///
    /// # Errors
    ///
    /// The error, with the code.
    fn with_code(self, code: ErrorCode) -> Result<T, PluginError>
    where
        E: StdError + 'static;
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

    /// Creates an error from any error: the text becomes the message, the chain of sources the
    /// details. A [`PluginError`] keeps its message and details.
    ///
    /// ```
    /// use cnikit::plugin::PluginError;
    /// use cnikit::spec::ErrorCode;
    ///
    /// let foreign = "9000x".parse::<u32>().unwrap_err();
    /// let error = PluginError::from_error(ErrorCode::DECODE, &foreign);
    /// assert_eq!(error, PluginError::new(ErrorCode::DECODE, "invalid digit found in string"));
    /// ```
    #[must_use]
    pub fn from_error(code: ErrorCode, error: &(dyn StdError + 'static)) -> Self {
        match error.downcast_ref::<Self>() {
            Some(known) => Self { code, ..known.clone() },
            None => Self { code, msg: error.to_string(), details: sources(error) },
        }
    }

    /// Adds the error of the rollback after this error, if the rollback failed too.
    ///
    /// ```
    /// use std::fs;
    ///
    /// use cnikit::plugin::{Context, PluginError};
    ///
    /// fn configure() -> Result<(), PluginError> {
    ///     fs::write("/nonexistent/state", "").context("save the state")
    /// }
    ///
    /// let added = configure().map_err(|error| error.rolled_back(fs::remove_file("/nonexistent/link")));
    /// assert_eq!(added.unwrap_err().msg.matches("No such file").count(), 2);
    /// let added = configure().map_err(|error| error.rolled_back(Ok::<_, PluginError>(())));
    /// assert_eq!(added.unwrap_err().msg.matches("No such file").count(), 1);
    /// ```
    #[must_use]
    pub fn rolled_back<T, E: Into<Self>>(self, rollback: Result<T, E>) -> Self {
        match rollback {
            Ok(_) => self,
            Err(error) => self.and(error),
        }
    }

    /// Adds another error: both messages, both details, and the code of `self`.
    ///
    /// ```
    /// use cnikit::plugin::PluginError;
    /// use cnikit::spec::ErrorCode;
    ///
    /// let error = PluginError::new(ErrorCode::TRY_AGAIN, "the pool is locked");
    /// let error = error.and(std::io::Error::other("the link is busy"));
    /// assert_eq!(error.code, ErrorCode::TRY_AGAIN);
    /// assert_eq!(error.msg, "the pool is locked; the link is busy");
    /// ```
    #[must_use]
    pub fn and(self, other: impl Into<Self>) -> Self {
        let other = other.into();
        let joined = |one: String, other: String| match (one.is_empty(), other.is_empty()) {
            (false, false) => format!("{one}; {other}"),
            _ => one + &other,
        };
        Self { code: self.code, msg: joined(self.msg, other.msg), details: joined(self.details, other.details) }
    }

    /// Sets the details.
    #[must_use]
    pub fn details(mut self, details: impl Into<String>) -> Self {
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
        self.all.into_iter().reduce(PluginError::and).map_or(Ok(()), Err)
    }
}

impl<E: HasErrorCode> From<E> for PluginError {
    fn from(error: E) -> Self {
        Self { code: error.code(), msg: error.to_string(), details: sources(&error) }
    }
}

/// The texts of the sources of an error.
fn sources(error: &dyn StdError) -> String {
    let sources = std::iter::successors(error.source(), |source| (*source).source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

impl<T, E> Context<T, E> for Result<T, E> {
    fn context(self, step: impl fmt::Display) -> Result<T, PluginError>
    where
        PluginError: From<E>,
    {
        self.map_err(|error| {
            let error: PluginError = error.into();
            PluginError { msg: format!("{step}: {}", error.msg), ..error }
        })
    }

    fn with_code(self, code: ErrorCode) -> Result<T, PluginError>
    where
        E: StdError + 'static,
    {
        self.map_err(|error| PluginError::from_error(code, &error))
    }
}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.msg)?;
        if self.details.is_empty() { Ok(()) } else { write!(f, ": {}", self.details) }
    }
}

impl StdError for PluginError {}
