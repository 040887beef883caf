//! Trying every point at which a call of the plugin can be hit.
//!
//! There is no hook in the plugin: its system calls are supervised, and the n-th is where it is killed, or where the
//! kernel tells it no. So the points are those of the binary that ships, and a step that is new is tried without a word.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use cnikit_testbed::{Call, Invocation, Outcome, Ruling, supervision};

use crate::is_long;
use crate::networks::{Kind, on_host_with};
use crate::support::Network;

/// The ways in which a call can be hit, in the order in which they are tried.
pub(crate) type Ways = fn(&Call) -> Vec<Ruling>;

/// A sweep over the points of one verb.
pub(crate) struct Sweep {
    /// What it is, for people.
    pub(crate) name: &'static str,
    /// The network that it is done to.
    pub(crate) kind: Kind,
    /// How a call can be hit.
    pub(crate) ways: Ways,
    /// Whether all later calls that can be hit in the same way are: the disk stays full, the privilege is gone for good.
    pub(crate) lasting: bool,
    /// Where there is little time, every so-manieth point is tried.
    pub(crate) often: usize,
}

/// The points, as they are tried one after the other.
pub(crate) struct Points {
    ways: Ways,
    lasting: bool,
    stride: usize,
    next: usize,
    tried: usize,
    over: bool,
    /// The one that was hit last.
    last: String,
}

/// A call of the plugin that was hit.
pub(crate) struct Struck {
    pub(crate) outcome: Outcome,
    /// The point, for people.
    pub(crate) at: String,
    ruling: Ruling,
    lasting: bool,
}

/// How long a call is held. What comes in between takes some tens of milliseconds.
const HOLD: Duration = Duration::from_millis(200);

/// A sweep over no more points than these does not see the calls.
const FEW: usize = 4;

/// After so many points that did not hold, the others will not either.
const ENOUGH: usize = 60;

impl Sweep {
    /// Tries the points on private hosts: a new one after each point that did not hold. `body` is to go on as long as
    /// there are [points](Points::strike).
    #[track_caller]
    pub(crate) fn run(&self, body: impl Fn(&Network, &mut Points) + Sync) {
        if !supervision() {
            return;
        }
        let begun = Instant::now();
        let stride = if is_long() { 1 } else { self.often };
        let mut points = Points {
            ways: self.ways,
            lasting: self.lasting,
            stride,
            next: 0,
            tried: 0,
            over: false,
            last: String::new(),
        };
        let mut broken = Vec::new();
        while !points.over && broken.len() < ENOUGH {
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
                broken.push(format!("{}\n{why}\n", points.last));
                assert_ne!(points.next, next, "{}: nothing was tried: {why}", self.name);
            } else if !ran {
                // Without the privileges.
                return;
            }
        }
        eprintln!("{}: {} of {} points in {:.1?}", self.name, points.tried, points.next, begun.elapsed());
        assert!(points.tried > FEW, "{}: hardly any point was found", self.name);
        assert!(broken.is_empty(), "{}: {} points broke:\n\n{}", self.name, broken.len(), broken.join("\n"));
    }
}

impl Points {
    /// Makes the call and hits it at the next point; none when it came to its end without being hit.
    pub(crate) fn strike(&mut self, invocation: &Invocation) -> Option<Struck> {
        self.hit(invocation, |way| way)
    }

    /// Makes the call and holds it at the next point while `meanwhile` works, but not for long, as that may wait for the
    /// call. Afterwards the call goes on.
    pub(crate) fn hold(&mut self, invocation: &Invocation, meanwhile: impl FnOnce() + Send) -> Option<Struck> {
        std::thread::scope(|scope| {
            let mut meanwhile = Some(meanwhile);
            self.hit(invocation, |_| {
                let (over, is_over) = mpsc::channel::<()>();
                if let Some(meanwhile) = meanwhile.take() {
                    scope.spawn(move || {
                        meanwhile();
                        drop(over);
                    });
                }
                let _ = is_over.recv_timeout(HOLD);
                Ruling::Continue
            })
        })
    }

    fn hit(&mut self, invocation: &Invocation, mut rule: impl FnMut(Ruling) -> Ruling + Send) -> Option<Struck> {
        let (mut left, mut hit, mut begun) = (self.next, None, false);
        let mut strangers = HashSet::new();
        let (ways, lasting) = (self.ways, self.lasting);
        let outcome = invocation.supervised(|call| {
            // What comes before is the dynamic linker's, and the same in every program.
            begun = begun || (call.name() == "read" && call.argument(0) == 0);
            // The calls of a delegate are not the plugin's.
            let is_strangers = strangers.contains(&call.process());
            if begun && call.name() == "execve" {
                strangers.insert(call.process());
            }
            if !begun || is_strangers {
                return Ruling::Continue;
            }
            let ways = ways(call);
            if let Some((_, way)) = &hit {
                return if lasting && ways.contains(way) { *way } else { Ruling::Continue };
            }
            match ways.get(left) {
                Some(way) => {
                    hit = Some((format!("{call}: {way:?}"), *way));
                    rule(*way)
                }
                None => {
                    left -= ways.len();
                    Ruling::Continue
                }
            }
        });
        let Some((what, ruling)) = hit else {
            self.over = true;
            return None;
        };
        self.last = format!("point {}: {what}", self.next);
        self.next += self.stride;
        self.tried += 1;
        Some(Struck { outcome, at: self.last.clone(), ruling, lasting })
    }

    /// How many points were tried.
    pub(crate) fn tried(&self) -> usize {
        self.tried
    }
}

impl Struck {
    /// Checks what a call said that the kernel told no: a whole error document with the cause, and no panic. None if it
    /// succeeded all the same.
    #[track_caller]
    pub(crate) fn refused(&self) -> Option<String> {
        let (outcome, Ruling::Fail(errno)) = (&self.outcome, self.ruling) else {
            panic!("it was not told no: {:?}", self.ruling)
        };
        assert!(!outcome.stderr.contains("panicked"), "{outcome:#?}");
        if outcome.status.success() {
            return None;
        }
        let message = match outcome.json["code"].as_u64() {
            Some(code) => outcome.clone().error(code),
            // Where standard output cannot be written to, there is another.
            None => {
                assert!(outcome.stdout.is_empty() && outcome.stderr.contains("standard output"), "{outcome:#?}");
                outcome.stderr.clone()
            }
        };
        let text = std::io::Error::from_raw_os_error(errno).to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        // Not always is it this error that comes through, but then what it was about is told. What lasts may be passed over
        // at first, and told of another thing.
        let about = self.at.split(&[' ', ':']).find(|word| word.starts_with('/') && word.len() > 1).unwrap_or(text);
        // libbpf loads small programs to learn what the kernel can do. If one is refused, it takes the kernel for one without
        // constants in maps, and the kernel then refuses a program that refers to them.
        let is_of_probe = self.at.contains(": bpf 5:") && message.contains("is not pointing to valid bpf_map");
        let is_told = message.contains(text) || message.contains(about) || is_of_probe || self.lasting;
        assert!(is_told, "the cause is not told: {text}: {outcome:#?}");
        Some(message)
    }

    /// Checks what a call said that was killed: one document, or nothing.
    #[track_caller]
    pub(crate) fn killed(&self) {
        let outcome = &self.outcome;
        assert!(outcome.stdout.is_empty() || outcome.json.is_object(), "half a document: {outcome:#?}");
    }
}
