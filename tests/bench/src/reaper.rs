//! The parent of the measuring process. It reaps orphans at once, as process 1 of a node does. The
//! plugin's DEL leaves an orphan behind, and waits for the kernel if orphans are not reaped.

use std::env;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitCode};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};

use crate::interrupt;

/// Set in the measuring process.
const REAPED: &str = "CNIKIT_BENCH_REAPED";

/// Starts this program again and waits for it. Returns `None` in the started program.
#[expect(clippy::zombie_processes, reason = "it is waited for as any child of this process is")]
pub(crate) fn run_below() -> Option<ExitCode> {
    if env::var_os(REAPED).is_some() {
        return None;
    }
    interrupt::catch();
    set_child_subreaper(Some(getpid())).expect("any process may reap");
    let mut again = Command::new("/proc/self/exe");
    let child = again.args(env::args_os().skip(1)).env(REAPED, "1").spawn().expect("a program can be started again");
    let child = Pid::from_child(&child);
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => {
                let status = std::process::ExitStatus::from_raw(status.as_raw());
                return Some(ExitCode::from(status.code().map_or(1, |code| code as u8)));
            }
            // The child must end with its parent. Ctrl-C reaches both.
            Err(Errno::INTR) if interrupt::is_wanted() => drop(kill_process(child, Signal::TERM)),
            _ => {}
        }
    }
}
