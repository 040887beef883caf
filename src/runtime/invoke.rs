use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::process::{self, CallOptions, ProcessError, ProcessOutput, STDOUT_LIMIT};
use super::{AttachmentParameters, Error};
use crate::spec::{AddResult, Args, Command, ContainerId, ErrorDocument, IfName, RawConfig, Variable, Version};

/// The maximum number of bytes of an unusable standard output in an error.
const MAX_EXCERPT: usize = 512;

/// One call of a plugin: its executable, the verb and the environment variables.
///
/// The process inherits the caller's environment except the `CNI_*` parameters. An unset parameter
/// is empty, as runtimes export it.
///
/// ```no_run
/// use std::time::Duration;
///
/// use cnikit::runtime::{AttachmentParameters, Invocation, find};
/// use cnikit::spec::{Command, RawConfig};
///
/// let path = ["/opt/cni/bin".into()];
/// let parameters = AttachmentParameters::new("c1".parse()?, "eth0".parse()?).netns("/run/netns/c1");
/// let config = RawConfig::parse(br#"{"cniVersion": "1.1.0", "name": "dbnet", "type": "bridge"}"#)?;
/// let result = Invocation::new(find(&"bridge".parse()?, &path)?, Command::Add)
///     .parameters(&parameters)
///     .path(&path)?
///     .timeout(Duration::from_secs(30))
///     .add(&config)?;
/// println!("{:?}", result.ips);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Invocation {
    plugin: PathBuf,
    command: Command,
    /// Other variables are inherited.
    variables: BTreeMap<Variable, OsString>,
    options: CallOptions,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VersionResponse {
    supported_versions: Vec<String>,
}

impl Invocation {
    /// Creates a call by a runtime, without parameters.
    pub fn new(plugin: impl Into<PathBuf>, command: Command) -> Self {
        let variables = Variable::ALL.map(|variable| (variable, OsString::new())).into();
        Self { plugin: plugin.into(), command, variables, options: CallOptions::default() }
    }

    /// Creates a call by a plugin. Parameters that are not set here are inherited too. The
    /// delegate's standard error is forwarded to standard error of this process.
    pub fn delegated(plugin: impl Into<PathBuf>, command: Command) -> Self {
        Self { variables: BTreeMap::new(), ..Self::new(plugin, command) }.forward_stderr()
    }

    /// Sets all parameters of an attachment except capability arguments, which belong into the
    /// configuration.
    #[must_use]
    pub fn parameters(self, parameters: &AttachmentParameters) -> Self {
        let AttachmentParameters { container_id, ifname, netns, args, .. } = parameters;
        self.interface(container_id, ifname).netns(netns.as_deref()).args(args)
    }

    /// Sets `CNI_CONTAINERID` and `CNI_IFNAME`.
    #[must_use]
    pub fn interface(self, container_id: &ContainerId, ifname: &IfName) -> Self {
        self.with(Variable::ContainerId, container_id.as_str()).with(Variable::IfName, ifname.as_str())
    }

    /// Sets `CNI_NETNS`; `None` sets an empty value.
    #[must_use]
    pub fn netns(self, netns: Option<&Path>) -> Self {
        self.with(Variable::Netns, netns.unwrap_or(Path::new("")))
    }

    /// Sets `CNI_ARGS`.
    #[must_use]
    pub fn args(self, args: &Args) -> Self {
        self.with(Variable::Args, args.to_string())
    }

    /// Sets `CNI_PATH`: the directories that the plugin searches for its delegates.
    ///
    /// # Errors
    ///
    /// [`Error::Path`] for a directory with a `:` in its name.
    pub fn path(self, path: &[PathBuf]) -> Result<Self, Error> {
        let path = std::env::join_paths(path).map_err(|source| Error::Path { source })?;
        Ok(self.with(Variable::Path, path))
    }

    /// Sets a timeout. The plugin then runs in a process group of its own. When the timeout
    /// expires, the whole group is killed. Without a timeout the plugin stays in the caller's
    /// group, so that a signal to that group also reaches the plugin.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// Forwards the plugin's standard error to standard error of this process at once. Errors
    /// contain its end in any case.
    #[must_use]
    pub fn forward_stderr(mut self) -> Self {
        self.options.forward_stderr = true;
        self
    }

    pub(super) fn options(self, options: CallOptions) -> Self {
        Self { options, ..self }
    }

    /// The variables that the process receives in addition to the inherited ones.
    pub fn variables(&self) -> impl Iterator<Item = (&'static str, &OsStr)> {
        let command = std::iter::once(("CNI_COMMAND", OsStr::new(self.command.as_str())));
        command.chain(self.variables.iter().map(|(variable, value)| (variable.as_str(), value.as_os_str())))
    }

    /// Runs the plugin and parses its result, as for `ADD`. A result without a version has the
    /// configuration's version.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run). [`Error::NotJson`], [`Error::ErrorAsResult`] or
    /// [`Error::InvalidResponse`] if the plugin succeeded without a valid result.
    pub fn add(&self, config: &RawConfig) -> Result<AddResult, Error> {
        let version = config.cni_version()?;
        let json: Value = self.json(&self.run(config)?)?;
        if let Ok(ErrorDocument { code, msg, .. }) = ErrorDocument::deserialize(&json) {
            return Err(Error::ErrorAsResult { plugin: self.plugin.clone(), command: self.command, code, msg });
        }
        // Old plugins write `null` as an empty result.
        let json = if json.is_null() { Value::Object(serde_json::Map::new()) } else { json };
        AddResult::from_json(&json, version).map_err(|source| self.invalid(source))
    }

    /// Runs the plugin with `VERSION` and returns its supported versions, without versions unknown
    /// to this library. A plugin older than the verb supports 0.1.0.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run). [`Error::NotJson`] if the plugin succeeded without a valid response.
    pub fn versions(&self) -> Result<Vec<Version>, Error> {
        let request = RawConfig::parse(format!(r#"{{"cniVersion":"{}"}}"#, Version::LATEST))?;
        // A plugin older than this verb validates its variables first. They must have values, so
        // that it gets to the verb.
        let variables = [Variable::Netns, Variable::IfName, Variable::Path];
        let probe = variables.into_iter().fold(self.clone(), |probe, variable| probe.with(variable, "none"));
        let stdout = match probe.run(&request) {
            Err(Error::Plugin { msg, .. }) if msg == "unknown CNI_COMMAND: VERSION" => {
                return Ok(vec![Version::V0_1_0]);
            }
            outcome => outcome?,
        };
        let response: VersionResponse = self.json(&stdout)?;
        let mut versions: Vec<Version> =
            response.supported_versions.iter().filter_map(|text| text.parse().ok()).collect();
        versions.sort_unstable();
        versions.dedup();
        Ok(versions)
    }

    /// Runs the plugin and returns its standard output unvalidated. For verbs without a result,
    /// only the exit status counts.
    ///
    /// The call ends when the plugin itself exits. It does not wait for a background child with
    /// standard output still open.
    ///
    /// # Errors
    ///
    /// [`Error::Plugin`] if the plugin failed with an error document, [`Error::NoDocument`] if it
    /// failed without; [`Error::Start`], [`Error::Pipe`], [`Error::TimedOut`] or
    /// [`Error::OutputTooLong`].
    ///
    /// # Kernel
    ///
    /// Linux 5.3, for [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html).
    pub fn run(&self, config: &RawConfig) -> Result<Vec<u8>, Error> {
        let mut process = std::process::Command::new(&self.plugin);
        process.envs(self.variables());
        let output =
            process::run(&mut process, config.as_bytes(), self.options).map_err(|error| self.process_error(error))?;
        if output.status.success() { Ok(output.stdout) } else { Err(self.failed(output)) }
    }

    fn with(mut self, variable: Variable, value: impl AsRef<OsStr>) -> Self {
        self.variables.insert(variable, value.as_ref().to_owned());
        self
    }

    fn json<T: for<'de> Deserialize<'de>>(&self, stdout: &[u8]) -> Result<T, Error> {
        serde_json::from_slice(stdout).map_err(|source| {
            let output = text(&stdout[..stdout.len().min(MAX_EXCERPT)]);
            Error::NotJson { plugin: self.plugin.clone(), command: self.command, output, source }
        })
    }

    fn failed(&self, ProcessOutput { status, stdout, stderr }: ProcessOutput) -> Error {
        let (plugin, command) = (self.plugin.clone(), self.command);
        match serde_json::from_slice(&stdout) {
            Ok(ErrorDocument { code, msg, details, .. }) => Error::Plugin { plugin, command, code, msg, details },
            Err(_) => {
                let output = Some(text(&stderr)).filter(|stderr| !stderr.is_empty());
                let output = output.unwrap_or_else(|| text(&stdout[stdout.len().saturating_sub(MAX_EXCERPT)..]));
                Error::NoDocument { plugin, command, status, output }
            }
        }
    }

    fn process_error(&self, error: ProcessError) -> Error {
        let (plugin, command) = (self.plugin.clone(), self.command);
        match error {
            ProcessError::Start(source) => Error::Start { plugin, source },
            ProcessError::Io(source) => Error::Pipe { plugin, command, source },
            ProcessError::TimedOut { stderr } => {
                let limit = self.options.timeout.unwrap_or_default();
                Error::TimedOut { plugin, command, limit, stderr: text(&stderr) }
            }
            ProcessError::OutputTooLong => Error::OutputTooLong { plugin, command, limit: STDOUT_LIMIT },
        }
    }

    fn invalid(&self, source: crate::spec::Error) -> Error {
        Error::InvalidResponse { plugin: self.plugin.clone(), command: self.command, source }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}
