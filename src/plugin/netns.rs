//! What `CNI_NETNS` points at.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::linux::fs::MetadataExt;
use std::path::Path;

use super::Error;

const OWN: &str = "/proc/thread-self/ns/net";

/// Makes sure that a path is a network namespace and, unless `own_is_meant`, not the plugin's own.
pub(super) fn require(path: &Path, own_is_meant: bool) -> Result<(), Error> {
    require_netns(path)?;
    if !own_is_meant && is_own(path) { Err(Error::OwnNetns { path: path.to_owned() }) } else { Ok(()) }
}

/// Makes sure that a path is a network namespace. One that is bound to a path by a mount, as
/// runtimes do, shows only that it is some namespace.
fn require_netns(path: &Path) -> Result<(), Error> {
    let unreadable = |source| Error::NetnsUnreadable { path: path.to_owned(), source };
    let not_netns = || Error::NotNetns { path: path.to_owned() };

    // Before anything is opened: opening a FIFO would wait. All namespaces live on one device.
    let device = fs::metadata(OWN).map_err(unreadable)?.st_dev();
    if fs::metadata(path).map_err(unreadable)?.st_dev() != device {
        return Err(not_netns());
    }
    // A namespace under /proc tells its kind, a mounted one the path of the mount.
    let namespace = File::open(path).map_err(unreadable)?;
    let target = fs::read_link(format!("/proc/thread-self/fd/{}", namespace.as_raw_fd())).map_err(unreadable)?;
    if target.is_absolute() || target.to_string_lossy().starts_with("net:[") { Ok(()) } else { Err(not_netns()) }
}

/// Whether a path is the network namespace of the calling thread. What cannot be looked at is not it.
pub(super) fn is_own(path: &Path) -> bool {
    let identity = |path: &Path| -> io::Result<(u64, u64)> {
        let metadata = fs::metadata(path)?;
        Ok((metadata.st_dev(), metadata.st_ino()))
    };
    matches!((identity(path), identity(Path::new(OWN))), (Ok(named), Ok(own)) if named == own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_namespace_is_told_from_other_things() {
        require_netns(Path::new(OWN)).unwrap();
        require_netns(Path::new("/proc/self/ns/net")).unwrap();
        for other in ["/proc/self/ns/mnt", "/proc/self/ns/uts", "/dev/null", "/"] {
            assert!(matches!(require_netns(Path::new(other)), Err(Error::NotNetns { .. })), "{other}");
        }
        assert!(matches!(require_netns(Path::new("/nonexistent")), Err(Error::NetnsUnreadable { .. })));
    }

    #[test]
    fn only_the_own_namespace_is_refused() {
        let own = Path::new("/proc/self/ns/net");
        assert!(is_own(own));
        assert!(matches!(require(own, false), Err(Error::OwnNetns { .. })));
        require(own, true).unwrap();
        for other in ["/proc/self/ns/mnt", "/nonexistent", "/"] {
            assert!(!is_own(Path::new(other)), "{other}");
        }
    }
}
