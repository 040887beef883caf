//! `VERSION`.

use serde_json::Value;

use crate::conformance::call::Call;
use crate::conformance::fixture::Fixture;
use crate::conformance::rule::{Rule, Section};
use crate::conformance::verdict::{Verdict, broken, ensure};
use crate::spec::{Command::Version as VERSION, Version};

pub(super) const RULES: &[Rule] = &[
    Rule::must(
        VERSION,
        "version.answers",
        Section::VersionResult,
        "VERSION succeeds and prints one JSON object with supportedVersions",
        answers,
    ),
    Rule::must(
        VERSION,
        "version.needs-no-more",
        Section::Version,
        "VERSION needs no variable except CNI_COMMAND",
        needs_no_more,
    ),
    Rule::must(
        VERSION,
        "version.echo",
        Section::VersionResult,
        "the cniVersion of the answer is the one of the input",
        echo,
    )
    .each_version(),
    Rule::should(
        VERSION,
        "version.published",
        Section::VersionResult,
        "supportedVersions contains only published versions, each once",
        published,
    ),
];

fn probe(fixture: &Fixture<'_>) -> Call {
    let version = fixture.version;
    fixture.call("VERSION").stdin(|_| format!(r#"{{"cniVersion":"{version}"}}"#))
}

fn answers(fixture: &Fixture<'_>) -> Verdict {
    let reply = probe(fixture).run()?;
    reply.success()?;
    let document = reply.document()?;
    listed(&document)?;
    ensure(document["cniVersion"].is_string(), || format!("no cniVersion: {document}"))
}

fn needs_no_more(fixture: &Fixture<'_>) -> Verdict {
    let reply = probe(fixture).without("CNI_PATH").run()?;
    reply.success()?;
    listed(&reply.document()?).map(drop)
}

fn echo(fixture: &Fixture<'_>) -> Verdict {
    let document = probe(fixture).run()?.document()?;
    ensure(document["cniVersion"] == fixture.version.as_str(), || {
        format!("the input has {}, the answer has {}", fixture.version, document["cniVersion"])
    })
}

fn published(fixture: &Fixture<'_>) -> Verdict {
    let document = probe(fixture).run()?.document()?;
    let versions = listed(&document)?;
    for (at, version) in versions.iter().enumerate() {
        ensure(version.parse::<Version>().is_ok(), || format!("{version:?} is not a published version"))?;
        ensure(!versions[..at].contains(version), || format!("{version:?} occurs twice"))?;
    }
    Ok(())
}

fn listed(document: &Value) -> Verdict<Vec<&str>> {
    let list = document["supportedVersions"].as_array();
    match list.and_then(|list| list.iter().map(Value::as_str).collect::<Option<Vec<&str>>>()) {
        Some(versions) if !versions.is_empty() => Ok(versions),
        _ => broken(format!("no list of strings: {document}")),
    }
}
