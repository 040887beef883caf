//! The fixture of a rule: a private host with the plugin, and helpers for calls.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::call::{Call, Reply};
use super::config::Config;
use super::host::{Host, Pod, SCRATCH};
use super::previous;
use super::probe::{Delegation, Kind, Probe};
use super::snapshot::Snapshot;
use super::subject::Subject;
use super::verdict::{Verdict, not_tried, unexpected};
use crate::netlink::{IfIndex, Link};
use crate::spec::{AddResult, IfName, Version};

/// The time limit for the removal of links after the end of their namespace. The kernel removes
/// them in the background.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest pool that the suite exhausts.
pub(super) const MAX_POOL: usize = 64;

/// One trial of a rule with one version of the specification.
#[derive(Debug)]
pub(super) struct Fixture<'a> {
    subject: &'a Subject,
    probe: &'a Probe,
    host: &'a Host,
    /// The version of the specification.
    pub(super) version: Version,
    containers: Cell<u32>,
    preferred: RefCell<Option<PathBuf>>,
}

/// A part of the host that a plugin can change.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scope {
    /// Links, addresses and routes.
    Network,
    /// Files and pins in the directories for plugin state.
    Files,
    /// The packet filter.
    Firewall,
    /// All of these, if tools exist to list them.
    Everything,
}

/// A container that a rule attaches.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) container: String,
    pub(super) ifname: String,
    pub(super) pod: Pod,
    /// The result of the previous plugin in the chain.
    pub(super) prev_result: Option<AddResult>,
    /// The links of the pod before the tested plugin runs, with their addresses and routes.
    before: Snapshot,
}

/// An attachment with the result of its `ADD`.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) target: Target,
    pub(super) result: Value,
}

impl<'a> Fixture<'a> {
    pub(super) fn new(subject: &'a Subject, probe: &'a Probe, host: &'a Host, version: Version) -> Self {
        Self { subject, probe, host, version, containers: Cell::new(0), preferred: RefCell::default() }
    }

    pub(super) fn host(&self) -> &Host {
        self.host
    }

    pub(super) fn config(&self) -> &Config {
        &self.subject.config
    }

    /// The tried versions that the plugin supports.
    pub(super) fn versions(&self) -> &[Version] {
        &self.probe.versions
    }

    /// Whether the plugin calls the plugin in `ipam.type`. An IPAM plugin is itself that plugin.
    pub(super) fn delegation(&self) -> &Delegation {
        if self.is_ipam() { &Delegation::Unnamed } else { &self.probe.delegation }
    }

    /// The duration of an `ADD`.
    pub(super) fn add_duration(&self) -> Duration {
        self.probe.add_duration
    }

    pub(super) fn is_ipam(&self) -> bool {
        self.probe.kind == Kind::Ipam
    }

    pub(super) fn is_chained(&self) -> bool {
        self.probe.kind == Kind::Chained
    }

    /// The executable of a delegate.
    pub(super) fn find(&self, delegate: &str) -> Option<PathBuf> {
        self.subject.find(delegate)
    }

    /// Makes later calls look up plugins in this directory first.
    pub(super) fn prefer(&self, directory: &Path) {
        *self.preferred.borrow_mut() = Some(directory.to_owned());
    }

    /// A call with the configuration in the version of this trial.
    pub(super) fn call(&self, verb: &str) -> Call {
        self.call_in(verb, self.version)
    }

    /// A call with the configuration in another version.
    pub(super) fn call_in(&self, verb: &str, version: Version) -> Call {
        let call = self.subject.call(verb).config(self.config().in_version(version));
        match &*self.preferred.borrow() {
            Some(directory) => call.path_first(directory),
            None => call,
        }
    }

    /// A new pod with a container id. For a chained plugin, the pod has the interface of the
    /// previous plugin.
    pub(super) fn target(&self) -> Verdict<Target> {
        self.containers.set(self.containers.get() + 1);
        let container = format!("container-{}", self.containers.get());
        let (pod, ifname) = (self.host.pod()?, self.subject.ifname.clone());
        let prev_result = self.subject.prev_result(self.host, &pod, &ifname)?;
        let before = Snapshot::of_network(pod.socket())?;
        Ok(Target { container, ifname, pod, prev_result, before })
    }

    /// For a chained plugin: a second interface of the pod, by the previous plugin.
    pub(super) fn prev_result(&self, target: &Target, ifname: &str) -> Verdict<Option<AddResult>> {
        Ok(self.subject.prev_result(self.host, &target.pod, ifname)?)
    }

    /// The `ADD` of an attachment after its `DEL`. For a chained plugin, a runtime first detaches
    /// and attaches the previous plugin.
    pub(super) fn add_again(&self, target: &Target) -> Verdict<Call> {
        let call = self.call_for("ADD", target);
        if !self.is_chained() {
            return Ok(call);
        }
        if let Some(link) = target.link()? {
            target.pod.socket().delete_link(link.index)?;
        }
        match self.prev_result(target, &target.ifname)? {
            Some(prev_result) => Ok(call.key("prevResult", previous::json(&prev_result, self.version)?)),
            None => Ok(call),
        }
    }

    /// A call for an attachment.
    pub(super) fn call_for(&self, verb: &str, target: &Target) -> Call {
        self.call_with_netns(verb, target, target.pod.path())
    }

    /// A call for an attachment with another path as `CNI_NETNS`.
    pub(super) fn call_with_netns(&self, verb: &str, target: &Target, netns: &Path) -> Call {
        let call = self.call(verb).env("CNI_CONTAINERID", &target.container).env("CNI_IFNAME", &target.ifname);
        let call = call.env("CNI_NETNS", netns);
        let prev_result = target.prev_result.as_ref().and_then(|result| previous::json(result, self.version).ok());
        match prev_result {
            Some(prev_result) => call.key("prevResult", prev_result),
            None => call,
        }
    }

    /// Attaches; the `ADD` must succeed.
    pub(super) fn add(&self, target: Target) -> Verdict<Attached> {
        let reply = self.call_for("ADD", &target).run()?;
        if !reply.succeeded() {
            return unexpected("the ADD at the start of the rule succeeds", reply.to_string());
        }
        Ok(Attached { result: reply.json(), target })
    }

    /// Attaches a new pod.
    pub(super) fn attach(&self) -> Verdict<Attached> {
        self.add(self.target()?)
    }

    /// The `DEL` of an attachment, as a runtime calls it.
    pub(super) fn del(&self, attached: &Attached) -> Call {
        let call = self.call_for("DEL", &attached.target);
        if self.version < Version::V0_4_0 { call } else { call.key("prevResult", attached.result.clone()) }
    }

    /// The `CHECK` of an attachment.
    pub(super) fn check(&self, attached: &Attached) -> Call {
        self.call_for("CHECK", &attached.target).key("prevResult", attached.result.clone())
    }

    /// Detaches; the `DEL` must succeed.
    pub(super) fn detach(&self, attached: &Attached) -> Verdict {
        self.require_success("the DEL before the tested call", &self.del(attached).run()?)
    }

    /// Stops the trial if a call failed that is not under test itself.
    pub(super) fn require_success(&self, what: &str, reply: &Reply) -> Verdict {
        if reply.succeeded() { Ok(()) } else { unexpected(format!("{what} succeeds"), reply.to_string()) }
    }

    /// Attaches until no address is left.
    pub(super) fn exhaust(&self) -> Verdict<Vec<Attached>> {
        let mut attached = Vec::new();
        while attached.len() < MAX_POOL {
            let target = self.target()?;
            let reply = self.call_for("ADD", &target).run()?;
            if !reply.succeeded() {
                return Ok(attached);
            }
            attached.push(Attached { result: reply.json(), target });
        }
        not_tried(format!("{MAX_POOL} ADDs did not exhaust the pool; configure a smaller subnet"))
    }

    /// Adds and deletes one attachment, so that state for the whole network exists.
    pub(super) fn warm_up(&self) -> Verdict {
        let attached = self.attach()?;
        self.detach(&attached)?;
        attached.target.pod.end()?;
        Ok(())
    }

    /// The links, addresses and routes of the host, without the suite's own links.
    pub(super) fn network(&self) -> Verdict<Snapshot> {
        let mut network = Snapshot::of_network(self.host.socket())?;
        network.remove_links(previous::HOST_PREFIX);
        Ok(network)
    }

    /// The current state of the host.
    pub(super) fn snapshot(&self, scope: Scope) -> Verdict<Snapshot> {
        match scope {
            Scope::Network => self.network(),
            Scope::Files => Ok(files()),
            Scope::Firewall => match Snapshot::of_firewall() {
                Some(snapshot) => Ok(snapshot),
                None => not_tried("neither nft nor iptables-save can be run"),
            },
            Scope::Everything => Ok(self.network()?.and(files()).and(Snapshot::of_firewall().unwrap_or_default())),
        }
    }

    /// The state that is not in `before`, after the kernel had time to clean up.
    pub(super) fn leaked(&self, scope: Scope, before: &Snapshot) -> Verdict<Snapshot> {
        let deadline = Instant::now() + CLEANUP_TIMEOUT;
        loop {
            let leaked = self.snapshot(scope)?.minus(before);
            if leaked.is_empty() || Instant::now() > deadline {
                return Ok(leaked);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Target {
    /// The interface in the pod, if it exists.
    pub(super) fn link(&self) -> Verdict<Option<Link>> {
        let Ok(name) = self.ifname.parse::<IfName>() else { return Ok(None) };
        Ok(self.pod.socket().link_by_name(&name)?)
    }

    /// The interface in the pod, which must exist.
    pub(super) fn required_link(&self) -> Verdict<Link> {
        match self.link()? {
            Some(link) => Ok(link),
            None => unexpected(
                format!("after ADD the pod has a link {}", self.ifname),
                format!("the pod has: {}", self.network()?),
            ),
        }
    }

    /// The links of the pod except `lo`, with their addresses and routes.
    pub(super) fn network(&self) -> Verdict<Snapshot> {
        Ok(Snapshot::of_network(self.pod.socket())?)
    }

    /// The links, addresses and routes that the pod did not have before the tested plugin ran.
    pub(super) fn created(&self) -> Verdict<Snapshot> {
        Ok(self.network()?.minus(&self.before))
    }

    /// The identity of all links in the pod, including indexes and hardware addresses.
    pub(super) fn identity(&self) -> Verdict<Snapshot> {
        let links = self.pod.socket().links()?;
        let links = links.iter().filter(|link| link.index != IfIndex::LOOPBACK);
        let mac = |link: &Link| link.mac.map(|mac| mac.to_string()).unwrap_or_default();
        let lines = links.map(|link| format!("{} is link {} with MAC {}", link.name, link.index, mac(link))).collect();
        Ok(self.network()?.and(lines))
    }
}

impl Attached {
    /// The parsed result, in the version of this trial.
    pub(super) fn parsed(&self, fixture: &Fixture<'_>) -> Verdict<AddResult> {
        match AddResult::from_json(&self.result, fixture.version) {
            Ok(result) => Ok(result),
            Err(error) => unexpected("the result of ADD can be parsed", format!("{error}: {}", self.result)),
        }
    }

    /// The addresses in the result, without prefix lengths.
    pub(super) fn addresses(&self, fixture: &Fixture<'_>) -> Verdict<BTreeSet<String>> {
        Ok(self.parsed(fixture)?.ips.iter().map(|ip| ip.address.ip().to_string()).collect())
    }

    /// The attachment as an element of the list for `GC`.
    pub(super) fn key(&self) -> Value {
        serde_json::json!({ "containerID": self.target.container, "ifname": self.target.ifname })
    }
}

/// The files and pins on the host, without the files of the suite.
fn files() -> Snapshot {
    let [run, state, pins] = ["/run", "/var/lib/cni", "/sys/fs/bpf"].map(Snapshot::of_files);
    let own = [Snapshot::of_files("/run/netns"), Snapshot::of_files(SCRATCH)];
    own.iter().fold(run.and(state).and(pins), |files, own| files.minus(own))
}
