//! This program as a small one that starts another and tells how much memory and CPU time that took.
//!
//! The kernel counts, as the peak of a process, also what its parent had when it started it. So the one who asks must be
//! small, and what it sees is never less than what it has itself.
#![expect(unsafe_code, reason = "getrusage(2) has no safe binding")]

use std::mem::MaybeUninit;
use std::process::{Command, ExitCode};

/// Names the file that the answer is written to: the peak in KiB, and the CPU time in microseconds.
pub(crate) const USAGE_FILE: &str = "CNIKIT_BENCH_USAGE_FILE";

/// Where it is set, runs the program that the arguments name, with standard input and output as they are.
pub(crate) fn run_if_asked() -> Option<ExitCode> {
    let file = std::env::var_os(USAGE_FILE)?;
    let mut arguments = std::env::args_os().skip(1);
    let program = arguments.next().expect("a program to run");
    let status = Command::new(program).args(arguments).env_remove(USAGE_FILE).status().expect("a program that starts");
    let usage = usage_of_children();
    let micros = |time: libc::timeval| time.tv_sec * 1_000_000 + time.tv_usec;
    let answer = format!("{} {}", usage.ru_maxrss, micros(usage.ru_utime) + micros(usage.ru_stime));
    std::fs::write(file, answer).expect("a file that can be written");
    Some(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the children took, and what those waited for: times add up, the resident set is that of the largest.
fn usage_of_children() -> libc::rusage {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: there is room for one rusage.
    let done = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) };
    assert_eq!(done, 0, "getrusage: {}", std::io::Error::last_os_error());
    // SAFETY: all zeroes is a rusage, and the kernel has filled it in.
    unsafe { usage.assume_init() }
}
