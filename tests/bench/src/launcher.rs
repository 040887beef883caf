//! The launcher mode of this program: a small process that starts another program and reports its
//! peak memory and CPU time.
//!
//! The kernel includes the parent's memory at the start in the peak of a process. So the parent
//! must be small, and its own size is the minimum of the result.
#![expect(unsafe_code, reason = "getrusage(2) has no safe binding")]

use std::mem::MaybeUninit;
use std::process::{Command, ExitCode};

/// Contains the path of the file for the result: the peak in KiB, and the CPU time in microseconds.
pub(crate) const USAGE_FILE: &str = "CNIKIT_BENCH_USAGE_FILE";

/// If the variable is set, runs the program in the arguments with unchanged standard input and
/// output.
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

/// The usage of the children and of their children that they waited for: times are summed, the
/// resident set is the largest one.
fn usage_of_children() -> libc::rusage {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the buffer has room for one rusage.
    let done = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) };
    assert_eq!(done, 0, "getrusage: {}", std::io::Error::last_os_error());
    // SAFETY: an all-zero rusage is valid, and the kernel has filled it in.
    unsafe { usage.assume_init() }
}
