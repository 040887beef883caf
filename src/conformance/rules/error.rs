//! Error documents.

use super::misuse::version_before;
use crate::conformance::bench::Bench;
use crate::conformance::call::Reply;
use crate::conformance::rule::{Rule, Section};
use crate::conformance::verdict::{Verdict, ensure, not_tried};
use crate::spec::Command::{self, Add as ADD, Check as CHECK, Gc as GC, Status as STATUS};

pub(super) const RULES: &[Rule] = &[
    Rule::should(
        ADD,
        "error.document",
        Section::ErrorResult,
        "a failed ADD prints one JSON object with a numeric code above 0 and a msg that says something",
        document,
    )
    .each_version(),
    Rule::should(
        ADD,
        "error.cni-version",
        Section::ErrorResult,
        "the error document's cniVersion is the configuration's",
        cni_version,
    )
    .each_version(),
    Rule::should(
        CHECK,
        "error.check-too-new",
        Section::ErrorResult,
        "CHECK with a configuration older than 0.4.0 fails with code 1",
        |bench| too_new(bench, CHECK),
    ),
    Rule::should(
        GC,
        "error.gc-too-new",
        Section::ErrorResult,
        "GC with a configuration older than 1.1.0 fails with code 1",
        |bench| too_new(bench, GC),
    ),
    Rule::should(
        STATUS,
        "error.status-too-new",
        Section::ErrorResult,
        "STATUS with a configuration older than 1.1.0 fails with code 1",
        |bench| too_new(bench, STATUS),
    ),
];

/// An `ADD` that fails after the configuration's version has been read.
fn failure(bench: &Bench<'_>) -> Verdict<Reply> {
    let call = bench.on("ADD", &bench.target()?);
    let call = if bench.is_ipam() { call.key("name", "../network") } else { call.env("CNI_NETNS", "/run/netns/gone") };
    let reply = call.run()?;
    if reply.succeeded() { not_tried(format!("no way was found to have an ADD fail: {reply}")) } else { Ok(reply) }
}

fn document(bench: &Bench<'_>) -> Verdict {
    let reply = failure(bench)?;
    let document = reply.document()?;
    ensure(document["code"].as_u64().is_some_and(|code| code > 0), || format!("no code: {reply}"))?;
    ensure(document["msg"].as_str().is_some_and(|msg| !msg.is_empty()), || format!("no msg: {reply}"))?;
    let details = &document["details"];
    ensure(details.is_null() || details.is_string(), || format!("details is no text: {reply}"))
}

fn cni_version(bench: &Bench<'_>) -> Verdict {
    let reply = failure(bench)?;
    let document = reply.document()?;
    ensure(document["cniVersion"] == bench.version.as_str(), || {
        format!("the configuration has {}, the document {}: {reply}", bench.version, document["cniVersion"])
    })
}

fn too_new(bench: &Bench<'_>, verb: Command) -> Verdict {
    let Some(version) = version_before(bench, verb.spec().since) else {
        return not_tried("the plugin speaks no older version");
    };
    let attached = bench.attach()?;
    let call = bench.check(&attached).env("CNI_COMMAND", verb.as_str()).key("cniVersion", version.as_str());
    let reply = call.run()?;
    let refused = !reply.succeeded() && reply.json()["code"] == 1;
    ensure(refused, || format!("with {version}: {reply}"))
}
