//! Ctrl-C ends a run between two steps by unwinding, so that all cleanup runs.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static WANTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// The payload of the unwinding.
struct Interrupted;

/// Registers the termination signals, which [`check`] then reports.
pub(crate) fn catch() {
    let wanted = WANTED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(wanted)).expect("a signal that may be caught");
    }
}

/// Runs a closure that calls [`check`]. Returns `None` if it was interrupted.
pub(crate) fn run<T>(work: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => Some(done),
        Err(panic) if panic.is::<Interrupted>() => None,
        Err(panic) => resume_unwind(panic),
    }
}

/// Whether the run is to end.
pub(crate) fn is_wanted() -> bool {
    WANTED.get().is_some_and(|wanted| wanted.load(Ordering::Relaxed))
}

/// Unwinds if the run must end.
pub(crate) fn check() {
    if is_wanted() {
        // Bypasses the hook that would print a panic.
        resume_unwind(Box::new(Interrupted));
    }
}
