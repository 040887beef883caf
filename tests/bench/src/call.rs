//! A timed call of a plugin.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cnikit_testbed::Invocation;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;

/// The timeout of a call, after which it is killed.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Calls a plugin as a runtime does: starts it, writes the configuration, reads the complete result
/// and waits for the process. The returned time covers all of these.
///
/// # Panics
///
/// If the call fails or exceeds the timeout.
pub(crate) fn timed(call: &Invocation) -> (Duration, Value) {
    run(call.process(), call.input())
}

/// As [`timed`], for any program.
pub(crate) fn run(mut command: Command, input: &[u8]) -> (Duration, Value) {
    // A separate process group: Ctrl-C at the terminal must reach only this program, which then
    // ends the run in order.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let start = Instant::now();
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let pid = Pid::from_child(&child);
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("a process that was not waited for");
    let mut stdout_text = Vec::new();
    let written = child.stdin.take().map(|mut pipe| std::io::Write::write_all(&mut pipe, input));
    let mut stdout = child.stdout.take().expect("a pipe");
    let deadline = start + TIMEOUT;
    while is_ready(&stdout, deadline, &mut child) {
        let mut buffer = [0; 16 << 10];
        match stdout.read(&mut buffer).expect("a pipe that can be read") {
            0 => break,
            count => stdout_text.extend_from_slice(&buffer[..count]),
        }
    }
    is_ready(&process, deadline, &mut child);
    let status = child.wait().expect("a child");
    let taken = start.elapsed();

    let mut complaint = String::new();
    // A child of the plugin may hold the pipe open, so do not read to its end.
    if !status.success() {
        let _ = child.stderr.take().map(|pipe| pipe.take(4 << 10).read_to_string(&mut complaint));
    }
    let stdout_text = String::from_utf8_lossy(&stdout_text);
    assert!(status.success(), "{command:?}: {status}\n{stdout_text}{complaint}");
    // A program may succeed without reading its input.
    let _ = written;
    (taken, serde_json::from_str(&stdout_text).unwrap_or_default())
}

/// Waits until there is data to read.
fn is_ready(descriptor: &impl AsFd, deadline: Instant, child: &mut Child) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).expect("some seconds");
    let ready = poll(&mut [PollFd::new(descriptor, PollFlags::IN)], Some(&left)).unwrap_or(0);
    if ready == 0 {
        let _ = child.kill();
        let _ = child.wait();
        panic!("a call did not end within {TIMEOUT:?}");
    }
    true
}
