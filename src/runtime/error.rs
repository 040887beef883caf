use std::env::JoinPathsError;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use crate::spec::{self, Attachment, Command, ErrorCode, HasErrorCode, NetworkName, PluginType, Version};

/// The result type of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a plugin call, of a network configuration or of the result cache.
// The text contains the text of `r#source`. The raw name hides the field from thiserror, so a
// printed chain of sources does not repeat the text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No directory of the search path contains an executable of this name.
    #[error("{}", not_found(plugin_type, searched, not_executable))]
    NotFound {
        /// The plugin.
        plugin_type: PluginType,
        /// The directories, in order.
        searched: Vec<PathBuf>,
        /// Files of this name that are not executable.
        not_executable: Vec<PathBuf>,
    },
    /// The executable of the delegate is the running program, which would call itself forever.
    /// `DEL` succeeds instead, because there is nothing to release.
    #[error(
        "plugin {plugin_type} would delegate to itself: {} is the running program; name another plugin as \
         \"ipam.type\" in the network configuration",
        path.display()
    )]
    DelegatesToItself {
        /// The delegate.
        plugin_type: PluginType,
        /// Its executable.
        path: PathBuf,
    },
    /// A directory with the separator of `CNI_PATH` in its name.
    #[error("CNI_PATH cannot contain a directory with a ':' in its name: rename it")]
    Path {
        /// The invalid directory.
        r#source: JoinPathsError,
    },
    /// The executable could not be started.
    #[error("cannot start {}: {source}", plugin.display())]
    Start {
        /// The executable.
        plugin: PathBuf,
        /// The system's error. `Text file busy` means that another process kept the executable open
        /// for writing for several seconds.
        r#source: io::Error,
    },
    /// I/O on the pipes to a running plugin failed.
    #[error("cannot read from or write to {} during {command}: {source}", plugin.display())]
    Pipe {
        /// The executable.
        plugin: PathBuf,
        /// The verb.
        command: Command,
        /// The system's error.
        r#source: io::Error,
    },
    /// The plugin and its child processes were killed.
    #[error("{} was killed: {command} took longer than {limit:?}{}", plugin.display(), output_suffix(stderr))]
    TimedOut {
        /// The executable.
        plugin: PathBuf,
        /// The verb.
        command: Command,
        /// The timeout.
        limit: Duration,
        /// The end of its standard error.
        stderr: String,
    },
    /// The plugin was killed because of excessive output.
    #[error("{} was killed: {command} wrote more than {limit} bytes to standard output", plugin.display())]
    OutputTooLong {
        /// The executable.
        plugin: PathBuf,
        /// The verb.
        command: Command,
        /// The limit in bytes.
        limit: usize,
    },
    /// The plugin failed with an error document.
    #[error("{} failed {command} with code {code}: {msg}{}", plugin.display(), details_suffix(details))]
    Plugin {
        /// The executable.
        plugin: PathBuf,
        /// The verb.
        command: Command,
        /// The code of the document.
        code: ErrorCode,
        /// Its message.
        msg: String,
        /// Its details; may be empty.
        details: String,
    },
    /// The plugin failed without an error document.
    #[error("{} failed {command} without an error document ({status}){}", plugin.display(), output_suffix(output))]
    NoDocument {
        /// The executable.
        plugin: PathBuf,
        /// The verb.
        command: Command,
        /// The exit status of the plugin.
        status: ExitStatus,
        /// The end of its standard error, or of its standard output if standard error is empty.
        output: String,
    },
    /// The plugin wrote an error document, but exited with status 0. A runtime would take the
    /// document for a result.
    #[error(
        "{} exited {command} with status 0, but wrote an error document with code {code}: {msg}; \
         correct the plugin: the status of an error must not be 0",
        plugin.display()
    )]
    ErrorAsResult {
        /// The executable.
        plugin: PathBuf,
        /// The verb.
        command: Command,
        /// The code of the document.
        code: ErrorCode,
        /// Its message.
        msg: String,
    },
    /// The plugin succeeded, but its standard output is empty or not JSON.
    #[error(
        "{} exited {command} with status 0, but its standard output is not JSON: {source}; its output: {output:?}",
        plugin.display()
    )]
    NotJson {
        /// The executable.
        plugin: PathBuf,
        /// The verb.
        command: Command,
        /// The beginning of its standard output.
        output: String,
        /// The parser's error.
        r#source: serde_json::Error,
    },
    /// The plugin succeeded, but its output does not conform to the specification.
    #[error("the output of {} for {command} is not valid: {source}", plugin.display())]
    InvalidResponse {
        /// The executable.
        plugin: PathBuf,
        /// The verb.
        command: Command,
        /// The reason.
        r#source: spec::Error,
    },
    /// A plugin does not support the configuration's version.
    #[error(
        "{} does not support cniVersion {version}: use one of {} in the network configuration, or update the plugin",
        plugin.display(), Version::list(supported)
    )]
    UnsupportedVersion {
        /// The executable.
        plugin: PathBuf,
        /// The configuration's version.
        version: Version,
        /// The versions that it supports, without versions unknown to this library.
        supported: Vec<Version>,
    },
    /// A network configuration, or a name, is invalid.
    #[error(transparent)]
    Spec(#[from] spec::Error),
    /// The configuration of one plugin in a network configuration is invalid.
    #[error("\"plugins[{index}]\" of the network configuration is not valid: {source}")]
    InvalidPlugin {
        /// Its index in the list, from 0.
        index: usize,
        /// The reason.
        r#source: spec::Error,
    },
    /// A network configuration without plugins.
    #[error("network {network} has no plugins: list them under \"plugins\"")]
    NoPlugins {
        /// The network.
        network: NetworkName,
    },
    /// A file with invalid content.
    #[error("{} is not valid: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason.
        r#source: Box<Error>,
    },
    /// A file system operation failed.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// The operation, as a verb.
        operation: &'static str,
        /// The path of the operation.
        path: PathBuf,
        /// The system's error.
        r#source: io::Error,
    },
    /// No configuration in a directory has the network's name.
    #[error("network {network} not found in {}: the directory has {}", dir.display(), networks(present))]
    NoSuchNetwork {
        /// The network.
        network: NetworkName,
        /// The directory.
        dir: PathBuf,
        /// The networks in the directory.
        present: Vec<NetworkName>,
    },
    /// An invalid cached attachment.
    #[error("the cached result {} is not valid: {source}; delete the attachment", path.display())]
    CorruptCache {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        r#source: serde_json::Error,
    },
    /// A `CHECK` of an attachment without a cached result.
    #[error(
        "the result cache has no attachment of {} of container {} to network {}: add it first",
        attachment.ifname, attachment.container_id, attachment.network
    )]
    NotAttached {
        /// The attachment.
        attachment: Attachment,
    },
    /// An `ADD` failed, and the `DEL` of its rollback failed too.
    #[error("{cause}; the rollback failed too: {}", rollback_errors(cause, left))]
    RollbackFailed {
        /// The error of the `ADD`.
        cause: Box<Error>,
        /// The errors of the rollback. Parts of the attachment may remain.
        left: Vec<Error>,
    },
    /// Several errors of an operation that continues after errors.
    #[error("{}", list(errors))]
    Several {
        /// The errors, in the order of their occurrence.
        errors: Vec<Error>,
    },
}

impl Error {
    /// For `map_err`: adds the operation and the path.
    pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, path: path.to_owned(), source }
    }

    /// Adds the errors of the rollback to the error of an `ADD`.
    pub(super) fn with_rollback_errors(self, left: Vec<Error>) -> Self {
        if left.is_empty() { self } else { Self::RollbackFailed { cause: Box::new(self), left } }
    }

    /// Whether two plugins, or two verbs of a plugin, reported the same reason.
    fn has_reason_of(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Plugin { code, msg, details, .. },
                Self::Plugin { code: other_code, msg: other_msg, details: other_details, .. },
            ) => (code, msg, details) == (other_code, other_msg, other_details),
            (
                Self::NoDocument { status, output, .. },
                Self::NoDocument { status: other_status, output: other_output, .. },
            ) => !output.is_empty() && (status, output) == (other_status, other_output),
            _ => false,
        }
    }

    /// Combines all errors into one, if there are any.
    pub(super) fn all(mut errors: Vec<Error>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Several { errors }),
        }
    }
}

impl HasErrorCode for Error {
    /// A plugin's own code is passed on.
    fn code(&self) -> ErrorCode {
        match self {
            Self::Plugin { code, .. } | Self::ErrorAsResult { code, .. } => *code,
            Self::TimedOut { .. } => ErrorCode::TRY_AGAIN,
            Self::Start { .. } | Self::Pipe { .. } | Self::Io { .. } => ErrorCode::IO,
            Self::Path { .. } => ErrorCode::INVALID_ENVIRONMENT,
            Self::NotFound { .. }
            | Self::DelegatesToItself { .. }
            | Self::NoPlugins { .. }
            | Self::NoSuchNetwork { .. } => ErrorCode::INVALID_CONFIG,
            Self::NotJson { .. } | Self::CorruptCache { .. } => ErrorCode::DECODE,
            Self::OutputTooLong { .. } | Self::NoDocument { .. } => ErrorCode::INTERNAL,
            Self::UnsupportedVersion { .. } => ErrorCode::INCOMPATIBLE_VERSION,
            Self::NotAttached { .. } => ErrorCode::UNKNOWN_CONTAINER,
            Self::Spec(source) | Self::InvalidPlugin { source, .. } | Self::InvalidResponse { source, .. } => {
                source.code()
            }
            Self::File { source, .. } => source.code(),
            Self::RollbackFailed { cause, .. } => cause.code(),
            Self::Several { errors } => errors.first().map_or(ErrorCode::INTERNAL, HasErrorCode::code),
        }
    }
}

fn not_found(plugin_type: &PluginType, searched: &[PathBuf], not_executable: &[PathBuf]) -> String {
    if let Some(path) = not_executable.first() {
        return format!("plugin {plugin_type} cannot be run: {} is not executable; run chmod +x on it", path.display());
    }
    if searched.is_empty() {
        return format!("plugin {plugin_type} not found: CNI_PATH names no directory; set it");
    }
    let searched: Vec<String> = searched.iter().map(|dir| dir.display().to_string()).collect();
    format!(
        "plugin {plugin_type} not found in {}: install it there, or correct the type in the configuration or CNI_PATH",
        searched.join(", ")
    )
}

fn networks(present: &[NetworkName]) -> String {
    if present.is_empty() {
        return "none".to_owned();
    }
    let names: Vec<&str> = present.iter().map(NetworkName::as_str).collect();
    names.join(", ")
}

fn output_suffix(output: &str) -> String {
    if output.is_empty() { String::new() } else { format!("; its output: {output}") }
}

fn details_suffix(details: &str) -> String {
    if details.is_empty() { String::new() } else { format!(": {details}") }
}

fn list(errors: &[Error]) -> String {
    errors.iter().map(Error::to_string).collect::<Vec<_>>().join("; ")
}

/// The errors of a rollback. The text of a reason that the failed `ADD` has too is not repeated.
fn rollback_errors(cause: &Error, left: &[Error]) -> String {
    let described = left.iter().map(|error| match error {
        Error::Plugin { plugin, command, .. } | Error::NoDocument { plugin, command, .. }
            if error.has_reason_of(cause) =>
        {
            format!("{} failed {command} for the same reason", plugin.display())
        }
        _ => error.to_string(),
    });
    described.collect::<Vec<_>>().join("; ")
}
