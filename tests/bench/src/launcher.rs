//! This program as a small one that starts another and tells how much memory that took.
//!
//! The kernel counts, as the peak of a process, also what its parent had when it started it. So the one who asks must be
//! small, and what it sees is never less than what it has itself.
#![expect(unsafe_code, reason = "getrusage(2) has no safe binding")]

use std::mem::MaybeUninit;
use std::process::{Command, ExitCode};

/// Names the file that the peak is written to.
pub(crate) const PEAK_FILE: &str = "CNIKIT_BENCH_PEAK_FILE";

/// Where it is set, runs the program that the arguments name, with standard input and output as they are.
pub(crate) fn run_if_asked() -> Option<ExitCode> {
    let file = std::env::var_os(PEAK_FILE)?;
    let mut arguments = std::env::args_os().skip(1);
    let program = arguments.next().expect("a program to run");
    let status = Command::new(program).args(arguments).env_remove(PEAK_FILE).status().expect("a program that starts");
    std::fs::write(file, peak_of_children().to_string()).expect("a file that can be written");
    Some(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The largest resident set, in KiB, of any one child, or of what those waited for.
fn peak_of_children() -> i64 {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: there is room for one rusage.
    let done = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) };
    assert_eq!(done, 0, "getrusage: {}", std::io::Error::last_os_error());
    // SAFETY: all zeroes is a rusage, and the kernel has filled it in.
    unsafe { usage.assume_init() }.ru_maxrss
}
