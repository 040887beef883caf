//! The times of probes, and the evaluation of their answers. Pure: times are arguments.
//!
//! A round has a short and a long request by the direct way. If the direct way is not in use or
//! loses requests, the round also has one by the tunnel.
//!
//! | way in use | change |
//! |---|---|
//! | tunnel | to direct, when a round is answered by the direct way. After a loss: when three rounds in a row are |
//! | direct | to the tunnel, when three rounds in a row lose a request by the direct way, and the tunnel answers |
//!
//! So a way in use is left only for one that works. If the other agent does not run, nothing
//! answers, and the way stays.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ipnetwork::IpNetwork;
use simple_ebpf_cni::agent::ProbeReport;

use super::message::Probe;
use crate::desired::{ProbeTarget, Verdict};

/// The time for the answers of a round.
pub const ROUND: Duration = Duration::from_secs(1);

/// The pause after a round that was answered, and while the tunnel is in use.
const PAUSE: Duration = Duration::from_secs(2);

/// The greatest number of rounds of all targets in a second. With more targets, pauses are longer.
const RATE: u32 = 100;

/// The rounds in a row that change the way.
const ROUNDS: u32 = 3;

/// The headers of IP and UDP, IPv4 and IPv6.
const HEADERS: [u32; 2] = [28, 48];

/// A way of probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// By the uplink, to the next hop of the target.
    Direct,
    /// By the tunnel.
    Tunnel,
}

/// A request to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The target.
    pub target: ProbeTarget,
    /// The way.
    pub line: Line,
    /// The payload.
    pub bytes: Vec<u8>,
}

/// A changed way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The pod CIDR.
    pub cidr: IpNetwork,
    /// The new way, and the cause.
    pub reason: String,
}

/// The state of all targets.
#[derive(Debug, Default)]
pub struct Schedule {
    targets: BTreeMap<IpNetwork, State>,
}

#[derive(Debug)]
struct State {
    target: ProbeTarget,
    is_direct: bool,
    /// Whether the target has changed from direct to the tunnel, so that it must prove itself.
    has_failed: bool,
    /// Rounds in a row that the direct way has answered, and that it has not.
    good: u32,
    bad: u32,
    lost: u32,
    answered: Option<SystemTime>,
    next: Instant,
    round: Option<Round>,
    reason: String,
}

#[derive(Debug)]
struct Round {
    number: u64,
    ends: Instant,
    short: bool,
    long: bool,
    tunnel: bool,
}

impl Schedule {
    /// Replaces the targets. A target with an unchanged way keeps its state. A new one begins with
    /// the direct way if `direct` has its next hop.
    pub fn set_targets(&mut self, targets: &[ProbeTarget], direct: &BTreeMap<IpNetwork, IpAddr>, now: Instant) {
        let mut known = std::mem::take(&mut self.targets);
        for target in targets {
            let state = known.remove(&target.cidr).filter(|state| state.target == *target);
            let state = state.unwrap_or_else(|| {
                let is_direct = direct.get(&target.cidr) == Some(&target.next_hop);
                State::new(target.clone(), is_direct, now)
            });
            self.targets.insert(target.cidr, state);
        }
    }

    /// Begins the rounds that are due, and returns their requests.
    pub fn due(&mut self, now: Instant) -> Vec<Request> {
        self.targets
            .values_mut()
            .filter(|state| state.round.is_none() && state.next <= now)
            .flat_map(|state| state.begin(now))
            .collect()
    }

    /// Records an answer from the address `from`.
    pub fn answered(&mut self, from: IpAddr, line: Line, probe: Probe, now: Instant) {
        let is_meant = |state: &&mut State| state.target.gateway == from;
        let Some(state) = self.targets.values_mut().find(is_meant) else { return };
        let lengths = state.target.lengths();
        let Some(round) = state.round.as_mut().filter(|round| round.number == probe.round) else { return };
        match line {
            Line::Tunnel => round.tunnel = true,
            Line::Direct if probe.length == lengths[0] => round.short = true,
            Line::Direct => round.long = true,
        }
        // Nothing else is expected.
        if round.short && round.long {
            round.ends = now;
        }
    }

    /// Ends the rounds that are over. Returns the ways that change.
    pub fn close(&mut self, now: Instant, clock: SystemTime) -> Vec<Change> {
        let count = u32::try_from(self.targets.len()).unwrap_or(u32::MAX);
        let pause = PAUSE.max(Duration::from_secs(1) * count / RATE);
        let ended =
            self.targets.values_mut().filter(|state| state.round.as_ref().is_some_and(|round| round.ends <= now));
        ended.filter_map(|state| state.end(now, clock, pause)).collect()
    }

    /// The time of the next step. `None` without targets.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.targets.values().map(|state| state.round.as_ref().map_or(state.next, |round| round.ends)).min()
    }

    /// The results of the probes, by pod CIDR.
    #[must_use]
    pub fn verdicts(&self) -> BTreeMap<IpNetwork, Verdict> {
        let verdict = |state: &State| {
            let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
            let report = ProbeReport { answered: state.answered.map(seconds), lost: state.lost };
            Verdict { is_direct: state.is_direct, reason: state.reason.clone(), report }
        };
        self.targets.iter().map(|(cidr, state)| (*cidr, verdict(state))).collect()
    }
}

impl State {
    fn new(target: ProbeTarget, is_direct: bool, now: Instant) -> Self {
        let reason = match is_direct {
            true => "on-link, as before the start of the agent",
            false => "on-link, and probes wait for an answer",
        };
        Self {
            target,
            is_direct,
            has_failed: false,
            good: 0,
            bad: 0,
            lost: 0,
            answered: None,
            next: now,
            round: None,
            reason: reason.to_owned(),
        }
    }

    fn begin(&mut self, now: Instant) -> Vec<Request> {
        let number = random();
        self.round = Some(Round { number, ends: now + ROUND, short: false, long: false, tunnel: false });
        let [short, long] = self.target.lengths();
        let request = |line, length| {
            let bytes = Probe { round: number, length }.request();
            Request { target: self.target.clone(), line, bytes }
        };
        let mut requests = vec![request(Line::Direct, short), request(Line::Direct, long)];
        if self.is_direct && self.bad > 0 {
            requests.push(request(Line::Tunnel, short));
        }
        requests
    }

    fn end(&mut self, now: Instant, clock: SystemTime, pause: Duration) -> Option<Change> {
        let round = self.round.take()?;
        let is_good = round.short && round.long;
        if is_good {
            (self.good, self.bad, self.lost, self.answered) = (self.good + 1, 0, 0, Some(clock));
            self.next = now + pause;
        } else {
            (self.good, self.bad, self.lost) = (0, self.bad + 1, self.lost.saturating_add(1));
            // A way in use is checked again at once.
            self.next = if self.is_direct { now } else { now + pause };
        }
        let needed = if self.has_failed { ROUNDS } else { 1 };
        if !self.is_direct && self.good >= needed {
            self.is_direct = true;
        } else if self.is_direct && self.bad >= ROUNDS && round.tunnel {
            (self.is_direct, self.has_failed) = (false, true);
        } else {
            self.reason = self.explain(&round);
            return None;
        }
        self.reason = self.explain(&round);
        let way = if self.is_direct { "direct" } else { "vxlan" };
        Some(Change { cidr: self.target.cidr, reason: format!("{way}, {}", self.reason) })
    }

    fn explain(&self, round: &Round) -> String {
        let mtu = self.target.mtu;
        match (self.is_direct, round.short, round.long) {
            (true, true, true) => "on-link, probes are answered".to_owned(),
            (false, true, true) => "on-link, probes are answered again".to_owned(),
            (_, true, false) => format!("on-link, but packets of {mtu} bytes are lost on the direct way"),
            (true, false, _) if !round.tunnel => "on-link, but the agent of the node does not answer".to_owned(),
            (false, false, _) if self.answered.is_none() && !self.has_failed => {
                "on-link, and probes wait for an answer".to_owned()
            }
            (_, false, _) => "on-link, but probes are lost on the direct way".to_owned(),
        }
    }
}

impl ProbeTarget {
    /// The lengths of the UDP payload of a short and a long request.
    fn lengths(&self) -> [u16; 2] {
        let headers = HEADERS[usize::from(self.gateway.is_ipv6())];
        [super::message::HEADER as u16, u16::try_from(self.mtu.saturating_sub(headers)).unwrap_or(u16::MAX)]
    }
}

/// A number that another machine cannot guess.
fn random() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(Instant::now())
}

#[cfg(test)]
mod tests {
    use cnikit::spec::IfIndex;

    use super::*;

    struct Bench {
        schedule: Schedule,
        now: Instant,
        began: Instant,
    }

    fn target() -> ProbeTarget {
        let link = |number| IfIndex::new(number).expect("an index");
        ProbeTarget {
            cidr: "10.244.2.0/24".parse().expect("a network"),
            gateway: "10.244.2.1".parse().expect("an address"),
            uplink: link(2),
            next_hop: "192.0.2.2".parse().expect("an address"),
            mtu: 1500,
            tunnel: link(7),
        }
    }

    impl Bench {
        fn new(is_direct: bool) -> Self {
            let (mut schedule, now) = (Schedule::default(), Instant::now());
            let direct = is_direct.then(|| (target().cidr, target().next_hop)).into_iter().collect();
            schedule.set_targets(&[target()], &direct, now);
            Self { schedule, now, began: now }
        }

        /// One round. `delivers` decides about each request by its line and length.
        fn round(&mut self, delivers: impl Fn(Line, usize) -> bool) -> Vec<Change> {
            self.now = self.now.max(self.schedule.next().expect("a target"));
            for request in self.schedule.due(self.now) {
                let Some(super::super::message::Message::Request(probe)) =
                    super::super::message::decode(&request.bytes)
                else {
                    panic!("a request");
                };
                if delivers(request.line, request.bytes.len()) {
                    self.schedule.answered(request.target.gateway, request.line, probe, self.now);
                }
            }
            self.now = self.schedule.next().expect("a round");
            self.schedule.close(self.now, SystemTime::now())
        }

        fn is_direct(&self) -> bool {
            self.schedule.verdicts()[&target().cidr].is_direct
        }

        fn reason(&self) -> String {
            self.schedule.verdicts()[&target().cidr].reason.clone()
        }
    }

    #[test]
    fn first_answer_leads_to_the_direct_way() {
        let mut bench = Bench::new(false);
        assert!(bench.round(|_, _| false).is_empty() && !bench.is_direct());
        assert_eq!(bench.round(|_, _| true).len(), 1);
        assert!(bench.is_direct());
        assert!(bench.round(|_, _| true).is_empty(), "no further change");
    }

    #[test]
    fn blocked_direct_way_leads_to_the_tunnel_in_time() {
        let mut bench = Bench::new(false);
        bench.round(|_, _| true);
        bench.began = bench.now;
        while bench.is_direct() {
            bench.round(|line, _| line == Line::Tunnel);
            assert!(bench.now - bench.began < Duration::from_secs(8), "{:?}", bench.now - bench.began);
        }
        assert!(bench.reason().contains("lost on the direct way"), "{}", bench.reason());
        // And back, when the direct way has answered for some time.
        let mut rounds = 0;
        while !bench.is_direct() {
            bench.round(|_, _| true);
            rounds += 1;
        }
        assert_eq!(rounds, ROUNDS);
    }

    #[test]
    fn stopped_agent_changes_nothing() {
        let mut bench = Bench::new(true);
        for _ in 0..100 {
            assert!(bench.round(|_, _| false).is_empty());
        }
        assert!(bench.is_direct(), "nothing answers by the tunnel either");
        assert!(bench.reason().contains("does not answer"), "{}", bench.reason());
        let lost = bench.schedule.verdicts()[&target().cidr].report.lost;
        assert_eq!(lost, 100);
    }

    #[test]
    fn lost_long_packets_prevent_the_direct_way() {
        let mut bench = Bench::new(false);
        for _ in 0..5 {
            bench.round(|line, length| line == Line::Tunnel || length < 1000);
        }
        assert!(!bench.is_direct() && bench.reason().contains("1500 bytes"), "{}", bench.reason());
    }

    #[test]
    fn long_request_fills_the_mtu() {
        let mut bench = Bench::new(false);
        let lengths: Vec<_> = bench.schedule.due(bench.now).iter().map(|request| request.bytes.len()).collect();
        assert_eq!(lengths, [20, 1472], "20 bytes of IPv4 and 8 of UDP");
    }

    #[test]
    fn foreign_answers_do_not_count() {
        let mut bench = Bench::new(false);
        let sent = bench.schedule.due(bench.now);
        let elsewhere = "10.244.3.1".parse().expect("an address");
        for request in &sent {
            let Some(super::super::message::Message::Request(probe)) = super::super::message::decode(&request.bytes)
            else {
                panic!("a request");
            };
            bench.schedule.answered(elsewhere, Line::Direct, probe, bench.now);
            let guessed = Probe { round: probe.round ^ 1, ..probe };
            bench.schedule.answered(target().gateway, Line::Direct, guessed, bench.now);
        }
        bench.schedule.close(bench.now + ROUND, SystemTime::now());
        assert!(!bench.is_direct());
    }

    #[test]
    fn changed_address_begins_anew() {
        let mut bench = Bench::new(false);
        bench.round(|_, _| true);
        let mut moved = target();
        moved.next_hop = "192.0.2.9".parse().expect("an address");
        bench.schedule.set_targets(&[moved], &BTreeMap::new(), bench.now);
        assert!(!bench.is_direct());
        bench.schedule.set_targets(&[], &BTreeMap::new(), bench.now);
        assert!(bench.schedule.verdicts().is_empty() && bench.schedule.next().is_none());
    }

    #[test]
    fn many_targets_are_probed_more_slowly() {
        let mut schedule = Schedule::default();
        let mut now = Instant::now();
        let targets: Vec<_> = (0..5_000_u32)
            .map(|number| {
                let [_, _, high, low] = number.to_be_bytes();
                let text = format!("10.{}.{low}.0/24", 100 + u32::from(high));
                let cidr: IpNetwork = text.parse().expect("a network");
                ProbeTarget { cidr, gateway: crate::desired::first_address(&cidr).expect("an address"), ..target() }
            })
            .collect();
        schedule.set_targets(&targets, &BTreeMap::new(), now);
        let end = now + Duration::from_secs(300);
        let mut sent = 0;
        while now < end {
            schedule.close(now, SystemTime::now());
            sent += schedule.due(now).len();
            now = schedule.next().expect("targets").max(now + Duration::from_millis(1));
        }
        // Two requests in a round, in some 50 seconds.
        assert!(sent / 300 < 2 * RATE as usize + 50, "{} requests in a second", sent / 300);
    }
}
