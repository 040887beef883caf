//! Learns the facts about a plugin that the rules need.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Error;
use super::call::Reply;
use super::host::Host;
use super::previous;
use super::recorder::Recorder;
use super::subject::Subject;
use super::verdict::Stop;
use crate::spec::Version;

/// The kind of a plugin. The result of an `ADD` shows whether it creates interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// Creates interfaces.
    Interface,
    /// Manages addresses only.
    Ipam,
    /// Changes the attachment of a previous plugin, if [`Suite::chained`](super::Suite::chained)
    /// was called.
    Chained,
}

/// The facts about a plugin.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    pub(super) kind: Kind,
    /// The versions to try, oldest first. There is at least one.
    pub(super) versions: Vec<Version>,
    /// The newest of them.
    pub(super) newest: Version,
    /// The duration of an `ADD` on an existing network.
    pub(super) add_duration: Duration,
    pub(super) delegation: Delegation,
}

/// Whether the first `ADD` called the plugin in `ipam.type`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Delegation {
    /// The configuration has no `ipam.type`.
    Unnamed,
    /// The `ADD` called that plugin.
    Called,
    /// The `ADD` succeeded without that plugin; the evidence.
    NotCalled(String),
}

impl Probe {
    /// Asks the plugin for its versions and runs two `ADD`s.
    pub(super) fn of(subject: &Subject, requested: &[Version]) -> Result<Self, Error> {
        Host::run(|host| {
            subject.prepare()?;
            let supported = supported_versions(subject)?;
            let mut versions = if requested.is_empty() { supported.clone() } else { requested.to_vec() };
            versions.sort_unstable();
            if let Some(&version) = versions.iter().find(|version| !supported.contains(version)) {
                return Err(Error::Unsupported { version, supported });
            }
            let newest = versions.last().copied().unwrap_or(Version::IMPLICIT);
            let delegate = subject.config.delegate();
            let real = delegate.and_then(|delegate| subject.find(delegate));
            let recorder = real.map(|real| Recorder::install(host, &real, "")).transpose()?;
            let (first, _) = add(subject, host, newest, "first", recorder.as_ref())?;
            let (_, add_duration) = add(subject, host, newest, "second", None)?;
            let has_no_interfaces = first.get("interfaces").and_then(Value::as_array).is_none_or(Vec::is_empty);
            let reports_interfaces = newest >= Version::V0_3_0;
            let kind = match subject.chained {
                true => Kind::Chained,
                false if reports_interfaces && has_no_interfaces => Kind::Ipam,
                false => Kind::Interface,
            };
            let delegation = delegate.map_or(Delegation::Unnamed, |name| Delegation::of(name, recorder.as_ref()));
            Ok(Self { kind, versions, newest, add_duration, delegation })
        })?
    }
}

impl Delegation {
    fn of(name: &str, recorder: Option<&Recorder>) -> Self {
        match recorder {
            Some(recorder) if recorder.calls().lines().any(|call| call.starts_with("ADD ")) => Self::Called,
            Some(_) => Self::NotCalled(format!("the first ADD succeeded and did not call {name}")),
            None => Self::NotCalled(format!("the first ADD succeeded without {name}, which is not on CNI_PATH")),
        }
    }
}

/// The versions that the plugin reports, or the version of the configuration if the answer is not
/// readable.
fn supported_versions(subject: &Subject) -> Result<Vec<Version>, Error> {
    let version = subject.config.stated_version().unwrap_or(Version::LATEST);
    let call = subject.call("VERSION").stdin(|_| format!(r#"{{"cniVersion":"{version}"}}"#));
    let listed = match call.run() {
        Ok(reply) => published(&reply.json()),
        Err(Stop::Error(error)) => return Err(*error),
        Err(_) => Vec::new(),
    };
    Ok(if listed.is_empty() { vec![version] } else { listed })
}

/// The published versions in an answer to `VERSION`.
fn published(answer: &Value) -> Vec<Version> {
    let listed = answer.get("supportedVersions").and_then(Value::as_array);
    listed.into_iter().flatten().filter_map(|version| version.as_str()?.parse().ok()).collect()
}

fn add(
    subject: &Subject,
    host: &Host,
    version: Version,
    container: &str,
    recorder: Option<&Recorder>,
) -> Result<(Value, Duration), Error> {
    let pod = host.pod()?;
    let prev_result = subject.prev_result(host, &pod, &subject.ifname)?;
    let mut call = subject.call("ADD").config(subject.config.in_version(version)).env("CNI_CONTAINERID", container);
    if let Some(recorder) = recorder {
        call = call.path_first(recorder.directory());
    }
    if let Some(prev_result) = prev_result {
        call = call.key("prevResult", previous::json(&prev_result, version)?);
    }
    let begun = Instant::now();
    let reply: Result<Reply, Stop> = call.env("CNI_NETNS", pod.path()).env("CNI_IFNAME", &subject.ifname).run();
    let refused = |seen: String| Err(Error::NoAdd { version, seen });
    match reply {
        Ok(reply) if reply.succeeded() => Ok((reply.json(), begun.elapsed())),
        Ok(reply) => refused(reply.to_string()),
        Err(Stop::Error(error)) => Err(*error),
        Err(Stop::Broken { seen, .. }) => refused(seen),
        Err(Stop::NotTried(reason)) => refused(reason),
    }
}
