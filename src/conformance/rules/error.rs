//! Error documents.

use super::invalid_calls::version_before;
use crate::conformance::call::Reply;
use crate::conformance::fixture::Fixture;
use crate::conformance::rule::{Rule, Section};
use crate::conformance::verdict::{Verdict, ensure, not_tried};
use crate::spec::Command::{self, Add as ADD, Check as CHECK, Gc as GC, Status as STATUS};

pub(super) const RULES: &[Rule] = &[
    Rule::should(
        ADD,
        "error.document",
        Section::ErrorResult,
        "a failed ADD prints one JSON object with a numeric code above 0 and a non-empty msg",
        document,
    )
    .each_version(),
    Rule::should(
        ADD,
        "error.cni-version",
        Section::ErrorResult,
        "the cniVersion of the error document is the one of the configuration",
        cni_version,
    )
    .each_version(),
    Rule::should(
        CHECK,
        "error.check-too-new",
        Section::ErrorResult,
        "CHECK with a configuration older than 0.4.0 fails with code 1",
        |fixture| too_new(fixture, CHECK),
    ),
    Rule::should(
        GC,
        "error.gc-too-new",
        Section::ErrorResult,
        "GC with a configuration older than 1.1.0 fails with code 1",
        |fixture| too_new(fixture, GC),
    ),
    Rule::should(
        STATUS,
        "error.status-too-new",
        Section::ErrorResult,
        "STATUS with a configuration older than 1.1.0 fails with code 1",
        |fixture| too_new(fixture, STATUS),
    ),
];

/// An `ADD` that fails after the plugin has read the version of the configuration.
fn failure(fixture: &Fixture<'_>) -> Verdict<Reply> {
    let call = fixture.call_for("ADD", &fixture.target()?);
    let call =
        if fixture.is_ipam() { call.key("name", "../network") } else { call.env("CNI_NETNS", "/run/netns/gone") };
    let reply = call.run()?;
    if reply.succeeded() { not_tried(format!("the suite could not provoke a failed ADD: {reply}")) } else { Ok(reply) }
}

fn document(fixture: &Fixture<'_>) -> Verdict {
    let reply = failure(fixture)?;
    let document = reply.document()?;
    ensure(document["code"].as_u64().is_some_and(|code| code > 0), || format!("no code: {reply}"))?;
    ensure(document["msg"].as_str().is_some_and(|msg| !msg.is_empty()), || format!("no msg: {reply}"))?;
    let details = &document["details"];
    ensure(details.is_null() || details.is_string(), || format!("details is not a string: {reply}"))
}

fn cni_version(fixture: &Fixture<'_>) -> Verdict {
    let reply = failure(fixture)?;
    let document = reply.document()?;
    ensure(document["cniVersion"] == fixture.version.as_str(), || {
        format!("the configuration has {}, the document {}: {reply}", fixture.version, document["cniVersion"])
    })
}

fn too_new(fixture: &Fixture<'_>, verb: Command) -> Verdict {
    let Some(version) = version_before(fixture, verb.spec().since) else {
        return not_tried("the plugin supports no older version");
    };
    let attached = fixture.attach()?;
    let call = fixture.check(&attached).env("CNI_COMMAND", verb.as_str()).key("cniVersion", version.as_str());
    let reply = call.run()?;
    let refused = !reply.succeeded() && reply.json()["code"] == 1;
    ensure(refused, || format!("with {version}: {reply}"))
}
