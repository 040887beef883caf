//! The node agent.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::bench::{Bench, PATIENCE};
use super::restarts::Traffic;
use crate::node::Node;
use crate::process::wait_until;

/// The longest time until the agent has repaired a node.
const REPAIR: Duration = Duration::from_secs(1);

/// The most attempts to see a repair in this time.
const ATTEMPTS: usize = 3;

/// What an operator or another tool may do to a node, and a command that prints something only if
/// the node is whole.
const BREAKAGES: [(&str, &str); 4] = [
    ("ip link set cbr0 down", "ip -o link show cbr0 up"),
    ("nft delete table inet simple-ebpf-agent", "nft list table inet simple-ebpf-agent | grep masquerade"),
    (
        "tc filter del block $(tc qdisc show dev cbr0 | sed -n 's/.*ingress_block \\([0-9]*\\).*/\\1/p')",
        "tc filter show dev cbr0 ingress | grep cni_tc_main",
    ),
    ("ip route flush proto 201", "ip route show proto 201"),
];

/// The agent repairs what disappears from a node within a second.
pub(super) fn repairs(bench: &Bench) -> Result<()> {
    let node = bench.both_ends()[0].clone();
    for (breakage, check) in BREAKAGES {
        let is_whole = || node.shell(check).is_ok_and(|found| !found.trim().is_empty());
        if !is_whole() {
            // A cluster of one node has no routes.
            ensure!(bench.nodes().len() == 1, "nothing to break by {breakage:?}");
            continue;
        }
        // Other programs of this machine may delay one repair.
        let mut took = Vec::new();
        while took.len() < ATTEMPTS && took.iter().all(|took| *took >= REPAIR) {
            node.shell(breakage)?;
            let broken = Instant::now();
            wait_until(&format!("the repair after {breakage:?}"), PATIENCE, || Ok(is_whole()))?;
            took.push(broken.elapsed());
        }
        ensure!(took.iter().any(|took| *took < REPAIR), "the repairs after {breakage:?} took {took:?}");
    }
    Ok(())
}

/// The agent is killed on all nodes. No packet is lost, and it comes back.
pub(super) fn killed(bench: &Bench) -> Result<()> {
    let traffic = Traffic::start(bench)?;
    let pid = |node: &Node| node.shell("pidof simple-ebpf-agent");
    let mut before = Vec::new();
    for node in bench.nodes() {
        let agent = pid(&node).context("no agent runs")?;
        node.shell(&format!("kill -KILL {agent}"))?;
        before.push((node, agent));
    }
    for (node, agent) in before {
        wait_until("another process of the agent", PATIENCE, || Ok(pid(&node).is_ok_and(|new| new != agent)))?;
    }
    bench.cluster.wait_until_ready()?;
    traffic.still_runs()?;
    traffic.finish()
}

/// The command `nodes` lists the ways to all other nodes.
pub(super) fn nodes(bench: &Bench) -> Result<()> {
    for node in bench.nodes() {
        let listed = node.shell("/opt/cni/bin/simple-ebpf-cni nodes")?;
        for other in bench.nodes().iter().filter(|other| other.number() != node.number()) {
            let rows = listed.lines().filter(|line| line.starts_with(&other.name()));
            let direct = rows.filter(|line| line.contains(" direct ")).count();
            ensure!(direct == bench.families(), "{} lists:\n{listed}", node.name());
        }
        ensure!(!listed.contains("problem"), "{} lists:\n{listed}", node.name());
    }
    Ok(())
}
