//! A process whose system calls are judged one by one before the kernel takes them.
//!
//! The filter is installed on a thread that does nothing but start the process, which inherits it, as do all that it
//! starts. No register of any processor is touched, and what is not [watched](Call) costs nothing.
#![expect(unsafe_code, reason = "seccomp(2) and the ioctls of its listener have no safe binding")]

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process::{Child, Command};
use std::sync::mpsc;
use std::thread::Scope;
use std::time::{Duration, Instant};

use crate::Call;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ruling {
    /// The kernel takes it.
    Continue,
    /// The kernel does not hear of it, and it returns this error number.
    Fail(i32),
    /// The kernel does not hear of it, and the process that made it ends by SIGKILL.
    Kill,
}

/// How long to wait for a call before the next look at the clock.
const STEP: Duration = Duration::from_millis(5);

/// Starts a process whose watched calls are judged on a thread of the scope, until it and all that it started have
/// ended or the time is over.
pub(crate) fn spawn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    command: &mut Command,
    judge: impl FnMut(&Call) -> Ruling + Send + 'scope,
    limit: Duration,
) -> io::Result<Child> {
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|starting| {
        let started = starting.spawn(move || {
            // The filter stays on a thread for good: this one ends with the start.
            let listener = install()?;
            sender.send(listener).expect("somebody waits for it");
            command.spawn()
        });
        if let Ok(listener) = receiver.recv() {
            scope.spawn(move || supervise(&listener, judge, Instant::now() + limit));
        }
        started.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Has the watched calls of this thread wait for the listener's answers.
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
    // A signal, such as those by which Go's runtime schedules, would have the call made and judged a second time.
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    // SAFETY: the program and its instructions outlive the call, which copies them.
    let fd = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given out this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Answers calls until nobody is left who could make one. Whoever makes one after the time is over finds that it does
/// not exist.
fn supervise(listener: &OwnedFd, mut judge: impl FnMut(&Call) -> Ruling, deadline: Instant) {
    while Instant::now() < deadline {
        if !is_waited_for(listener) {
            return;
        }
        let Some((id, call)) = receive(listener) else { continue };
        // The threads of this process have the filter, too, as long as they start the other.
        let ruling = if call.process() == std::process::id() { Ruling::Continue } else { judge(&call) };
        match ruling {
            Ruling::Continue => answer(listener, id, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
            Ruling::Fail(errno) => answer(listener, id, -errno, 0),
            Ruling::Kill => call.kill(),
        }
    }
}

/// Whether somebody is left under the filter: waits for a call, or for some time.
fn is_waited_for(listener: &OwnedFd) -> bool {
    let mut poll = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor is polled, and that is open.
    unsafe { libc::poll(&raw mut poll, 1, STEP.as_millis() as i32) };
    poll.revents & libc::POLLIN != 0 || poll.revents & libc::POLLHUP == 0
}

/// The next call, if there is one and whoever made it lives.
fn receive(listener: &OwnedFd) -> Option<(u64, Call)> {
    let mut poll = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: as above. Without a call, the ioctl below would wait past the deadline.
    if unsafe { libc::poll(&raw mut poll, 1, 0) } != 1 || poll.revents & libc::POLLIN == 0 {
        return None;
    }
    // SAFETY: it consists of numbers, and the kernel demands zeros.
    let mut notification: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes a notification to a value that lives through the call.
    let received = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut notification) };
    (received == 0).then(|| {
        let libc::seccomp_notif { id, pid, data, .. } = notification;
        (id, Call::new(pid, data.nr.into(), data.args))
    })
}

fn answer(listener: &OwnedFd, id: u64, error: i32, flags: u32) {
    let response = libc::seccomp_notif_resp { id, val: 0, error, flags };
    // SAFETY: the kernel reads a value that lives through the call. Whoever was killed meanwhile needs no answer.
    unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const response) };
}
