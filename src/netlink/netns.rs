#![expect(clippy::disallowed_methods, reason = "the one place where a thread changes its namespace")]

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    panic,
    path::Path,
    process, thread,
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags, Stat},
    io::Errno,
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

use tracing::{
    Span,
    dispatcher::{self, Dispatch},
};

use super::{
    error::{Error, Result},
    socket::Socket,
};
use crate::nsfs;

/// A network namespace, held open by a descriptor.
///
/// It lives as long as the value does, even when its path is removed or its last process ends.
///
/// See [network_namespaces(7)](https://man7.org/linux/man-pages/man7/network_namespaces.7.html).
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    id: NetnsId,
}

/// What identifies a namespace as long as it lives, by whichever path it is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NetnsId {
    /// The device number of the file system that holds namespaces.
    pub dev: u64,
    /// The inode number, which `readlink` shows as `net:[4026531840]`.
    pub inode: u64,
}

impl Netns {
    /// Opens the namespace at `path`, such as `/run/netns/blue` or `/proc/4711/ns/net`, and makes
    /// sure that it is one.
    ///
    /// # Errors
    ///
    /// [`Error::NetnsMissing`] where there is nothing, [`Error::NotNetns`] where there is something
    /// else (a regular file left after a reboot, or a namespace of another type),
    /// [`Error::NetnsOpen`] where opening fails, for want of permission for example.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let fd = open(path)?;
        if !nsfs::is_network_namespace(fd.as_fd()) {
            return Err(Error::NotNetns { path: path.to_owned() });
        }
        let stat = rustix::fs::fstat(&fd).map_err(not_opened(path))?;
        Ok(Self { fd, id: NetnsId::from(stat) })
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// Those of [`Netns::open`]; `/proc` must be mounted.
    pub fn current() -> Result<Self> {
        Self::open(nsfs::OWN)
    }

    /// Whether it is the namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// [`Error::NetnsOpen`] where that cannot be found out; `/proc` must be mounted.
    pub fn is_current(&self) -> Result<bool> {
        let own = Path::new(nsfs::OWN);
        let stat = rustix::fs::stat(own).map_err(not_opened(own))?;
        Ok(self.id == NetnsId::from(stat))
    }

    /// Makes a new namespace that has no path: it is gone when the value, its sockets and the
    /// processes inside are.
    ///
    /// # Errors
    ///
    /// [`Error::Netns`] where the kernel refuses.
    ///
    /// # Kernel
    ///
    /// Needs `CAP_SYS_ADMIN`.
    #[doc(alias = "unshare")]
    pub fn create() -> Result<Self> {
        on_own_thread("create", || {
            unshare(UnshareFlags::NEWNET).map_err(|source| Error::Netns { operation: "create", source })?;
            Self::current()
        })?
    }

    /// Runs `work` on a machine of its own: on a thread with a new network namespace, which has no link but a `lo` that
    /// is down, and a new mount namespace, which begins as a copy of the caller's. Both end with the thread and the
    /// processes that `work` starts.
    ///
    /// # Errors
    ///
    /// [`Error::Netns`] where the kernel refuses; `work` has not run then.
    #[cfg(feature = "conformance")]
    pub(crate) fn run_apart<T, F>(work: F) -> Result<T>
    where
        T: Send,
        F: FnOnce() -> T + Send,
    {
        on_own_thread("create", || {
            unshare(UnshareFlags::NEWNET | UnshareFlags::NEWNS)
                .map_err(|source| Error::Netns { operation: "create", source })?;
            Ok(work())
        })?
    }

    /// The identity of the namespace; two values of one namespace have the same.
    pub const fn id(&self) -> NetnsId {
        self.id
    }

    /// Opens a netlink socket inside. It is used from outside, by any thread.
    ///
    /// # Errors
    ///
    /// [`Error::Netns`] where the namespace cannot be entered, [`Error::Socket`] where no socket
    /// can be had.
    ///
    /// # Kernel
    ///
    /// Needs `CAP_SYS_ADMIN` here and in the user namespace that owns the network namespace.
    pub fn socket(&self) -> Result<Socket> {
        self.run(Socket::open)?
    }

    /// Runs `work` inside. The calling thread is back where it was when this returns, also by a panic of `work`.
    ///
    /// A child process that `work` starts is born inside. Threads that it starts are too.
    ///
    /// A thread that may not enter its own namespace again, because that belongs to a user namespace above, lets a
    /// thread that ends afterwards do the work.
    ///
    /// # Errors
    ///
    /// [`Error::Netns`] where the namespace cannot be entered; `work` has not run then.
    ///
    /// # Panics
    ///
    /// With the panic of `work`. Should the way back be barred in spite of the trial, the process is aborted: in a
    /// pod's namespace it would do to the pod what is meant for the host.
    ///
    /// # Kernel
    ///
    /// Needs `CAP_SYS_ADMIN` here and in the user namespace that owns the network namespace.
    #[doc(alias = "setns")]
    pub fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send,
        F: FnOnce() -> T + Send,
    {
        let home = open(Path::new(nsfs::OWN))?;
        if enter(home.as_fd()).is_err() {
            return on_own_thread("enter", || {
                enter(self.as_fd())?;
                Ok(work())
            })?;
        }
        enter(self.as_fd())?;
        let _visit = Visit { home };
        Ok(work())
    }
}

impl From<Stat> for NetnsId {
    fn from(stat: Stat) -> Self {
        Self { dev: stat.st_dev, inode: stat.st_ino }
    }
}

/// How often the way back is tried, and the pause between two attempts.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(1);

/// The stay of a thread in another namespace than its own.
struct Visit {
    home: OwnedFd,
}

impl Drop for Visit {
    fn drop(&mut self) {
        // The trial went well, so what is in the way now may pass, as a lack of memory does.
        for _ in 0..TRIES {
            if enter(self.home.as_fd()).is_ok() {
                return;
            }
            thread::sleep(PAUSE);
        }
        process::abort();
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    // Without NONBLOCK a FIFO at this path would hold the plugin until somebody writes to it.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT | Errno::NOTDIR => Error::NetnsMissing { path: path.to_owned() },
        errno => not_opened(path)(errno),
    })
}

fn not_opened(path: &Path) -> impl Fn(Errno) -> Error {
    |errno| Error::NetnsOpen { path: path.to_owned(), source: errno.into() }
}

/// Moves the calling thread into a namespace.
fn enter(netns: BorrowedFd<'_>) -> Result<()> {
    move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
        .map_err(|errno| Error::Netns { operation: "enter", source: errno.into() })
}

fn on_own_thread<T, F>(operation: &'static str, work: F) -> Result<T>
where
    T: Send,
    F: FnOnce() -> T + Send,
{
    // Who listens to the caller hears of this thread, too, as of a part of what the caller does.
    let (subscriber, span) = (dispatcher::get_default(Dispatch::clone), Span::current());
    let work = || {
        let _told = dispatcher::set_default(&subscriber);
        let _inside = span.enter();
        work()
    };
    thread::scope(|scope| {
        let thread =
            thread::Builder::new().spawn_scoped(scope, work).map_err(|source| Error::Netns { operation, source })?;
        thread.join().or_else(|panicked| panic::resume_unwind(panicked))
    })
}

#[expect(unsafe_code, reason = "rustix marks unshare unsafe as a whole")]
fn unshare(namespaces: UnshareFlags) -> io::Result<()> {
    // SAFETY: only CLONE_FILES can make descriptors of other threads invalid, and no caller in this file names it.
    unsafe { unshare_unsafe(namespaces) }.map_err(io::Error::from)
}
