use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Command, InvalidVariable, MacAddr, Variable, Version};

/// The numeric code of an error in the protocol. Codes 1 to 99 belong to the specification, codes
/// from 100 on to the plugin.
///
/// See [Error](https://www.cni.dev/docs/spec/#error).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ErrorCode(u32);

/// An error that has a code of the protocol.
///
/// Implement it for the errors of your plugin. `?` then converts them, and references to them, into
/// a [`PluginError`](crate::plugin::PluginError). For an error of another crate, the plugin chooses
/// the code with [`Context::with_code`](crate::plugin::Context::with_code).
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no error code of CNI",
    label = "this error has no code of CNI: choose one with `.with_code(ErrorCode::...)` of \
             `cnikit::plugin::Context`, or implement `HasErrorCode`"
)]
pub trait HasErrorCode: std::error::Error {
    /// The code of this error.
    fn code(&self) -> ErrorCode;
}

/// The JSON document that a plugin writes to standard output if it fails.
///
/// See [Error](https://www.cni.dev/docs/spec/#error).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ErrorDocument {
    /// The configuration's version. A string, and empty if absent: existing plugins omit it.
    #[serde(default)]
    pub cni_version: String,
    /// The numeric code.
    pub code: ErrorCode,
    /// A short message.
    pub msg: String,
    /// Details of the cause; omitted from the JSON if empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

/// A field of a result that an older version cannot represent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnsupportedField {
    /// The field's path in the result, with its value.
    pub what: String,
    /// The first version that can represent it.
    pub since: Version,
}

/// The result type of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error in the data of the protocol.
// The text contains the text of `r#source`. The raw name hides the field from thiserror, so a
// printed chain of sources does not repeat the text.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An invalid name.
    #[error("{kind} {value:?} is not valid: {rule}")]
    Name {
        /// The kind of the name.
        kind: &'static str,
        /// The text.
        value: String,
        /// The rule that a valid name follows.
        rule: &'static str,
    },
    /// A text that is not a MAC address.
    #[error(
        "{value:?} is not a hardware address: write six pairs of hexadecimal digits, \
         as in 02:00:5e:10:00:01"
    )]
    Mac {
        /// The text.
        value: String,
    },
    /// A `cniVersion` that this library does not know.
    #[error("cniVersion {value:?} is not known: use one of {}", Version::list(usable))]
    UnknownVersion {
        /// The text.
        value: String,
        /// The versions that can be used instead.
        usable: Vec<Version>,
    },
    /// A `cniVersion` that the plugin does not support.
    #[error("cniVersion {version} is not supported by this plugin: use one of {}", Version::list(supported))]
    UnsupportedVersion {
        /// The configuration's version.
        version: Version,
        /// The versions that the plugin supports.
        supported: Vec<Version>,
    },
    /// A verb that the configuration's version does not define.
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
    /// A `CNI_COMMAND` that no version defines.
    #[error("CNI_COMMAND {value:?} is not known: use one of {}", Command::list())]
    UnknownCommand {
        /// The text.
        value: String,
    },
    /// All missing and invalid variables of a call.
    #[error("{}", EnvironmentMessage { command: *command, missing, invalid })]
    Environment {
        /// The verb that uses the variables.
        command: Command,
        /// Required variables that are unset or empty.
        missing: Vec<Variable>,
        /// Variables with invalid values.
        invalid: Vec<InvalidVariable>,
    },
    /// A part of `CNI_ARGS` that is not `KEY=VALUE`.
    #[error("{pair:?} is not KEY=VALUE: write KEY=VALUE;KEY=VALUE")]
    Args {
        /// The part.
        pair: String,
    },
    /// A key in `CNI_ARGS` with an invalid value.
    #[error("CNI_ARGS: {key}={value} is not valid: {reason}")]
    InvalidArg {
        /// The key.
        key: Box<str>,
        /// Its value, or one element of the list in its value.
        value: Box<str>,
        /// The reason.
        reason: Box<str>,
    },
    /// A requested MAC address that an interface cannot have.
    #[error("the requested MAC {mac} is a group address: request a MAC with an even first octet")]
    GroupMac {
        /// The address.
        mac: MacAddr,
    },
    /// Keys in `CNI_ARGS` that the plugin does not know.
    #[error(
        "CNI_ARGS holds keys that this plugin does not know: {}; drop them or add IgnoreUnknown=1",
        keys.join(", ")
    )]
    UnknownArgs {
        /// The keys.
        keys: Vec<String>,
    },
    /// Standard input that is not JSON.
    #[error("the network configuration is not JSON: {source}")]
    NotJson {
        /// The parser's error.
        r#source: Arc<serde_json::Error>,
    },
    /// A configuration that is JSON, but not an object.
    #[error(
        "the network configuration is not a JSON object: \
         write {{\"cniVersion\": ..., \"name\": ..., \"type\": ...}}"
    )]
    NotAnObject,
    /// A required key that is missing.
    #[error("the network configuration has no {key:?}: add it")]
    MissingKey {
        /// The key.
        key: &'static str,
    },
    /// A key with an invalid value.
    #[error("the network configuration's {key:?} is not valid: {source}")]
    InvalidKey {
        /// The key.
        key: &'static str,
        /// The expected value.
        r#source: Arc<serde_json::Error>,
    },
    /// Missing or invalid keys of the plugin's own configuration.
    #[error("the network configuration{} does not fit this plugin: {source}", at(path))]
    InvalidConfig {
        /// The path to the key, such as `ranges[0].subnet`; empty for the whole configuration.
        path: String,
        /// The expected value.
        r#source: Arc<serde_json::Error>,
    },
    /// A `prevResult` that is not a valid result.
    #[error("the network configuration's \"prevResult\" is not valid: {source}")]
    InvalidPrevResult {
        /// The reason.
        r#source: Box<Error>,
    },
    /// A missing `prevResult` that the verb needs.
    #[error("{command} needs \"prevResult\" in the network configuration: {}", prev_result_remedy(*command))]
    MissingPrevResult {
        /// The verb.
        command: Command,
    },
    /// A result that does not conform to its version.
    #[error("the result does not have the form of CNI {version}: {source}")]
    InvalidResult {
        /// The version of the result.
        version: Version,
        /// The expected value.
        r#source: Arc<serde_json::Error>,
    },
    /// A result that the version cannot represent without dropping a field that affects the reader.
    #[error("a result of CNI {version} cannot hold {}", UnsupportedField::list(lost))]
    NotRepresentable {
        /// The version to write.
        version: Version,
        /// The fields that would be dropped.
        lost: Vec<UnsupportedField>,
    },
    /// A result without an address, in a version that requires one.
    #[error(
        "a result of CNI {version} needs an address: \
         use cniVersion 0.3.0 or later for interfaces without one"
    )]
    NoAddress {
        /// The version to write.
        version: Version,
    },
    /// An address of a result that names an interface outside of the result.
    #[error("the result's ips[{ip}].interface is {interface}, and the result has {interfaces} interfaces")]
    NoSuchInterface {
        /// The index of the address in `ips`.
        ip: usize,
        /// The index that the address names.
        interface: usize,
        /// The number of interfaces in the result.
        interfaces: usize,
    },
    /// A result that could not be serialized as JSON.
    #[error("the result cannot be written as JSON: {source}")]
    Unwritable {
        /// The serializer's error.
        r#source: Arc<serde_json::Error>,
    },
}

impl ErrorCode {
    /// The plugin, or the verb, does not support the configuration's version.
    pub const INCOMPATIBLE_VERSION: Self = Self(1);
    /// A key of the configuration is not supported; the message names the key and its value.
    pub const UNSUPPORTED_FIELD: Self = Self(2);
    /// The container is unknown or deleted. The runtime need not clean up after it.
    pub const UNKNOWN_CONTAINER: Self = Self(3);
    /// A `CNI_*` variable is missing or invalid; the message names it.
    pub const INVALID_ENVIRONMENT: Self = Self(4);
    /// An I/O error.
    pub const IO: Self = Self(5);
    /// The input could not be decoded.
    pub const DECODE: Self = Self(6);
    /// The configuration is not valid.
    pub const INVALID_CONFIG: Self = Self(7);
    /// `CNI_NETNS` is not a usable namespace. The code is not in the specification; it is the
    /// reference library's.
    pub const INVALID_NETNS: Self = Self(8);
    /// A transient condition: the runtime should retry later.
    pub const TRY_AGAIN: Self = Self(11);
    /// `STATUS`: the plugin cannot serve an `ADD` at present.
    pub const PLUGIN_NOT_AVAILABLE: Self = Self(50);
    /// `STATUS`: as 50, and existing containers may have limited connectivity.
    pub const LIMITED_CONNECTIVITY: Self = Self(51);
    /// The plugin has a defect. The code is not in the specification; it is the reference
    /// library's.
    pub const INTERNAL: Self = Self(999);

    /// Creates an error code of the plugin. Call it in a `const`, so that a wrong number does not
    /// compile.
    ///
    /// ```
    /// use cnikit::spec::ErrorCode;
    ///
    /// const NO_BRIDGE: ErrorCode = ErrorCode::plugin_specific(101);
    /// ```
    ///
    /// # Panics
    ///
    /// If `code` is below 100: the specification reserves these codes.
    #[must_use]
    pub const fn plugin_specific(code: u32) -> Self {
        assert!(code >= 100, "codes below 100 are reserved by the CNI specification");
        Self(code)
    }

    /// The numeric value.
    #[must_use]
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

fn prev_result_remedy(command: Command) -> &'static str {
    match command {
        Command::Add => "list the plugin after the one that creates the interface",
        _ => "pass the result of the ADD",
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
            | Error::InvalidArg { .. }
            | Error::UnknownArgs { .. } => ErrorCode::INVALID_ENVIRONMENT,
            // The specification counts a version that is not a string as a decoding failure.
            Error::NotJson { .. }
            | Error::NotAnObject
            | Error::InvalidKey { key: "cniVersion", .. }
            | Error::InvalidResult { .. } => ErrorCode::DECODE,
            Error::Name { .. }
            | Error::Mac { .. }
            | Error::GroupMac { .. }
            | Error::MissingKey { .. }
            | Error::InvalidKey { .. }
            | Error::InvalidConfig { .. }
            | Error::InvalidPrevResult { .. }
            | Error::MissingPrevResult { .. } => ErrorCode::INVALID_CONFIG,
            Error::NoSuchInterface { .. } | Error::Unwritable { .. } => ErrorCode::INTERNAL,
        }
    }
}

fn at(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!("'s {path:?}") }
}

/// A reference has the code of its error, so that `?` works on `result.as_ref()`.
impl<E: HasErrorCode + ?Sized> HasErrorCode for &E {
    fn code(&self) -> ErrorCode {
        (**self).code()
    }
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
