use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Command, InvalidVariable, Variable, Version};

/// The number of an error on the wire. 1 to 99 are the specification's, from 100 on the plugin's
/// own.
///
/// See [Error](https://www.cni.dev/docs/spec/#error).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ErrorCode(u32);

/// An error that knows its number on the wire.
///
/// Implement it for the errors of your plugin: `?` then turns them into a
/// [`PluginError`](crate::plugin::PluginError).
pub trait HasErrorCode: std::error::Error {
    /// The number on the wire.
    fn code(&self) -> ErrorCode;
}

/// The error document: what a plugin writes to standard output when it fails.
///
/// See [Error](https://www.cni.dev/docs/spec/#error).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorDocument {
    /// The configuration's version. Text, and empty where absent: plugins in the field leave it
    /// out.
    #[serde(default)]
    pub cni_version: String,
    /// The number.
    pub code: ErrorCode,
    /// A short sentence.
    pub msg: String,
    /// What led to it; absent on the wire when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

/// What of a result an older version cannot say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsupportedField {
    /// The part, as its path in the result, with its value.
    pub what: String,
    /// The first version that can say it.
    pub since: Version,
}

/// What can be wrong with the words of the protocol.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name that breaks its rule.
    #[error("{kind} {value:?} is not valid: {rule}")]
    Name {
        /// What kind of name.
        kind: &'static str,
        /// The text.
        value: String,
        /// What a valid name looks like.
        rule: &'static str,
    },
    /// A hardware address that is none.
    #[error(
        "{value:?} is not a hardware address: write six pairs of hexadecimal digits, \
         as in 02:00:5e:10:00:01"
    )]
    Mac {
        /// The text.
        value: String,
    },
    /// A `cniVersion` that this library has never heard of.
    #[error("cniVersion {value:?} is not known: use one of {}", Version::list(usable))]
    UnknownVersion {
        /// The text.
        value: String,
        /// Versions to use instead.
        usable: Vec<Version>,
    },
    /// A `cniVersion` that the plugin does not speak.
    #[error("cniVersion {version} is not supported by this plugin: use one of {}", Version::list(supported))]
    UnsupportedVersion {
        /// The configuration's version.
        version: Version,
        /// Those that the plugin speaks.
        supported: Vec<Version>,
    },
    /// A verb that the configuration's version does not have.
    #[error(
        "{command} needs cniVersion {} or later, and the configuration has {version}",
        command.spec().since
    )]
    CommandTooNew {
        /// The verb.
        command: Command,
        /// The configuration's version.
        version: Version,
    },
    /// A `CNI_COMMAND` that no version has.
    #[error("CNI_COMMAND {value:?} is not known: use one of {}", Command::list())]
    UnknownCommand {
        /// The text.
        value: String,
    },
    /// Variables that are missing or wrong: all of them at once.
    #[error("{}", EnvironmentMessage { command: *command, missing, invalid })]
    Environment {
        /// The verb that needs them.
        command: Command,
        /// Required and not set, or empty.
        missing: Vec<Variable>,
        /// Set, and not valid.
        invalid: Vec<InvalidVariable>,
    },
    /// A part of `CNI_ARGS` that is not `KEY=VALUE`.
    #[error("{pair:?} is not KEY=VALUE: write KEY=VALUE;KEY=VALUE")]
    Args {
        /// The part.
        pair: String,
    },
    /// Keys in `CNI_ARGS` that nobody would act on.
    #[error(
        "CNI_ARGS holds keys that this plugin does not know: {}; drop them or add IgnoreUnknown=1",
        keys.join(", ")
    )]
    UnknownArgs {
        /// The keys.
        keys: Vec<String>,
    },
    /// Standard input that is not JSON.
    #[error("the network configuration is not JSON")]
    NotJson {
        /// What the parser says.
        source: serde_json::Error,
    },
    /// A configuration that is JSON, but not an object.
    #[error(
        "the network configuration is not a JSON object: \
         write {{\"cniVersion\": ..., \"name\": ..., \"type\": ...}}"
    )]
    NotAnObject,
    /// A required key that is not there.
    #[error("the network configuration has no {key:?}: add it")]
    MissingKey {
        /// The key.
        key: &'static str,
    },
    /// A key with a value of the wrong kind.
    #[error("the network configuration's {key:?} is not valid")]
    InvalidKey {
        /// The key.
        key: &'static str,
        /// What is expected.
        source: serde_json::Error,
    },
    /// Keys of the plugin's own that are missing or wrong.
    #[error("the network configuration{} does not fit this plugin", at(path))]
    InvalidConfig {
        /// The path to the key, such as `ranges[0].subnet`; empty where it is about all of them.
        path: String,
        /// What is expected, and where.
        source: serde_json::Error,
    },
    /// A `prevResult` that is not a result.
    #[error("the network configuration's \"prevResult\" is not valid")]
    InvalidPrevResult {
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// No `prevResult` where the verb needs it.
    #[error("{command} needs \"prevResult\" in the network configuration: pass the result of the ADD")]
    MissingPrevResult {
        /// The verb.
        command: Command,
    },
    /// A result that does not have the form of its version.
    #[error("the result does not have the form of CNI {version}")]
    InvalidResult {
        /// The version it was read as.
        version: Version,
        /// What is expected.
        source: serde_json::Error,
    },
    /// A result that cannot be written without dropping something that its reader would act on.
    #[error("a result of CNI {version} cannot hold {}", UnsupportedField::list(lost))]
    NotRepresentable {
        /// The version to be written.
        version: Version,
        /// What would be dropped.
        lost: Vec<UnsupportedField>,
    },
    /// A result without an address, in a version that demands one.
    #[error(
        "a result of CNI {version} needs an address: \
         use cniVersion 0.3.0 or later for interfaces without one"
    )]
    NoAddress {
        /// The version to be written.
        version: Version,
    },
    /// A result that could not be written as JSON.
    #[error("the result cannot be written as JSON")]
    Unwritable {
        /// What the writer says.
        source: serde_json::Error,
    },
}

impl ErrorCode {
    /// The configuration's version is not one that the plugin, or the verb, can serve.
    pub const INCOMPATIBLE_VERSION: Self = Self(1);
    /// A key of the configuration is not supported; the message names the key and its value.
    pub const UNSUPPORTED_FIELD: Self = Self(2);
    /// The container is unknown or gone: the runtime need not clean up after it.
    pub const UNKNOWN_CONTAINER: Self = Self(3);
    /// A `CNI_*` variable is missing or wrong; the message names it.
    pub const INVALID_ENVIRONMENT: Self = Self(4);
    /// Reading or writing failed.
    pub const IO: Self = Self(5);
    /// What was read is not JSON.
    pub const DECODE: Self = Self(6);
    /// The configuration is not valid.
    pub const INVALID_CONFIG: Self = Self(7);
    /// `CNI_NETNS` is not a namespace to work in. Not in the specification: the reference library's
    /// number.
    pub const INVALID_NETNS: Self = Self(8);
    /// A passing condition: the runtime should try again later.
    pub const TRY_AGAIN: Self = Self(11);
    /// `STATUS`: the plugin cannot serve an `ADD` now.
    pub const PLUGIN_NOT_AVAILABLE: Self = Self(50);
    /// `STATUS`: as 50, and the containers that exist may have limited connectivity.
    pub const LIMITED_CONNECTIVITY: Self = Self(51);
    /// The plugin has a defect. Not in the specification: the reference library's number.
    pub const INTERNAL: Self = Self(999);

    /// A number of the plugin's own; best called in a `const`, where a wrong one does not compile.
    ///
    /// ```
    /// use cnikit::spec::ErrorCode;
    ///
    /// const NO_BRIDGE: ErrorCode = ErrorCode::plugin_specific(101);
    /// ```
    ///
    /// # Panics
    ///
    /// When `code` is below 100: those are the specification's.
    pub const fn plugin_specific(code: u32) -> Self {
        assert!(code >= 100, "codes below 100 are reserved by the CNI specification");
        Self(code)
    }

    /// The number.
    pub const fn value(self) -> u32 {
        self.0
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl UnsupportedField {
    fn list(lost: &[UnsupportedField]) -> String {
        let words: Vec<String> = lost.iter().map(UnsupportedField::to_string).collect();
        words.join(", ")
    }
}

impl fmt::Display for UnsupportedField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (needs cniVersion {} or later)", self.what, self.since)
    }
}

impl HasErrorCode for Error {
    fn code(&self) -> ErrorCode {
        match self {
            Error::UnknownVersion { .. }
            | Error::UnsupportedVersion { .. }
            | Error::CommandTooNew { .. }
            | Error::NotRepresentable { .. }
            | Error::NoAddress { .. } => ErrorCode::INCOMPATIBLE_VERSION,
            Error::UnknownCommand { .. }
            | Error::Environment { .. }
            | Error::Args { .. }
            | Error::UnknownArgs { .. } => ErrorCode::INVALID_ENVIRONMENT,
            // The specification counts a version that is no text among what cannot be decoded.
            Error::NotJson { .. }
            | Error::NotAnObject
            | Error::InvalidKey { key: "cniVersion", .. }
            | Error::InvalidResult { .. } => ErrorCode::DECODE,
            Error::Name { .. }
            | Error::Mac { .. }
            | Error::MissingKey { .. }
            | Error::InvalidKey { .. }
            | Error::InvalidConfig { .. }
            | Error::InvalidPrevResult { .. }
            | Error::MissingPrevResult { .. } => ErrorCode::INVALID_CONFIG,
            Error::Unwritable { .. } => ErrorCode::INTERNAL,
        }
    }
}

fn at(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("'s {path:?}") }
}

impl HasErrorCode for std::io::Error {
    fn code(&self) -> ErrorCode {
        ErrorCode::IO
    }
}

struct EnvironmentMessage<'a> {
    command: Command,
    missing: &'a [Variable],
    invalid: &'a [InvalidVariable],
}

impl fmt::Display for EnvironmentMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        if !self.missing.is_empty() {
            let names: Vec<&str> = self.missing.iter().map(|variable| variable.as_str()).collect();
            write!(f, "{} needs {} in the environment: not set, or empty", self.command, names.join(", "))?;
            gap = "; ";
        }
        for InvalidVariable { variable, reason } in self.invalid {
            write!(f, "{gap}{variable}: {reason}")?;
            gap = "; ";
        }
        Ok(())
    }
}
