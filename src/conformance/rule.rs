use std::fmt;

use serde::{Deserialize, Serialize};

use super::bench::Bench;
use super::pattern;
use super::rules::Misuse;
use super::verdict::Verdict;
use crate::spec::{Command, Version};

/// A sentence of the specification that a caller can hold a plugin to.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Rule {
    /// The name: the verb or the theme, a dot, and what it is about; such as `del.twice`.
    pub id: &'static str,
    /// How binding it is.
    pub level: Level,
    /// Where the specification says so.
    pub section: Section,
    /// The verb that it is about.
    pub verb: Command,
    /// The least version of the specification that has it.
    pub since: Version,
    /// What is expected, as a sentence.
    pub says: &'static str,
    /// It is tried with each version that the plugin speaks, not with the newest only.
    pub each_version: bool,
    pub(super) applies: Applies,
    pub(super) check: Check,
}

/// How a rule is tried.
#[derive(Debug, Clone, Copy)]
pub(super) enum Check {
    /// By a function.
    Run(fn(&Bench<'_>) -> Verdict),
    /// By a call that is wrong and has to fail.
    Refused(&'static Misuse),
    /// By the error document of such a call.
    Answered(&'static Misuse),
}

/// How binding a rule is: the "must" and "should" of [RFC 2119](https://www.ietf.org/rfc/rfc2119.txt).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// A plugin that breaks it does not conform.
    Must,
    /// A plugin that breaks it is warned of.
    Should,
}

/// A section of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Section {
    /// Parameters
    Parameters,
    /// Errors
    Errors,
    /// CNI operations: `ADD`
    Add,
    /// CNI operations: `DEL`
    Del,
    /// CNI operations: `CHECK`
    Check,
    /// CNI operations: `STATUS`
    Status,
    /// CNI operations: `VERSION`
    Version,
    /// CNI operations: `GC`
    Gc,
    /// Lifecycle & Ordering
    Lifecycle,
    /// Deriving request configuration from plugin configuration
    Request,
    /// Delegated plugin execution procedure
    Delegation,
    /// ADD Success
    Result,
    /// Delegated plugins (IPAM)
    IpamResult,
    /// VERSION Success
    VersionResult,
    /// Error
    ErrorResult,
}

/// Which plugins a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Applies {
    /// All.
    Any,
    /// Those that make interfaces.
    Interfaces,
    /// Those that only manage addresses.
    Ipam,
    /// Those whose configuration names an IPAM plugin.
    Naming,
    /// Those that call the IPAM plugin that the configuration names.
    Delegating,
    /// Those that call none.
    Alone,
}

impl Rule {
    /// Whether the rule's id is what `pattern` says, in which `*` stands for any run of characters.
    pub fn matches(&self, pattern: &str) -> bool {
        pattern::matches(pattern, self.id)
    }

    pub(super) const fn must(
        verb: Command,
        id: &'static str,
        section: Section,
        says: &'static str,
        check: fn(&Bench<'_>) -> Verdict,
    ) -> Self {
        Self::of(verb, id, section, says, Check::Run(check))
    }

    pub(super) const fn of(
        verb: Command,
        id: &'static str,
        section: Section,
        says: &'static str,
        check: Check,
    ) -> Self {
        let since = verb.spec().since;
        Self { id, level: Level::Must, section, verb, since, says, each_version: false, applies: Applies::Any, check }
    }

    pub(super) const fn should(
        verb: Command,
        id: &'static str,
        section: Section,
        says: &'static str,
        check: fn(&Bench<'_>) -> Verdict,
    ) -> Self {
        let mut rule = Self::must(verb, id, section, says, check);
        rule.level = Level::Should;
        rule
    }

    pub(super) const fn since(mut self, version: Version) -> Self {
        self.since = version;
        self
    }

    pub(super) const fn each_version(mut self) -> Self {
        self.each_version = true;
        self
    }

    pub(super) const fn only(mut self, applies: Applies) -> Self {
        self.applies = applies;
        self
    }
}

impl Check {
    pub(super) fn run(self, bench: &Bench<'_>) -> Verdict {
        match self {
            Check::Run(check) => check(bench),
            Check::Refused(misuse) => misuse.refused_by(bench),
            Check::Answered(misuse) => misuse.answered_by(bench),
        }
    }
}

impl Level {
    /// The word as the specification has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Level::Must => "must",
            Level::Should => "should",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Section {
    /// The section's heading.
    pub const fn title(self) -> &'static str {
        self.heading().0
    }

    /// Where to read it.
    pub fn url(self) -> String {
        format!("https://www.cni.dev/docs/spec/#{}", self.heading().1)
    }

    #[rustfmt::skip]
    const fn heading(self) -> (&'static str, &'static str) {
        match self {
            Section::Parameters    => ("Parameters", "parameters"),
            Section::Errors        => ("Errors", "errors"),
            Section::Add           => ("ADD", "add-add-container-to-network-or-apply-modifications"),
            Section::Del           => ("DEL", "del-remove-container-from-network-or-un-apply-modifications"),
            Section::Check         => ("CHECK", "check-check-containers-networking-is-as-expected"),
            Section::Status        => ("STATUS", "status-check-plugin-status"),
            Section::Version       => ("VERSION", "version-probe-plugin-version-support"),
            Section::Gc            => ("GC", "gc-clean-up-any-stale-resources"),
            Section::Lifecycle     => ("Lifecycle & Ordering", "lifecycle--ordering"),
            Section::Request       => ("Deriving request configuration", "deriving-request-configuration-from-plugin-configuration"),
            Section::Delegation    => ("Delegated plugin execution procedure", "delegated-plugin-execution-procedure"),
            Section::Result        => ("ADD Success", "add-success"),
            Section::IpamResult    => ("Delegated plugins (IPAM)", "delegated-plugins-ipam"),
            Section::VersionResult => ("VERSION Success", "version-success"),
            Section::ErrorResult   => ("Error", "error"),
        }
    }
}
