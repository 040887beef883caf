//! The terminal while `top` runs: no line buffering, no echo.
//!
//! rustix makes the system calls. The library does not need terminals.

use std::io::{self, Stdin};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::low_level::pipe;

/// A terminal without line buffering and echo. The drop restores its mode.
#[derive(Debug)]
pub(crate) struct RawTerminal {
    stdin: Stdin,
    before: Termios,
    /// Readable after a signal that ends the program. The program ends only after the terminal has
    /// its mode back.
    signals: UnixStream,
}

/// The byte of Ctrl-C when the terminal sends no signal for it.
const INTERRUPT: u8 = 3;

impl RawTerminal {
    /// Changes the mode of the terminal on standard input.
    pub(crate) fn open() -> io::Result<Self> {
        let (signals, sender) = UnixStream::pair()?;
        for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
            pipe::register(signal, sender.try_clone()?)?;
        }
        let stdin = io::stdin();
        let before = tcgetattr(&stdin)?;
        let mut mode = before.clone();
        // Without ISIG, Ctrl-Z cannot stop the program while the terminal is in this mode.
        mode.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        tcsetattr(&stdin, OptionalActions::Now, &mode)?;
        Ok(Self { stdin, before, signals })
    }

    /// The number of rows and columns of the terminal, or the largest numbers if they are unknown.
    pub(crate) fn size(&self) -> (usize, usize) {
        let size = tcgetwinsize(&self.stdin).ok().filter(|size| size.ws_row > 0 && size.ws_col > 0);
        size.map_or((usize::MAX, usize::MAX), |size| (size.ws_row.into(), size.ws_col.into()))
    }

    /// Waits for a key or a signal that ends the program. Returns whether one came within
    /// `timeout`. Other keys end the wait.
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
        // End of file: the terminal is gone.
        let read = rustix::io::read(&self.stdin, &mut keys)?;
        Ok(read == 0 || keys[..read].iter().any(|key| matches!(*key, b'q' | b'Q' | INTERRUPT)))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // This fails only if the terminal is gone.
        let _ = tcsetattr(&self.stdin, OptionalActions::Now, &self.before);
    }
}
