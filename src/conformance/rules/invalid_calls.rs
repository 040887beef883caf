//! Invalid calls, and the answers that a plugin must give.

use crate::conformance::fixture::Fixture;
use crate::conformance::invalid_call::InvalidCall;
use crate::conformance::rule::{Applies, Check, Level, Rule, Section};
use crate::spec::{Command, Version};

/// A line of the table: `constant, name, verb, level, section, codes, variable, applies,
/// description, change`.
macro_rules! invalid_calls {
    ($(($constant:ident, $name:literal, $verb:ident, $level:ident, $section:ident, $codes:expr, $variable:expr,
        $applies:ident, $description:literal, $change:expr)),* $(,)?) => {
        $(const $constant: InvalidCall = InvalidCall {
            verb: Command::$verb,
            description: $description,
            codes: &$codes,
            variable: $variable,
            change: $change,
        };)*
        pub(super) const REFUSED: &[Rule] = &[$(refused(
            &$constant,
            concat!("input.", $name),
            Level::$level,
            Section::$section,
            Applies::$applies,
        )),*];
        pub(super) const ANSWERED: &[Rule] =
            &[$(answered(&$constant, concat!("code.", $name), Applies::$applies)),*];
    };
}

const ID: Option<&str> = Some("CNI_CONTAINERID");
const NETNS: Option<&str> = Some("CNI_NETNS");
const IFNAME: Option<&str> = Some("CNI_IFNAME");
const COMMAND: Option<&str> = Some("CNI_COMMAND");

#[rustfmt::skip]
invalid_calls! {
    (UNKNOWN_COMMAND, "unknown-command", Add, Must, Parameters, [4], COMMAND, Any,
        "an unknown CNI_COMMAND fails", |call| call.env("CNI_COMMAND", "FETCH")),
    (ADD_NO_ID, "add-no-container-id", Add, Must, Add, [4], ID, Any,
        "ADD without CNI_CONTAINERID fails", |call| call.without("CNI_CONTAINERID")),
    (ADD_EMPTY_ID, "add-empty-container-id", Add, Must, Parameters, [4], ID, Any,
        "ADD with an empty CNI_CONTAINERID fails", |call| call.env("CNI_CONTAINERID", "")),
    (ADD_BAD_ID, "add-bad-container-id", Add, Must, Parameters, [4], ID, Any,
        "ADD with a CNI_CONTAINERID that starts with a hyphen fails", |call| call.env("CNI_CONTAINERID", "-container")),
    (ADD_PATH_ID, "add-container-id-as-path", Add, Must, Parameters, [4], ID, Any,
        "ADD with a CNI_CONTAINERID that is a path to another directory fails", |call| call.env("CNI_CONTAINERID", "../other")),
    (ADD_NO_NETNS, "add-no-netns", Add, Must, Add, [4], NETNS, Any,
        "ADD without CNI_NETNS fails", |call| call.without("CNI_NETNS")),
    (ADD_EMPTY_NETNS, "add-empty-netns", Add, Must, Add, [4], NETNS, Any,
        "ADD with an empty CNI_NETNS fails", |call| call.env("CNI_NETNS", "")),
    (ADD_NO_IFNAME, "add-no-ifname", Add, Must, Add, [4], IFNAME, Any,
        "ADD without CNI_IFNAME fails", |call| call.without("CNI_IFNAME")),
    (ADD_EMPTY_IFNAME, "add-empty-ifname", Add, Must, Add, [4], IFNAME, Any,
        "ADD with an empty CNI_IFNAME fails", |call| call.env("CNI_IFNAME", "")),
    (ADD_LONG_IFNAME, "add-long-ifname", Add, Must, Parameters, [4], IFNAME, Interfaces,
        "ADD with a CNI_IFNAME of 16 bytes, which is too long, fails", |call| call.env("CNI_IFNAME", "abcdefghijklmnop")),
    (ADD_BAD_IFNAME, "add-bad-ifname", Add, Must, Parameters, [4], IFNAME, Interfaces,
        "ADD with a CNI_IFNAME that contains a slash fails", |call| call.env("CNI_IFNAME", "eth/0")),
    (ADD_DOTS_IFNAME, "add-ifname-of-dots", Add, Must, Parameters, [4], IFNAME, Interfaces,
        "ADD with .. as CNI_IFNAME fails", |call| call.env("CNI_IFNAME", "..")),
    (DEL_NO_ID, "del-no-container-id", Del, Must, Del, [4], ID, Any,
        "DEL without CNI_CONTAINERID fails", |call| call.without("CNI_CONTAINERID")),
    (DEL_NO_IFNAME, "del-no-ifname", Del, Must, Del, [4], IFNAME, Any,
        "DEL without CNI_IFNAME fails", |call| call.without("CNI_IFNAME")),
    (CHECK_NO_ID, "check-no-container-id", Check, Must, Check, [4], ID, Any,
        "CHECK without CNI_CONTAINERID fails", |call| call.without("CNI_CONTAINERID")),
    (CHECK_NO_NETNS, "check-no-netns", Check, Must, Check, [4], NETNS, Any,
        "CHECK without CNI_NETNS fails", |call| call.without("CNI_NETNS")),
    (CHECK_NO_IFNAME, "check-no-ifname", Check, Must, Check, [4], IFNAME, Any,
        "CHECK without CNI_IFNAME fails", |call| call.without("CNI_IFNAME")),
    (NO_INPUT, "add-no-stdin", Add, Must, Add, [5, 6], None, Any,
        "ADD with empty standard input fails", |call| call.stdin(|_| String::new())),
    (NOT_JSON, "add-broken-json", Add, Must, Add, [6], None, Any,
        "ADD with a truncated configuration fails", |call| call.stdin(first_half)),
    (DEL_NOT_JSON, "del-broken-json", Del, Should, Del, [6], None, Any,
        "DEL with a truncated configuration fails", |call| call.stdin(first_half)),
    (CHECK_NOT_JSON, "check-broken-json", Check, Must, Check, [6], None, Any,
        "CHECK with a truncated configuration fails", |call| call.stdin(first_half)),
    (GC_NOT_JSON, "gc-broken-json", Gc, Must, Gc, [6], None, Any,
        "GC with a truncated configuration fails", |call| call.stdin(first_half)),
    (STATUS_NOT_JSON, "status-broken-json", Status, Must, Status, [6], None, Any,
        "STATUS with a truncated configuration fails", |call| call.stdin(first_half)),
    (LIST, "add-json-list", Add, Must, Add, [6], None, Any,
        "ADD with a JSON list as configuration fails", |call| call.stdin(|config| format!("[{config}]"))),
    (TRAILING, "add-trailing-text", Add, Should, Add, [6], None, Any,
        "ADD with text after the configuration fails", |call| call.stdin(|config| config + " trailing")),
    (NO_NAME, "add-no-name", Add, Should, Request, [7], None, Any,
        "ADD with a configuration without a name fails", |call| call.without_key("name")),
    (BAD_NAME, "add-bad-name", Add, Should, Request, [7], None, Any,
        "ADD with a network name that is a path to another directory fails", |call| call.key("name", "../network")),
    (UNKNOWN_VERSION, "add-unknown-version", Add, Must, ErrorResult, [1], None, Any,
        "ADD with a cniVersion that the plugin does not support fails", |call| call.key("cniVersion", "9.9.9")),
    (NO_VERSION, "add-version-as-word", Add, Must, ErrorResult, [1, 6], None, Any,
        "ADD with an invalid cniVersion fails", |call| call.key("cniVersion", "latest")),
    (NUMBER_VERSION, "add-version-as-number", Add, Must, ErrorResult, [6], None, Any,
        "ADD with a number as cniVersion fails", |call| call.key("cniVersion", 1)),
}

/// The rule that the call fails.
const fn refused(
    call: &'static InvalidCall,
    id: &'static str,
    level: Level,
    section: Section,
    applies: Applies,
) -> Rule {
    let mut rule = Rule::of(call.verb, id, section, call.description, Check::Refused(call));
    rule.level = level;
    rule.only(applies)
}

/// The rule that the call fails with the right error document.
const fn answered(call: &'static InvalidCall, id: &'static str, applies: Applies) -> Rule {
    const DESCRIPTION: &str = "an invalid call fails with an error document with the matching code";
    let mut rule = Rule::of(call.verb, id, Section::ErrorResult, DESCRIPTION, Check::Answered(call));
    rule.level = Level::Should;
    rule.only(applies)
}

fn first_half(config: String) -> String {
    config[..config.len() / 2].to_owned()
}

/// The newest version before `version` that the plugin supports.
pub(super) fn version_before(fixture: &Fixture<'_>, version: Version) -> Option<Version> {
    fixture.versions().iter().copied().rev().find(|older| *older < version)
}
