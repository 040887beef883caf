//! What a node, its configurations and its networks are checked for.

mod addresses;
mod attached;
mod configuration;
mod network;
mod node;
mod xdp;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use serde::Serialize;

pub(crate) use addresses::addresses;
pub(crate) use attached::{attached, mend, not_forwarded};
pub(crate) use configuration::{binary, configurations, forwarding, state, unusable_ones, wished};
pub(crate) use network::network;
pub(crate) use node::{bpffs, node, refuse_unprivileged};

/// What was looked at, and what came of it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    pub(crate) check: &'static str,
    pub(crate) verdict: Verdict,
    pub(crate) found: String,
    /// What to do about it.
    pub(crate) remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Ok,
    /// Pods work, but not all that somebody may expect.
    Warn,
    /// Pods cannot be attached, or do not work.
    Fail,
}

/// How long a lock may be held that guards some milliseconds of work.
const PATIENCE: Duration = Duration::from_secs(1);

impl Check {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), remedy: None }
    }

    fn warn(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warn, found: found.into(), remedy: Some(remedy.into()) }
    }

    pub(crate) fn fail(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fail, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// A process that does not give back the lock on a file or directory, for which calls of the plugin wait until they give
/// up. A lock that is free is held for a moment, together with whoever else only looks.
fn held(path: &Path) -> Option<Check> {
    // What is no file, as a pipe, is said of it elsewhere, and must not be waited for here.
    let file = rustix::fs::open(path, OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let start = Instant::now();
    while flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK) {
        if start.elapsed() > PATIENCE {
            let (found, remedy) = (
                format!("{} has been locked for {PATIENCE:?}, and no call needs it for so long", path.display()),
                format!("fuser -v {}, for who has it: end that process if it hangs", path.display()),
            );
            return Some(Check::fail("lock", found, remedy));
        }
        thread::sleep(PATIENCE / 100);
    }
    None
}
