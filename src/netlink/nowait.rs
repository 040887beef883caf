//! Deleting a link without waiting for what the kernel does afterwards.
#![expect(unsafe_code, reason = "fork(2), and the few calls that are allowed after it, have no safe binding")]

use std::{
    io::PipeReader,
    os::fd::{AsRawFd, RawFd},
    time::Duration,
};

use libc::{c_int, c_uint, pid_t};
use neli::consts::{nl::NlmF, rtnl::Rtm};
use rustix::io::Errno;

use super::{
    attrs::Attrs,
    error::{Operation, Result},
    link::message,
    socket::{Socket, encode},
};

/// How long to wait for the kernel's word that the link is gone. Deletions take turns, so that of many each waits for
/// those before it.
const PATIENCE: Duration = Duration::from_secs(10);

impl Socket {
    /// Deletes a link as [`Socket::delete_link`] does, but returns as soon as it is gone: its name, and that of a veth's
    /// other end, are free in their namespaces. An absent link is success.
    ///
    /// The kernel holds whoever deletes a link until all its readers have let go, some 16 ms in which nobody needs the
    /// plugin any more but its runtime waits for it. No thread can stay behind for that, because a process ends with the
    /// last of its threads. So a process is left behind: a child of a child, in a session of its own, adopted by init
    /// (or the subreaper) and never a zombie of the caller's. It holds this socket, `/dev/null` and a
    /// pipe by which its end is noticed, no other descriptor, and ends by itself.
    ///
    /// Where such a process cannot be made, this is [`Socket::delete_link`].
    ///
    /// The caller sees one `SIGCHLD`. Forking costs the more the greater the process is: for a plugin of a few megabytes
    /// 0.2 ms; one of some gigabytes may fare better with a thread of its own.
    ///
    /// # Errors
    ///
    /// As for [`Socket::delete_link`].
    ///
    /// # Kernel
    ///
    /// The early word is the echo of `RTM_DELLINK`, Linux 6.2; before that it takes as long as [`Socket::delete_link`].
    /// Closing the caller's descriptors takes `close_range(2)`, Linux 5.9.
    #[doc(alias = "RTM_DELLINK")]
    pub fn delete_link_nowait(&self, index: u32) -> Result<()> {
        let operation = Operation::on_link("delete", index);
        let sequence = self.next_sequence();
        let message = message(index, Attrs::new());
        let request = encode(&operation, sequence, Rtm::Dellink, NlmF::ECHO | NlmF::ACK, message)?;
        let Some(left) = leave_behind(self.fd().as_raw_fd(), &request) else {
            return self.delete_link(index);
        };
        match self.first_answer(&operation, sequence, &left, PATIENCE) {
            Ok(true) => Ok(()),
            // The process may have been killed before it got to it; to ask for a deletion again does no harm.
            Ok(false) => self.delete_link(index),
            Err(error) if error.is(Errno::NODEV) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Has a process of its own send `request`. Once there is one, and no other process holds a descriptor, this is the end
/// of a pipe whose other end goes with that process.
fn leave_behind(socket: RawFd, request: &[u8]) -> Option<PipeReader> {
    let (reader, writer) = std::io::pipe().ok()?;
    // SAFETY: the child calls nothing but what signal-safety(7) allows, and system calls: another thread of the caller
    // may hold any lock, that of the allocator for example.
    match unsafe { libc::fork() } {
        -1 => None,
        0 => prepare_and_fork(socket, writer.as_raw_fd(), request),
        child => succeeded(child).then_some(reader),
    }
}

/// Waits for a child. One that the caller's program has reaped, by a handler of its own, counts as failed.
fn succeeded(child: pid_t) -> bool {
    let mut status: c_int = -1;
    loop {
        // SAFETY: the kernel writes the status to a number that lives through the call.
        match unsafe { libc::waitpid(child, &raw mut status, 0) } {
            -1 if Errno::from_io_error(&std::io::Error::last_os_error()) == Some(Errno::INTR) => {}
            waited => return waited == child && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
        }
    }
}

/// The child: lets go of all that it has from the caller before it forks the process that stays, so that the caller
/// need not wait for anything but its own end.
fn prepare_and_fork(socket: RawFd, alive: RawFd, request: &[u8]) -> ! {
    /// The first number after the standard descriptors.
    const SOCKET: RawFd = 3;
    const ALIVE: RawFd = SOCKET + 1;
    // SAFETY: all of these are system calls on numbers and constant strings. Descriptors that are closed belong to
    // values of the caller's memory, of which this is a copy that nobody uses any more.
    let ready = unsafe {
        // Out of the way first: a runtime may have started the caller without standard descriptors.
        let aside = [socket, alive].map(|fd| libc::fcntl(fd, libc::F_DUPFD, ALIVE + 1));
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
    // SAFETY: as above; `_exit` leaves without the caller's exit handlers.
    unsafe {
        if !ready {
            libc::_exit(1);
        }
        match libc::fork() {
            -1 => libc::_exit(1),
            0 => {
                // The kernel answers on the socket; there is nobody to tell of a failure to send.
                libc::send(SOCKET, request.as_ptr().cast(), request.len(), 0);
                libc::_exit(0)
            }
            _ => libc::_exit(0),
        }
    }
}
