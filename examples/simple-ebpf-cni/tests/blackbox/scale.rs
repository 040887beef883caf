//! A bridge with the pods of a large node: 200, or the number in `CNIKIT_TEST_PODS`.
//!
//! ```sh
//! CNIKIT_TEST_PODS=500 cargo test -p simple-ebpf-cni --test blackbox scale:: -- --nocapture
//! ```

use std::time::{Duration, Instant};

use cnikit_testbed::Namespace;

use crate::cli::command;
use crate::doctor::configured;
use crate::support::{Attached, GATEWAY, Network, bin, heard, on_host, silence};

/// The number of pods with traffic to each other, to the gateway and with the host. The others are
/// bystanders.
const TALKERS: usize = 4;

/// The number of ADDs for the median of a duration.
const SAMPLE: usize = 9;

/// The number of frames of any kind that every bystander has received.
struct Heard {
    /// After the active pods have resolved each other and the gateway, and the host has resolved
    /// the active pods.
    of_others: Vec<u64>,
    /// After the host has sent one packet to each bystander.
    with_own: Vec<u64>,
}

/// Attaches all pods, starts traffic between some, and counts the frames at the others.
#[track_caller]
fn listen(spoof_check: bool, judge: impl FnOnce(Heard) + Send) {
    on_host(|network| {
        let mut config = network.with("spoofCheck", spoof_check);
        config["subnet"] = "10.99.0.0/22".into();
        let network = network.by(config);
        silence();
        // A pod that follows multicast groups reports its own to all ports within its first
        // seconds.
        network.host.ip("link add cbr0 type bridge mcast_snooping 0");
        let mut times = Vec::new();
        let crowd: Vec<Attached> = (0..size())
            .map(|number| {
                let (pod, container) = (network.host.pod(), format!("pod-{number}"));
                pod.enter(silence);
                let begun = Instant::now();
                let attached = network.attach_pod(&container, pod);
                times.push(begun.elapsed());
                attached
            })
            .collect();
        let (first, last) = (median(&times[1..=SAMPLE]), median(&times[times.len() - SAMPLE..]));
        eprintln!(
            "ADD with 1 to {SAMPLE} pods there: {first:.1?}; with the last of {} to come: {last:.1?}",
            crowd.len()
        );

        let (talkers, bystanders) = crowd.split_at(TALKERS);
        let all = || bystanders.iter().map(|attached| heard(&attached.pod)).collect::<Vec<_>>();
        let before = all();
        talk(&network, talkers);
        let of_others = all().into_iter().zip(before).map(|(after, before)| after - before).collect();
        for attached in bystanders {
            assert!(network.host.ping(attached.address(), 1).status.success(), "{}", attached.address());
        }
        judge(Heard { of_others, with_own: all() });
        crowd.iter().for_each(|attached| network.detach(attached));
    });
}

#[test]
fn bystanders_receive_no_requests_of_others() {
    listen(true, |heard| {
        assert!(heard.of_others.iter().all(|frames| *frames == 0), "{:?}", heard.of_others);
        // The packet for the pod itself, and the resolution of the gateway for its reply. No other
        // frame since the ADD.
        assert!(heard.with_own.iter().all(|frames| *frames == 2), "{:?}", heard.with_own);
    });
}

/// The control: pods without spoof check answer for themselves, so all pods receive the requests.
#[test]
fn without_the_check_bystanders_receive_every_request() {
    listen(false, |heard| {
        // One of two active pods sends a request at least, and each sends one for the gateway.
        let questions = (TALKERS * (TALKERS - 1) / 2 + TALKERS) as u64;
        assert!(heard.of_others.iter().all(|frames| *frames >= questions), "{:?}", heard.of_others);
        let questions = questions + heard.with_own.len() as u64;
        assert!(heard.with_own.iter().all(|frames| *frames > questions), "{:?}", heard.with_own);
    });
}

/// `BR_MAX_PORTS` of the kernel.
#[test]
fn a_full_bridge_is_reported() {
    on_host(|network| {
        let first = network.attach("first");
        let before = network.footprint();
        // Veth pairs, because not every kernel has a simpler link. Both ends are on the bridge.
        let pair =
            |n| format!("link add a{n} group 42 master cbr0 type veth peer name b{n}\nlink set b{n} master cbr0\n");
        network.host.command("ip").words("-batch -").stdin((0..511).map(pair).collect::<String>()).run();
        let pod = network.host.pod();
        let error = network.call("ADD", "second", &pod).error(11);
        assert!(error.contains("cbr0 has 1,023 ports"), "{error}");
        let (dir, bin) = (configured(network), bin().display());
        for words in ["status", &format!("doctor --bin-dir {bin}")] {
            let output = command(&format!("{words} --conf-dir {}", dir.display()));
            assert!(output.status.code() == Some(1) && output.stdout.contains("cbr0 has 1,023 ports"), "{output:#?}");
        }
        network.host.command("ip").words("link delete group 42").run();
        assert_eq!(network.footprint(), before, "the failed ADD leaves nothing");
        network.detach(&first);
    });
}

/// Each pod reaches each other pod and the gateway, and the host reaches all pods.
#[track_caller]
fn talk(network: &Network, talkers: &[Attached]) {
    for from in talkers {
        let others = talkers.iter().map(Attached::address).filter(|address| *address != from.address());
        for to in others.chain([GATEWAY]) {
            assert!(from.pod.ping(to, 1).status.success(), "{} to {to}", from.address());
        }
        assert!(network.host.ping(from.address(), 1).status.success(), "the host to {}", from.address());
    }
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[times.len() / 2]
}

fn size() -> usize {
    let Some(value) = std::env::var_os("CNIKIT_TEST_PODS") else { return 200 };
    let number = value.to_str().and_then(|value| value.parse().ok());
    number.filter(|number| (20..=1000).contains(number)).expect("CNIKIT_TEST_PODS is a number from 20 to 1000")
}
