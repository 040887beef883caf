//! An exclusive [flock(2)] with a time limit.
//!
//! [flock(2)]: https://man7.org/linux/man-pages/man2/flock.2.html

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use fs2::FileExt;
use rustix::fs::OFlags;
use tracing::info_span;

use super::error::{Error, Result};
use super::files;

/// The first pause between two attempts; the lock is held for a fraction of a millisecond.
const FIRST_PAUSE: Duration = Duration::from_micros(100);
/// The longest pause, so that who waits for long is not outrun by newcomers for ever.
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

/// Locks the file at `path`, which is made if it is missing, as is its directory. The lock ends with the file, and
/// with the process: the kernel closes the file of who is killed, and no child inherits it.
pub(super) fn acquire(path: &Path, timeout: Duration) -> Result<File> {
    let _span = info_span!("lock", path = %path.display()).entered();
    let start = Instant::now();
    let file = open(path)?;
    refuse_foreign(&file, path)?;
    let mut pause = FIRST_PAUSE;
    loop {
        match file.try_lock_exclusive() {
            Ok(()) => return Ok(file),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(Error::io("lock", path)(error)),
        }
        let waited = start.elapsed();
        if waited >= timeout {
            // The kernel takes 10 ms to list its locks. A caller that does not wait has no use for the holder.
            let holder = if timeout.is_zero() { None } else { holder(&file) };
            return Err(Error::LockTimeout { path: path.to_owned(), waited: timeout, holder });
        }
        thread::sleep(pause.min(timeout - waited));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Refuses a file at `path` that [`acquire`] would refuse, without a lock on it. One that is absent is made by that.
pub(super) fn refuse_unusable(path: &Path) -> Result<()> {
    match options().open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        opened => refuse_foreign(&opened.map_err(Error::io("open", path))?, path),
    }
}

/// Whoever else owns the file could hold the lock for ever. A pipe cannot be written in place, as what is locked is.
fn refuse_foreign(file: &File, path: &Path) -> Result<()> {
    let found = file.metadata().map_err(Error::io("look at", path))?;
    if !found.is_file() {
        return Err(Error::io("lock", path)(io::Error::new(ErrorKind::InvalidInput, "it is no regular file")));
    }
    files::refuse_foreign(&found, path)
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

/// The process that the kernel says holds the lock. It does not say so to a process in another pid namespace, nor
/// for file systems that show the kernel another device number than user space.
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
