use std::io;
use std::path::PathBuf;

use crate::netlink;
use crate::spec::{self, Version};

/// The result type of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The reason why the suite has no verdict. A violation by the plugin is never an error, but a
/// [`Finding`](super::Finding).
// The text contains the text of `r#source`. The raw name hides the field from thiserror, so a
// printed chain of sources does not repeat the text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is not valid for a plugin.
    #[error("the network configuration {problem}")]
    Config {
        /// The problem.
        problem: &'static str,
    },
    /// A pattern matches no rule. The caller's rule would be skipped or tried by mistake.
    #[error("the pattern {pattern:?} of {filter} matches no rule; correct or remove it")]
    NoSuchRule {
        /// `only` or `skip`.
        filter: &'static str,
        /// The pattern.
        pattern: String,
    },
    /// The patterns of `only` and `skip` select no rule.
    #[error("the patterns of only and skip select no rule; skip fewer rules")]
    NoRules,
    /// Every rule was skipped, so the report contains no verdict.
    #[error(
        "no verdict: every rule was skipped, see the findings for the reasons; select other rules, or change the \
         configuration or the versions so that a rule applies"
    )]
    AllSkipped,
    /// There is no executable at the path of the plugin.
    #[error("cannot find the plugin {}: {source}", path.display())]
    Plugin {
        /// The path.
        path: PathBuf,
        /// The error of the system call.
        r#source: io::Error,
    },
    /// The plugin cannot be started.
    #[error("cannot start {}: {source}", path.display())]
    Start {
        /// The executable.
        path: PathBuf,
        /// The error of the system call.
        r#source: io::Error,
    },
    /// The plugin does not support a requested version.
    #[error("the plugin does not support {version}; it supports {}", Version::list(supported))]
    Unsupported {
        /// The requested version.
        version: Version,
        /// The versions that the plugin reports.
        supported: Vec<Version>,
    },
    /// The plugin failed the first `ADD`, which every rule needs.
    #[error(
        "the plugin cannot serve an ADD with this configuration and cniVersion {version}: {seen}; if a delegate does \
         not support {version}, select versions that it supports (Suite::with_version, --version)"
    )]
    NoAdd {
        /// The version of the call.
        version: Version,
        /// The exit status and the output of the plugin.
        seen: String,
    },
    /// The script that prepares the host failed.
    #[error("the script {} failed: {seen}", path.display())]
    Prepare {
        /// The script.
        path: PathBuf,
        /// Its exit status and output.
        seen: String,
    },
    /// A private host could not be set up.
    #[error("cannot {operation} {}: {source}", path.display())]
    Host {
        /// The operation, such as `mount tmpfs on`.
        operation: &'static str,
        /// The path of the operation.
        path: PathBuf,
        /// The error of the system call.
        r#source: io::Error,
    },
    /// The suite could not build its own input for a chained plugin.
    #[error("cannot build the prevResult for the plugin: {0}")]
    PrevResult(spec::Error),
    /// A namespace could not be created or examined.
    #[error("a private host or pod cannot be used: {0}")]
    Netlink(netlink::Error),
}

// `#[from]` would make the error a source too.
impl From<spec::Error> for Error {
    fn from(error: spec::Error) -> Self {
        Self::PrevResult(error)
    }
}

impl From<netlink::Error> for Error {
    fn from(error: netlink::Error) -> Self {
        Self::Netlink(error)
    }
}
