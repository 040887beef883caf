//! The node agent.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::bench::{Bench, PATIENCE};
use super::objects::{idle, pod};
use super::restarts::Traffic;
use crate::node::Node;
use crate::process::wait_until;

/// The longest time until the agent has repaired a node.
const REPAIR: Duration = Duration::from_secs(1);

/// The longest time until all nodes use another way.
const CHANGE: Duration = Duration::from_secs(10);

/// The most attempts to see a repair in this time.
const ATTEMPTS: usize = 3;

/// What an operator or another tool may do to a node, and a command that prints something only if
/// the node is whole.
const BREAKAGES: [(&str, &str); 7] = [
    ("ip link set cbr0 down", "ip -o link show cbr0 up"),
    ("nft delete table inet simple-ebpf-agent", "nft list table inet simple-ebpf-agent | grep masquerade"),
    (
        "tc filter del block $(tc qdisc show dev cbr0 | sed -n 's/.*ingress_block \\([0-9]*\\).*/\\1/p')",
        "tc filter show dev cbr0 ingress | grep cni_tc_main",
    ),
    ("ip route flush proto 201", "ip route show proto 201"),
    ("rm -r /sys/fs/bpf/simple-ebpf-cni/podnet/v2", "ls /sys/fs/bpf/simple-ebpf-cni/podnet/v2 | grep port_config"),
    // The entry of one pod.
    (
        "cd /sys/fs/bpf/simple-ebpf-cni/podnet/v2 && bpftool map delete pinned port_config key \
         $(bpftool -j map dump pinned port_config | jq -r '.[0].key | join(\" \")')",
        "cd /sys/fs/bpf/simple-ebpf-cni/podnet/v2 && \
         test $(bpftool -j map dump pinned port_config | jq length) -ge $(ls /sys/class/net/cbr0/brif | wc -l) && echo whole",
    ),
    // The programs of one pod.
    (
        "tc qdisc delete dev $(ls /sys/class/net/cbr0/brif | head -n 1) clsact",
        "for port in $(ls /sys/class/net/cbr0/brif); do tc qdisc show dev $port | grep -q clsact || exit; done; echo whole",
    ),
];

/// The agent repairs what disappears from a node within a second.
pub(super) fn repairs(bench: &Bench) -> Result<()> {
    let node = bench.both_ends()[0].clone();
    // A node without pods has no entries.
    bench.create_ready([pod("attached", &node.name(), idle())])?;
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

/// The command `nodes` lists the ways to all other nodes: direct, by eBPF programs.
pub(super) fn nodes(bench: &Bench) -> Result<()> {
    for node in bench.nodes() {
        let (listed, _) = wait_for_ways(bench, &node, "direct")?;
        for other in bench.nodes().iter().filter(|other| other.number() != node.number()) {
            let rows = listed.lines().filter(|line| line.starts_with(&other.name()));
            let by_programs =
                rows.filter(|line| line.contains(" yes ") && line.contains("probes are answered")).count();
            ensure!(by_programs == bench.families(), "{} lists:\n{listed}", node.name());
        }
        ensure!(!listed.contains("problem"), "{} lists:\n{listed}", node.name());
    }
    Ok(())
}

/// All nodes use the tunnel if the network drops probes of the direct way, and later that way
/// again. No packet of a pod is lost.
pub(super) fn changes_ways(bench: &Bench) -> Result<()> {
    let nodes = bench.nodes();
    for node in &nodes {
        wait_for_ways(bench, node, "direct")?;
    }
    let traffic = Traffic::start(bench)?;
    for node in &nodes {
        // The gateways of other nodes send the probes. Packets of the tunnel have node addresses.
        let report: Value = serde_json::from_str(&node.shell("/opt/cni/bin/simple-ebpf-cni nodes --json")?)?;
        let mut rules = String::new();
        for peer in report["peers"].as_array().context("no peers")? {
            let cidr = peer["podCidr"].as_str().context("no pod CIDR")?;
            let (family, link) = (if cidr.contains(':') { "ip6" } else { "ip" }, &peer["link"]);
            rules += &format!("iifname {link} {family} saddr {cidr} drop; ");
        }
        node.shell(&format!(
            "nft 'table inet cloud {{ chain check {{ type filter hook prerouting priority raw; {rules}}}; }}'"
        ))?;
    }
    for node in &nodes {
        let (_, took) = wait_for_ways(bench, node, "vxlan")?;
        ensure!(took < CHANGE, "{} needed {took:?}", node.name());
    }
    for node in &nodes {
        node.shell("nft delete table inet cloud")?;
    }
    for node in &nodes {
        let (_, took) = wait_for_ways(bench, node, "direct")?;
        ensure!(took < CHANGE, "{} needed {took:?}", node.name());
    }
    traffic.still_runs()?;
    traffic.finish()
}

/// Waits until a node uses a way to all other nodes. Returns the list of ways, and the time.
fn wait_for_ways(bench: &Bench, node: &Node, way: &str) -> Result<(String, Duration)> {
    let (began, mut listed) = (Instant::now(), String::new());
    let wanted = (bench.nodes().len() - 1) * bench.families();
    wait_until(&format!("the way {way} on {}", node.name()), PATIENCE, || {
        listed = node.shell("/opt/cni/bin/simple-ebpf-cni nodes")?;
        Ok(listed.lines().filter(|line| line.contains(&format!(" {way} "))).count() == wanted)
    })
    .with_context(|| format!("{} does not use {way}", node.name()))?;
    Ok((listed, began.elapsed()))
}
