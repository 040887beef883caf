//! Deleting a link without waiting for what the kernel does afterwards.
#![expect(unsafe_code, reason = "clone(2), and the few calls that are allowed after it, have no safe binding")]

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

use super::{
    attrs::Attrs,
    error::{Operation, Result},
    link::message,
    notices::DeletionNotices,
    orphans::OrphanRecord,
    socket::{Deletion, Socket, encode},
};

/// How long to wait for the announcement that the link is gone. Deletions take turns, so that of many each waits for
/// those before it.
const PATIENCE: Duration = Duration::from_secs(10);

impl Socket {
    /// Deletes a link as [`Socket::delete_link`] does, but returns as soon as it is gone: its name, and that of a veth's
    /// other end, are free in their namespaces. An absent link is success.
    ///
    /// The kernel holds whoever deletes a link until all its readers have let go, some 16 ms in which nobody needs the
    /// plugin any more but its runtime waits for it. No thread can stay behind for that, because a process ends with the
    /// last of its threads. So a process is left behind: a child of a child, in a session of its own. It holds this
    /// socket, `/dev/null` and a pipe by which its end is noticed, no other descriptor, and ends by itself.
    ///
    /// That process is an orphan, and stays a zombie until process 1 or the nearest subreaper reaps it. Some reap only
    /// the processes that they started, so `record` keeps track of the orphans. While one has not been reaped, no other
    /// is left behind, unless the reaper has been seen to reap. Zombies therefore do not accumulate, and at most one is
    /// the price of finding out. [`OrphanRecord`] describes the file.
    ///
    /// If no process may be left behind, or none can be, this is [`Socket::delete_link`].
    ///
    /// The caller sees one `SIGCHLD`. Forking costs the more the greater the process is: for a plugin of a few megabytes
    /// 0.1 ms; one of some gigabytes may fare better with a thread of its own. A caller that is a subreaper or process 1
    /// itself becomes the parent of the process, and has to reap it.
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
    /// As for [`Socket::delete_link`]. A record that cannot be used is no error.
    ///
    /// # Kernel
    ///
    /// Closing the caller's descriptors takes `close_range(2)`, Linux 5.9; before that, this is
    /// [`Socket::delete_link`].
    #[doc(alias = "RTM_DELLINK")]
    pub fn delete_link_nowait(&self, index: u32, record: &OrphanRecord) -> Result<()> {
        let operation = Operation::on_link("delete", index);
        let sequence = self.next_sequence();
        let request = encode(&operation, sequence, Rtm::Dellink, NlmF::ACK, message(index, Attrs::new()))?;
        let Some((_notices, left)) = self.delegate_deletion(index, &request, record) else {
            return self.delete_link(index);
        };
        match self.await_deletion(&Deletion { operation: &operation, sequence, index }, &left.alive, PATIENCE) {
            Ok(true) => Ok(()),
            // The process may have been killed before it got to it; to ask for a deletion again does no harm.
            Ok(false) => self.delete_link(index),
            Err(error) if error.is(Errno::NODEV) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Has a process of its own delete the link, as far as the record allows it.
    fn delegate_deletion(
        &self,
        index: u32,
        request: &[u8],
        record: &OrphanRecord,
    ) -> Option<(DeletionNotices<'_>, DetachedChild)> {
        let permit = record.permit()?;
        // The kernel announces the deletion to a multicast group before it waits. Linux 6.2 could answer the request
        // with an echo instead, but the group does on every kernel.
        let notices = DeletionNotices::listen(self, index).ok()?;
        let left = spawn_detached_child(self.fd().as_raw_fd(), request)?;
        permit.record(left.pid);
        Some((notices, left))
    }
}

/// A process that outlives the caller.
struct DetachedChild {
    pid: u32,
    /// The end of a pipe whose other end goes with the process.
    alive: PipeReader,
}

/// What the process that is left behind has to do, and by which descriptors.
struct Errand<'r> {
    socket: RawFd,
    alive: RawFd,
    request: &'r [u8],
}

/// Has a process of its own send `request`. Once there is one, no other process holds a descriptor of it, and it is an
/// orphan.
fn spawn_detached_child(socket: RawFd, request: &[u8]) -> Option<DetachedChild> {
    let (mut alive, writer) = std::io::pipe().ok()?;
    wait_for(start_child(&Errand { socket, alive: writer.as_raw_fd(), request })?);
    drop(writer);
    let mut pid = [0; size_of::<pid_t>()];
    alive.read_exact(&mut pid).ok()?;
    Some(DetachedChild { pid: pid_t::from_ne_bytes(pid).cast_unsigned(), alive })
}

/// Starts the child on a stack of its own in the memory of the caller, and returns when it has ended. Copying the page
/// tables of the caller for it, as fork(2) does, takes longer than all else that it does.
fn start_child(errand: &Errand<'_>) -> Option<pid_t> {
    const STACK: usize = 64 * 1024;
    let mut stack = Vec::<u8>::with_capacity(STACK);
    let argument: *const Errand<'_> = errand;
    // SAFETY: with CLONE_VFORK this thread stands still until the child has ended, so that stack and argument outlive it.
    // The child writes to no memory but its stack and errno. No handler of the caller runs in it: signals are blocked.
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

/// Waits for the end of a child. The caller's program may reap it by a handler of its own, or ignore `SIGCHLD`: then the
/// kernel has no status of it, and says so when it has ended.
fn wait_for(child: pid_t) {
    let mut status: c_int = 0;
    // SAFETY: the kernel writes the status to a number that lives through the call.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } == -1
        && Errno::from_io_error(&std::io::Error::last_os_error()) == Some(Errno::INTR)
    {}
}

/// The child: lets go of all that it has from the caller before it forks the process that stays, so that the caller
/// need not wait for anything but its end. It tells the caller the number of that process.
///
/// It calls nothing but what signal-safety(7) allows, and system calls: another thread of the caller may hold any lock,
/// that of the allocator for example.
extern "C" fn prepare_and_fork(errand: *mut c_void) -> c_int {
    /// The first number after the standard descriptors.
    const SOCKET: RawFd = 3;
    const ALIVE: RawFd = SOCKET + 1;
    // SAFETY: `start_child` passes a pointer to an errand that outlives this function.
    let Errand { socket, alive, request } = unsafe { &*errand.cast::<Errand<'_>>() };
    // SAFETY: all of these are system calls on numbers and constant strings. The descriptors are the child's own: the
    // caller keeps those that are closed here.
    let ready = unsafe {
        // Out of the way first: a runtime may have started the caller without standard descriptors.
        let aside = [*socket, *alive].map(|fd| libc::fcntl(fd, libc::F_DUPFD, ALIVE + 1));
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        libc::setsid() != -1
            && libc::chdir(c"/".as_ptr()) == 0
            && !aside.contains(&-1)
            && null != -1
            && (0..SOCKET).all(|standard| libc::dup2(null, standard) == standard)
            && libc::dup2(aside[0], SOCKET) == SOCKET
            && libc::dup2(aside[1], ALIVE) == ALIVE
            && libc::syscall(libc::SYS_close_range, ALIVE + 1, c_uint::MAX, 0) == 0
    };
    // SAFETY: as above; `_exit` leaves without the caller's exit handlers. The C library's fork would run handlers of the
    // caller's in its memory; the system call copies that memory and runs none.
    unsafe {
        if !ready {
            libc::_exit(1);
        }
        match libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) as pid_t {
            -1 => libc::_exit(1),
            0 => {
                // The kernel answers on the socket; there is nobody to tell of a failure to send.
                libc::send(SOCKET, request.as_ptr().cast(), request.len(), 0);
                libc::_exit(0)
            }
            orphan => {
                // Without the number the caller takes it that there is no process, and deletes the link itself.
                libc::write(ALIVE, (&raw const orphan).cast(), size_of::<pid_t>());
                libc::_exit(0)
            }
        }
    }
}
