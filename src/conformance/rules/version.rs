//! `VERSION`.

use serde_json::Value;

use crate::conformance::bench::Bench;
use crate::conformance::call::Call;
use crate::conformance::rule::{Rule, Section};
use crate::conformance::verdict::{Verdict, broken, ensure};
use crate::spec::{Command::Version as VERSION, Version};

pub(super) const RULES: &[Rule] = &[
    Rule::must(
        VERSION,
        "version.answers",
        Section::VersionResult,
        "VERSION succeeds, with one JSON object that lists supportedVersions",
        answers,
    ),
    Rule::must(
        VERSION,
        "version.needs-no-more",
        Section::Version,
        "VERSION needs CNI_COMMAND in the environment, and no other variable",
        needs_no_more,
    ),
    Rule::must(VERSION, "version.echo", Section::VersionResult, "the answer's cniVersion is that of the input", echo)
        .each_version(),
    Rule::should(
        VERSION,
        "version.published",
        Section::VersionResult,
        "supportedVersions lists versions of the specification that were published, each once",
        published,
    ),
];

fn probe(bench: &Bench<'_>) -> Call {
    let version = bench.version;
    bench.call("VERSION").stdin(|_| format!(r#"{{"cniVersion":"{version}"}}"#))
}

fn answers(bench: &Bench<'_>) -> Verdict {
    let reply = probe(bench).run()?;
    reply.success()?;
    let document = reply.document()?;
    listed(&document)?;
    ensure(document["cniVersion"].is_string(), || format!("no cniVersion: {document}"))
}

fn needs_no_more(bench: &Bench<'_>) -> Verdict {
    let reply = probe(bench).without("CNI_PATH").run()?;
    reply.success()?;
    listed(&reply.document()?).map(drop)
}

fn echo(bench: &Bench<'_>) -> Verdict {
    let document = probe(bench).run()?.document()?;
    ensure(document["cniVersion"] == bench.version.as_str(), || {
        format!("the input has {}, the answer {}", bench.version, document["cniVersion"])
    })
}

fn published(bench: &Bench<'_>) -> Verdict {
    let document = probe(bench).run()?.document()?;
    let versions = listed(&document)?;
    for (at, version) in versions.iter().enumerate() {
        ensure(version.parse::<Version>().is_ok(), || format!("{version:?} is none"))?;
        ensure(!versions[..at].contains(version), || format!("{version:?} is there twice"))?;
    }
    Ok(())
}

fn listed(document: &Value) -> Verdict<Vec<&str>> {
    let list = document["supportedVersions"].as_array();
    match list.and_then(|list| list.iter().map(Value::as_str).collect::<Option<Vec<&str>>>()) {
        Some(versions) if !versions.is_empty() => Ok(versions),
        _ => broken(format!("no list of texts: {document}")),
    }
}
