//! Deleting a link without waiting for the kernel's grace period.
#![expect(unsafe_code, reason = "clone(2), and the few calls that are permitted after it, have no safe binding")]

use std::{
    io::{PipeReader, Read as _},
    mem,
    os::fd::{AsRawFd, RawFd},
    ptr,
    time::Duration,
};

use libc::{c_int, c_uint, c_void, pid_t, sigset_t};
use neli::consts::{nl::NlmF, rtnl::Rtm};
use rustix::io::Errno;

use super::{notices::DeletionNotices, orphans::OrphanRecord, wait::Deletion};
use crate::netlink::{
    error::Result,
    links::message::message,
    operation::Operation,
    socket::{Socket, encode},
    wire::Attrs,
};
use crate::spec::IfIndex;

/// How long to wait for the notification that the link is gone. The kernel deletes links one at a
/// time, so each of many deletions waits for the earlier ones.
const DELETION_TIMEOUT: Duration = Duration::from_secs(10);

impl Socket {
    /// Deletes a link as [`Socket::delete_link`] does, but returns as soon as the link is gone. Its
    /// name, and the name of a veth peer, are then free in their namespaces. Succeeds if the link
    /// is absent.
    ///
    /// The kernel blocks the caller of a deletion until all RCU readers of the link are done, some
    /// 16 ms. During that time the plugin has no work left, but its runtime waits for it. A thread
    /// cannot take over the wait, because a process ends with its last thread. So this method
    /// leaves a process behind: a grandchild in its own session. The process holds this socket,
    /// `/dev/null` and a pipe that signals its end, and no other descriptor. It ends by itself.
    ///
    /// That process is an orphan, and stays a zombie until process 1 or the nearest subreaper reaps
    /// it. Some reapers reap only the processes that they started, so `record` tracks the orphans.
    /// While one orphan is not reaped, no other is left behind, unless the reaper is known to reap.
    /// Zombies therefore do not accumulate: at most one is the cost of the first attempt.
    /// [`OrphanRecord`] describes the file.
    ///
    /// If no process may or can be left behind, this method is [`Socket::delete_link`].
    ///
    /// The caller receives one `SIGCHLD`. The cost of the fork grows with the size of the process:
    /// 0.1 ms for a plugin of a few megabytes. In a process of several gigabytes, a separate thread
    /// may be cheaper. A caller that is a subreaper or process 1 becomes the parent of the process,
    /// and must reap it.
    ///
    /// ```no_run
    /// use cnikit::netlink::{OrphanRecord, Socket};
    ///
    /// # fn main() -> cnikit::netlink::Result<()> {
    /// let host = Socket::open()?;
    /// if let Some(veth) = host.link_by_name(&"veth0".parse().expect("a name"))? {
    ///     host.delete_link_nowait(veth.index, &OrphanRecord::new("/run/my-plugin/orphans"))?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`Socket::delete_link`]. An unusable record is not an error.
    ///
    /// # Kernel
    ///
    /// Closing the caller's descriptors needs `close_range(2)`, Linux 5.9. On older kernels this
    /// method is [`Socket::delete_link`].
    #[doc(alias = "RTM_DELLINK")]
    pub fn delete_link_nowait(&self, ifindex: IfIndex, record: &OrphanRecord) -> Result<()> {
        let operation = Operation::on_link("delete", ifindex);
        let sequence = self.next_sequence();
        let request = encode(&operation, sequence, Rtm::Dellink, NlmF::ACK, message(ifindex, Attrs::new()))?;
        let Some((_notices, left)) = self.delegate_deletion(ifindex, &request, record) else {
            return self.delete_link(ifindex);
        };
        match self.await_deletion(&Deletion { operation: &operation, sequence, ifindex }, &left.alive, DELETION_TIMEOUT)
        {
            Ok(true) => Ok(()),
            // The process may have been killed before it sent the request. A second deletion does
            // no harm.
            Ok(false) => self.delete_link(ifindex),
            Err(error) if error.is(Errno::NODEV) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Starts a process that deletes the link, if the record permits it.
    fn delegate_deletion(
        &self,
        ifindex: IfIndex,
        request: &[u8],
        record: &OrphanRecord,
    ) -> Option<(DeletionNotices<'_>, DetachedChild)> {
        let permit = record.permit()?;
        // The kernel notifies a multicast group of the deletion before it waits. Since Linux 6.2 an
        // echo of the request would do the same, but the group works on every kernel.
        let notices = DeletionNotices::listen(self, ifindex).ok()?;
        let left = spawn_detached_child(self.fd().as_raw_fd(), request)?;
        permit.record(left.pid);
        Some((notices, left))
    }
}

/// A process that outlives the caller.
struct DetachedChild {
    pid: u32,
    /// The read end of a pipe. The process holds the write end until it ends.
    alive: PipeReader,
}

/// The input of the child process: its file descriptors and the request.
struct ChildTask<'r> {
    socket: RawFd,
    alive: RawFd,
    request: &'r [u8],
}

/// Starts a process that sends `request`. On return the process is an orphan, and no other process
/// holds its descriptors.
fn spawn_detached_child(socket: RawFd, request: &[u8]) -> Option<DetachedChild> {
    let (mut alive, writer) = std::io::pipe().ok()?;
    wait_for(start_child(&ChildTask { socket, alive: writer.as_raw_fd(), request })?);
    drop(writer);
    let mut pid = [0; size_of::<pid_t>()];
    alive.read_exact(&mut pid).ok()?;
    Some(DetachedChild { pid: pid_t::from_ne_bytes(pid).cast_unsigned(), alive })
}

/// Starts the child on its own stack in the caller's memory, and returns when the child has ended.
/// A copy of the caller's page tables, as in fork(2), would take longer than everything else.
fn start_child(task: &ChildTask<'_>) -> Option<pid_t> {
    const STACK: usize = 64 * 1024;
    let mut stack = Vec::<u8>::with_capacity(STACK);
    let argument: *const ChildTask<'_> = task;
    // SAFETY: with CLONE_VFORK this thread is suspended until the child ends, so stack and argument
    // outlive the child. The child writes only to its stack and errno. No signal handler of the
    // caller runs in the child, because all signals are blocked.
    let child = unsafe {
        let mut all: sigset_t = mem::zeroed();
        let mut before: sigset_t = mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let top = stack.as_mut_ptr().add(STACK).cast();
        let child = libc::clone(prepare_and_fork, top, flags, argument.cast_mut().cast());
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, ptr::null_mut());
        child
    };
    (child != -1).then_some(child)
}

/// Waits for the end of a child. The caller's program may reap the child in its own handler, or
/// ignore `SIGCHLD`. The kernel then has no status, and returns an error when the child has ended.
fn wait_for(child: pid_t) {
    let mut status: c_int = 0;
    // SAFETY: the kernel writes the status to an integer that outlives the call.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } == -1
        && Errno::from_io_error(&std::io::Error::last_os_error()) == Some(Errno::INTR)
    {}
}

/// The child. It closes the descriptors of the caller before it forks the remaining process, so the
/// caller waits only for the end of the child. It writes the pid of the new process to the pipe.
///
/// It makes only system calls and calls that signal-safety(7) permits: another thread of the caller
/// may hold any lock, for example of the allocator.
extern "C" fn prepare_and_fork(task: *mut c_void) -> c_int {
    /// The first descriptor after the standard descriptors.
    const SOCKET: RawFd = 3;
    const ALIVE: RawFd = SOCKET + 1;
    // SAFETY: `start_child` passes a pointer to a task that outlives this function.
    let ChildTask { socket, alive, request } = unsafe { &*task.cast::<ChildTask<'_>>() };
    // SAFETY: these calls are system calls on integers and constant strings. The descriptors belong
    // to the child: the caller keeps its own copies of the closed ones.
    let ready = unsafe {
        // Move both out of the way first: a runtime may have started the caller without standard
        // descriptors.
        let copies = [*socket, *alive].map(|fd| libc::fcntl(fd, libc::F_DUPFD, ALIVE + 1));
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        libc::setsid() != -1
            && libc::chdir(c"/".as_ptr()) == 0
            && !copies.contains(&-1)
            && null != -1
            && (0..SOCKET).all(|standard| libc::dup2(null, standard) == standard)
            && libc::dup2(copies[0], SOCKET) == SOCKET
            && libc::dup2(copies[1], ALIVE) == ALIVE
            && libc::syscall(libc::SYS_close_range, ALIVE + 1, c_uint::MAX, 0) == 0
    };
    // SAFETY: as above; `_exit` skips the caller's exit handlers. The C library's fork would run
    // the caller's fork handlers in the caller's memory. The system call copies that memory and
    // runs no handlers.
    unsafe {
        if !ready {
            libc::_exit(1);
        }
        match libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) as pid_t {
            -1 => libc::_exit(1),
            0 => {
                // The kernel answers on the socket. A failed send has no receiver for its error.
                libc::send(SOCKET, request.as_ptr().cast(), request.len(), 0);
                libc::_exit(0)
            }
            orphan => {
                // Without the pid the caller assumes that there is no process, and deletes the link
                // itself.
                libc::write(ALIVE, (&raw const orphan).cast(), size_of::<pid_t>());
                libc::_exit(0)
            }
        }
    }
}
