use std::env::JoinPathsError;
use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use crate::spec::{self, Attachment, Command, ErrorCode, HasErrorCode, NetworkName, PluginType, Version};

/// Why a plugin could not be run, what it said, or what is wrong with a network configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No directory of the search path holds an executable of that name.
    #[error("{}", not_found(plugin_type, searched, not_executable))]
    NotFound {
        /// The plugin.
        plugin_type: PluginType,
        /// The directories, in order.
        searched: Vec<PathBuf>,
        /// Files of that name that are not executable.
        not_executable: Vec<PathBuf>,
    },
    /// The executable of the delegate is the program that is running: it would call itself without end. `DEL` succeeds
    /// instead, because there is nothing to release.
    #[error(
        "plugin {plugin_type} would delegate to itself: {} is the program that is running; name another plugin as \
         \"ipam.type\" in the network configuration",
        path.display()
    )]
    DelegatesToItself {
        /// The delegate.
        plugin_type: PluginType,
        /// Its executable.
        path: PathBuf,
    },
    /// A directory whose name holds the separator of `CNI_PATH`.
    #[error("the directories for CNI_PATH cannot be written as one list: name none with a ':'")]
    Path {
        /// What is wrong.
        source: JoinPathsError,
    },
    /// The executable could not be started.
    #[error("cannot start {}", plugin.display())]
    Start {
        /// The executable.
        plugin: PathBuf,
        /// What the system says. Text file busy: somebody was still writing the executable after seconds.
        source: io::Error,
    },
    /// The pipes to a running plugin failed.
    #[error("cannot talk to {} during {command}", plugin.display())]
    Talk {
        /// The executable.
        plugin: PathBuf,
        /// The verb.
        command: Command,
        /// What the system says.
        source: io::Error,
    },
    /// The plugin was killed, and what it had started with it.
    #[error("{} was killed: {command} took longer than {limit:?}{}", plugin.display(), said(stderr))]
    TimedOut {
        /// The executable.
        plugin: PathBuf,
        /// The verb.
        command: Command,
        /// How long it was given.
        limit: Duration,
        /// The end of its standard error.
        stderr: String,
    },
    /// The plugin was killed as its output did not end.
    #[error("{} was killed: {command} wrote more than {limit} bytes to standard output", plugin.display())]
    OutputTooLong {
        /// The executable.
        plugin: PathBuf,
        /// The verb.
        command: Command,
        /// How many bytes are read, at most.
        limit: usize,
    },
    /// The plugin failed, and said why in an error document.
    #[error("{} failed {command} with code {code}: {msg}{}", plugin.display(), more(details))]
    Plugin {
        /// The executable.
        plugin: PathBuf,
        /// The verb.
        command: Command,
        /// The number in the document.
        code: ErrorCode,
        /// Its message.
        msg: String,
        /// Its details; may be empty.
        details: String,
    },
    /// The plugin failed without an error document.
    #[error("{} failed {command} without an error document ({status}){}", plugin.display(), said(output))]
    NoDocument {
        /// The executable.
        plugin: PathBuf,
        /// The verb.
        command: Command,
        /// How it ended.
        status: ExitStatus,
        /// The end of its standard error, or of its standard output where that is empty.
        output: String,
    },
    /// The plugin wrote an error document, but ended with status 0.
    #[error(
        "{} wrote an error document for {command} and ended with status 0, so that it would be read as a result: \
         it must end with another; the document says code {code}: {msg}",
        plugin.display()
    )]
    ErrorAsResult {
        /// The executable.
        plugin: PathBuf,
        /// The verb.
        command: Command,
        /// The number in the document.
        code: ErrorCode,
        /// Its message.
        msg: String,
    },
    /// The plugin succeeded, but its standard output is no JSON, or empty.
    #[error("{} succeeded with {command}, but standard output is not JSON: {output:?}", plugin.display())]
    NotJson {
        /// The executable.
        plugin: PathBuf,
        /// The verb.
        command: Command,
        /// The beginning of what it wrote.
        output: String,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// The plugin succeeded, but its answer does not have the specified form.
    #[error("the answer of {} to {command} cannot be used", plugin.display())]
    InvalidAnswer {
        /// The executable.
        plugin: PathBuf,
        /// The verb.
        command: Command,
        /// What is wrong with it.
        source: spec::Error,
    },
    /// A plugin does not speak the configuration's version.
    #[error(
        "{} does not speak cniVersion {version}: state one of {} in the network configuration, or update the plugin",
        plugin.display(), Version::list(spoken)
    )]
    VersionNotSpoken {
        /// The executable.
        plugin: PathBuf,
        /// The configuration's version.
        version: Version,
        /// Those that it speaks, as far as this library knows them.
        spoken: Vec<Version>,
    },
    /// A network configuration, or a name, is not valid.
    #[error(transparent)]
    Spec(#[from] spec::Error),
    /// A plugin's part of a network configuration is not valid.
    #[error("\"plugins[{index}]\" of the network configuration is not valid")]
    InvalidPlugin {
        /// Its place in the list, from 0.
        index: usize,
        /// What is wrong with it.
        source: spec::Error,
    },
    /// A network configuration without a plugin.
    #[error("network {network} has no plugins: list them under \"plugins\"")]
    NoPlugins {
        /// The network.
        network: NetworkName,
    },
    /// A file whose content is not valid.
    #[error("{} is not valid", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// The file system refused.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// No configuration in a directory is the network's.
    #[error("no network {network} in {}: it has {}", dir.display(), networks(present))]
    NoSuchNetwork {
        /// The network.
        network: NetworkName,
        /// The directory.
        dir: PathBuf,
        /// The networks that are there.
        present: Vec<NetworkName>,
    },
    /// A cached attachment that cannot be understood.
    #[error("the cached result {} cannot be understood: {source}; delete the attachment", path.display())]
    CorruptCache {
        /// The file.
        path: PathBuf,
        /// What is wrong with the content. The message has it before the remedy, so it is no
        /// [`source`](std::error::Error::source).
        r#source: serde_json::Error,
    },
    /// A `CHECK` of an attachment of which no result is known.
    #[error(
        "{} of container {} is not attached to network {} as far as the result cache knows: add it first",
        attachment.ifname, attachment.container_id, attachment.network
    )]
    NotAttached {
        /// The attachment.
        attachment: Attachment,
    },
    /// An `ADD` failed, and so did the `DEL` that should undo it.
    #[error("{}; undoing it failed as well: {}", with_sources(cause), list(left))]
    NotUndone {
        /// Why the `ADD` failed.
        cause: Box<Error>,
        /// Why something may be left.
        left: Vec<Error>,
    },
    /// Several steps failed of an operation that goes on past failures.
    #[error("{}", list(errors))]
    Several {
        /// The failures, in the order in which they came.
        errors: Vec<Error>,
    },
}

impl Error {
    /// For `map_err`: names what was tried on which path.
    pub(super) fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { operation, path: path.to_owned(), source }
    }

    /// The failed `ADD`, with what could not be undone.
    pub(super) fn undone(self, left: Vec<Error>) -> Self {
        if left.is_empty() { self } else { Self::NotUndone { cause: Box::new(self), left } }
    }

    /// All failures as one, if there are any.
    pub(super) fn all(mut errors: Vec<Error>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Several { errors }),
        }
    }
}

impl HasErrorCode for Error {
    /// A plugin's own number is passed on.
    fn code(&self) -> ErrorCode {
        match self {
            Self::Plugin { code, .. } | Self::ErrorAsResult { code, .. } => *code,
            Self::TimedOut { .. } => ErrorCode::TRY_AGAIN,
            Self::Start { .. } | Self::Talk { .. } | Self::Io { .. } => ErrorCode::IO,
            Self::Path { .. } => ErrorCode::INVALID_ENVIRONMENT,
            Self::NotFound { .. }
            | Self::DelegatesToItself { .. }
            | Self::NoPlugins { .. }
            | Self::NoSuchNetwork { .. } => ErrorCode::INVALID_CONFIG,
            Self::NotJson { .. } | Self::CorruptCache { .. } => ErrorCode::DECODE,
            Self::OutputTooLong { .. } | Self::NoDocument { .. } => ErrorCode::INTERNAL,
            Self::VersionNotSpoken { .. } => ErrorCode::INCOMPATIBLE_VERSION,
            Self::NotAttached { .. } => ErrorCode::UNKNOWN_CONTAINER,
            Self::Spec(source) | Self::InvalidPlugin { source, .. } | Self::InvalidAnswer { source, .. } => {
                source.code()
            }
            Self::File { source, .. } => source.code(),
            Self::NotUndone { cause, .. } => cause.code(),
            Self::Several { errors } => errors.first().map_or(ErrorCode::INTERNAL, HasErrorCode::code),
        }
    }
}

fn not_found(plugin_type: &PluginType, searched: &[PathBuf], not_executable: &[PathBuf]) -> String {
    if let Some(path) = not_executable.first() {
        return format!("plugin {plugin_type} cannot be run: {} is not executable; chmod +x it", path.display());
    }
    if searched.is_empty() {
        return format!("plugin {plugin_type} cannot be looked up: CNI_PATH names no directory; set it");
    }
    let searched: Vec<String> = searched.iter().map(|dir| dir.display().to_string()).collect();
    format!("no plugin {plugin_type} in {}: install it there, or correct \"type\" or CNI_PATH", searched.join(", "))
}

fn networks(present: &[NetworkName]) -> String {
    if present.is_empty() {
        return "none".to_owned();
    }
    let names: Vec<&str> = present.iter().map(NetworkName::as_str).collect();
    names.join(", ")
}

fn said(output: &str) -> String {
    if output.is_empty() { String::new() } else { format!("; it said: {output}") }
}

fn more(details: &str) -> String {
    if details.is_empty() { String::new() } else { format!(": {details}") }
}

fn list(errors: &[Error]) -> String {
    errors.iter().map(with_sources).collect::<Vec<_>>().join("; ")
}

/// An error and its sources as one text, where there is nobody to tell the sources by.
pub(super) fn with_sources(error: &Error) -> String {
    let sources = std::iter::successors(error.source(), |source| (*source).source());
    let texts = std::iter::once(error.to_string()).chain(sources.map(ToString::to_string));
    texts.collect::<Vec<_>>().join(": ")
}
