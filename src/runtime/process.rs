//! One process: its input, its outputs and its end, in one loop that never waits for a single one of them.

use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// How many bytes of standard output are read, at most.
pub(super) const STDOUT_LIMIT: usize = 16 << 20;

/// How many bytes of standard error are kept: its end.
const STDERR_TAIL: usize = 4 << 10;

/// How many bytes are read from a pipe before the clock is looked at. No pipe of an unprivileged process holds more.
const PER_TURN: usize = 1 << 20;

/// How long a killed process may take to vanish before it is left to its fate.
const DYING: Duration = Duration::from_secs(2);

/// How often a start is tried while somebody is writing the executable, and the first pause: each is twice the one
/// before, 5 s in all.
const START_TRIES: u32 = 10;
const START_PAUSE: Duration = Duration::from_millis(10);

/// What a process left.
#[derive(Debug)]
pub(super) struct ProcessOutput {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    /// The end of it.
    pub(super) stderr: Vec<u8>,
}

/// Why there is nothing that a process left.
#[derive(Debug)]
pub(super) enum ProcessError {
    Start(io::Error),
    Talk(io::Error),
    TimedOut { stderr: Vec<u8> },
    TooLong,
}

/// Runs a process to its end.
///
/// Its end is that of the process itself: by then all that it wrote is in the pipes, and a child in the background that
/// holds them open is not waited for. With a time limit the process gets a group of its own, which is killed when the
/// time is over; without one it stays in the caller's, so that whoever kills that kills it too.
pub(super) fn run(
    command: &mut Command,
    input: &[u8],
    limit: Option<Duration>,
    forward_stderr: bool,
) -> Result<ProcessOutput, ProcessError> {
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if limit.is_some() {
        command.process_group(0);
    }
    let running = Running::start(command, deadline, limit.is_some())?;
    Conversation::new(running, input, forward_stderr).and_then(|conversation| conversation.finish(deadline))
}

/// A process that does not outlive this value.
struct Running {
    child: Child,
    pidfd: OwnedFd,
    leads_group: bool,
    status: Option<ExitStatus>,
}

impl Running {
    fn start(command: &mut Command, deadline: Option<Instant>, leads_group: bool) -> Result<Self, ProcessError> {
        let mut child = start_when_written(command, deadline).map_err(ProcessError::Start)?;
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { child, pidfd, leads_group, status: None }),
            Err(errno) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(ProcessError::Start(errno.into()))
            }
        }
    }

    /// Called once the process has ended, so that it does not wait.
    fn reap(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait()?;
        self.status = Some(status);
        Ok(status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.status.is_some() {
            return;
        }
        // It was not waited for, so that its number is still its own.
        let _ = if self.leads_group {
            kill_process_group(Pid::from_child(&self.child), Signal::KILL).map_err(io::Error::from)
        } else {
            self.child.kill()
        };
        let gone = PollFd::new(&self.pidfd, PollFlags::IN);
        let _ = wait_for(&mut [gone], Some(Instant::now() + DYING));
        let _ = self.child.try_wait();
    }
}

/// A running process and the pipes to it; none of them blocks.
struct Conversation<'a> {
    running: Running,
    input: &'a [u8],
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    out: Vec<u8>,
    err: Vec<u8>,
    forward_stderr: bool,
}

impl<'a> Conversation<'a> {
    fn new(mut running: Running, input: &'a [u8], forward_stderr: bool) -> Result<Self, ProcessError> {
        let stdin = unblocked(running.child.stdin.take()).map_err(ProcessError::Talk)?;
        let stdout = unblocked(running.child.stdout.take()).map_err(ProcessError::Talk)?;
        let stderr = unblocked(running.child.stderr.take()).map_err(ProcessError::Talk)?;
        Ok(Self { running, input, stdin, stdout, stderr, out: Vec::new(), err: Vec::new(), forward_stderr })
    }

    fn finish(mut self, deadline: Option<Instant>) -> Result<ProcessOutput, ProcessError> {
        loop {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(ProcessError::TimedOut { stderr: self.err });
            }
            // The order matters: what it wrote before it ended is in the pipes by the time that they are read.
            let has_ended = self.wait(deadline).map_err(ProcessError::Talk)?;
            self.write().map_err(ProcessError::Talk)?;
            self.read().map_err(ProcessError::Talk)?;
            if self.out.len() > STDOUT_LIMIT {
                return Err(ProcessError::TooLong);
            }
            if has_ended {
                let status = self.running.reap().map_err(ProcessError::Talk)?;
                return Ok(ProcessOutput { status, stdout: self.out, stderr: self.err });
            }
        }
    }

    /// Waits for anything to happen, at most until the deadline; whether the process has ended.
    fn wait(&self, deadline: Option<Instant>) -> io::Result<bool> {
        let mut fds = vec![PollFd::new(&self.running.pidfd, PollFlags::IN)];
        fds.extend(self.stdin.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
        fds.extend(self.stdout.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        fds.extend(self.stderr.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        wait_for(&mut fds, deadline)?;
        Ok(fds.first().is_some_and(|pidfd| !pidfd.revents().is_empty()))
    }

    /// Passes on of the input what the pipe takes; closes it at the end, which is what the plugin waits for.
    fn write(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.stdin else { return Ok(()) };
        while !self.input.is_empty() {
            match pipe.write(self.input) {
                Ok(written) => self.input = &self.input[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A plugin need not read what it does not want to know.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                Err(error) => return Err(error),
            }
        }
        self.stdin = None;
        Ok(())
    }

    fn read(&mut self) -> io::Result<()> {
        read_from(&mut self.stdout, &mut self.out)?;
        let old = self.err.len();
        read_from(&mut self.stderr, &mut self.err)?;
        if self.forward_stderr && self.err.len() > old {
            // For people; the call does not fail for it.
            let _ = io::stderr().write_all(&self.err[old..]);
        }
        let surplus = self.err.len().saturating_sub(STDERR_TAIL);
        self.err.drain(..surplus);
        Ok(())
    }
}

/// Starts a process. An executable that somebody is writing, as an installer does, is tried again a little later.
fn start_when_written(command: &mut Command, deadline: Option<Instant>) -> io::Result<Child> {
    let mut pause = START_PAUSE;
    for _ in 1..START_TRIES {
        match command.spawn() {
            Err(error)
                if error.kind() == io::ErrorKind::ExecutableFileBusy
                    && deadline.is_none_or(|deadline| Instant::now() + pause < deadline) =>
            {
                std::thread::sleep(pause);
                pause *= 2;
            }
            outcome => return outcome,
        }
    }
    command.spawn()
}

fn unblocked<P: AsFd>(pipe: Option<P>) -> io::Result<Option<P>> {
    if let Some(pipe) = &pipe {
        rustix::io::ioctl_fionbio(pipe, true)?;
    }
    Ok(pipe)
}

/// Reads what is there, within reason; at its end the pipe is closed.
fn read_from<P: Read>(pipe: &mut Option<P>, bytes: &mut Vec<u8>) -> io::Result<()> {
    let Some(source) = pipe else { return Ok(()) };
    let before = bytes.len();
    match source.take(PER_TURN as u64).read_to_end(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
        Ok(_) => {
            if bytes.len() - before < PER_TURN {
                *pipe = None;
            }
            Ok(())
        }
    }
}

fn wait_for(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<()> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 }));
        match poll(fds, left.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            outcome => return outcome.map(drop).map_err(Into::into),
        }
    }
}
