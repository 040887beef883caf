use std::fmt;

use serde::{Deserialize, Serialize};

use super::fixture::Fixture;
use super::invalid_call::InvalidCall;
use super::pattern;
use super::probe::Delegation;
use super::verdict::{Verdict, not_tried};
use crate::spec::{Command, Version};

/// A requirement of the specification that a test can check.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Rule {
    /// The name: the verb or the group, a dot, and the subject, such as `del.twice`.
    pub id: &'static str,
    /// The level of the requirement.
    pub level: Level,
    /// The section of the specification.
    pub section: Section,
    /// The verb under test.
    pub verb: Command,
    /// The oldest version of the specification with this rule.
    pub since: Version,
    /// The expected behavior, as a sentence.
    pub description: &'static str,
    /// Whether the rule is tried with each version that the plugin supports, or only with the
    /// newest.
    pub each_version: bool,
    pub(super) applies: Applies,
    pub(super) check: Check,
}

/// The way to try a rule.
#[derive(Debug, Clone, Copy)]
pub(super) enum Check {
    /// A function.
    Run(fn(&Fixture<'_>) -> Verdict),
    /// An invalid call that must fail.
    Refused(&'static InvalidCall),
    /// The error document of an invalid call.
    Answered(&'static InvalidCall),
}

/// The level of a rule: "must" or "should", as in [RFC 2119](https://www.ietf.org/rfc/rfc2119.txt).
///
/// Closed: a "may" rule cannot be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// A plugin that breaks the rule does not conform.
    Must,
    /// A plugin that breaks the rule gets a warning.
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

/// The plugins to which a rule applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Applies {
    /// All plugins.
    Any,
    /// Plugins that create interfaces.
    Interfaces,
    /// Plugins that create interfaces, and chained plugins.
    Attached,
    /// Plugins that own their attachments: all except chained plugins.
    Owning,
    /// Plugins that only manage addresses.
    Ipam,
    /// Plugins that run after another plugin.
    Chained,
    /// Plugins with an IPAM plugin in their configuration.
    Naming,
    /// Plugins that call the IPAM plugin of their configuration.
    Delegating,
    /// Plugins that call no other plugin.
    NonDelegating,
}

impl Rule {
    /// Whether the id matches `pattern`. A `*` matches any run of characters.
    #[must_use]
    pub fn matches(&self, pattern: &str) -> bool {
        pattern::matches(pattern, self.id)
    }

    /// Skips the trial if the rule does not apply to this plugin or version.
    pub(super) fn require_applicable(&self, fixture: &Fixture<'_>) -> Verdict {
        let (since, newest) = (self.since, fixture.version);
        if newest < since {
            return not_tried(format!("the rule needs {since}, and {newest} is the newest version tried"));
        }
        let delegation = fixture.delegation();
        let reason = match self.applies {
            Applies::Interfaces | Applies::Owning if fixture.is_chained() => {
                "the plugin is chained: the previous plugin creates the interface and its addresses"
            }
            Applies::Chained if !fixture.is_chained() => "the plugin is not chained",
            Applies::Interfaces | Applies::Attached if fixture.is_ipam() => {
                "the plugin creates no interfaces: its result has none"
            }
            Applies::Ipam if !fixture.is_ipam() => "the plugin is not an IPAM plugin",
            Applies::Naming | Applies::Delegating if *delegation == Delegation::Unnamed => {
                "the configuration names no plugin to delegate to"
            }
            Applies::Delegating if *delegation != Delegation::Called => {
                "the plugin does not call the plugin in \"ipam.type\": see delegate.called"
            }
            Applies::NonDelegating if *delegation == Delegation::Called => {
                "the plugin delegates and needs CNI_PATH for that"
            }
            _ => return Ok(()),
        };
        not_tried(reason)
    }

    pub(super) const fn must(
        verb: Command,
        id: &'static str,
        section: Section,
        description: &'static str,
        check: fn(&Fixture<'_>) -> Verdict,
    ) -> Self {
        Self::of(verb, id, section, description, Check::Run(check))
    }

    pub(super) const fn of(
        verb: Command,
        id: &'static str,
        section: Section,
        description: &'static str,
        check: Check,
    ) -> Self {
        let since = verb.spec().since;
        Self {
            id,
            level: Level::Must,
            section,
            verb,
            since,
            description,
            each_version: false,
            applies: Applies::Any,
            check,
        }
    }

    pub(super) const fn should(
        verb: Command,
        id: &'static str,
        section: Section,
        description: &'static str,
        check: fn(&Fixture<'_>) -> Verdict,
    ) -> Self {
        let mut rule = Self::must(verb, id, section, description, check);
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
    pub(super) fn run(self, fixture: &Fixture<'_>) -> Verdict {
        match self {
            Check::Run(check) => check(fixture),
            Check::Refused(call) => call.refused_by(fixture),
            Check::Answered(call) => call.answered_by(fixture),
        }
    }
}

impl Level {
    /// The word of the specification.
    #[must_use]
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
    /// The heading of the section.
    #[must_use]
    pub const fn title(self) -> &'static str {
        self.heading().0
    }

    /// The link to the section.
    #[must_use]
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
