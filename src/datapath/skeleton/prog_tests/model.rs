//! Compares the programs with a model, frame by frame. The model is written from the documentation.
//!
//! ```sh
//! CNIKIT_LONG_TESTS=1 cargo test --release --lib programs_and_model_agree -- --nocapture
//! ```

use std::fs;
use std::path::Path;
use std::time::Instant;

use cnikit_model::{Counts, Hook, Network, Origin, Port, Reason, Scenario, Step, Verdict};
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::frames::*;
use super::scenarios::scenario;
use super::{BRIDGE, Loaded, OTHER_PORT, PORT, PORT_ELSEWHERE, REDIRECT, SECOND_PORT, SHOT, UNSPEC, index, loaded};
use crate::datapath::{Drops, PortConfig};
use crate::spec::MacAddr;

/// The number of frames, and the number with `CNIKIT_LONG_TESTS=1`.
const FRAMES: u32 = 20_000;
const LONG_FRAMES: u32 = 1_000_000;
/// The mean. A scenario has 1 to 23 frames.
const FRAMES_PER_SCENARIO: u32 = 12;

#[test]
fn programs_and_model_agree() {
    loaded(|loaded| {
        let is_long = std::env::var_os("CNIKIT_LONG_TESTS").is_some_and(|value| value == "1");
        let frames = if is_long { LONG_FRAMES } else { FRAMES };
        let config = Config { cases: frames / FRAMES_PER_SCENARIO, failure_persistence: None, ..Config::default() };
        let tried = std::cell::Cell::new(Tried::default());
        let start = Instant::now();
        TestRunner::new(config)
            .run(&scenario(), |scenario| {
                let compared = loaded.compare(&scenario).map_err(TestCaseError::fail)?;
                tried.update(|tried| tried.add(compared));
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{error}"));
        let tried = tried.get();
        eprintln!("{tried:?} in {:?}", start.elapsed());
        // Each outcome must be frequent enough for the comparison to mean something.
        assert!(tried.frames >= frames * 9 / 10, "{tried:?}");
        for kind in [tried.dropped, tried.redirected, tried.to_stack] {
            assert!(kind > frames / 20, "{tried:?}");
        }
        assert!(tried.refused < frames / 10, "{tried:?}");
    });
}

/// The corpus of the fuzz target `packet`: see fuzz/fuzz_targets/packet.rs.
#[test]
fn programs_and_model_agree_on_the_corpus() {
    loaded(|loaded| {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/packet");
        let mut count = 0;
        for entry in fs::read_dir(&corpus).unwrap() {
            let path = entry.unwrap().path();
            let scenario = Scenario::of(&fs::read(&path).unwrap());
            loaded.compare(&scenario).unwrap_or_else(|difference| panic!("{}: {difference}", path.display()));
            count += scenario.steps.len();
        }
        assert!(count > 0, "{} is empty", corpus.display());
    });
}

/// The number of frames per outcome.
#[derive(Debug, Clone, Copy, Default)]
struct Tried {
    frames: u32,
    dropped: u32,
    redirected: u32,
    to_stack: u32,
    /// Refused by `BPF_PROG_TEST_RUN`: the frame is too short for its ethertype.
    refused: u32,
}

impl Tried {
    fn add(self, other: Self) -> Self {
        Self {
            frames: self.frames + other.frames,
            dropped: self.dropped + other.dropped,
            redirected: self.redirected + other.redirected,
            to_stack: self.to_stack + other.to_stack,
            refused: self.refused + other.refused,
        }
    }
}

impl Loaded {
    /// Runs a scenario on the programs and on the model. An error describes the first difference.
    fn compare(&self, scenario: &Scenario) -> Result<Tried, String> {
        // Before the counts: the first call runs a frame through the program.
        let takes_origins = self.takes_origins();
        let mut network = self.set_up(scenario);
        let mut tried = Tried::default();
        let before = self.counts();
        let mut drops = self.drops();
        for (number, Step { hook, origin, frame }) in scenario.steps.iter().enumerate() {
            tried.frames += 1;
            let origin = if takes_origins { *origin } else { Origin::Elsewhere };
            let device = match origin {
                Origin::Elsewhere => 0,
                Origin::ThisPort => PORT,
                Origin::Bridge => network.bridge,
            };
            let Some(verdict) = self.verdict(*hook, device, frame, &mut drops) else {
                assert!(frame.len() < ETHERNET + 40, "a frame of {} bytes was refused: {frame:02x?}", frame.len());
                tried.refused += 1;
                continue;
            };
            match verdict {
                Verdict::Drop(_) => tried.dropped += 1,
                Verdict::Redirect(_) => tried.redirected += 1,
                Verdict::Stack(_) => tried.to_stack += 1,
            }
            let expected = network.judge(*hook, PORT, origin, frame);
            if verdict != expected {
                let (verdict, expected) = (describe(&verdict), describe(&expected));
                return Err(report(scenario, &format!("step {number}:\nprogram {verdict}\nmodel   {expected}")));
            }
        }
        assert_eq!(self.drops(), drops, "only dropped frames are counted as drops");
        let counts = difference(self.counts(), before);
        let (found, expected) = ((counts, self.flow_counts()), (network.counts, network.flows()));
        if found == expected {
            return Ok(tried);
        }
        Err(report(scenario, &format!("program {found:?}\nmodel   {expected:?}")))
    }

    /// Configures the network of a scenario and deletes all flows. Returns the model of the same
    /// network.
    fn set_up(&self, scenario: &Scenario) -> Network {
        let bridge = if scenario.at_bridge { PORT } else { BRIDGE };
        self.configure(|config| {
            config.bridge_ifindex = Some(index(bridge));
            config.spoof_check = scenario.guard;
            config.direct_forwarding = scenario.direct;
        });
        let mut network = Network::new(bridge, MAC_GATEWAY);
        network.guard = scenario.guard;
        network.direct = scenario.direct;
        for ([a, b], gateway) in PODS.into_iter().zip(GATEWAY) {
            network.own(a, PORT, MAC_A);
            network.own(b, OTHER_PORT, MAC_B);
            network.own(gateway, BRIDGE, MAC_GATEWAY);
        }
        for (second, elsewhere) in SECOND.into_iter().zip(ELSEWHERE) {
            network.own(second, SECOND_PORT, MAC_SECOND);
            network.shared.extend([((PORT, second), SECOND_PORT), ((PORT, elsewhere), PORT_ELSEWHERE)]);
        }
        for (port, mac, stack_only) in
            [(PORT, MAC_A, scenario.stack_only), (OTHER_PORT, MAC_B, scenario.other_stack_only)]
        {
            network.own(MacAddr::new(mac).link_local().into(), port, mac);
            if port == PORT && scenario.is_nobodys {
                self.links.remove(index(port)).unwrap();
            } else {
                network.ports.insert(port, Port { mac, stack_only });
                self.links.insert(index(port), PortConfig::new(MacAddr::new(mac)).stack_only(stack_only)).unwrap();
            }
        }
        for key in self.flows.keys::<40>().unwrap() {
            self.flows.delete(&key, "a flow").unwrap();
        }
        network
    }

    /// The verdict of a program. `None` if the kernel refuses the frame.
    fn verdict(&self, hook: Hook, origin: u32, frame: &[u8], drops: &mut Drops) -> Option<Verdict> {
        let program = match hook {
            Hook::Ingress => &self.skeleton.progs.cni_tc_main,
            Hook::Egress => &self.skeleton.progs.cni_tc_egress,
        };
        let (verdict, left) = super::try_run(program, origin, frame).ok()?;
        match verdict {
            SHOT => {
                let before = std::mem::replace(drops, self.drops());
                let counted = drops.iter().zip(before.iter()).filter(|(after, before)| after != before);
                let counted: Vec<_> = counted.map(|((reason, count), (_, before))| (reason, count - before)).collect();
                let [(reason, 1)] = counted[..] else { panic!("a drop counted as {counted:?}") };
                Some(Verdict::Drop(REASONS[reason.number()]))
            }
            REDIRECT => Some(Verdict::Redirect(left)),
            UNSPEC => Some(Verdict::Stack(left)),
            other => panic!("unexpected verdict {other} for {}", hexadecimal(frame)),
        }
    }

    /// The number of flows, of routed flows, and of closed sides.
    fn flow_counts(&self) -> [usize; 3] {
        let states = self
            .flows
            .keys::<40>()
            .unwrap()
            .into_iter()
            .map(|key| self.flows.read::<u8>(&key, "a flow").unwrap().unwrap());
        states.fold([0; 3], |[all, routed, closed], state| {
            [all + 1, routed + usize::from(state >> 1 & 1), closed + (state >> 2).count_ones() as usize]
        })
    }

    /// The counters of the programs, in the terms of the model.
    fn counts(&self) -> Counts {
        let stats = self.stats();
        let pods =
            PODS.into_iter().flatten().chain(SECOND).map(|address| self.counters(address)).chain([stats.unknown]);
        let (sent, received) = pods
            .fold((0, 0), |(sent, received), counters| (sent + counters.tx_packets, received + counters.rx_packets));
        Counts {
            direct: stats.direct,
            to_stack: stats.to_stack,
            to_host: stats.to_host,
            from_stack: stats.from_stack,
            arp_answers: stats.arp_answers,
            nd_answers: stats.nd_answers,
            flows_added: stats.flows_added,
            flows_forgotten: stats.flows_forgotten,
            sent,
            received,
        }
    }
}

/// Indexed by the number of the reason.
const REASONS: [Reason; 9] = [
    Reason::Malformed,
    Reason::Vlan,
    Reason::MacSource,
    Reason::IpSource,
    Reason::ArpSender,
    Reason::NdOwner,
    Reason::Router,
    Reason::Extensions,
    Reason::Reflected,
];

fn difference(after: Counts, before: Counts) -> Counts {
    Counts {
        direct: after.direct - before.direct,
        to_stack: after.to_stack - before.to_stack,
        to_host: after.to_host - before.to_host,
        from_stack: after.from_stack - before.from_stack,
        arp_answers: after.arp_answers - before.arp_answers,
        nd_answers: after.nd_answers - before.nd_answers,
        flows_added: after.flows_added - before.flows_added,
        flows_forgotten: after.flows_forgotten - before.flows_forgotten,
        sent: after.sent - before.sent,
        received: after.received - before.received,
    }
}

/// Formats a difference with its scenario. `xxd -r -p` turns the seed into a file for
/// fuzz/corpus/packet.
fn report(scenario: &Scenario, difference: &str) -> String {
    format!("{difference}\n{scenario:#?}\nseed {}", hexadecimal(&scenario.bytes()))
}

fn describe(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Drop(reason) => format!("drops the frame: {reason:?}"),
        Verdict::Redirect(frame) => format!("redirects {}", hexadecimal(frame)),
        Verdict::Stack(frame) => format!("passes to the stack {}", hexadecimal(frame)),
    }
}

fn hexadecimal(frame: &[u8]) -> String {
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}
