use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::config::Config;
use super::fixture::Fixture;
use super::host::Host;
use super::probe::Probe;
use super::report::{Finding, Outcome, Report};
use super::rule::{Level, Rule};
use super::subject::Subject;
use super::verdict::Stop;
use super::{Error, rules};
use crate::spec::{IfName, Version};

/// The default timeout of a call. Runtimes wait longer; a plugin that needs this much hangs.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A plugin under test, with the options of the run.
#[derive(Debug, Clone)]
pub struct Suite {
    subject: Subject,
    versions: Vec<Version>,
    only: Vec<String>,
    skip: Vec<String>,
}

/// The progress of a run.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Progress<'a> {
    /// The number of finished trials.
    pub done: usize,
    /// The number of all trials.
    pub total: usize,
    /// The current rule.
    pub rule: &'a Rule,
}

impl Suite {
    /// A suite for the plugin at a path, with a network configuration for one plugin. The suite
    /// sets `cniVersion` in each call.
    ///
    /// From a configuration list, the suite selects the plugin with the executable's file name as
    /// `type`. If there is none, it selects the first plugin. A plugin that follows others in the
    /// list is [chained](Self::chained).
    ///
    /// The plugin must not be in `/run` or `/var/lib/cni`, which are empty on the private hosts.
    /// The pool should have at most 60 addresses. A larger pool is not exhausted, and the rules
    /// about an exhausted pool are skipped.
    ///
    /// # Errors
    ///
    /// [`Error::Plugin`] or [`Error::Config`].
    pub fn new(plugin: impl AsRef<Path>, config: Value) -> Result<Self, Error> {
        let path = plugin.as_ref();
        let failed = |source| Error::Plugin { path: path.to_owned(), source };
        let real = path.canonicalize().map_err(failed)?;
        // A program with several plugins recognizes the called one by the name of a link.
        let plugin = std::path::absolute(path).map_err(failed)?;
        let executable = path.file_name().unwrap_or_default().to_string_lossy();
        let config = Config::new(config, &executable)?;
        let subject = Subject {
            cni_path: real.parent().map(Path::to_owned).into_iter().collect(),
            plugin,
            timeout: TIMEOUT,
            prepare: None,
            chained: config.follows_another,
            config,
            ifname: "eth0".to_owned(),
        };
        Ok(Self { subject, versions: Vec::new(), only: Vec::new(), skip: Vec::new() })
    }

    /// Tests the plugin as a chained plugin, which runs after another one.
    ///
    /// The suite plays the previous plugin. Before each `ADD` it connects the pod to the host with
    /// a veth pair, and adds an IPv4 address and a default route. `prevResult` lists them. Rules
    /// about the creation of interfaces and addresses are skipped, and the rules `chain.*` apply.
    #[must_use]
    pub fn chained(mut self) -> Self {
        self.subject.chained = true;
        self
    }

    /// Adds a directory to `CNI_PATH`, for delegates. The directory of the plugin comes first.
    #[must_use]
    pub fn with_cni_path(mut self, directory: impl AsRef<Path>) -> Self {
        self.subject.cni_path.push(directory.as_ref().to_owned());
        self
    }

    /// Adds a version to try. The default is every version that the plugin supports.
    #[must_use]
    pub fn with_version(mut self, version: Version) -> Self {
        self.versions.push(version);
        self
    }

    /// The name of the interface in the container; the default is `eth0`.
    #[must_use]
    pub fn ifname(mut self, ifname: &IfName) -> Self {
        ifname.as_str().clone_into(&mut self.subject.ifname);
        self
    }

    /// Adds a pattern of rule ids to try; `*` matches anything. A pattern that matches no rule is
    /// an error of [`run`](Self::run).
    #[must_use]
    pub fn only(mut self, pattern: impl Into<String>) -> Self {
        self.only.push(pattern.into());
        self
    }

    /// Adds a pattern of rule ids to skip. A pattern that matches no rule is an error of
    /// [`run`](Self::run).
    #[must_use]
    pub fn skip(mut self, pattern: impl Into<String>) -> Self {
        self.skip.push(pattern.into());
        self
    }

    /// The timeout of each call; the default is 30 seconds.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.subject.timeout = timeout;
        self
    }

    /// A script that runs on each private host before the plugin, for example to create the link
    /// that the configuration names as `master`.
    #[must_use]
    pub fn prepare(mut self, script: impl AsRef<Path>) -> Self {
        self.subject.prepare = Some(script.as_ref().to_owned());
        self
    }

    /// The rules that [`only`](Self::only) and [`skip`](Self::skip) select.
    pub fn selected(&self) -> impl Iterator<Item = &'static Rule> {
        let any = |patterns: &[String], rule: &Rule| patterns.iter().any(|pattern| rule.matches(pattern));
        rules::all()
            .filter(move |rule| self.only.is_empty() || any(&self.only, rule))
            .filter(move |rule| !any(&self.skip, rule))
    }

    /// Checks that the patterns of [`only`](Self::only) and [`skip`](Self::skip) select rules.
    /// [`run`](Self::run) starts with this check.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchRule`] for a pattern that matches no rule, [`Error::NoRules`] if no rule is
    /// left.
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
    /// An error means that there is no verdict. The plugin cannot be started or cannot serve an
    /// `ADD`, the suite lacks privileges, or [`validate`](Self::validate) fails.
    pub fn run(&self) -> Result<Report, Error> {
        self.run_with(&mut |_| {})
    }

    /// Like [`run`](Self::run), and reports the progress before each trial.
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run).
    pub fn run_with(&self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Report, Error> {
        let begun = Instant::now();
        self.validate()?;
        let probe = Probe::of(&self.subject, &self.versions)?;
        let trials: Vec<(&Rule, Version)> = self.selected().flat_map(|rule| trials_of(rule, &probe)).collect();
        let mut findings = Vec::with_capacity(trials.len());
        for (done, &(rule, version)) in trials.iter().enumerate() {
            progress(Progress { done, total: trials.len(), rule });
            findings.push(self.attempt(rule, version, &probe)?);
        }
        Ok(Report {
            plugin: self.subject.plugin.clone(),
            network: self.subject.config.name().to_owned(),
            kind: probe.kind,
            versions: probe.versions,
            seconds: begun.elapsed().as_secs_f64(),
            findings,
        })
    }

    fn attempt(&self, rule: &Rule, version: Version, probe: &Probe) -> Result<Finding, Error> {
        let begun = Instant::now();
        let ended = Host::run(|host| {
            let fixture = Fixture::new(&self.subject, probe, host, version);
            rule.require_applicable(&fixture)?;
            self.subject.prepare()?;
            rule.check.run(&fixture)
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
            expected: expected.unwrap_or_else(|| rule.description.to_owned()),
            seen,
            seconds: begun.elapsed().as_secs_f64(),
        })
    }
}

/// The versions for the trials of a rule. A rule that is newer than all of them gets one trial,
/// which is skipped with the reason.
fn trials_of(rule: &'static Rule, probe: &Probe) -> Vec<(&'static Rule, Version)> {
    let mut versions = vec![probe.newest];
    if rule.each_version && rule.since <= probe.newest {
        versions = probe.versions.iter().copied().filter(|version| *version >= rule.since).collect();
    }
    versions.into_iter().map(|version| (rule, version)).collect()
}
