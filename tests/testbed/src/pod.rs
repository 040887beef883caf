//! A pod: a network namespace that only a file descriptor keeps alive.

use std::ffi::OsStr;
use std::fs;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use crate::{Command, Namespace, unshare};

/// An anonymous network namespace. The namespace and its links disappear with this value.
#[derive(Debug)]
pub struct Pod {
    netns: OwnedFd,
}

impl Pod {
    pub(crate) fn new() -> Self {
        let make = || {
            unshare::unshare(false);
            unshare::current()
        };
        // The namespace outlives the thread that created it, through the descriptor.
        let netns = std::thread::scope(|scope| scope.spawn(make).join()).expect("the namespace was created");
        Self { netns }
    }

    /// The path of the namespace, as a runtime passes it in `CNI_NETNS`.
    ///
    /// The path leads through this process's descriptors, so there is no name to clean up.
    #[must_use]
    pub fn netns(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.netns.as_raw_fd()).into()
    }

    /// Runs a closure on a thread inside the namespace.
    ///
    /// # Panics
    ///
    /// If the namespace cannot be entered, or if the closure panics.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            unshare::enter(&self.netns);
            inside()
        };
        let ended = std::thread::scope(|scope| scope.spawn(enter).join());
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Sets the kernel's range of local ports in the pod.
    ///
    /// # Panics
    ///
    /// If the kernel rejects the range.
    pub fn use_ports(&self, ports: RangeInclusive<u16>) {
        let range = format!("{} {}", ports.start(), ports.end());
        self.enter(|| fs::write("/proc/sys/net/ipv4/ip_local_port_range", range)).expect("the range is set");
    }
}

impl AsFd for Pod {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.netns.as_fd()
    }
}

impl Namespace for Pod {
    #[track_caller]
    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        Command::new("nsenter").arg(format!("--net={}", self.netns().display())).arg("--").arg(program)
    }
}
