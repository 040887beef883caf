//! A CNI plugin, run as a runtime runs it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::Value;

use crate::{Call, Command, Output, Pod, Ruling, Running};

/// The default timeout of a command. Runtimes wait longer, but a plugin that needs this much time
/// is broken.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// A plugin binary.
#[derive(Debug, Clone)]
pub struct Plugin {
    path: PathBuf,
    /// The value of `CNI_PATH`.
    folders: OsString,
}

/// One call of a plugin: a command, its variables and its standard input.
#[derive(Debug, Clone)]
pub struct Invocation {
    program: PathBuf,
    env: BTreeMap<String, OsString>,
    stdin: Vec<u8>,
    limit: Duration,
}

/// The outcome of a call.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The exit status.
    pub status: ExitStatus,
    /// Its standard output: the result, the error, or nothing.
    pub stdout: String,
    /// Its standard error: log lines, which runtimes ignore.
    pub stderr: String,
    /// Its standard output as JSON; `null` if it is empty or not JSON.
    pub json: Value,
}

impl Plugin {
    /// A binary by its path.
    #[must_use]
    pub fn new(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_owned();
        let folders = path.parent().unwrap_or(Path::new("/")).into();
        Self { path, folders }
    }

    /// The same plugin, with an additional folder in `CNI_PATH`.
    #[must_use]
    pub fn beside(mut self, folder: &str) -> Self {
        self.folders.push(":");
        self.folders.push(folder);
        self
    }

    /// A call of any command, with only `CNI_COMMAND` and `CNI_PATH` set.
    #[must_use]
    pub fn invocation(&self, verb: &str) -> Invocation {
        Invocation { program: self.path.clone(), env: BTreeMap::new(), stdin: Vec::new(), limit: DEFAULT_TIMEOUT }
            .env("CNI_COMMAND", verb)
            .env("CNI_PATH", &self.folders)
            // Reference plugins run iptables by name.
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    }

    /// A call of a command on an attachment: all variables set, the interface `eth0`, the
    /// configuration on stdin.
    #[must_use]
    pub fn on(&self, verb: &str, config: &Value, container: &str, pod: &Pod) -> Invocation {
        self.invocation(verb)
            .env("CNI_CONTAINERID", container)
            .env("CNI_NETNS", pod.netns())
            .env("CNI_IFNAME", "eth0")
            .config(config)
    }
}

impl Invocation {
    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    /// Removes a variable.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    /// Sets the network configuration on standard input.
    #[must_use]
    pub fn config(self, config: &Value) -> Self {
        self.stdin(config.to_string())
    }

    /// Sets any bytes as standard input.
    #[must_use]
    pub fn stdin(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.stdin = input.into();
        self
    }

    /// Sets the timeout, which is 15 seconds by default.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The process of the call, not started, for tests that supervise it. The test must write
    /// [`input`](Self::input) itself.
    #[must_use]
    pub fn process(&self) -> std::process::Command {
        let mut process = std::process::Command::new(&self.program);
        process.env_clear().envs(&self.env);
        process
    }

    /// The standard input.
    #[must_use]
    pub fn input(&self) -> &[u8] {
        &self.stdin
    }

    /// Calls the plugin in the namespaces of the calling thread.
    ///
    /// # Panics
    ///
    /// If the plugin cannot be started or exceeds the timeout.
    #[track_caller]
    #[must_use]
    pub fn run(&self) -> Outcome {
        self.command().output().into()
    }

    /// As [`run`](Self::run), with a judge for its system calls: see [`Command::supervised`].
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run), and if the kernel rejects the filter.
    #[track_caller]
    #[must_use]
    pub fn supervised(&self, judge: impl FnMut(&Call) -> Ruling + Send) -> Outcome {
        self.command().supervised(judge).into()
    }

    /// Starts the call in the background, for a test that kills it. Its output is discarded.
    ///
    /// # Panics
    ///
    /// If the plugin cannot be started.
    #[track_caller]
    #[must_use]
    pub fn spawn(&self) -> Running {
        self.command().spawn_unheard()
    }

    #[track_caller]
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program).env_clear().stdin(self.stdin.clone()).limit(self.limit);
        for (name, value) in &self.env {
            command = command.env(name, value);
        }
        command
    }
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        let Output { status, stdout, stderr } = output;
        let json = serde_json::from_str(&stdout).unwrap_or_default();
        Self { status, stdout, stderr, json }
    }
}

impl Outcome {
    /// The result of a call that must have succeeded.
    ///
    /// # Panics
    ///
    /// If the call failed, or its output is not JSON.
    #[track_caller]
    pub fn result(self) -> Value {
        assert!(self.status.success(), "the plugin failed: {self:#?}");
        assert!(self.stdout.trim().is_empty() || !self.json.is_null(), "no JSON on stdout: {self:#?}");
        self.json
    }

    /// Checks that the call succeeded and printed nothing, as the specification requires of all
    /// commands except ADD and VERSION.
    ///
    /// # Panics
    ///
    /// If the call failed or printed to standard output.
    #[track_caller]
    pub fn silent(self) {
        assert!(self.status.success(), "the plugin failed: {self:#?}");
        assert_eq!(self.stdout, "", "the plugin printed to stdout");
    }

    /// The message of a call that must have failed with this code: `msg` and `details` joined.
    ///
    /// # Panics
    ///
    /// If the call succeeded, if its exit status is not 1, or if its error does not have the
    /// specified shape.
    #[track_caller]
    #[must_use]
    pub fn error(self, code: u64) -> String {
        assert_eq!(self.status.code(), Some(1), "the exit status is not 1: {self:#?}");
        assert_eq!(self.json["code"].as_u64(), Some(code), "wrong code: {self:#?}");
        assert!(self.json["cniVersion"].is_string(), "an error without cniVersion: {self:#?}");
        let message = self.json["msg"].as_str().unwrap_or_default();
        assert!(!message.is_empty(), "an error without msg: {self:#?}");
        let details = self.json["details"].as_str().unwrap_or_default();
        format!("{message} {details}").trim_end().to_owned()
    }
}
