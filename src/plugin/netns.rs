//! Validates `CNI_NETNS`.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::AsFd as _;
use std::os::linux::fs::MetadataExt as _;
use std::path::Path;

use super::Error;
use crate::nsfs::{self, OWN};

/// Checks that a path is a network namespace and, unless `allow_own`, not the plugin's own.
pub(super) fn require(path: &Path, allow_own: bool) -> Result<(), Error> {
    let unreadable = |source| Error::NetnsUnreadable { path: path.to_owned(), source };
    let not_netns = || Error::NotNetns { path: path.to_owned() };
    // Opens nothing except namespaces: the other end of a FIFO and some devices notice an open.
    if !nsfs::leads_to_namespace(path).map_err(unreadable)? {
        return Err(not_netns());
    }
    let file = File::open(path).map_err(unreadable)?;
    if !nsfs::is_network_namespace(file.as_fd()) {
        return Err(not_netns());
    }
    if !allow_own && is_own_by(file.metadata()).map_err(unreadable)? {
        return Err(Error::OwnNetns { path: path.to_owned() });
    }
    Ok(())
}

/// Whether a path is the network namespace of the calling thread; false if the path is
/// inaccessible.
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
    fn only_network_namespaces_are_accepted() {
        for own in [OWN, "/proc/self/ns/net"] {
            require(Path::new(own), true).unwrap();
        }
        for other in ["/proc/self/ns/mnt", "/proc/self/ns/uts", "/dev/null", "/"] {
            assert!(matches!(require(Path::new(other), false), Err(Error::NotNetns { .. })), "{other}");
        }
        let pipe = tempfile::tempdir().unwrap();
        let path = pipe.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(matches!(require(&path, false), Err(Error::NotNetns { .. })));
        assert!(matches!(require(Path::new("/nonexistent"), false), Err(Error::NetnsUnreadable { .. })));
    }

    #[test]
    fn the_own_namespace_is_rejected() {
        let own = Path::new("/proc/self/ns/net");
        assert!(is_own(own));
        assert!(matches!(require(own, false), Err(Error::OwnNetns { .. })));
        require(own, true).unwrap();
        for other in ["/proc/self/ns/mnt", "/nonexistent", "/"] {
            assert!(!is_own(Path::new(other)), "{other}");
        }
    }
}
