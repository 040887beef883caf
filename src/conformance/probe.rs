//! What has to be known of a plugin before rules are tried on it.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Error;
use super::call::Reply;
use super::host::Host;
use super::recorder::Recorder;
use super::suite::Suite;
use super::verdict::Stop;
use crate::spec::Version;

/// What kind of plugin it is, told from the result of an `ADD`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Kind {
    /// It makes interfaces.
    Interface,
    /// It manages addresses only.
    Ipam,
}

/// What is known of a plugin.
#[derive(Debug, Clone)]
pub(super) struct Probe {
    pub(super) kind: Kind,
    /// The versions to try, oldest first; there is at least one.
    pub(super) versions: Vec<Version>,
    /// The newest of them.
    pub(super) newest: Version,
    /// How long an `ADD` takes that finds its network in place.
    pub(super) add_takes: Duration,
    pub(super) delegation: Delegation,
}

/// Whether the first `ADD` called the plugin in `ipam.type`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Delegation {
    /// The configuration names none.
    Unnamed,
    /// It called that plugin.
    Called,
    /// It succeeded without that plugin; the evidence.
    NotCalled(String),
}

impl Probe {
    /// Asks the plugin for its versions, and has it serve two `ADD`s.
    pub(super) fn of(suite: &Suite) -> Result<Self, Error> {
        Host::run(|host| {
            suite.prepare()?;
            let supported = supported_versions(suite)?;
            let mut versions = if suite.versions.is_empty() { supported.clone() } else { suite.versions.clone() };
            versions.sort_unstable();
            if let Some(&version) = versions.iter().find(|version| !supported.contains(version)) {
                return Err(Error::Unsupported { version, supported });
            }
            let newest = versions.last().copied().unwrap_or(Version::IMPLICIT);
            let delegate = suite.config.delegate();
            let real = delegate.and_then(|delegate| suite.find(delegate));
            let recorder = real.map(|real| Recorder::install(host, &real, "")).transpose()?;
            let (first, _) = add(suite, host, newest, "first", recorder.as_ref())?;
            let (_, add_takes) = add(suite, host, newest, "second", None)?;
            let made_none = first.get("interfaces").and_then(Value::as_array).is_none_or(Vec::is_empty);
            let names_interfaces = newest >= Version::V0_3_0;
            let kind = if names_interfaces && made_none { Kind::Ipam } else { Kind::Interface };
            let delegation = delegate.map_or(Delegation::Unnamed, |name| Delegation::of(name, recorder.as_ref()));
            Ok(Self { kind, versions, newest, add_takes, delegation })
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

/// What the plugin says; where it says nothing that can be read, the configuration's version.
fn supported_versions(suite: &Suite) -> Result<Vec<Version>, Error> {
    let version = suite.config.stated_version().unwrap_or(Version::LATEST);
    let call = suite.call("VERSION").stdin(|_| format!(r#"{{"cniVersion":"{version}"}}"#));
    let listed = match call.run() {
        Ok(reply) => published(&reply.json()),
        Err(Stop::Error(error)) => return Err(*error),
        Err(_) => Vec::new(),
    };
    Ok(if listed.is_empty() { vec![version] } else { listed })
}

/// The versions in an answer to `VERSION` that have been published.
fn published(answer: &Value) -> Vec<Version> {
    let listed = answer.get("supportedVersions").and_then(Value::as_array);
    listed.into_iter().flatten().filter_map(|version| version.as_str()?.parse().ok()).collect()
}

fn add(
    suite: &Suite,
    host: &Host,
    version: Version,
    container: &str,
    recorder: Option<&Recorder>,
) -> Result<(Value, Duration), Error> {
    let pod = host.pod()?;
    let mut call = suite.call("ADD").config(suite.config.in_version(version)).env("CNI_CONTAINERID", container);
    if let Some(recorder) = recorder {
        call = call.path_first(recorder.directory());
    }
    let begun = Instant::now();
    let reply: Result<Reply, Stop> = call.env("CNI_NETNS", pod.path()).env("CNI_IFNAME", &suite.ifname).run();
    let refused = |seen: String| Err(Error::NoAdd { version, seen });
    match reply {
        Ok(reply) if reply.succeeded() => Ok((reply.json(), begun.elapsed())),
        Ok(reply) => refused(reply.to_string()),
        Err(Stop::Error(error)) => Err(*error),
        Err(Stop::Broken { seen, .. }) => refused(seen),
        Err(Stop::NotTried(reason)) => refused(reason),
    }
}
