//! Waiting until a link is gone.

use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::notices::is_deletion;
use crate::netlink::{
    error::Result,
    operation::Operation,
    socket::Socket,
    wire::{Body, replies},
};
use crate::spec::IfIndex;

/// A request to delete a link, sent by another process on the same socket.
#[derive(Clone, Copy)]
pub(super) struct Deletion<'o> {
    pub(super) operation: &'o Operation,
    pub(super) sequence: u32,
    pub(super) ifindex: IfIndex,
}

impl Socket {
    /// Reads until the kernel reports that the link is gone, or the exchange `sequence` is over.
    /// Returns false if neither happens within `timeout` or before `sender` hangs up, or if the
    /// kernel dropped messages.
    pub(super) fn await_deletion(
        &self,
        deletion: &Deletion<'_>,
        sender: &impl AsFd,
        timeout: Duration,
    ) -> Result<bool> {
        let Deletion { operation, sequence, ifindex } = *deletion;
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let mut both = [
                PollFd::from_borrowed_fd(self.fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(sender.as_fd(), PollFlags::empty()),
            ];
            match poll(&mut both, Timespec::try_from(left).ok().as_ref()) {
                Ok(0) | Err(Errno::INTR) => continue,
                ready => ready.map_err(|errno| operation.socket(errno))?,
            };
            if both[0].revents().is_empty() {
                return Ok(false);
            }
            let bytes = match self.read(operation) {
                Err(error) if error.is(Errno::NOBUFS) => return Ok(false),
                bytes => bytes?,
            };
            for reply in replies(&bytes) {
                let reply = reply.map_err(|error| operation.malformed(error))?;
                // Before Linux 6.2, a notification carries neither port nor sequence number of the
                // request.
                let is_answer = (reply.port, reply.sequence) == (self.port(), sequence);
                match reply.body {
                    Body::Object(body) if is_deletion(reply.kind, body, ifindex) => return Ok(true),
                    Body::Done if is_answer => return Ok(true),
                    Body::Refused(code, message) if is_answer => return Err(operation.refused(code, message)),
                    _ => (),
                }
            }
        }
    }
}
