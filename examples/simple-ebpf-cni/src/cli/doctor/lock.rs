//! Locks that a process does not release.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use super::diagnostic::Diagnostic;

/// Calls of the plugin hold these locks for milliseconds. A longer hold is a problem.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Reports a process that does not release the lock on a file or directory. Calls of the plugin
/// wait for the lock until their timeout. A free lock is taken as a shared lock for a moment, so
/// that two checks do not report each other.
pub(super) fn check_lock(path: &Path) -> Option<Diagnostic> {
    // NONBLOCK: opening a pipe would block. The check `state` reports a lock that is no file.
    let file = rustix::fs::open(path, OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let start = Instant::now();
    while flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK) {
        if start.elapsed() > TIMEOUT {
            let (found, remedy) = (
                format!("{} has been locked for {TIMEOUT:?}, which is longer than any call needs", path.display()),
                format!("fuser -v {} shows the process that holds it: end the process if it hangs", path.display()),
            );
            return Some(Diagnostic::fail("lock", found, remedy));
        }
        thread::sleep(TIMEOUT / 100);
    }
    None
}
