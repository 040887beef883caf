use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::bench::Bench;
use super::call::Call;
use super::config::Config;
use super::host::Host;
use super::probe::Probe;
use super::report::{Finding, Outcome, Report};
use super::rule::{Level, Rule};
use super::verdict::Stop;
use super::{Error, rules};
use crate::spec::{IfName, Version};

/// How long a call may take unless told otherwise. Runtimes wait longer; a plugin that needs this much is stuck.
const LIMIT: Duration = Duration::from_secs(30);

/// Where system programs live: reference plugins call `iptables` by its name.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A plugin to be tried, and how.
#[derive(Debug, Clone)]
pub struct Suite {
    plugin: PathBuf,
    cni_path: Vec<PathBuf>,
    limit: Duration,
    prepare: Option<PathBuf>,
    only: Vec<String>,
    skip: Vec<String>,
    pub(super) config: Config,
    pub(super) versions: Vec<Version>,
    pub(super) ifname: String,
}

/// How far a run has come.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// How many trials are done.
    pub done: usize,
    /// How many there are.
    pub total: usize,
    /// The rule that is tried now.
    pub rule: &'a Rule,
}

impl Suite {
    /// A plugin by its path, and a network configuration for it: an object as a plugin reads it, or a list of which the
    /// first plugin is taken. `cniVersion` is set by the suite for each call.
    ///
    /// The plugin must not lie below `/run` or `/var/lib/cni`, which are empty where it runs. Give it a pool of at most
    /// 60 addresses: a larger one is not exhausted, and the rules about that are not tried.
    ///
    /// # Errors
    ///
    /// [`Error::Plugin`] or [`Error::Config`].
    pub fn new(plugin: impl AsRef<Path>, config: Value) -> Result<Self, Error> {
        let path = plugin.as_ref();
        let plugin = path.canonicalize().map_err(|source| Error::Plugin { path: path.to_owned(), source })?;
        Ok(Self {
            cni_path: plugin.parent().map(Path::to_owned).into_iter().collect(),
            plugin,
            limit: LIMIT,
            prepare: None,
            only: Vec::new(),
            skip: Vec::new(),
            config: Config::new(config)?,
            versions: Vec::new(),
            ifname: "eth0".to_owned(),
        })
    }

    /// One more directory for `CNI_PATH`, where delegates are found. The plugin's own comes first.
    #[must_use]
    pub fn cni_path(mut self, directory: impl AsRef<Path>) -> Self {
        self.cni_path.push(directory.as_ref().to_owned());
        self
    }

    /// One of the versions to try; all that the plugin speaks where none is named.
    #[must_use]
    pub fn version(mut self, version: Version) -> Self {
        self.versions.push(version);
        self
    }

    /// The name of the interface inside the container: `eth0` unless told otherwise.
    #[must_use]
    pub fn ifname(mut self, ifname: &IfName) -> Self {
        ifname.as_str().clone_into(&mut self.ifname);
        self
    }

    /// Tries only rules whose id matches this pattern, or another one given so; `*` stands for anything. A pattern that
    /// matches no rule is an error of [`run`](Self::run).
    #[must_use]
    pub fn only(mut self, pattern: impl Into<String>) -> Self {
        self.only.push(pattern.into());
        self
    }

    /// Leaves out rules whose id matches this pattern. A pattern that matches no rule is an error of [`run`](Self::run).
    #[must_use]
    pub fn skip(mut self, pattern: impl Into<String>) -> Self {
        self.skip.push(pattern.into());
        self
    }

    /// The time that each call may take: 30 seconds unless told otherwise.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// A script to be run on each private host before the plugin: to make the link that the configuration names as
    /// `master`, for example.
    #[must_use]
    pub fn prepare_with(mut self, script: impl AsRef<Path>) -> Self {
        self.prepare = Some(script.as_ref().to_owned());
        self
    }

    /// The rules that [`only`](Self::only) and [`skip`](Self::skip) leave.
    pub fn selected(&self) -> impl Iterator<Item = &'static Rule> {
        let any = |patterns: &[String], rule: &Rule| patterns.iter().any(|pattern| rule.matches(pattern));
        rules::all()
            .filter(move |rule| self.only.is_empty() || any(&self.only, rule))
            .filter(move |rule| !any(&self.skip, rule))
    }

    /// Checks that the patterns of [`only`](Self::only) and [`skip`](Self::skip) select rules. [`run`](Self::run) begins
    /// with this check.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchRule`] for a pattern that matches no rule, [`Error::NoRules`] if nothing is left to try.
    pub fn validate(&self) -> Result<(), Error> {
        for (filter, patterns) in [("only", &self.only), ("skip", &self.skip)] {
            if let Some(pattern) = patterns.iter().find(|pattern| !rules::all().any(|rule| rule.matches(pattern))) {
                return Err(Error::NoSuchRule { filter, pattern: pattern.clone() });
            }
        }
        if self.selected().next().is_none() { Err(Error::NoRules) } else { Ok(()) }
    }

    /// Tries the selected rules.
    ///
    /// # Errors
    ///
    /// Where no verdict can be given: the plugin cannot be started or serve an `ADD` at all, the suite has not the
    /// privileges that it needs, or [`validate`](Self::validate) fails.
    pub fn run(&self) -> Result<Report, Error> {
        self.run_with(&mut |_| {})
    }

    /// As [`run`](Self::run), and tells how far it has come before each trial.
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run).
    pub fn run_with(&self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Report, Error> {
        let begun = Instant::now();
        self.validate()?;
        let probe = Probe::of(self)?;
        let trials: Vec<(&Rule, Version)> = self.selected().flat_map(|rule| trials_of(rule, &probe)).collect();
        let mut findings = Vec::with_capacity(trials.len());
        for (done, &(rule, version)) in trials.iter().enumerate() {
            progress(Progress { done, total: trials.len(), rule });
            findings.push(self.attempt(rule, version, &probe)?);
        }
        Ok(Report {
            plugin: self.plugin.clone(),
            network: self.config.name().to_owned(),
            kind: probe.kind,
            versions: probe.versions,
            seconds: begun.elapsed().as_secs_f64(),
            findings,
        })
    }

    fn attempt(&self, rule: &Rule, version: Version, probe: &Probe) -> Result<Finding, Error> {
        let begun = Instant::now();
        let ended = Host::run(|host| {
            let bench = Bench::new(self, probe, host, version);
            bench.require(rule)?;
            self.prepare()?;
            rule.check.run(&bench)
        })?;
        let (outcome, expected, seen) = match ended {
            Ok(()) => (Outcome::Passed, None, None),
            Err(Stop::NotTried(reason)) => (Outcome::Skipped, None, Some(reason)),
            Err(Stop::Error(error)) => return Err(*error),
            Err(Stop::Broken { expected, seen }) => {
                let outcome = if rule.level == Level::Must { Outcome::Failed } else { Outcome::Warned };
                (outcome, expected, Some(seen))
            }
        };
        Ok(Finding {
            rule: rule.id.to_owned(),
            level: rule.level,
            verb: rule.verb.as_str().to_owned(),
            section: rule.section.title().to_owned(),
            url: rule.section.url(),
            version,
            outcome,
            expected: expected.unwrap_or_else(|| rule.says.to_owned()),
            seen,
            seconds: begun.elapsed().as_secs_f64(),
        })
    }

    /// Runs the script that prepares a host, if there is one.
    pub(super) fn prepare(&self) -> Result<(), Error> {
        let Some(script) = &self.prepare else { return Ok(()) };
        let failed = |seen| Error::Prepare { path: script.clone(), seen };
        match Call::new(script, self.limit).env("PATH", PATH).run() {
            Ok(reply) if reply.succeeded() => Ok(()),
            Ok(reply) => Err(failed(reply.to_string())),
            Err(Stop::Error(error)) => Err(*error),
            Err(Stop::Broken { seen, .. } | Stop::NotTried(seen)) => Err(failed(seen)),
        }
    }

    /// A call of the plugin with what every verb is given.
    pub(super) fn call(&self, verb: &str) -> Call {
        let path: Vec<&str> = self.cni_path.iter().filter_map(|directory| directory.to_str()).collect();
        Call::new(&self.plugin, self.limit).env("PATH", PATH).env("CNI_COMMAND", verb).env("CNI_PATH", path.join(":"))
    }

    /// The executable of a delegate, if there is one on `CNI_PATH`.
    pub(super) fn find(&self, delegate: &str) -> Option<PathBuf> {
        self.cni_path.iter().map(|directory| directory.join(delegate)).find(|path| path.is_file())
    }
}

/// The versions to try a rule with. One that no version has is tried with the newest, and says why not.
fn trials_of(rule: &'static Rule, probe: &Probe) -> Vec<(&'static Rule, Version)> {
    let mut versions = vec![probe.newest];
    if rule.each_version && rule.since <= probe.newest {
        versions = probe.versions.iter().copied().filter(|version| *version >= rule.since).collect();
    }
    versions.into_iter().map(|version| (rule, version)).collect()
}
