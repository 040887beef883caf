//! The first ADD of a host, which loads the programs and creates the bridge, on a new host for each
//! point.

use cnikit_testbed::Footprint;

use crate::faults;
use crate::networks;
use crate::scenario::{TARGET, assert_pod_empty, lock};
use crate::support::Network;
use crate::sweep::{Faults, Points, Sweep};

/// The shared parts of the network, as lines of a footprint begin.
const NETWORK: [&str; 6] = [
    "link cbr0 ",
    "address cbr0 ",
    "route 10.99.0.",
    "pin /sys/fs/bpf/simple-ebpf-cni/",
    "clsact \"cbr0\" ",
    "filter ",
];

/// Injects a fault into the first ADD of a host. Then runs ADD for another container and again for
/// the target. Compares the final state with the state of a host after an ADD and its DEL.
#[track_caller]
fn first(
    name: &'static str,
    faults: Faults,
    sample_every: usize,
    judge: impl Fn(&Network, &mut Points) -> bool + Sync,
) {
    let clean = std::sync::OnceLock::new();
    Sweep { name, kind: networks::basic, faults, persistent: false, sample_every }.run(|network, points| {
        if clean.get().is_none() {
            let one = network.attach("one");
            network.detach(&one);
            let _ = clean.set(left(network));
            return;
        }
        if judge(network, points) {
            let other = network.attach("other");
            network.check(&other).silent();
            network.detach(&other);
            left(network).assert_unchanged(clean.get().expect("set by the first round"), "the calls");
        }
    });
}

/// The state without pods. The ids of programs differ between hosts. An ADD that cannot read the
/// kernel's BTF works without `find_xdp`.
fn left(network: &Network) -> Footprint {
    let line = |line: &str| match line.starts_with("filter ") {
        true => line.split('{').next().unwrap_or_default().to_owned(),
        false => line.to_owned(),
    };
    network.footprint().lines().filter(|line| !line.ends_with("/find_xdp")).map(line).collect()
}

#[test]
fn a_killed_first_add_has_no_effect_on_later_calls() {
    first("kill the first ADD", faults::kill, 7, |network, points| {
        let pod = network.host.pod();
        let injected = points.inject(&network.plugin.on("ADD", &network.config, TARGET, &pod));
        if let Some(injected) = &injected {
            injected.assert_killed();
            let other = network.attach("at-once");
            network.check(&other).silent();
            network.detach(&other);
        }
        network.call("DEL", TARGET, &pod).silent();
        assert_pod_empty(&pod, "a killed ADD and DEL");
        true
    });
}

#[test]
fn a_failed_first_add_leaves_only_the_shared_parts() {
    first("fail the first ADD", faults::fail, 61, |network, points| {
        let pod = network.host.pod();
        let Some(injected) = points.inject(&network.plugin.on("ADD", &network.config, TARGET, &pod)) else {
            network.call("DEL", TARGET, &pod).silent();
            return true;
        };
        if injected.assert_error().is_some() {
            assert_pod_empty(&pod, "a failed ADD");
            let kept: Vec<String> = NETWORK.iter().map(|line| (*line).to_owned()).chain([lock()]).collect();
            let left = left(network).beyond(&Footprint::default(), &kept);
            assert!(left.is_empty(), "the failed ADD left:\n{left}");
            network.call("ADD", TARGET, &pod).result();
        }
        network.call("DEL", TARGET, &pod).silent();
        assert_pod_empty(&pod, "DEL");
        true
    });
}
