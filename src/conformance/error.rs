use std::io;
use std::path::PathBuf;

use crate::netlink;
use crate::spec::Version;

/// Why the suite could not come to a verdict. What a plugin does wrong is never an error, but a
/// [`Finding`](super::Finding).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is not one that a plugin can be given.
    #[error("the network configuration {problem}")]
    Config {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A pattern matches no rule, so a rule that the caller means is not tried, or is not left out.
    #[error("the pattern {pattern:?} of {filter} matches no rule; correct it, or remove it if the rule is gone")]
    NoSuchRule {
        /// `only` or `skip`.
        filter: &'static str,
        /// The pattern.
        pattern: String,
    },
    /// The patterns of `only` and `skip` leave no rule to try.
    #[error("the patterns of only and skip leave no rule to try; skip fewer rules")]
    NoRules,
    /// Every rule was skipped, so the report says nothing about the plugin.
    #[error(
        "no verdict: every rule was skipped, for the reason in its finding; select other rules, or change the \
         configuration or the versions so that a rule applies"
    )]
    AllSkipped,
    /// There is no executable at the plugin's path.
    #[error("plugin {}: cannot be looked at", path.display())]
    Plugin {
        /// The path that was given.
        path: PathBuf,
        /// The failure of the system call.
        source: io::Error,
    },
    /// The plugin cannot be started.
    #[error("cannot start {}", path.display())]
    Start {
        /// The executable.
        path: PathBuf,
        /// The failure of the system call.
        source: io::Error,
    },
    /// The plugin does not speak a version that the suite was told to try.
    #[error("the plugin does not speak {version}; it speaks {}", Version::list(supported))]
    Unsupported {
        /// The version that was asked for.
        version: Version,
        /// Those that the plugin named.
        supported: Vec<Version>,
    },
    /// The plugin refused the first `ADD`, which every rule builds on.
    #[error("the plugin cannot serve an ADD with this configuration and cniVersion {version}: {seen}")]
    NoAdd {
        /// The version of the call.
        version: Version,
        /// How the plugin ended, and what it wrote.
        seen: String,
    },
    /// The script that prepares the host failed.
    #[error("the script {} failed: {seen}", path.display())]
    Prepare {
        /// The script.
        path: PathBuf,
        /// How it ended, and what it wrote.
        seen: String,
    },
    /// A private host could not be furnished.
    #[error("cannot {operation} {}", path.display())]
    Host {
        /// What was tried, such as `mount tmpfs on`.
        operation: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// The failure of the system call.
        source: io::Error,
    },
    /// A namespace could not be made or looked at.
    #[error("a private host or pod cannot be used")]
    Netlink(#[from] netlink::Error),
}
