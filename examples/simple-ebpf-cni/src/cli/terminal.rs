//! The terminal while `top` runs: keys come one by one, and are not shown.
//!
//! What rustix offers is all there is of system calls in this package; the library has no use for terminals.

use std::io::{self, Stdin};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::low_level::pipe;

/// A terminal in the mode for keys, until it is dropped.
#[derive(Debug)]
pub(crate) struct Keys {
    stdin: Stdin,
    before: Termios,
    /// Readable once a signal has come that ends the program: not before the terminal has its own mode back.
    signals: UnixStream,
}

/// What Ctrl-C sends while it is a key like others.
const INTERRUPT: u8 = 3;

impl Keys {
    /// Takes over the terminal on standard input.
    pub(crate) fn open() -> io::Result<Self> {
        let (signals, sender) = UnixStream::pair()?;
        for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
            pipe::register(signal, sender.try_clone()?)?;
        }
        let stdin = io::stdin();
        let before = tcgetattr(&stdin)?;
        let mut mode = before.clone();
        // Ctrl-Z would leave the terminal in this mode.
        mode.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        tcsetattr(&stdin, OptionalActions::Now, &mode)?;
        Ok(Self { stdin, before, signals })
    }

    /// How many rows and columns the terminal has; as many as it likes where it does not tell.
    pub(crate) fn size(&self) -> (usize, usize) {
        let size = tcgetwinsize(&self.stdin).ok().filter(|size| size.ws_row > 0 && size.ws_col > 0);
        size.map_or((usize::MAX, usize::MAX), |size| (size.ws_row.into(), size.ws_col.into()))
    }

    /// Waits for a key or a signal that ends the program, and tells whether it came within `timeout`. Other keys end
    /// the wait.
    pub(crate) fn end_within(&self, timeout: Duration) -> io::Result<bool> {
        let timeout = Timespec::try_from(timeout).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut ready = [PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&self.stdin, PollFlags::IN)];
        match poll(&mut ready, Some(&timeout)) {
            Ok(0) => return Ok(false),
            Err(error) if error != Errno::INTR => return Err(error.into()),
            _ if !ready[0].revents().is_empty() => return Ok(true),
            _ if ready[1].revents().is_empty() => return Ok(false),
            _ => {}
        }
        let mut keys = [0; 16];
        // None at all: the terminal is gone.
        let read = rustix::io::read(&self.stdin, &mut keys)?;
        Ok(read == 0 || keys[..read].iter().any(|key| matches!(*key, b'q' | b'Q' | INTERRUPT)))
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // A terminal that is gone needs no mode.
        let _ = tcsetattr(&self.stdin, OptionalActions::Now, &self.before);
    }
}
