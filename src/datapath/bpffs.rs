//! The BPF file system: found, or mounted where systemd or the distribution has not.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Access, access};
use rustix::mount::{MountFlags, mount};

use super::{Error, Result};
use crate::flock::{self, Pauses};

/// Where the kernel keeps a directory for it.
const MOUNT_POINT: &str = "/sys/fs/bpf";

/// `BPF_FS_MAGIC` of `linux/magic.h`.
const MAGIC: u32 = 0xcafe_4a11;

/// How long to wait for a lock that is held for the few tens of milliseconds that a load takes.
pub(super) const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause between two attempts to lock.
const PAUSES: Pauses = Pauses { first: Duration::from_millis(2), longest: Duration::from_millis(2) };

/// Makes the directory `path` on the BPF file system, and mounts that first where it is missing.
/// On another file system nothing is made.
pub(super) fn ensure_directory(path: &Path) -> Result<()> {
    if path.starts_with(MOUNT_POINT) {
        ensure_mounted(Path::new(MOUNT_POINT))?;
    }
    refuse_elsewhere(path)?;
    create_directories(path)
}

/// Whether [`ensure_directory`] has a file system that it can write to, or a place to mount one.
pub(super) fn probe(path: &Path) -> Result<()> {
    let mount_point = Path::new(MOUNT_POINT);
    if path.starts_with(mount_point) && !is_bpffs(mount_point)? {
        return Ok(());
    }
    refuse_elsewhere(path)?;
    let existing = existing(path);
    let writable = access(existing, Access::WRITE_OK | Access::EXEC_OK);
    writable.map_err(|errno| Error::pin("write in", existing, errno))
}

/// Makes directories that nobody but their owner can open: whoever can open one can lock it.
pub(super) fn create_directories(path: &Path) -> Result<()> {
    let mut private = DirBuilder::new();
    private.recursive(true).mode(0o700).create(path).map_err(|error| Error::pin("make the directory", path, error))
}

/// An exclusive lock on a directory, held until it is dropped. The kernel frees it if its holder
/// dies; for one that hangs there is a time limit.
pub(super) fn lock(directory: &Path, patience: Duration) -> Result<File> {
    let file = File::open(directory).map_err(|error| Error::pin("open the directory", directory, error))?;
    match flock::lock_with_timeout(&file, patience, PAUSES) {
        Ok(true) => Ok(file),
        Ok(false) => Err(Error::Locked { path: directory.to_owned(), waited: patience }),
        Err(error) => Err(Error::pin("lock the directory", directory, error)),
    }
}

fn refuse_elsewhere(path: &Path) -> Result<()> {
    if is_bpffs(existing(path))? { Ok(()) } else { Err(Error::NotBpffs { path: path.to_owned() }) }
}

/// What there is of a path already.
fn existing(path: &Path) -> &Path {
    // Whether one exists that cannot be looked at, the file system is asked. The last of a relative path's is empty.
    let is_there = |ancestor: &&Path| !matches!(ancestor.try_exists(), Ok(false));
    path.ancestors().find(is_there).unwrap_or(Path::new("."))
}

fn ensure_mounted(mount_point: &Path) -> Result<()> {
    if is_bpffs(mount_point)? {
        return Ok(());
    }
    // Two mounts would stack, and the upper one hide what is pinned in the lower: one caller mounts,
    // the others wait on the directory below and look again.
    let _lock = lock(mount_point, LOCK_TIMEOUT)?;
    if is_bpffs(mount_point)? {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("bpf", mount_point, "bpf", flags, Some(c"mode=0700"))
        .map_err(|errno| Error::Mount { path: mount_point.to_owned(), source: errno.into() })
}

fn is_bpffs(path: &Path) -> Result<bool> {
    match rustix::fs::statfs(path) {
        Ok(found) => Ok(crate::statfs::has_magic(&found, MAGIC)),
        // No such directory: sysfs lacks it on a kernel without bpf(2).
        Err(errno) => Err(Error::Mount { path: path.to_owned(), source: io::Error::from(errno) }),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_lock_that_is_not_freed_is_waited_for_no_longer_than_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let held = lock(path, Duration::ZERO).unwrap();

        let patience = Duration::from_millis(20);
        let start = Instant::now();
        let error = lock(path, patience).unwrap_err();
        assert!(start.elapsed() >= patience);
        assert!(matches!(&error, Error::Locked { path: named, .. } if named == path), "{error:?}");

        thread::scope(|scope| {
            let waiting = scope.spawn(|| lock(path, LOCK_TIMEOUT));
            drop(held);
            waiting.join().unwrap().unwrap();
        });
    }
}
