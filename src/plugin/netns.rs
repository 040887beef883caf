//! What `CNI_NETNS` points at.

use std::fs::{self, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::linux::fs::MetadataExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

use super::Error;
use crate::nsfs::{self, OWN};

/// Makes sure that a path is a network namespace and, unless `own_is_meant`, not the plugin's own.
pub(super) fn require(path: &Path, own_is_meant: bool) -> Result<(), Error> {
    let unreadable = |source| Error::NetnsUnreadable { path: path.to_owned(), source };
    // Without the flag, to open a FIFO would be to wait.
    let without_waiting = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(without_waiting).open(path).map_err(unreadable)?;
    if !nsfs::is_network_namespace(file.as_fd()) {
        return Err(Error::NotNetns { path: path.to_owned() });
    }
    if !own_is_meant && is_own_by(file.metadata()).map_err(unreadable)? {
        return Err(Error::OwnNetns { path: path.to_owned() });
    }
    Ok(())
}

/// Whether a path is the network namespace of the calling thread. What cannot be looked at is not it.
pub(super) fn is_own(path: &Path) -> bool {
    is_own_by(fs::metadata(path)).unwrap_or(false)
}

fn is_own_by(metadata: io::Result<Metadata>) -> io::Result<bool> {
    let identity = |metadata: Metadata| (metadata.st_dev(), metadata.st_ino());
    Ok(identity(metadata?) == identity(fs::metadata(OWN)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_namespace_is_told_from_other_things() {
        for own in [OWN, "/proc/self/ns/net"] {
            require(Path::new(own), true).unwrap();
        }
        for other in ["/proc/self/ns/mnt", "/proc/self/ns/uts", "/dev/null", "/"] {
            assert!(matches!(require(Path::new(other), false), Err(Error::NotNetns { .. })), "{other}");
        }
        assert!(matches!(require(Path::new("/nonexistent"), false), Err(Error::NetnsUnreadable { .. })));
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
