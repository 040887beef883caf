//! Supervised processes: a judge decides their system calls one by one, before the kernel runs
//! them.
//!
//! The filter is installed on a thread that only starts the process. The process and its
//! descendants inherit the filter. Calls that are not [watched](Call) run at full speed, because no
//! debugger stops the process.
#![expect(unsafe_code, reason = "seccomp(2) and the ioctls of its listener have no safe binding")]

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread::Scope;
use std::time::{Duration, Instant};

use crate::Call;

/// The ruling on a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ruling {
    /// The kernel runs the call.
    Continue,
    /// The kernel does not run the call. The call returns this error number.
    Fail(i32),
    /// The kernel does not run the call, and SIGKILL ends the calling process.
    Kill,
}

/// How long to wait for a call before the next check of the deadline.
const STEP: Duration = Duration::from_millis(5);

/// Starts a process. A thread of the scope decides its watched calls, until the process and its
/// descendants have ended or the deadline has passed.
pub(crate) fn spawn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    command: &mut Command,
    judge: impl FnMut(&Call) -> Ruling + Send + 'scope,
    limit: Duration,
) -> io::Result<Child> {
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|starting| {
        let started = starting.spawn(move || {
            // A thread cannot remove its filter, so this thread ends after the start.
            let listener = install()?;
            sender.send(listener).expect("the receiver exists");
            command.spawn()
        });
        if let Ok(listener) = receiver.recv() {
            scope.spawn(move || supervise(&listener, judge, Instant::now() + limit));
        }
        started.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Lets the watched calls of this thread wait for the listener's answers.
fn install() -> io::Result<OwnedFd> {
    let instruction = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let answer = |action| instruction(libc::BPF_RET | libc::BPF_K, action);
    // The number of the call is the first member of `struct seccomp_data`.
    let mut program = vec![instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0)];
    for number in Call::watched() {
        let is_it = instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number as u32);
        program.push(libc::sock_filter { jf: 1, ..is_it });
        program.push(answer(libc::SECCOMP_RET_USER_NOTIF));
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // A signal would restart the call, and the judge would decide it twice. Go's runtime uses such
    // signals for scheduling.
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    // SAFETY: the program and its instructions outlive the call, which copies them and writes to
    // neither.
    let fd = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor, so it has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Answers calls until no process is left that could make one. After the deadline, each call
/// returns ENOSYS.
fn supervise(listener: &OwnedFd, mut judge: impl FnMut(&Call) -> Ruling, deadline: Instant) {
    while Instant::now() < deadline {
        if !is_waited_for(listener) {
            return;
        }
        let Some((id, call)) = receive(listener) else { continue };
        // While this process starts the plugin, its own threads also run under the filter.
        let ruling = if call.process() == std::process::id() { Ruling::Continue } else { judge(&call) };
        match ruling {
            Ruling::Continue => answer(listener, id, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
            Ruling::Fail(errno) => answer(listener, id, -errno, 0),
            Ruling::Kill => call.kill(),
        }
    }
}

/// Whether a process still runs under the filter. Waits for a call, or for a limited time.
fn is_waited_for(listener: &OwnedFd) -> bool {
    let mut poll = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: the call polls one descriptor, which is open.
    unsafe { libc::poll(&raw mut poll, 1, STEP.as_millis() as i32) };
    poll.revents & libc::POLLIN != 0 || poll.revents & libc::POLLHUP == 0
}

/// The next call, if there is one and its process is alive.
fn receive(listener: &OwnedFd) -> Option<(u64, Call)> {
    let mut poll = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: as above. Without a call, the ioctl below would wait past the deadline.
    if unsafe { libc::poll(&raw mut poll, 1, 0) } != 1 || poll.revents & libc::POLLIN == 0 {
        return None;
    }
    // SAFETY: the struct consists of integers, and the kernel requires zeros.
    let mut notification: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes a notification to a value that outlives the call.
    let received = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut notification) };
    (received == 0).then(|| {
        let libc::seccomp_notif { id, pid, data, .. } = notification;
        (id, Call::new(pid, data.nr.into(), data.args))
    })
}

fn answer(listener: &OwnedFd, id: u64, error: i32, flags: u32) {
    let response = libc::seccomp_notif_resp { id, val: 0, error, flags };
    // SAFETY: the kernel reads a value that outlives the call. A process that was killed in the
    // meantime needs no answer.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const response) };
}
