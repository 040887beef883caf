//! Programs that this one calls, and waiting.

use std::io::Write as _;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// The interval of polls.
const STEP: Duration = Duration::from_millis(50);

/// Most characters of a program's output in an error message.
const MOST_OUTPUT: usize = 4000;

/// The interval at which a running program is checked for a signal to this one.
const SIGNAL_STEP: Duration = Duration::from_millis(100);

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();
static IGNORED: AtomicBool = AtomicBool::new(false);

/// Turns SIGINT, SIGTERM and SIGHUP into an error of the next wait, so that the caller cleans up.
pub(crate) fn catch_signals() -> Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(flag)).context("cannot handle signals")?;
    }
    Ok(())
}

/// From now on signals have no effect, because half a deletion would leave a cluster.
pub(crate) fn ignore_signals() {
    IGNORED.store(true, Ordering::Relaxed);
}

/// Signals have an effect again.
pub(crate) fn heed_signals() {
    IGNORED.store(false, Ordering::Relaxed);
}

/// Whether a signal has arrived.
pub(crate) fn was_interrupted() -> bool {
    INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

fn check_signals() -> Result<()> {
    if was_interrupted() && !IGNORED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// Runs a program to its end, and returns its standard output.
///
/// # Errors
///
/// If it cannot be started or fails. The error has both outputs.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    run_with_input(command, "")
}

/// As [`run`], with a standard input.
pub(crate) fn run_with_input(command: &mut Command, input: &str) -> Result<String> {
    check_signals()?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {}", name(command)))?;
    if let Some(mut pipe) = child.stdin.take() {
        // A program may end without reading its input. Its exit status then has the cause.
        let _ = pipe.write_all(input.as_bytes());
    }
    let output = wait(child).with_context(|| format!("cannot wait for {}", name(command)))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        // A signal of the terminal also reaches the program.
        check_signals()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{}: {}\n{}", name(command), output.status, tail(&format!("{stdout}{stderr}")));
    }
    Ok(stdout)
}

/// Waits for a program. A signal to this program ends it, because a signal may reach only one of
/// them.
fn wait(child: Child) -> Result<Output> {
    let pid = Pid::from_child(&child);
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    loop {
        match receiver.recv_timeout(SIGNAL_STEP) {
            Ok(output) => return Ok(output?),
            Err(RecvTimeoutError::Timeout) if check_signals().is_err() => {
                // The program has ended by itself if this fails.
                let _ = kill_process(pid, Signal::TERM);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => bail!("the waiting thread has ended"),
        }
    }
}

/// Polls until there is a value.
///
/// # Errors
///
/// If the poll fails, the time is over, or the user interrupts.
pub(crate) fn wait_for<T>(what: &str, limit: Duration, mut poll: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        check_signals()?;
        if let Some(value) = poll()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("waited {} s for {what}", limit.as_secs());
        }
        thread::sleep(STEP);
    }
}

/// As [`wait_for`], for a condition. An error of the poll counts as "not yet", and is in the error
/// message if the time is over.
pub(crate) fn wait_until(what: &str, limit: Duration, mut poll: impl FnMut() -> Result<bool>) -> Result<()> {
    let mut last = None;
    let waited = wait_for(what, limit, || {
        Ok(match poll() {
            Ok(holds) => holds.then_some(()),
            Err(error) => {
                last = Some(error);
                None
            }
        })
    });
    match (waited, last) {
        (Err(error), Some(last)) => Err(last.context(error)),
        (waited, _) => waited,
    }
}

/// The program and its arguments. Long scripts are cut.
fn name(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let line = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
    line.chars().take(300).collect()
}

/// The end of a text, which has the cause of a failure.
pub(crate) fn tail(text: &str) -> &str {
    let start = text.len().saturating_sub(MOST_OUTPUT);
    let start = (start..=text.len()).find(|index| text.is_char_boundary(*index)).unwrap_or(text.len());
    text[start..].trim_end()
}
