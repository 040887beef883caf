use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::process::{self, ProcessError, ProcessOutput, STDOUT_LIMIT};
use super::{AttachmentParameters, Error};
use crate::spec::{AddResult, Args, Command, ContainerId, ErrorDocument, IfName, RawConfig, Variable, Version};

/// How much of an unusable standard output an error cites, in bytes.
const CITED: usize = 512;

/// One call of a plugin: its executable, the verb and the variables of the environment.
///
/// The process inherits the caller's environment, `PATH` and the like, but for the `CNI_*` parameters: those are as
/// said here, and empty where nothing is said, as runtimes export them.
///
/// ```no_run
/// use std::time::Duration;
///
/// use cnikit::runtime::{Invocation, AttachmentParameters, find};
/// use cnikit::spec::{Command, RawConfig};
///
/// let path = ["/opt/cni/bin".into()];
/// let parameters = AttachmentParameters::new("c1".parse()?, "eth0".parse()?).in_netns("/run/netns/c1");
/// let config = RawConfig::parse(br#"{"cniVersion": "1.1.0", "name": "dbnet", "type": "bridge"}"#)?;
/// let result = Invocation::new(find(&"bridge".parse()?, &path)?, Command::Add)
///     .with_parameters(&parameters)
///     .with_path(&path)?
///     .with_timeout(Duration::from_secs(30))
///     .add(&config)?;
/// println!("{:?}", result.ips);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Invocation {
    plugin: PathBuf,
    command: Command,
    /// What is not in here is inherited.
    variables: BTreeMap<Variable, OsString>,
    time_limit: Option<Duration>,
    forwards_stderr: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VersionAnswer {
    supported_versions: Vec<String>,
}

impl Invocation {
    /// A call by a runtime: no parameter is set yet.
    pub fn new(plugin: impl Into<PathBuf>, command: Command) -> Self {
        let variables = Variable::ALL.map(|variable| (variable, OsString::new())).into();
        Self { plugin: plugin.into(), command, variables, time_limit: None, forwards_stderr: false }
    }

    /// A call by a plugin, which passes its own parameters on: those that are not set here are inherited too, and
    /// standard error goes where the caller's goes.
    pub fn delegated(plugin: impl Into<PathBuf>, command: Command) -> Self {
        Self { variables: BTreeMap::new(), forwards_stderr: true, ..Self::new(plugin, command) }
    }

    /// With everything that is particular to an attachment, capability arguments aside: those belong into the
    /// configuration.
    #[must_use]
    pub fn with_parameters(self, parameters: &AttachmentParameters) -> Self {
        let AttachmentParameters { container_id, ifname, netns, args, .. } = parameters;
        self.on_interface(container_id, ifname).in_netns(netns.as_deref()).with_args(args)
    }

    /// With `CNI_CONTAINERID` and `CNI_IFNAME`.
    #[must_use]
    pub fn on_interface(self, container_id: &ContainerId, ifname: &IfName) -> Self {
        self.with(Variable::ContainerId, container_id.as_str()).with(Variable::IfName, ifname.as_str())
    }

    /// With `CNI_NETNS`, or with an empty one.
    #[must_use]
    pub fn in_netns(self, netns: Option<&Path>) -> Self {
        self.with(Variable::Netns, netns.unwrap_or(Path::new("")))
    }

    /// With `CNI_ARGS`.
    #[must_use]
    pub fn with_args(self, args: &Args) -> Self {
        self.with(Variable::Args, args.to_string())
    }

    /// With `CNI_PATH`: the directories in which the plugin will look for its delegates.
    ///
    /// # Errors
    ///
    /// [`Error::Path`] for a directory with a `:` in its name.
    pub fn with_path(self, path: &[PathBuf]) -> Result<Self, Error> {
        let path = std::env::join_paths(path).map_err(|source| Error::Path { source })?;
        Ok(self.with(Variable::Path, path))
    }

    /// With a time limit. When it is over the plugin is killed, with all processes of its process group; that is a new
    /// one. Without a limit the plugin stays in the caller's group, and a caller that is killed by group takes it along.
    #[must_use]
    pub fn with_timeout(mut self, limit: Duration) -> Self {
        self.time_limit = Some(limit);
        self
    }

    /// With the plugin's standard error passed on to the caller's as it comes. Its end is kept for errors in any case.
    #[must_use]
    pub fn forwarding_stderr(mut self) -> Self {
        self.forwards_stderr = true;
        self
    }

    /// The variables that the process gets beside what it inherits.
    pub fn variables(&self) -> impl Iterator<Item = (&'static str, &OsStr)> {
        let command = std::iter::once(("CNI_COMMAND", OsStr::new(self.command.as_str())));
        command.chain(self.variables.iter().map(|(variable, value)| (variable.as_str(), value.as_os_str())))
    }

    /// Runs the plugin for its result, as of an `ADD`. One that does not state its version has the configuration's.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run). [`Error::NotJson`], [`Error::ErrorAsResult`] or [`Error::InvalidAnswer`] when the plugin
    /// succeeded and what it wrote is no result.
    pub fn add(&self, config: &RawConfig) -> Result<AddResult, Error> {
        let version = config.cni_version()?;
        let json: Value = self.json(&self.run(config)?)?;
        if let Ok(ErrorDocument { code, msg, .. }) = ErrorDocument::deserialize(&json) {
            return Err(Error::ErrorAsResult { plugin: self.plugin.clone(), command: self.command, code, msg });
        }
        // What an old plugin without anything to say writes.
        let json = if json.is_null() { Value::Object(serde_json::Map::new()) } else { json };
        AddResult::from_json(&json, version).map_err(|source| self.invalid(source))
    }

    /// Runs the plugin for the versions that it speaks: `VERSION`. Versions that this library does not know are left
    /// out. A plugin older than the verb speaks 0.1.0.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run). [`Error::NotJson`] when the plugin succeeded and what it wrote is no answer.
    pub fn versions(&self) -> Result<Vec<Version>, Error> {
        let question = RawConfig::parse(format!(r#"{{"cniVersion":"{}"}}"#, Version::LATEST))?;
        // A plugin from before this verb looks for its variables first, and must find something to get to the verb.
        let asking = [Variable::Netns, Variable::IfName, Variable::Path];
        let asking = asking.into_iter().fold(self.clone(), |asking, variable| asking.with(variable, "none"));
        let stdout = match asking.run(&question) {
            Err(Error::Plugin { msg, .. }) if msg == "unknown CNI_COMMAND: VERSION" => {
                return Ok(vec![Version::V0_1_0]);
            }
            outcome => outcome?,
        };
        let answer: VersionAnswer = self.json(&stdout)?;
        let mut versions: Vec<Version> =
            answer.supported_versions.iter().filter_map(|text| text.parse().ok()).collect();
        versions.sort_unstable();
        versions.dedup();
        Ok(versions)
    }

    /// Runs the plugin and returns its standard output, unjudged: the verbs without a result succeed by their exit
    /// status alone.
    ///
    /// The call is over when the plugin itself has ended. A child that it left in the background, with standard output
    /// still open, is not waited for.
    ///
    /// # Errors
    ///
    /// [`Error::Plugin`] when the plugin failed and said why, [`Error::NoDocument`] when it failed without;
    /// [`Error::Start`], [`Error::Talk`], [`Error::TimedOut`] or [`Error::OutputTooLong`].
    ///
    /// # Kernel
    ///
    /// Linux 5.3, for [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html).
    pub fn run(&self, config: &RawConfig) -> Result<Vec<u8>, Error> {
        let mut process = std::process::Command::new(&self.plugin);
        process.envs(self.variables());
        let ended = process::run(&mut process, config.as_bytes(), self.time_limit, self.forwards_stderr)
            .map_err(|trouble| self.trouble(trouble))?;
        if ended.status.success() { Ok(ended.stdout) } else { Err(self.failed(ended)) }
    }

    fn with(mut self, variable: Variable, value: impl AsRef<OsStr>) -> Self {
        self.variables.insert(variable, value.as_ref().to_owned());
        self
    }

    fn json<T: for<'de> Deserialize<'de>>(&self, stdout: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(stdout).map_err(|source| {
            let output = text(&stdout[..stdout.len().min(CITED)]);
            Error::NotJson { plugin: self.plugin.clone(), command: self.command, output, source }
        })
    }

    fn failed(&self, ProcessOutput { status, stdout, stderr }: ProcessOutput) -> Error {
        let (plugin, command) = (self.plugin.clone(), self.command);
        match serde_json::from_slice(&stdout) {
            Ok(ErrorDocument { code, msg, details, .. }) => Error::Plugin { plugin, command, code, msg, details },
            Err(_) => {
                let output = Some(text(&stderr)).filter(|stderr| !stderr.is_empty());
                let output = output.unwrap_or_else(|| text(&stdout[stdout.len().saturating_sub(CITED)..]));
                Error::NoDocument { plugin, command, status, output }
            }
        }
    }

    fn trouble(&self, trouble: ProcessError) -> Error {
        let (plugin, command) = (self.plugin.clone(), self.command);
        match trouble {
            ProcessError::Start(source) => Error::Start { plugin, source },
            ProcessError::Talk(source) => Error::Talk { plugin, command, source },
            ProcessError::TimedOut { stderr } => {
                let limit = self.time_limit.unwrap_or_default();
                Error::TimedOut { plugin, command, limit, stderr: text(&stderr) }
            }
            ProcessError::TooLong => Error::OutputTooLong { plugin, command, limit: STDOUT_LIMIT },
        }
    }

    fn invalid(&self, source: crate::spec::Error) -> Error {
        Error::InvalidAnswer { plugin: self.plugin.clone(), command: self.command, source }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}
