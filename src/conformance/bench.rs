//! What a rule is tried with: a host, and the plugin on it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::call::{Call, Reply};
use super::config::Config;
use super::footprint::Footprint;
use super::host::{Host, Pod, SCRATCH};
use super::probe::{Delegation, Kind, Probe};
use super::rule::{Applies, Rule};
use super::suite::Suite;
use super::verdict::{Verdict, not_tried, unexpected};
use crate::netlink::{LOOPBACK_INDEX, Link};
use crate::spec::{AddResult, IfName, Version};

/// How long links may take to go with a namespace that has ended: the kernel does that in the background.
const SETTLING: Duration = Duration::from_secs(5);

/// The greatest pool of addresses that is exhausted.
pub(super) const GREATEST_POOL: usize = 64;

/// The trial of a rule with a version of the specification.
#[derive(Debug)]
pub(super) struct Bench<'a> {
    suite: &'a Suite,
    probe: &'a Probe,
    host: &'a Host,
    /// The version of the specification.
    pub(super) version: Version,
    containers: Cell<u32>,
    preferred: RefCell<Option<PathBuf>>,
}

/// A part of the host where a plugin can leave something.
#[derive(Debug, Clone, Copy)]
pub(super) enum Look {
    /// Links, addresses and routes.
    Network,
    /// Files and pins, where a plugin may keep any.
    Files,
    /// The packet filter.
    Firewall,
    /// All of these, as far as there are tools to list them.
    Everything,
}

/// An attachment that a runtime means to make.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) container: String,
    pub(super) ifname: String,
    pub(super) pod: Pod,
}

/// An attachment, and what its `ADD` said.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) target: Target,
    pub(super) result: Value,
}

impl<'a> Bench<'a> {
    pub(super) fn new(suite: &'a Suite, probe: &'a Probe, host: &'a Host, version: Version) -> Self {
        Self { suite, probe, host, version, containers: Cell::new(0), preferred: RefCell::default() }
    }

    /// Goes on only if the rule is for this plugin and this version.
    pub(super) fn require(&self, rule: &Rule) -> Verdict {
        let (since, newest) = (rule.since, self.version);
        if newest < since {
            return not_tried(format!("the rule is of {since}, and {newest} is the newest version tried"));
        }
        let delegation = self.delegation();
        let reason = match rule.applies {
            Applies::Interfaces if self.is_ipam() => "the plugin makes no interfaces: its result has none",
            Applies::Ipam if !self.is_ipam() => "the plugin is no IPAM plugin: its result has interfaces",
            Applies::Naming | Applies::Delegating if *delegation == Delegation::Unnamed => {
                "the configuration names no plugin to delegate to"
            }
            Applies::Delegating if *delegation != Delegation::Called => {
                "the plugin does not call the plugin in \"ipam.type\": see delegate.called"
            }
            Applies::Alone if *delegation == Delegation::Called => "the plugin delegates and needs CNI_PATH for that",
            _ => return Ok(()),
        };
        not_tried(reason)
    }

    pub(super) fn host(&self) -> &Host {
        self.host
    }

    pub(super) fn config(&self) -> &Config {
        &self.suite.config
    }

    /// The versions that the plugin speaks, as far as they are tried.
    pub(super) fn versions(&self) -> &[Version] {
        &self.probe.versions
    }

    /// Whether the plugin calls the plugin in `ipam.type`. An IPAM plugin is that plugin itself.
    pub(super) fn delegation(&self) -> &Delegation {
        if self.is_ipam() { &Delegation::Unnamed } else { &self.probe.delegation }
    }

    /// How long an `ADD` takes.
    pub(super) fn add_takes(&self) -> Duration {
        self.probe.add_takes
    }

    pub(super) fn is_ipam(&self) -> bool {
        self.probe.kind == Kind::Ipam
    }

    /// The executable of a delegate.
    pub(super) fn find(&self, delegate: &str) -> Option<PathBuf> {
        self.suite.find(delegate)
    }

    /// From now on, plugins are looked up in this directory first.
    pub(super) fn prefer(&self, directory: &Path) {
        *self.preferred.borrow_mut() = Some(directory.to_owned());
    }

    /// A call with the configuration in the version on trial.
    pub(super) fn call(&self, verb: &str) -> Call {
        self.call_in(verb, self.version)
    }

    /// A call with the configuration in another version.
    pub(super) fn call_in(&self, verb: &str, version: Version) -> Call {
        let call = self.suite.call(verb).config(self.config().in_version(version));
        match &*self.preferred.borrow() {
            Some(directory) => call.path_first(directory),
            None => call,
        }
    }

    /// A new pod, and the name that the runtime has for the container.
    pub(super) fn target(&self) -> Verdict<Target> {
        self.containers.set(self.containers.get() + 1);
        let container = format!("container-{}", self.containers.get());
        Ok(Target { container, ifname: self.suite.ifname.clone(), pod: self.host.pod()? })
    }

    /// A call about an attachment.
    pub(super) fn on(&self, verb: &str, target: &Target) -> Call {
        self.on_path(verb, target, target.pod.path())
    }

    /// A call about an attachment whose namespace is said to be at a path.
    pub(super) fn on_path(&self, verb: &str, target: &Target, netns: &Path) -> Call {
        let call = self.call(verb).env("CNI_CONTAINERID", &target.container).env("CNI_IFNAME", &target.ifname);
        call.env("CNI_NETNS", netns)
    }

    /// Attaches: the `ADD` has to succeed.
    pub(super) fn add(&self, target: Target) -> Verdict<Attached> {
        let reply = self.on("ADD", &target).run()?;
        if !reply.succeeded() {
            return unexpected("an ADD that the rule begins with succeeds", reply.to_string());
        }
        Ok(Attached { result: reply.json(), target })
    }

    /// Attaches a new pod.
    pub(super) fn attach(&self) -> Verdict<Attached> {
        self.add(self.target()?)
    }

    /// The `DEL` of an attachment, as a runtime calls it.
    pub(super) fn del(&self, attached: &Attached) -> Call {
        let call = self.on("DEL", &attached.target);
        if self.version < Version::V0_4_0 { call } else { call.key("prevResult", attached.result.clone()) }
    }

    /// The `CHECK` of an attachment.
    pub(super) fn check(&self, attached: &Attached) -> Call {
        self.on("CHECK", &attached.target).key("prevResult", attached.result.clone())
    }

    /// Detaches: the `DEL` has to succeed.
    pub(super) fn detach(&self, attached: &Attached) -> Verdict {
        self.demand("a DEL that the rule builds on", &self.del(attached).run()?)
    }

    /// Goes on only if a call succeeded that is not itself on trial.
    pub(super) fn demand(&self, what: &str, reply: &Reply) -> Verdict {
        if reply.succeeded() { Ok(()) } else { unexpected(format!("{what} succeeds"), reply.to_string()) }
    }

    /// Attaches until there is no address left.
    pub(super) fn exhaust(&self) -> Verdict<Vec<Attached>> {
        let mut attached = Vec::new();
        while attached.len() < GREATEST_POOL {
            let target = self.target()?;
            let reply = self.on("ADD", &target).run()?;
            if !reply.succeeded() {
                return Ok(attached);
            }
            attached.push(Attached { result: reply.json(), target });
        }
        not_tried(format!("{GREATEST_POOL} ADDs did not exhaust the pool: give the network a smaller one"))
    }

    /// One attachment comes and goes, so that what serves the network as a whole is there.
    pub(super) fn warm_up(&self) -> Verdict {
        let attached = self.attach()?;
        self.detach(&attached)?;
        attached.target.pod.end()?;
        Ok(())
    }

    /// The links, addresses and routes of the host.
    pub(super) fn network(&self) -> Verdict<Footprint> {
        Ok(Footprint::of_network(self.host.socket())?)
    }

    /// What there is on the host.
    pub(super) fn look(&self, look: Look) -> Verdict<Footprint> {
        match look {
            Look::Network => self.network(),
            Look::Files => Ok(files()),
            Look::Firewall => match Footprint::of_firewall() {
                Some(footprint) => Ok(footprint),
                None => not_tried("neither nft nor iptables-save can be run"),
            },
            Look::Everything => Ok(self.network()?.and(files()).and(Footprint::of_firewall().unwrap_or_default())),
        }
    }

    /// What there is beyond `before`, once the kernel has had its time.
    pub(super) fn left(&self, look: Look, before: &Footprint) -> Verdict<Footprint> {
        let deadline = Instant::now() + SETTLING;
        loop {
            let left = self.look(look)?.beyond(before);
            if left.is_empty() || Instant::now() > deadline {
                return Ok(left);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Target {
    /// The interface inside the pod, if it is there.
    pub(super) fn link(&self) -> Verdict<Option<Link>> {
        let Ok(name) = self.ifname.parse::<IfName>() else { return Ok(None) };
        Ok(self.pod.socket().link_by_name(&name)?)
    }

    /// The interface inside the pod, which has to be there.
    pub(super) fn required_link(&self) -> Verdict<Link> {
        match self.link()? {
            Some(link) => Ok(link),
            None => unexpected(
                format!("after ADD there is a link {} in the pod", self.ifname),
                format!("the pod has: {}", self.network()?),
            ),
        }
    }

    /// The links of the pod but `lo`, their addresses and routes.
    pub(super) fn network(&self) -> Verdict<Footprint> {
        Ok(Footprint::of_network(self.pod.socket())?)
    }

    /// All that identifies what is in the pod: indexes and hardware addresses too.
    pub(super) fn identity(&self) -> Verdict<Footprint> {
        let links = self.pod.socket().links()?;
        let links = links.iter().filter(|link| link.index != LOOPBACK_INDEX);
        let mac = |link: &Link| link.mac.map(|mac| mac.to_string()).unwrap_or_default();
        let lines = links.map(|link| format!("{} is link {} with MAC {}", link.name, link.index, mac(link))).collect();
        Ok(self.network()?.and(lines))
    }
}

impl Attached {
    /// The result as values, in the version on trial.
    pub(super) fn parsed(&self, bench: &Bench<'_>) -> Verdict<AddResult> {
        match AddResult::from_json(&self.result, bench.version) {
            Ok(result) => Ok(result),
            Err(error) => unexpected("the result of ADD can be read", format!("{error}: {}", self.result)),
        }
    }

    /// The addresses in the result, without prefix lengths.
    pub(super) fn addresses(&self, bench: &Bench<'_>) -> Verdict<BTreeSet<String>> {
        Ok(self.parsed(bench)?.ips.iter().map(|ip| ip.address.ip().to_string()).collect())
    }

    /// The attachment as `GC` is told of it.
    pub(super) fn key(&self) -> Value {
        serde_json::json!({ "containerID": self.target.container, "ifname": self.target.ifname })
    }
}

/// The files and pins on the host, the suite's own left out.
fn files() -> Footprint {
    let [run, state, pins] = ["/run", "/var/lib/cni", "/sys/fs/bpf"].map(Footprint::of_files);
    let own = [Footprint::of_files("/run/netns"), Footprint::of_files(SCRATCH)];
    own.iter().fold(run.and(state).and(pins), |files, own| files.beyond(own))
}
