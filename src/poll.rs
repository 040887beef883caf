//! Attempts with growing pauses until one succeeds or a time limit passes.

use std::thread;
use std::time::{Duration, Instant};

/// The pauses between two attempts: the first one, doubled after each attempt up to the longest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pauses {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

/// Repeats `attempt` until it returns a value or an error. Returns `None` if it returns no value
/// within `timeout`.
///
/// The function makes at least one attempt, also with a timeout of zero.
pub(crate) fn poll<T, E>(
    timeout: Duration,
    pauses: Pauses,
    mut attempt: impl FnMut() -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    let start = Instant::now();
    let mut pause = pauses.first;
    loop {
        if let Some(value) = attempt()? {
            return Ok(Some(value));
        }
        let waited = start.elapsed();
        if waited >= timeout {
            return Ok(None);
        }
        thread::sleep(pause.min(timeout - waited));
        pause = (pause * 2).min(pauses.longest);
    }
}
