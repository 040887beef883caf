//! One call of the plugin, as a runtime makes it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Map, Value};

use super::Error;
use super::verdict::{Verdict, broken, ensure, unexpected};

/// The pause between two checks of a process that has closed its output.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// The maximum length of quoted output, in characters.
const MAX_EXCERPT: usize = 400;

/// A process to run: the verb, the variables and the standard input.
#[derive(Debug, Clone)]
pub(super) struct Call {
    program: PathBuf,
    env: BTreeMap<String, OsString>,
    stdin: Stdin,
    timeout: Duration,
}

#[derive(Debug, Clone)]
enum Stdin {
    Config(Map<String, Value>),
    Bytes(Vec<u8>),
}

/// A running call. Dropping it kills the process and its children.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    deadline: Instant,
    timeout: Duration,
    ended: bool,
}

/// The result of a call.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

impl Call {
    /// A call of a program without variables and input.
    pub(super) fn new(program: &Path, timeout: Duration) -> Self {
        Self { program: program.to_owned(), env: BTreeMap::new(), stdin: Stdin::Bytes(Vec::new()), timeout }
    }

    /// Sets an environment variable. The environment is empty otherwise.
    #[must_use]
    pub(super) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.to_owned(), value.as_ref().to_owned());
        self
    }

    /// Makes the call look up plugins in this directory first.
    #[must_use]
    pub(super) fn path_first(mut self, directory: &Path) -> Self {
        let mut path = directory.as_os_str().to_owned();
        if let Some(rest) = self.env.get("CNI_PATH").filter(|rest| !rest.is_empty()) {
            path.push(":");
            path.push(rest);
        }
        self.env.insert("CNI_PATH".to_owned(), path);
        self
    }

    /// Removes a variable.
    #[must_use]
    pub(super) fn without(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    /// Sets the configuration for standard input.
    #[must_use]
    pub(super) fn config(mut self, config: Map<String, Value>) -> Self {
        self.stdin = Stdin::Config(config);
        self
    }

    /// Sets a key of the configuration.
    #[must_use]
    pub(super) fn key(mut self, key: &str, value: impl Into<Value>) -> Self {
        if let Stdin::Config(config) = &mut self.stdin {
            config.insert(key.to_owned(), value.into());
        }
        self
    }

    /// Removes a key of the configuration.
    #[must_use]
    pub(super) fn without_key(mut self, key: &str) -> Self {
        if let Stdin::Config(config) = &mut self.stdin {
            config.remove(key);
        }
        self
    }

    /// Sets any text as standard input; `change` gets the configuration as text.
    #[must_use]
    pub(super) fn stdin(mut self, change: impl FnOnce(String) -> String) -> Self {
        let bytes = String::from_utf8_lossy(&self.input()).into_owned();
        self.stdin = Stdin::Bytes(change(bytes).into_bytes());
        self
    }

    /// Runs the process to its end. A timeout breaks the rule under test.
    pub(super) fn run(&self) -> Verdict<Reply> {
        self.start()?.wait()
    }

    /// Starts the process in the namespaces of the calling thread.
    pub(super) fn start(&self) -> Result<Running, Error> {
        let mut command = Command::new(&self.program);
        command.env_clear().envs(&self.env).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|source| Error::Start { path: self.program.clone(), source })?;
        let input = self.input();
        if let Some(mut pipe) = child.stdin.take() {
            // A plugin that ends without reading its input closes the pipe.
            thread::spawn(move || pipe.write_all(&input));
        }
        let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
        Ok(Running {
            child,
            stdout,
            stderr,
            deadline: Instant::now() + self.timeout,
            timeout: self.timeout,
            ended: false,
        })
    }

    fn input(&self) -> Vec<u8> {
        match &self.stdin {
            Stdin::Config(config) => Value::from(config.clone()).to_string().into_bytes(),
            Stdin::Bytes(bytes) => bytes.clone(),
        }
    }
}

impl Running {
    /// Kills the process and its children, as an operator or the kernel may at any moment.
    pub(super) fn kill(&mut self) {
        if self.ended {
            return;
        }
        // The process is not reaped yet, so its id is still valid. An error means that all
        // processes of the group have ended.
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
        self.ended = true;
    }

    /// Waits for the end. Like a runtime, it reads both outputs to their end first. A child that
    /// keeps an output open counts as running.
    pub(super) fn wait(mut self) -> Verdict<Reply> {
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        let late = |what: &str, timeout: Duration| {
            unexpected(
                format!("the plugin ends and closes its output within {timeout:?}"),
                format!("after that time {what}; it was killed"),
            )
        };
        let Ok(stdout) = self.stdout.recv_timeout(left(self.deadline)) else {
            return late("standard output is still open", self.timeout);
        };
        let Ok(stderr) = self.stderr.recv_timeout(left(self.deadline)) else {
            return late("standard error is still open", self.timeout);
        };
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    self.ended = true;
                    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
                    return Ok(Reply { status, stdout: text(stdout), stderr: text(stderr) });
                }
                Ok(None) if Instant::now() < self.deadline => thread::sleep(POLL_INTERVAL),
                _ => return late("the process is still running", self.timeout),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Reply {
    /// Whether the exit status is success.
    pub(super) fn succeeded(&self) -> bool {
        self.status.success()
    }

    /// The rule holds if the call succeeded.
    pub(super) fn success(&self) -> Verdict {
        ensure(self.succeeded(), || self.to_string())
    }

    /// The rule holds if the call failed with an exit status.
    pub(super) fn failure(&self) -> Verdict {
        ensure(self.status.code().is_some_and(|code| code != 0), || self.to_string())
    }

    /// The rule holds if standard output is empty.
    pub(super) fn silence(&self) -> Verdict {
        ensure(self.stdout.trim().is_empty(), || self.to_string())
    }

    /// The document on standard output, which must be a single JSON object.
    pub(super) fn document(&self) -> Verdict<Value> {
        match serde_json::from_str(&self.stdout) {
            Ok(document @ Value::Object(_)) => Ok(document),
            Ok(_) => broken(format!("standard output is not a JSON object: {self}")),
            Err(error) => broken(format!("standard output is not one JSON document ({error}): {self}")),
        }
    }

    /// The document on standard output, or `null`.
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_default()
    }
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => write!(f, "exit status {code}")?,
            (None, Some(signal)) => write!(f, "killed by signal {signal}")?,
            (None, None) => write!(f, "{}", self.status)?,
        }
        // JSON is printed on one line, independent of the layout in the output.
        let document = self.json();
        let stdout = if document.is_null() { self.stdout.trim().to_owned() } else { document.to_string() };
        write!(f, ", stdout {}", Excerpt(&stdout))?;
        // Many plugins also log the message of the error document.
        let stderr = self.stderr.trim();
        let is_repeated = document["msg"].as_str().is_some_and(|msg| !msg.is_empty() && stderr.contains(msg));
        if !stderr.is_empty() && !is_repeated {
            write!(f, ", stderr {}", Excerpt(stderr))?;
        }
        Ok(())
    }
}

/// The start of a text, up to the maximum length.
struct Excerpt<'a>(&'a str);

impl std::fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = self.0;
        match text.char_indices().nth(MAX_EXCERPT) {
            None if text.is_empty() => f.write_str("empty"),
            None => f.write_str(text),
            Some((end, _)) => write!(f, "{}...", &text[..end]),
        }
    }
}

/// Reads a pipe to its end on a separate thread, so that a full pipe does not block the process.
fn drain(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // Keep the bytes that were read before an error.
            let _ = pipe.read_to_end(&mut bytes);
        }
        // The receiver is gone after a timeout.
        let _ = sender.send(bytes);
    });
    receiver
}
