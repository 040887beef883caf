//! The first ADD of a host, which loads the programs and makes the bridge, on a new host for each point.

use cnikit_testbed::Footprint;

use crate::attachment::{VICTIM, is_empty, lock};
use crate::faults;
use crate::networks;
use crate::support::Network;
use crate::sweep::{Points, Sweep, Ways};

/// What serves the network as a whole, as lines of a footprint begin.
const NETWORK: [&str; 6] = [
    "link cbr0 ",
    "address cbr0 ",
    "route 10.99.0.",
    "pin /sys/fs/bpf/simple-ebpf-cni/",
    "clsact \"cbr0\" ",
    "filter ",
];

/// Hits the first ADD of a host, has it made by another container and by the victim, and compares what is left in the
/// end with what a host has after an ADD and its DEL.
#[track_caller]
fn first(name: &'static str, ways: Ways, often: usize, judge: impl Fn(&Network, &mut Points) -> bool + Sync) {
    let clean = std::sync::OnceLock::new();
    Sweep { name, kind: networks::basic, ways, lasting: false, often }.run(|network, points| {
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
            left(network).assert_unchanged(clean.get().expect("it was set"), "all of it");
        }
    });
}

/// What is left when no pod is. Programs differ in their numbers. An ADD that cannot read the kernel's BTF does without
/// `find_xdp`.
fn left(network: &Network) -> Footprint {
    let line = |line: &str| match line.starts_with("filter ") {
        true => line.split('{').next().unwrap_or_default().to_owned(),
        false => line.to_owned(),
    };
    network.footprint().lines().filter(|line| !line.ends_with("/find_xdp")).map(line).collect()
}

#[test]
fn a_killed_first_add_is_in_nobodys_way() {
    first("kill the first ADD", faults::kill, 7, |network, points| {
        let pod = network.host.pod();
        let struck = points.strike(&network.plugin.on("ADD", &network.config, VICTIM, &pod));
        if let Some(struck) = &struck {
            struck.killed();
            let other = network.attach("at-once");
            network.check(&other).silent();
            network.detach(&other);
        }
        network.call("DEL", VICTIM, &pod).silent();
        is_empty(&pod, "a killed ADD and DEL");
        true
    });
}

#[test]
fn a_failed_first_add_leaves_what_serves_the_network() {
    first("fail the first ADD", faults::fail, 61, |network, points| {
        let pod = network.host.pod();
        let Some(struck) = points.strike(&network.plugin.on("ADD", &network.config, VICTIM, &pod)) else {
            network.call("DEL", VICTIM, &pod).silent();
            return true;
        };
        if struck.refused().is_some() {
            is_empty(&pod, "a failed ADD");
            let kept: Vec<String> = NETWORK.iter().map(|line| (*line).to_owned()).chain([lock()]).collect();
            let left = left(network).beyond(&Footprint::default(), &kept);
            assert!(left.is_empty(), "the failed ADD left:\n{left}");
            network.call("ADD", VICTIM, &pod).result();
        }
        network.call("DEL", VICTIM, &pod).silent();
        is_empty(&pod, "DEL");
        true
    });
}
