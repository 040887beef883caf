//! Injects a fault at every point of a call of the plugin.
//!
//! The plugin has no test hooks. Its system calls are supervised, and the test kills it at the n-th
//! call or fails that call. The release binary is tested, and new code needs no registration.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cnikit_testbed::{Call, Invocation, Outcome, Ruling, supervision};

use crate::is_long;
use crate::networks::{Kind, on_host_with};
use crate::support::Network;

/// The faults that can be injected into a system call, in the order of the tests.
pub(crate) type Faults = fn(&Call) -> Vec<Ruling>;

/// A sweep over the points of one verb.
pub(crate) struct Sweep {
    /// The name in the output.
    pub(crate) name: &'static str,
    /// The network of the calls.
    pub(crate) kind: Kind,
    /// The faults that can be injected into a system call.
    pub(crate) faults: Faults,
    /// Whether all later calls with the same fault fail, too: the disk stays full, the privilege
    /// stays missing.
    pub(crate) persistent: bool,
    /// The short form tests one of this number of points.
    pub(crate) sample_every: usize,
}

/// The points in their order.
pub(crate) struct Points {
    faults: Faults,
    persistent: bool,
    stride: usize,
    next: usize,
    tried: usize,
    is_finished: bool,
    /// The last point with an injection.
    last_point: String,
}

/// A call of the plugin with an injection.
pub(crate) struct Injection {
    pub(crate) outcome: Outcome,
    /// The point, for messages.
    pub(crate) point: String,
    ruling: Ruling,
    persistent: bool,
}

/// The maximum time of a held call. The parallel work takes some tens of milliseconds.
const HOLD: Duration = Duration::from_millis(200);

/// A sweep with this number of points or fewer does not see the system calls.
const MIN_POINTS: usize = 4;

/// After this number of failed points, the sweep ends.
const MAX_FAILED: usize = 60;

impl Sweep {
    /// Runs the sweep on private hosts, with a new host after each failed point. `body` must call
    /// [`Points::inject`] or [`Points::hold`] until there is no point left.
    #[track_caller]
    pub(crate) fn run(&self, body: impl Fn(&Network, &mut Points) + Sync) {
        if !supervision() {
            return;
        }
        let begun = Instant::now();
        let stride = if is_long() { 1 } else { self.sample_every };
        let mut points = Points {
            faults: self.faults,
            persistent: self.persistent,
            stride,
            next: 0,
            tried: 0,
            is_finished: false,
            last_point: String::new(),
        };
        let mut failed = Vec::new();
        while !points.is_finished && failed.len() < MAX_FAILED {
            let next = points.next;
            let mut ran = false;
            let ended = catch_unwind(AssertUnwindSafe(|| {
                on_host_with(self.kind, |network| {
                    ran = true;
                    body(network, &mut points);
                });
            }));
            if let Err(panic) = ended {
                let why = panic.downcast_ref::<String>().map_or("panicked", String::as_str);
                failed.push(format!("{}\n{why}\n", points.last_point));
                assert_ne!(points.next, next, "{}: no point was tested: {why}", self.name);
            } else if !ran {
                // Without the privileges.
                return;
            }
        }
        eprintln!("{}: {} of {} points in {:.1?}", self.name, points.tried, points.next, begun.elapsed());
        assert!(points.tried > MIN_POINTS, "{}: too few points", self.name);
        assert!(failed.is_empty(), "{}: {} points failed:\n\n{}", self.name, failed.len(), failed.join("\n"));
    }
}

impl Points {
    /// Runs the call and injects at the next point. Returns `None` if the call ended before that
    /// point.
    pub(crate) fn inject(&mut self, invocation: &Invocation) -> Option<Injection> {
        self.inject_with(invocation, |fault| fault)
    }

    /// Runs the call and holds it at the next point while `parallel` runs, but at most for
    /// [`HOLD`], because `parallel` may wait for the call. Then the call continues.
    pub(crate) fn hold(&mut self, invocation: &Invocation, parallel: impl FnOnce() + Send) -> Option<Injection> {
        std::thread::scope(|scope| {
            let mut parallel = Some(parallel);
            self.inject_with(invocation, |_| {
                let (done, is_done) = mpsc::channel::<()>();
                if let Some(parallel) = parallel.take() {
                    scope.spawn(move || {
                        parallel();
                        drop(done);
                    });
                }
                let _ = is_done.recv_timeout(HOLD);
                Ruling::Continue
            })
        })
    }

    fn inject_with(
        &mut self,
        invocation: &Invocation,
        mut rule: impl FnMut(Ruling) -> Ruling + Send,
    ) -> Option<Injection> {
        let (mut left, mut injection, mut begun) = (self.next, None, false);
        let mut delegates = HashSet::new();
        let (faults, persistent) = (self.faults, self.persistent);
        let outcome = invocation.supervised(|call| {
            // The calls before this one belong to the dynamic linker, and are equal in every
            // program.
            begun = begun || (call.name() == "read" && call.argument(0) == 0);
            // The calls of a delegate do not belong to the plugin.
            let is_of_delegate = delegates.contains(&call.process());
            if begun && call.name() == "execve" {
                delegates.insert(call.process());
            }
            if !begun || is_of_delegate {
                return Ruling::Continue;
            }
            let faults = faults(call);
            if let Some((_, fault)) = &injection {
                return if persistent && faults.contains(fault) { *fault } else { Ruling::Continue };
            }
            match faults.get(left) {
                Some(fault) => {
                    injection = Some((format!("{call}: {fault:?}"), *fault));
                    rule(*fault)
                }
                None => {
                    left -= faults.len();
                    Ruling::Continue
                }
            }
        });
        let Some((what, ruling)) = injection else {
            self.is_finished = true;
            return None;
        };
        self.last_point = format!("point {}: {what}", self.next);
        self.next += self.stride;
        self.tried += 1;
        Some(Injection { outcome, point: self.last_point.clone(), ruling, persistent })
    }

    /// The number of tested points.
    pub(crate) fn tried(&self) -> usize {
        self.tried
    }
}

impl Injection {
    /// Checks the answer of a call with an injected error: a complete error document with the
    /// cause, and no panic. Returns `None` if the call succeeded.
    #[track_caller]
    pub(crate) fn assert_error(&self) -> Option<String> {
        let (outcome, Ruling::Fail(errno)) = (&self.outcome, self.ruling) else {
            panic!("no error was injected: {:?}", self.ruling)
        };
        assert!(!outcome.stderr.contains("panicked"), "{outcome:#?}");
        if outcome.status.success() {
            return None;
        }
        let message = match outcome.json["code"].as_u64() {
            Some(code) => outcome.clone().error(code),
            // If stdout is not writable, there is no document.
            None => {
                assert!(outcome.stdout.is_empty() && outcome.stderr.contains("standard output"), "{outcome:#?}");
                outcome.stderr.clone()
            }
        };
        let text = std::io::Error::from_raw_os_error(errno).to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        // The error may have another number, but then it names the object of the failed call. Under
        // a persistent fault, the plugin may tolerate the first error and report another one.
        let about = self.point.split(&[' ', ':']).find(|word| word.starts_with('/') && word.len() > 1).unwrap_or(text);
        // libbpf loads small programs to probe features of the kernel. If one load fails, libbpf
        // assumes a kernel without constants in maps, and the kernel then rejects a program that
        // refers to them.
        let is_of_probe = self.point.contains(": bpf 5:") && message.contains("is not pointing to valid bpf_map");
        let has_cause = message.contains(text) || message.contains(about) || is_of_probe || self.persistent;
        assert!(has_cause, "the message lacks the cause: {text}: {outcome:#?}");
        Some(message)
    }

    /// Checks the answer of a killed call: one document, or nothing.
    #[track_caller]
    pub(crate) fn assert_killed(&self) {
        let outcome = &self.outcome;
        assert!(outcome.stdout.is_empty() || outcome.json.is_object(), "an incomplete document: {outcome:#?}");
    }
}
