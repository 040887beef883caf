//! Runs one process. A single loop handles its input, its outputs and its exit, and blocks on none
//! of them alone.

use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// The maximum size of standard output in bytes.
pub(super) const STDOUT_LIMIT: usize = 16 << 20;

/// The number of bytes kept from the end of standard error.
const STDERR_TAIL: usize = 4 << 10;

/// The maximum number of bytes read from a pipe before the next check of the deadline. A pipe of an
/// unprivileged process holds no more.
const READ_LIMIT: usize = 1 << 20;

/// The time to wait for the exit of a killed process.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// The number of attempts to start an executable that another process is writing, and the first
/// pause. Each pause is twice the previous one, 5 s in total.
const START_ATTEMPTS: u32 = 10;
const START_PAUSE: Duration = Duration::from_millis(10);

/// Options for each call of a plugin.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CallOptions {
    /// The time after which the plugin is killed; `None` waits without limit.
    pub(super) timeout: Option<Duration>,
    /// Whether the plugin's standard error is forwarded to standard error of this process.
    pub(super) forward_stderr: bool,
}

/// The output and the status of a process.
#[derive(Debug)]
pub(super) struct ProcessOutput {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    /// The end of standard error.
    pub(super) stderr: Vec<u8>,
}

/// The reason why a process has no output.
#[derive(Debug)]
pub(super) enum ProcessError {
    Start(io::Error),
    Io(io::Error),
    TimedOut { stderr: Vec<u8> },
    OutputTooLong,
}

/// Runs a process until it exits.
///
/// When the process exits, all its output is in the pipes. A background child that holds them open
/// is not waited for.
///
/// With a timeout the process gets its own process group, which is killed when the timeout expires.
/// Without a timeout it stays in the caller's group, so a signal to the group also reaches the
/// process.
pub(super) fn run(command: &mut Command, input: &[u8], options: CallOptions) -> Result<ProcessOutput, ProcessError> {
    let deadline = options.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let leads_group = options.timeout.is_some();
    if leads_group {
        command.process_group(0);
    }
    let running = Running::start(command, deadline, leads_group)?;
    Io::new(running, input, options.forward_stderr).and_then(|io| io.finish(deadline))
}

/// A child process that is killed when this value is dropped.
struct Running {
    child: Child,
    pidfd: OwnedFd,
    leads_group: bool,
    status: Option<ExitStatus>,
}

impl Running {
    fn start(command: &mut Command, deadline: Option<Instant>, leads_group: bool) -> Result<Self, ProcessError> {
        let mut child = spawn(command, deadline).map_err(ProcessError::Start)?;
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { child, pidfd, leads_group, status: None }),
            Err(errno) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(ProcessError::Start(errno.into()))
            }
        }
    }

    /// Reaps the process. The caller calls it after the exit, so it does not block.
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
        // The child was not reaped yet, so its PID cannot belong to another process.
        let _ = if self.leads_group {
            kill_process_group(Pid::from_child(&self.child), Signal::KILL).map_err(io::Error::from)
        } else {
            self.child.kill()
        };
        let exited = PollFd::new(&self.pidfd, PollFlags::IN);
        let _ = wait_for(&mut [exited], Some(Instant::now() + KILL_TIMEOUT));
        let _ = self.child.try_wait();
    }
}

/// A running process and its nonblocking pipes.
struct Io<'a> {
    running: Running,
    input: &'a [u8],
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    out: Vec<u8>,
    err: Vec<u8>,
    forward_stderr: bool,
}

impl<'a> Io<'a> {
    fn new(mut running: Running, input: &'a [u8], forward_stderr: bool) -> Result<Self, ProcessError> {
        let stdin = nonblocking(running.child.stdin.take()).map_err(ProcessError::Io)?;
        let stdout = nonblocking(running.child.stdout.take()).map_err(ProcessError::Io)?;
        let stderr = nonblocking(running.child.stderr.take()).map_err(ProcessError::Io)?;
        Ok(Self { running, input, stdin, stdout, stderr, out: Vec::new(), err: Vec::new(), forward_stderr })
    }

    fn finish(mut self, deadline: Option<Instant>) -> Result<ProcessOutput, ProcessError> {
        loop {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(ProcessError::TimedOut { stderr: self.err });
            }
            // The order matters: the output that precedes the exit is in the pipes before they are
            // read.
            let has_ended = self.wait(deadline).map_err(ProcessError::Io)?;
            self.write().map_err(ProcessError::Io)?;
            self.read().map_err(ProcessError::Io)?;
            if self.out.len() > STDOUT_LIMIT {
                return Err(ProcessError::OutputTooLong);
            }
            if has_ended {
                let status = self.running.reap().map_err(ProcessError::Io)?;
                return Ok(ProcessOutput { status, stdout: self.out, stderr: self.err });
            }
        }
    }

    /// Waits for an event until the deadline. Returns whether the process has exited.
    fn wait(&self, deadline: Option<Instant>) -> io::Result<bool> {
        let mut fds = vec![PollFd::new(&self.running.pidfd, PollFlags::IN)];
        fds.extend(self.stdin.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
        fds.extend(self.stdout.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        fds.extend(self.stderr.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        wait_for(&mut fds, deadline)?;
        Ok(fds.first().is_some_and(|pidfd| !pidfd.revents().is_empty()))
    }

    /// Writes as much input as the pipe accepts. Closes the pipe at the end of the input, because
    /// the plugin reads until then.
    fn write(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.stdin else { return Ok(()) };
        while !self.input.is_empty() {
            match pipe.write(self.input) {
                Ok(written) => self.input = &self.input[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A plugin may exit without reading its input.
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
            // For users only, so an error does not fail the call.
            let _ = io::stderr().write_all(&self.err[old..]);
        }
        let surplus = self.err.len().saturating_sub(STDERR_TAIL);
        self.err.drain(..surplus);
        Ok(())
    }
}

/// Starts a process. Retries while another process, such as an installer, writes the executable.
fn spawn(command: &mut Command, deadline: Option<Instant>) -> io::Result<Child> {
    let mut pause = START_PAUSE;
    for _ in 1..START_ATTEMPTS {
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

fn nonblocking<P: AsFd>(pipe: Option<P>) -> io::Result<Option<P>> {
    if let Some(pipe) = &pipe {
        rustix::io::ioctl_fionbio(pipe, true)?;
    }
    Ok(pipe)
}

/// Reads the available bytes up to the limit. Closes the pipe at end of file.
fn read_from<P: Read>(pipe: &mut Option<P>, bytes: &mut Vec<u8>) -> io::Result<()> {
    let Some(source) = pipe else { return Ok(()) };
    let before = bytes.len();
    match source.take(READ_LIMIT as u64).read_to_end(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
        Ok(_) => {
            if bytes.len() - before < READ_LIMIT {
                *pipe = None;
            }
            Ok(())
        }
    }
}

fn wait_for(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<()> {
    loop {
        let remaining = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let remaining = remaining
            .map(|remaining| Timespec::try_from(remaining).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 }));
        match poll(fds, remaining.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            outcome => return outcome.map(drop).map_err(Into::into),
        }
    }
}
