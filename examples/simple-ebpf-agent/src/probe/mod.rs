//! Probes of the direct ways to other nodes.
//!
//! A node in the same network segment is not always reachable directly: some clouds drop packets
//! with addresses of pods. The agent therefore sends UDP packets by the direct way, from its
//! gateway address to the gateway of the other node. The agent there answers. [`schedule`] decides
//! when to send, and evaluates the answers. This module has the sockets and the thread.
//!
//! Each socket is bound to one link, so a packet and its answer take that link, whatever the best
//! route is.

pub mod message;
pub mod schedule;
mod sockets;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use cnikit::spec::{IfIndex, IfName};
use ipnetwork::IpNetwork;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tokio::sync::Notify;
use tracing::{debug, info};

use self::schedule::{Line, Schedule};
use self::sockets::Sockets;
use crate::desired::{ProbeTarget, Verdict};

/// The longest wait of the thread. The next probe is due earlier, if there is a target.
const IDLE: Duration = Duration::from_secs(60);

/// The configuration of the probes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The UDP port, the same on all nodes.
    pub port: u16,
    /// The gateway addresses of this node.
    pub gateways: Vec<IpAddr>,
    /// The links that probes may use.
    pub links: BTreeMap<IfIndex, IfName>,
    /// The direct ways to probe.
    pub targets: Vec<ProbeTarget>,
    /// The link of the tunnel.
    pub tunnel: Option<IfIndex>,
}

/// Sends and answers probes, in a thread of its own.
#[derive(Debug)]
pub struct Prober {
    shared: Arc<Mutex<Shared>>,
    wake: Arc<OwnedFd>,
}

#[derive(Debug, Default)]
struct Shared {
    config: Config,
    is_new: bool,
    is_stopped: bool,
    schedule: Schedule,
}

impl Prober {
    /// Starts the thread. It notifies `changed` if a way should change.
    ///
    /// # Errors
    ///
    /// Fails if no thread can be started.
    pub fn start(changed: Arc<Notify>) -> io::Result<Self> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let prober = Self { shared: Arc::default(), wake: Arc::clone(&wake) };
        let shared = Arc::clone(&prober.shared);
        thread::Builder::new().name("probe".to_owned()).spawn(move || run(&shared, &wake, &changed))?;
        Ok(prober)
    }

    /// Sets the ways to probe. Known targets keep their state. `direct` has the next hops of the
    /// direct ways in use, by pod CIDR.
    pub fn configure(&self, config: Config, direct: &BTreeMap<IpNetwork, IpAddr>) {
        let mut shared = lock(&self.shared);
        if shared.config != config {
            shared.schedule.set_targets(&config.targets, direct, Instant::now());
            (shared.config, shared.is_new) = (config, true);
            self.wake();
        }
    }

    fn wake(&self) {
        // The counter of the descriptor cannot overflow by single steps.
        let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
    }

    /// The results of the probes.
    #[must_use]
    pub fn verdicts(&self) -> BTreeMap<IpNetwork, Verdict> {
        lock(&self.shared).schedule.verdicts()
    }
}

impl Drop for Prober {
    /// Ends the thread.
    fn drop(&mut self) {
        lock(&self.shared).is_stopped = true;
        self.wake();
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(shared: &Mutex<Shared>, wake: &OwnedFd, changed: &Notify) {
    let mut sockets = Sockets::default();
    while !lock(shared).is_stopped {
        let wait = step(shared, &mut sockets, changed);
        let timeout = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: wait.subsec_nanos().into() };
        let mut ready = vec![PollFd::from_borrowed_fd(wake.as_fd(), PollFlags::IN)];
        ready.extend(sockets.iter().map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN)));
        // An interrupted wait looks at the sockets, too.
        let _ = poll(&mut ready, Some(&timeout));
        let _ = rustix::io::read(wake, &mut [0; 8]);
        sockets.receive(|line, from, answer| {
            lock(shared).schedule.answered(from, line, answer, Instant::now());
        });
    }
}

/// Sends the probes that are due. Returns the time until the next step.
fn step(shared: &Mutex<Shared>, sockets: &mut Sockets, changed: &Notify) -> Duration {
    let mut shared = lock(shared);
    if std::mem::take(&mut shared.is_new) || sockets.are_missing() {
        sockets.configure(&shared.config);
    }
    let now = Instant::now();
    for change in shared.schedule.close(now, SystemTime::now()) {
        info!("pods of {}: {}", change.cidr, change.reason);
        changed.notify_one();
    }
    for probe in shared.schedule.due(now) {
        let link = if probe.line == Line::Direct { probe.target.uplink } else { probe.target.tunnel };
        if let Err(error) = sockets.send(link, probe.target.gateway, &probe.bytes) {
            debug!("cannot send a probe to {} by link {link}: {error}", probe.target.gateway);
        }
    }
    let missing = sockets.are_missing().then_some(schedule::ROUND);
    let next = shared.schedule.next().map(|next| next.saturating_duration_since(now));
    next.into_iter().chain(missing).min().unwrap_or(IDLE).max(Duration::from_millis(1))
}
