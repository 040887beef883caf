//! Taking an exclusive [flock(2)] with a timeout, which the system call itself lacks.
//!
//! [flock(2)]: https://man7.org/linux/man-pages/man2/flock.2.html

use std::fs::File;
use std::io::{self, ErrorKind};
use std::time::Duration;

use fs2::FileExt;

use crate::poll::{Pauses, poll};

/// Locks `file` exclusively; returns `false` if another process still holds the lock after
/// `timeout`.
///
/// The file is tried at least once, also with a timeout of zero.
pub(crate) fn lock_with_timeout(file: &File, timeout: Duration, pauses: Pauses) -> io::Result<bool> {
    let locked = poll(timeout, pauses, || match file.try_lock_exclusive() {
        Ok(()) => Ok(Some(())),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    })?;
    Ok(locked.is_some())
}
