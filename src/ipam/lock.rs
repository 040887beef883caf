//! An exclusive [flock(2)] with a timeout.
//!
//! [flock(2)]: https://man7.org/linux/man-pages/man2/flock.2.html

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::OFlags;
use tracing::info_span;

use super::error::{Error, Result};
use super::files;
use crate::flock::lock_with_timeout;
use crate::poll::Pauses;

/// A lock is held for a fraction of a millisecond, so the first pause is short. The longest pause
/// is limited, so that a process that waits for long does not always lose to newcomers.
const PAUSES: Pauses = Pauses { first: Duration::from_micros(100), longest: Duration::from_millis(10) };

/// Locks the file at `path`. Creates the file and its directory if they are missing. The lock ends
/// with the file or the process: the kernel closes the file of a killed process, and no child
/// inherits it.
pub(super) fn acquire(path: &Path, timeout: Duration) -> Result<File> {
    let _span = info_span!("lock", path = %path.display()).entered();
    let file = open(path)?;
    check_owner(&file, path)?;
    if lock_with_timeout(&file, timeout, PAUSES).map_err(Error::io("lock", path))? {
        return Ok(file);
    }
    // The kernel takes 10 ms to list its locks. A caller that does not wait has no use for the
    // holder.
    let holder = if timeout.is_zero() { None } else { holder(&file) };
    Err(Error::LockTimeout { path: path.to_owned(), waited: timeout, holder })
}

/// Rejects a file at `path` that [`acquire`] would reject, without locking it. Success if the file
/// is absent, because [`acquire`] creates it.
pub(super) fn check_usable(path: &Path) -> Result<()> {
    match options().open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        opened => check_owner(&opened.map_err(Error::io("open", path))?, path),
    }
}

/// Another user that owns the file could hold the lock forever. The lock file is also written in
/// place, which a pipe does not support.
fn check_owner(file: &File, path: &Path) -> Result<()> {
    let found = file.metadata().map_err(Error::io("examine", path))?;
    if !found.is_file() {
        return Err(Error::io("lock", path)(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file")));
    }
    files::check_owner(&found, path)
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(files::O_NOFOLLOW | OFlags::NONBLOCK.bits().cast_signed());
    options
}

fn open(path: &Path) -> Result<File> {
    let mut options = options();
    options.create(true).truncate(false).mode(files::FILE_MODE);
    match options.open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            path.parent().map_or(Ok(()), files::create_dir)?;
            options.open(path)
        }
        opened => opened,
    }
    .map_err(Error::io("open", path))
}

/// The process that holds the lock, according to the kernel. Unknown from another pid namespace,
/// and on file systems with different device numbers in the kernel and in user space.
fn holder(file: &File) -> Option<u32> {
    let file = file.metadata().ok()?;
    let device = file.dev();
    let place = format!("{:02x}:{:02x}:{}", rustix::fs::major(device), rustix::fs::minor(device), file.ino());
    let locks = fs::read_to_string("/proc/locks").ok()?;
    // 1: FLOCK  ADVISORY  WRITE 1234 fe:00:131 0 EOF
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields[..] {
            [_, "FLOCK", _, _, pid, at, ..] if at == place => pid.parse().ok().filter(|pid| *pid != 0),
            _ => None,
        }
    })
}
