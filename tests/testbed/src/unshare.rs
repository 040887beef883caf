//! The only file of the testbed that changes the namespaces of a thread.
#![expect(unsafe_code, reason = "unshare(2) is unsafe because of CLONE_FILES, which is not used here")]
#![expect(clippy::disallowed_methods, reason = "the testbed creates namespaces too")]

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// Moves the calling thread into a new network namespace, and a new mount namespace if `mounts`.
///
/// The kernel keeps the rest of the process in its namespaces, so call this on a thread that ends
/// with the test.
pub(crate) fn unshare(mounts: bool) {
    let mut flags = UnshareFlags::NEWNET;
    flags.set(UnshareFlags::NEWNS, mounts);
    // SAFETY: file descriptors stay shared, because CLONE_FILES is not among the flags.
    unsafe { unshare_unsafe(flags) }.unwrap_or_else(|error| panic!("cannot unshare {flags:?}: {error}"));
}

/// Moves the calling thread into a network namespace.
pub(crate) fn enter(netns: impl AsFd) {
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
        .unwrap_or_else(|error| panic!("cannot enter the network namespace: {error}"));
}

/// The network namespace of the calling thread.
pub(crate) fn current() -> OwnedFd {
    let path = "/proc/thread-self/ns/net";
    File::open(path).unwrap_or_else(|error| panic!("cannot open {path}: {error}")).into()
}
