//! The BPF file system, and mounting it if the distribution does not.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use super::{Error, Result};
use crate::flock;
use crate::poll::Pauses;

/// The mount point that the kernel provides.
const MOUNT_POINT: &str = "/sys/fs/bpf";

/// `BPF_FS_MAGIC` of `linux/magic.h`.
const MAGIC: u32 = 0xcafe_4a11;

/// How long to wait for the lock. A load holds it for a few tens of milliseconds.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause between two attempts to lock.
const PAUSES: Pauses = Pauses { first: Duration::from_millis(2), longest: Duration::from_millis(2) };

/// Creates the directory `path` on the BPF file system, and mounts that file system if it is
/// missing.
///
/// Only `/sys/fs/bpf` is mounted, and only for a directory below it. Missing directories of the
/// path are created for their owner alone (mode 0700). [`PinSet`](super::PinSet) and
/// [`TcxLink::ensure`](super::TcxLink::ensure) call this function for their own directories.
///
/// ```no_run
/// cnikit::bpf::ensure_directory("/sys/fs/bpf/my-plugin")?;
/// # Ok::<(), cnikit::bpf::Error>(())
/// ```
///
/// # Errors
///
/// - [`Error::Mount`] if the file system is missing and cannot be mounted,
/// - [`Error::NotBpffs`] if the path is on another file system, where nothing is created,
/// - [`Error::PinName`] if a missing directory of the path has a `.` in its name,
/// - [`Error::Pin`] if a directory cannot be created,
/// - [`Error::Locked`] if another process hangs while it mounts the file system.
///
/// # Kernel
///
/// `CONFIG_BPF_SYSCALL`. Mounting needs `CAP_SYS_ADMIN`.
#[doc(alias = "bpffs")]
pub fn ensure_directory(path: impl AsRef<Path>) -> Result<()> {
    ensure_path(path.as_ref())
}

fn ensure_path(path: &Path) -> Result<()> {
    if path.starts_with(MOUNT_POINT) {
        ensure_mounted(Path::new(MOUNT_POINT))?;
    }
    check_names(path)?;
    refuse_elsewhere(path)?;
    create_directories(path)
}

/// Refuses a path with a missing directory that the BPF file system refuses. The kernel's error for
/// such a name is `EPERM`, which looks like a missing capability.
pub(crate) fn check_names(path: &Path) -> Result<()> {
    let is_missing = |path: &Path| match path.try_exists() {
        Err(error) => error.raw_os_error() == Some(Errno::PERM.raw_os_error()),
        Ok(exists) => !exists,
    };
    let missing = path.ancestors().filter(|ancestor| is_missing(ancestor));
    missing.filter_map(Path::file_name).try_for_each(check_name)
}

/// Refuses a name that the BPF file system refuses.
pub(crate) fn check_name(name: &OsStr) -> Result<()> {
    if name.as_encoded_bytes().contains(&b'.') {
        let name = name.to_string_lossy().into_owned();
        return Err(Error::PinName { name, reason: "contains a `.`, which the BPF file system reserves" });
    }
    Ok(())
}

/// Checks that [`ensure_directory`] can write to a BPF file system, or can mount one.
pub(crate) fn probe(path: &Path) -> Result<()> {
    let mount_point = Path::new(MOUNT_POINT);
    if path.starts_with(mount_point) && !is_bpffs(mount_point)? {
        return Ok(());
    }
    refuse_elsewhere(path)?;
    let existing = existing(path);
    let writable = access(existing, Access::WRITE_OK | Access::EXEC_OK);
    writable.map_err(|errno| Error::pin("write in", existing, errno))
}

/// Creates directories that only their owner can open. A process that can open a directory can also
/// lock it.
pub(crate) fn create_directories(path: &Path) -> Result<()> {
    let mut private = DirBuilder::new();
    private.recursive(true).mode(0o700).create(path).map_err(|error| Error::pin("create the directory", path, error))
}

/// Takes an exclusive lock on a directory, held until it is dropped. The kernel frees the lock if
/// its holder dies. The timeout covers a holder that hangs.
pub(crate) fn lock(directory: &Path, timeout: Duration) -> Result<File> {
    let file = File::open(directory).map_err(|error| Error::pin("open the directory", directory, error))?;
    match flock::lock_with_timeout(&file, timeout, PAUSES) {
        Ok(true) => Ok(file),
        Ok(false) => Err(Error::Locked { path: directory.to_owned(), waited: timeout }),
        Err(error) => Err(Error::pin("lock the directory", directory, error)),
    }
}

fn refuse_elsewhere(path: &Path) -> Result<()> {
    if is_bpffs(existing(path))? { Ok(()) } else { Err(Error::NotBpffs { path: path.to_owned() }) }
}

/// The longest part of a path that exists.
fn existing(path: &Path) -> &Path {
    // If the lookup of an ancestor fails, the ancestor counts as present, and statfs(2) then
    // reports the error. The last ancestor of a relative path is empty.
    let is_there = |ancestor: &&Path| !matches!(ancestor.try_exists(), Ok(false));
    path.ancestors().find(is_there).unwrap_or(Path::new("."))
}

fn ensure_mounted(mount_point: &Path) -> Result<()> {
    if is_bpffs(mount_point)? {
        return Ok(());
    }
    // A second mount would hide the pins in the first. One caller mounts, and the others wait for
    // the lock and check again. The lock is on the directory below the mount.
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
        // ENOENT: sysfs lacks the directory on a kernel without bpf(2).
        Err(errno) => Err(Error::Mount { path: path.to_owned(), source: io::Error::from(errno) }),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use super::*;

    #[test]
    fn lock_waits_until_the_timeout() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let held = lock(path, Duration::ZERO).unwrap();

        let timeout = Duration::from_millis(20);
        let start = Instant::now();
        let error = lock(path, timeout).unwrap_err();
        assert!(start.elapsed() >= timeout);
        assert!(matches!(&error, Error::Locked { path: named, .. } if named == path), "{error:?}");

        thread::scope(|scope| {
            let waiting = scope.spawn(|| lock(path, LOCK_TIMEOUT));
            drop(held);
            waiting.join().unwrap().unwrap();
        });
    }
}
