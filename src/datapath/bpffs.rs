//! The BPF file system: found, or mounted where systemd or the distribution has not.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use fs2::FileExt;
use rustix::mount::{MountFlags, mount};

use super::{Error, Result};

/// Where the kernel keeps a directory for it.
const MOUNT_POINT: &str = "/sys/fs/bpf";

/// `BPF_FS_MAGIC` of `linux/magic.h`.
const MAGIC: u32 = 0xcafe_4a11;

/// Makes the directory `path` on the BPF file system, and mounts that first where it is missing.
pub(super) fn ensure_directory(path: &Path) -> Result<()> {
    if path.starts_with(MOUNT_POINT) {
        ensure_mounted(Path::new(MOUNT_POINT))?;
    }
    fs::create_dir_all(path).map_err(|error| Error::pin("make the directory", path, error))?;
    if !is_bpffs(path)? {
        return Err(Error::NotBpffs { path: path.to_owned() });
    }
    Ok(())
}

/// Whether [`ensure_directory`] has a file system to work on, or a place to mount one.
pub(super) fn probe(path: &Path) -> Result<()> {
    let place = if path.starts_with(MOUNT_POINT) { Path::new(MOUNT_POINT) } else { path };
    is_bpffs(place).map(drop)
}

/// An exclusive lock on a directory, held until it is dropped. Held for the few tens of
/// milliseconds that a load takes, so it has no time limit; the kernel frees it if its holder dies.
pub(super) fn lock(directory: &Path) -> Result<File> {
    let file = File::open(directory).map_err(|error| Error::pin("open the directory", directory, error))?;
    file.lock_exclusive().map_err(|error| Error::pin("lock the directory", directory, error))?;
    Ok(file)
}

fn ensure_mounted(mount_point: &Path) -> Result<()> {
    if is_bpffs(mount_point)? {
        return Ok(());
    }
    // Two mounts would stack, and the upper one hide what is pinned in the lower: one caller mounts,
    // the others wait on the directory below and look again.
    let _lock = lock(mount_point)?;
    if is_bpffs(mount_point)? {
        return Ok(());
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("bpf", mount_point, "bpf", flags, Some(c"mode=0700"))
        .map_err(|errno| Error::Mount { path: mount_point.to_owned(), source: errno.into() })
}

fn is_bpffs(path: &Path) -> Result<bool> {
    match rustix::fs::statfs(path) {
        // The member is signed or not, 32 or 64 bits wide, by architecture.
        #[allow(clippy::unnecessary_cast, reason = "its type differs between architectures")]
        Ok(stat) => Ok(stat.f_type as u32 == MAGIC),
        // No such directory: sysfs lacks it on a kernel without bpf(2).
        Err(errno) => Err(Error::Mount { path: path.to_owned(), source: io::Error::from(errno) }),
    }
}
