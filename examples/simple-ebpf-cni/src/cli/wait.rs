//! `wait`: keeps the main container of the DaemonSet running.

use std::thread;

/// Parks the thread until a signal ends the process. There is no state to clean up.
pub(super) fn run() -> ! {
    loop {
        // park() may return spuriously.
        thread::park();
    }
}
