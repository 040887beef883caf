//! Loading with the messages of libbpf in the error.

use std::cell::Cell;
use std::io;
use std::sync::Mutex;

use libbpf_rs::libbpf_sys::bpf_map_create_opts;
use libbpf_rs::{MapHandle, MapType, PrintCallback, PrintLevel, set_print};

use super::error::io_error;
use super::{Error, Result};

/// The messages of libbpf during a load. Its callback has no context argument, and prints by
/// default. Loads are rare and short, so a lock serializes them.
static MESSAGES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The number of message lines in an error. The verifier reports the cause at the end.
const TAIL_LINES: usize = 12;

/// The line that libbpf writes before a verifier log.
const VERIFIER_LOG: &str = "BEGIN PROG LOAD LOG";

/// Creates and closes a small map, to check whether this process may use bpf(2).
pub(crate) fn probe() -> Result<()> {
    with_messages(|| MapHandle::create(MapType::Hash, Some("probe"), 4, 4, 1, &no_options())).map(drop)
}

pub(crate) fn no_options() -> bpf_map_create_opts {
    bpf_map_create_opts { sz: size_of::<bpf_map_create_opts>() as _, ..Default::default() }
}

/// Runs `load`. The messages of libbpf go into the error instead of stderr.
pub(crate) fn with_messages<T>(load: impl FnOnce() -> libbpf_rs::Result<T>) -> Result<T> {
    let (loaded, messages) = capture(load);
    loaded.map_err(|error| refusal(io_error(error), &messages))
}

/// Runs `load`, and returns the messages of libbpf instead of printing them. A call inside of
/// another call leaves its messages to the outer call.
pub(super) fn capture<T>(load: impl FnOnce() -> T) -> (T, Vec<String>) {
    static TURN: Mutex<()> = Mutex::new(());
    thread_local! {
        static IS_INNER: Cell<bool> = const { Cell::new(false) };
    }
    if IS_INNER.get() {
        return (load(), Vec::new());
    }
    /// Restores the state before the load, even if the load panics.
    struct Outer(Option<(PrintLevel, PrintCallback)>);

    impl Drop for Outer {
        fn drop(&mut self) {
            set_print(self.0);
            IS_INNER.set(false);
        }
    }

    let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // The messages of a load that panicked.
    take_messages();

    IS_INNER.set(true);
    let outer = Outer(set_print(Some((PrintLevel::Warn, keep_message))));
    let loaded = load();
    drop(outer);
    (loaded, take_messages())
}

fn take_messages() -> Vec<String> {
    std::mem::take(&mut *MESSAGES.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

/// The error of a refused load.
pub(super) fn refusal(source: io::Error, messages: &[String]) -> Error {
    let source = match tail(messages) {
        log if log.is_empty() => source,
        log => io::Error::new(source.kind(), format!("{source} [{log}]")),
    };
    // A rejection by the verifier and a missing privilege have the same error kinds. Only the
    // verifier writes a log.
    if messages.iter().any(|message| message.contains(VERIFIER_LOG)) {
        Error::Rejected { source }
    } else {
        Error::Load { source }
    }
}

fn keep_message(_level: PrintLevel, message: String) {
    MESSAGES.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(message);
}

fn tail(messages: &[String]) -> String {
    let lines: Vec<&str> =
        messages.iter().flat_map(|message| message.lines()).map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use super::*;

    #[test]
    fn messages_are_kept_after_a_panic() {
        let panicked = catch_unwind(|| {
            capture(|| {
                keep_message(PrintLevel::Warn, "lost".into());
                panic!("a load of the caller")
            })
        });
        assert!(panicked.is_err());
        let (_, messages) = capture(|| keep_message(PrintLevel::Warn, "kept".into()));
        assert_eq!(messages, ["kept"]);
    }
}
