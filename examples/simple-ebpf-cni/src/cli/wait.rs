//! `wait`: what the container does that has to stay when the plugin is installed.

use std::thread;

/// Waits for a signal to end the process, which it does by itself: nothing has to be put in order first.
pub(super) fn run() -> ! {
    loop {
        // May return without a reason.
        thread::park();
    }
}
