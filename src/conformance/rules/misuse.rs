//! Calls that no runtime should make, and how a plugin has to answer them.

use crate::conformance::bench::Bench;
use crate::conformance::call::{Call, Reply};
use crate::conformance::rule::{Applies, Check, Level, Rule, Section};
use crate::conformance::verdict::{Verdict, broken, ensure, unexpected};
use crate::spec::{Command, Version};

/// A call that is wrong in one thing.
#[derive(Debug)]
pub(in crate::conformance) struct Misuse {
    input: &'static str,
    error: &'static str,
    verb: Command,
    level: Level,
    section: Section,
    says: &'static str,
    /// The codes that fit; where there are several, the specification leaves the choice.
    codes: &'static [u64],
    /// The variable that the message has to name.
    variable: Option<&'static str>,
    applies: Applies,
    change: fn(Call) -> Call,
}

/// A row of the table: `name, verb, level, section, codes, variable, applies, what has to fail, how to make it`.
macro_rules! misuses {
    ($(($constant:ident, $name:literal, $verb:ident, $level:ident, $section:ident, $codes:expr, $variable:expr,
        $applies:ident, $says:literal, $change:expr)),* $(,)?) => {
        $(const $constant: Misuse = Misuse {
            input: concat!("input.", $name),
            error: concat!("code.", $name),
            verb: Command::$verb,
            level: Level::$level,
            section: Section::$section,
            says: $says,
            codes: &$codes,
            variable: $variable,
            applies: Applies::$applies,
            change: $change,
        };)*
        pub(super) const REFUSED: &[Rule] = &[$($constant.refused(&$constant)),*];
        pub(super) const ANSWERED: &[Rule] = &[$($constant.answered(&$constant)),*];
    };
}

const ID: Option<&str> = Some("CNI_CONTAINERID");
const NETNS: Option<&str> = Some("CNI_NETNS");
const IFNAME: Option<&str> = Some("CNI_IFNAME");
const COMMAND: Option<&str> = Some("CNI_COMMAND");

#[rustfmt::skip]
misuses! {
    (UNKNOWN_COMMAND, "unknown-command", Add, Must, Parameters, [4], COMMAND, Any,
        "a CNI_COMMAND that is no verb fails", |call| call.env("CNI_COMMAND", "FETCH")),
    (ADD_NO_ID, "add-no-container-id", Add, Must, Add, [4], ID, Any,
        "ADD without CNI_CONTAINERID fails", |call| call.without("CNI_CONTAINERID")),
    (ADD_EMPTY_ID, "add-empty-container-id", Add, Must, Parameters, [4], ID, Any,
        "ADD with an empty CNI_CONTAINERID fails", |call| call.env("CNI_CONTAINERID", "")),
    (ADD_BAD_ID, "add-bad-container-id", Add, Must, Parameters, [4], ID, Any,
        "ADD with a CNI_CONTAINERID that begins with a hyphen fails", |call| call.env("CNI_CONTAINERID", "-container")),
    (ADD_PATH_ID, "add-container-id-as-path", Add, Must, Parameters, [4], ID, Any,
        "ADD with a CNI_CONTAINERID that leads to another directory fails", |call| call.env("CNI_CONTAINERID", "../other")),
    (ADD_NO_NETNS, "add-no-netns", Add, Must, Add, [4], NETNS, Any,
        "ADD without CNI_NETNS fails", |call| call.without("CNI_NETNS")),
    (ADD_EMPTY_NETNS, "add-empty-netns", Add, Must, Add, [4], NETNS, Any,
        "ADD with an empty CNI_NETNS fails", |call| call.env("CNI_NETNS", "")),
    (ADD_NO_IFNAME, "add-no-ifname", Add, Must, Add, [4], IFNAME, Any,
        "ADD without CNI_IFNAME fails", |call| call.without("CNI_IFNAME")),
    (ADD_EMPTY_IFNAME, "add-empty-ifname", Add, Must, Add, [4], IFNAME, Any,
        "ADD with an empty CNI_IFNAME fails", |call| call.env("CNI_IFNAME", "")),
    (ADD_LONG_IFNAME, "add-long-ifname", Add, Must, Parameters, [4], IFNAME, Interfaces,
        "ADD with a CNI_IFNAME of 16 bytes, which no interface can have, fails", |call| call.env("CNI_IFNAME", "abcdefghijklmnop")),
    (ADD_BAD_IFNAME, "add-bad-ifname", Add, Must, Parameters, [4], IFNAME, Interfaces,
        "ADD with a CNI_IFNAME that holds a slash fails", |call| call.env("CNI_IFNAME", "eth/0")),
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
        "ADD with nothing on standard input fails", |call| call.stdin(|_| String::new())),
    (NOT_JSON, "add-broken-json", Add, Must, Add, [6], None, Any,
        "ADD with a configuration that ends in the middle fails", |call| call.stdin(first_half)),
    (DEL_NOT_JSON, "del-broken-json", Del, Should, Del, [6], None, Any,
        "DEL with a configuration that ends in the middle fails", |call| call.stdin(first_half)),
    (CHECK_NOT_JSON, "check-broken-json", Check, Must, Check, [6], None, Any,
        "CHECK with a configuration that ends in the middle fails", |call| call.stdin(first_half)),
    (GC_NOT_JSON, "gc-broken-json", Gc, Must, Gc, [6], None, Any,
        "GC with a configuration that ends in the middle fails", |call| call.stdin(first_half)),
    (STATUS_NOT_JSON, "status-broken-json", Status, Must, Status, [6], None, Any,
        "STATUS with a configuration that ends in the middle fails", |call| call.stdin(first_half)),
    (LIST, "add-json-list", Add, Must, Add, [6], None, Any,
        "ADD with a JSON list for a configuration fails", |call| call.stdin(|config| format!("[{config}]"))),
    (TRAILING, "add-trailing-text", Add, Should, Add, [6], None, Any,
        "ADD with text after the configuration fails", |call| call.stdin(|config| config + " trailing")),
    (NO_NAME, "add-no-name", Add, Should, Request, [7], None, Any,
        "ADD with a configuration without name fails", |call| call.without_key("name")),
    (BAD_NAME, "add-bad-name", Add, Should, Request, [7], None, Any,
        "ADD with a network name that leads to another directory fails", |call| call.key("name", "../network")),
    (UNKNOWN_VERSION, "add-unknown-version", Add, Must, ErrorResult, [1], None, Any,
        "ADD with a cniVersion that the plugin does not speak fails", |call| call.key("cniVersion", "9.9.9")),
    (NO_VERSION, "add-version-as-word", Add, Must, ErrorResult, [1, 6], None, Any,
        "ADD with a cniVersion that is no version fails", |call| call.key("cniVersion", "latest")),
    (NUMBER_VERSION, "add-version-as-number", Add, Must, ErrorResult, [6], None, Any,
        "ADD with a number for cniVersion fails", |call| call.key("cniVersion", 1)),
}

impl Misuse {
    const fn refused(&self, this: &'static Misuse) -> Rule {
        let mut rule = Rule::of(self.verb, self.input, self.section, self.says, Check::Refused(this));
        rule.level = self.level;
        rule.only(self.applies)
    }

    const fn answered(&self, this: &'static Misuse) -> Rule {
        const SAYS: &str = "the failure is told in an error document with the code for it";
        let mut rule = Rule::of(self.verb, self.error, Section::ErrorResult, SAYS, Check::Answered(this));
        rule.level = Level::Should;
        rule.only(self.applies)
    }

    /// The call fails, and makes nothing.
    pub(in crate::conformance) fn refused_by(&self, bench: &Bench<'_>) -> Verdict {
        self.call(bench)?.failure()
    }

    /// The call fails with an error document that says what is wrong.
    pub(in crate::conformance) fn answered_by(&self, bench: &Bench<'_>) -> Verdict {
        let reply = self.call(bench)?;
        if reply.succeeded() {
            return broken(format!("no failure: {reply}"));
        }
        let code = reply.json()["code"].as_u64();
        if code.is_none_or(|code| !self.codes.contains(&code)) {
            let codes: Vec<String> = self.codes.iter().map(u64::to_string).collect();
            let (says, codes) = (self.says, codes.join(" or "));
            return unexpected(format!("{says} with an error document of code {codes}"), reply.to_string());
        }
        let told = format!("{} {}", reply.json()["msg"], reply.json()["details"]);
        let named = self.variable.is_none_or(|variable| told.contains(variable));
        ensure(named, || format!("the message does not name {}: {reply}", self.variable.unwrap_or_default()))
    }

    fn call(&self, bench: &Bench<'_>) -> Verdict<Reply> {
        if self.verb == Command::Check {
            return (self.change)(bench.check(&bench.attach()?)).run();
        }
        let target = bench.target()?;
        let reply = (self.change)(bench.on(self.verb.as_str(), &target)).run()?;
        let made = target.network()?;
        if made.is_empty() { Ok(reply) } else { broken(format!("{reply}; and the pod has: {made}")) }
    }
}

fn first_half(config: String) -> String {
    config[..config.len() / 2].to_owned()
}

/// The newest version before `version` that the plugin speaks.
pub(super) fn version_before(bench: &Bench<'_>, version: Version) -> Option<Version> {
    bench.versions().iter().copied().rev().find(|older| *older < version)
}
