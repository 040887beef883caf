//! Processes with a timeout that do not outlive the test.

use std::ffi::OsStr;
use std::io::{self, Read, Write as _};
use std::num::NonZeroU32;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::supervise::{self, Ruling};
use crate::{Call, require};

/// The default timeout of a command.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(20);

/// This variable multiplies every timeout by its number.
const PATIENCE: &str = "CNIKIT_PATIENCE";

/// The pause between two checks of a condition.
const STEP: Duration = Duration::from_millis(2);

/// A process to run: [`std::process::Command`] with an input and a timeout.
#[derive(Debug)]
pub struct Command {
    inner: std::process::Command,
    stdin: Vec<u8>,
    limit: Duration,
}

/// The output of a process and its exit status.
#[derive(Debug, Clone)]
pub struct Output {
    /// The exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// A process in the background. Drop kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    name: String,
}

impl Command {
    /// A program by path or by name. Names are looked up in `PATH` and in the system program
    /// directories.
    ///
    /// # Panics
    ///
    /// If there is no such program.
    #[track_caller]
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let program = program.as_ref().to_string_lossy();
        let path = require::find(&program).unwrap_or_else(|| panic!("program {program} is missing; install it"));
        Self { inner: std::process::Command::new(path), stdin: Vec::new(), limit: DEFAULT_TIMEOUT }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.inner.arg(argument);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.inner.args(arguments);
        self
    }

    /// Adds the words of a line as arguments. Quoting is not supported.
    #[must_use]
    pub fn words(self, line: &str) -> Self {
        self.args(line.split_whitespace())
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(name, value);
        self
    }

    /// Starts from an empty environment.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.inner.env_clear();
        self
    }

    /// Sets the standard input, which is empty by default.
    #[must_use]
    pub fn stdin(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.stdin = input.into();
        self
    }

    /// Sets the timeout. After it, the process is killed and the test fails.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs the process to its end, with any exit status.
    ///
    /// As a runtime does, it reads both outputs to their end. A descendant that holds an output
    /// open therefore counts as running.
    ///
    /// # Panics
    ///
    /// If the program cannot be started or exceeds its timeout.
    #[track_caller]
    #[must_use]
    pub fn output(self) -> Output {
        self.output_of(std::process::Command::spawn)
    }

    /// As [`output`](Self::output). `judge` decides each [watched](Call) call of the process and
    /// its descendants before the kernel runs it. Returns when all of them have ended.
    ///
    /// The judge decides one call at a time, and all others wait.
    ///
    /// # Panics
    ///
    /// As [`output`](Self::output), and if the kernel rejects the filter.
    ///
    /// # Kernel
    ///
    /// 5.19, for filters with notifications that no signal interrupts.
    #[track_caller]
    #[must_use]
    pub fn supervised(self, judge: impl FnMut(&Call) -> Ruling + Send) -> Output {
        let limit = patience(self.limit);
        std::thread::scope(|scope| self.output_of(|command| supervise::spawn(scope, command, judge, limit)))
    }

    #[track_caller]
    fn output_of(mut self, spawn: impl FnOnce(&mut std::process::Command) -> io::Result<Child>) -> Output {
        self.inner.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let limit = patience(self.limit);
        let deadline = Instant::now() + limit;
        let mut running = self.start(spawn);
        let child = &mut running.child;
        if let Some(mut pipe) = child.stdin.take() {
            let input = std::mem::take(&mut self.stdin);
            // A program may end without reading its input. That is not a test failure.
            std::thread::spawn(move || pipe.write_all(&input));
        }
        let outputs = (drain(child.stdout.take()), drain(child.stderr.take()));
        let left = || deadline.saturating_duration_since(Instant::now());
        let (Ok(stdout), Ok(stderr)) = (outputs.0.recv_timeout(left()), outputs.1.recv_timeout(left())) else {
            panic!("{} did not end within {limit:?}", running.name);
        };
        Output { status: running.wait(left()), stdout, stderr }
    }

    /// Runs the process to its end, requires success, and returns the standard output.
    ///
    /// # Panics
    ///
    /// As [`output`](Self::output), and if the program fails.
    #[track_caller]
    pub fn run(self) -> String {
        let shown = format!("{:?}", self.inner);
        let Output { status, stdout, stderr } = self.output();
        assert!(status.success(), "{shown}: {status}\n{stdout}{stderr}");
        stdout
    }

    /// As [`run`](Self::run), for a program that prints JSON. Empty output is `null`.
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run), and if the output is not JSON.
    #[track_caller]
    #[must_use]
    pub fn json(self) -> Value {
        let stdout = self.run();
        if stdout.trim().is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("not JSON: {error}\n{stdout}"))
    }

    /// Starts the process in the background. Its output goes to the test's standard error.
    ///
    /// # Panics
    ///
    /// If the program cannot be started.
    #[track_caller]
    #[must_use]
    pub fn spawn(mut self) -> Running {
        self.inner.stdin(Stdio::null()).stdout(std::io::stderr());
        self.start(std::process::Command::spawn)
    }

    /// Starts the process in the background with its input. Its output is discarded.
    ///
    /// # Panics
    ///
    /// If the program cannot be started.
    #[track_caller]
    #[must_use]
    pub fn spawn_unheard(mut self) -> Running {
        self.inner.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut running = self.start(std::process::Command::spawn);
        if let Some(mut pipe) = running.child.stdin.take() {
            // A killed process does not read its input. A configuration is smaller than a pipe
            // buffer.
            let _ = pipe.write_all(&self.stdin);
        }
        running
    }

    /// Starts the process in the background. Both outputs go to a file.
    ///
    /// # Panics
    ///
    /// If the program cannot be started or the file cannot be written.
    #[track_caller]
    #[must_use]
    pub fn spawn_logged(mut self, log: &std::path::Path) -> Running {
        let open = || std::fs::File::create(log).and_then(|file| Ok((file.try_clone()?, file)));
        let (stdout, stderr) = open().unwrap_or_else(|error| panic!("cannot write {}: {error}", log.display()));
        self.inner.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        self.start(std::process::Command::spawn)
    }

    #[track_caller]
    fn start(&mut self, spawn: impl FnOnce(&mut std::process::Command) -> io::Result<Child>) -> Running {
        let name = self.inner.get_program().to_string_lossy().into_owned();
        match spawn(&mut self.inner) {
            Ok(child) => Running { child, name },
            Err(error) => panic!("cannot start {name}: {error}"),
        }
    }
}

impl Running {
    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process, unless it has ended, and waits for its end. Returns whether the kill
    /// ended it.
    pub fn kill(&mut self) -> bool {
        // An error means that the process has ended and was already waited for.
        let _ = self.child.kill();
        self.child.wait().is_ok_and(|status| status.signal() == Some(libc::SIGKILL))
    }

    /// Waits for the end of the process.
    ///
    /// # Panics
    ///
    /// If the process still runs after the timeout.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let mut status = None;
        eventually(&format!("the end of {}", self.name), limit, || {
            status = self.child.try_wait().unwrap_or_else(|error| panic!("cannot wait for {}: {error}", self.name));
            status.is_some()
        });
        status.unwrap_or_else(|| unreachable!("eventually() panics otherwise"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How long to wait for an event that must happen: `limit`, or a multiple on a slow machine, such
/// as an emulated one. `CNIKIT_PATIENCE` sets the factor.
///
/// [`Command`], [`Running::wait`] and [`eventually`] multiply their own timeouts; use this function
/// for the timeouts of sockets. A check that an event does *not* happen needs no longer wait.
///
/// # Panics
///
/// If `CNIKIT_PATIENCE` is not a number, or 0.
#[must_use]
pub fn patience(limit: Duration) -> Duration {
    let Some(factor) = std::env::var_os(PATIENCE) else { return limit };
    let number = factor.to_str().and_then(|factor| factor.parse::<NonZeroU32>().ok());
    limit * number.unwrap_or_else(|| panic!("{PATIENCE}={} is not a number", factor.display())).get()
}

/// Checks a condition repeatedly until it holds.
///
/// # Panics
///
/// If the condition does not hold within the timeout. `what` names the condition in the message.
#[track_caller]
pub fn eventually(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let limit = patience(limit);
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {limit:?} for {what}");
        std::thread::sleep(STEP);
    }
}

/// Reads a pipe to its end on its own thread, so that a full pipe cannot block the process.
fn drain(pipe: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        // After the timeout, the receiver no longer exists.
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}
