//! Network namespaces.
#![expect(clippy::disallowed_methods, reason = "only this file changes the namespace of a thread")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    panic,
    path::{Path, PathBuf},
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

/// A network namespace, held by an open descriptor.
///
/// The namespace exists as long as this value, even if its path is removed or its last process
/// ends.
///
/// See [network_namespaces(7)](https://man7.org/linux/man-pages/man7/network_namespaces.7.html).
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    id: NetnsId,
}

/// The identity of a namespace during its lifetime, independent of the path.
///
/// Closed: these two numbers identify a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NetnsId {
    /// The device number of the file system that holds namespaces (nsfs).
    pub dev: u64,
    /// The inode number, which `readlink` shows as `net:[4026531840]`.
    pub inode: u64,
}

impl Netns {
    /// Opens the namespace at `path`, such as `/run/netns/blue` or `/proc/4711/ns/net`, and checks
    /// that the file is a network namespace.
    ///
    /// # Errors
    ///
    /// [`Error::NetnsMissing`] if the path does not exist. [`Error::NotNetns`] if it is another
    /// file: a regular file left after a reboot, or a namespace of another type.
    /// [`Error::NetnsOpen`] if it cannot be opened, for example without permission.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let fd = open(path)?;
        if !nsfs::is_network_namespace(fd.as_fd()) {
            return Err(Error::NotNetns { path: path.to_owned() });
        }
        let stat = rustix::fs::fstat(&fd).map_err(not_opened(path))?;
        Ok(Self { fd, id: NetnsId::from_stat(&stat) })
    }

    /// The namespace of a descriptor that the kernel returned for a network namespace.
    pub(super) fn from_fd(fd: OwnedFd) -> rustix::io::Result<Self> {
        let id = NetnsId::from_stat(&rustix::fs::fstat(&fd)?);
        Ok(Self { fd, id })
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// As for [`Netns::open`]; `/proc` must be mounted.
    pub fn current() -> Result<Self> {
        Self::open(nsfs::OWN)
    }

    /// Whether this is the namespace of the calling thread.
    ///
    /// # Errors
    ///
    /// [`Error::NetnsOpen`] if the thread's own namespace cannot be read; `/proc` must be mounted.
    pub fn is_current(&self) -> Result<bool> {
        let own = Path::new(nsfs::OWN);
        let stat = rustix::fs::stat(own).map_err(not_opened(own))?;
        Ok(self.id == NetnsId::from_stat(&stat))
    }

    /// Creates a new namespace without a path. The kernel deletes the namespace after this value is
    /// dropped and its sockets and processes are gone.
    ///
    /// # Errors
    ///
    /// [`Error::Netns`] if the kernel refuses.
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

    /// Runs `work` on a private host: a thread with a new network namespace and a new mount
    /// namespace. The network namespace has only `lo`, which is down. The mount namespace starts as
    /// a copy of the caller's. Both disappear with the thread and the processes that `work` starts.
    ///
    /// # Errors
    ///
    /// [`Error::Netns`] if the kernel refuses; `work` has not run then.
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

    /// The identity of the namespace. Two values for one namespace have the same id.
    #[must_use]
    pub const fn id(&self) -> NetnsId {
        self.id
    }

    /// The path of the open descriptor, such as `/proc/self/fd/5`: a value of `CNI_NETNS` for a
    /// namespace without a file.
    ///
    /// The path is valid in this process only, and only while this value exists. A child process
    /// does not inherit the descriptor.
    ///
    /// ```no_run
    /// use cnikit::netlink::Netns;
    ///
    /// let pod = Netns::create()?;
    /// assert_eq!(Netns::open(pod.path())?.id(), pod.id());
    /// # Ok::<(), cnikit::netlink::Error>(())
    /// ```
    ///
    /// # Kernel
    ///
    /// `/proc` must be mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd()).into()
    }

    /// Opens a netlink socket inside the namespace. Any thread can use it from outside.
    ///
    /// # Errors
    ///
    /// [`Error::Netns`] if the namespace cannot be entered, [`Error::Socket`] if the socket cannot
    /// be opened.
    ///
    /// # Kernel
    ///
    /// Needs `CAP_SYS_ADMIN` in the caller's user namespace and in the user namespace that owns the
    /// network namespace.
    pub fn socket(&self) -> Result<Socket> {
        self.run(Socket::open)?
    }

    /// Runs `work` inside the namespace. On return, and if `work` panics, the calling thread is
    /// back in its own namespace.
    ///
    /// Child processes and threads that `work` starts are inside the namespace.
    ///
    /// A thread may lack permission to enter its own namespace again, if that belongs to a parent
    /// user namespace. In that case `work` runs on a temporary thread.
    ///
    /// # Errors
    ///
    /// [`Error::Netns`] if the namespace cannot be entered; `work` has not run then.
    ///
    /// # Panics
    ///
    /// With the panic of `work`. If the return fails in spite of the earlier check, the process
    /// aborts: otherwise it would apply changes for the host to the pod's namespace.
    ///
    /// # Kernel
    ///
    /// Needs `CAP_SYS_ADMIN` in the caller's user namespace and in the user namespace that owns the
    /// network namespace.
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

impl NetnsId {
    const fn from_stat(stat: &Stat) -> Self {
        Self { dev: stat.st_dev, inode: stat.st_ino }
    }
}

/// The number of attempts to return, and the pause between two attempts.
const MAX_ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(1);

/// The time of a thread in another namespace. On drop, the thread returns to its own namespace.
struct Visit {
    home: OwnedFd,
}

impl Drop for Visit {
    fn drop(&mut self) {
        // The check before succeeded, so this failure may be temporary, for example a lack of
        // memory.
        for _ in 0..MAX_ATTEMPTS {
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
    // Without NONBLOCK, a FIFO at this path would block the plugin until a writer opens it.
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
    // The caller's subscriber also receives the events of this thread, inside the caller's span.
    let (subscriber, span) = (dispatcher::get_default(Dispatch::clone), Span::current());
    let work = || {
        let _subscriber = dispatcher::set_default(&subscriber);
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
    // SAFETY: only CLONE_FILES can invalidate descriptors of other threads, and no caller in this
    // file passes it.
    unsafe { unshare_unsafe(namespaces) }.map_err(io::Error::from)
}
