//! Taking an exclusive [flock(2)] with a timeout, which the system call itself lacks.
//!
//! [flock(2)]: https://man7.org/linux/man-pages/man2/flock.2.html

use std::fs::File;
use std::io::{self, ErrorKind};
use std::thread;
use std::time::{Duration, Instant};

use fs2::FileExt;

/// The pauses between two attempts: the first one, doubled after each attempt up to the longest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pauses {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

/// Locks `file` exclusively; returns `false` if another process still holds the lock after
/// `timeout`.
///
/// The file is tried at least once, also with a timeout of zero.
pub(crate) fn lock_with_timeout(file: &File, timeout: Duration, pauses: Pauses) -> io::Result<bool> {
    let start = Instant::now();
    let mut pause = pauses.first;
    loop {
        match file.try_lock_exclusive() {
            Ok(()) => return Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        let waited = start.elapsed();
        if waited >= timeout {
            return Ok(false);
        }
        thread::sleep(pause.min(timeout - waited));
        pause = (pause * 2).min(pauses.longest);
    }
}
