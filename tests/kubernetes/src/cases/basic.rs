//! Two pods, their counters, and every path between pods.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::bench::{Bench, client_address};
use super::objects::{HTTP, idle, pod, server};
use crate::images::TOOLS_IMAGE;
use crate::node::Node;
use crate::process::run;

/// The number of pings.
const PINGS: u64 = 20;

/// The pinned map with the counters of IPv4 addresses.
const COUNTERS: &str = "/sys/fs/bpf/simple-ebpf-cni/podnet/v2/pkt_count";

/// The largest echo request without fragments, with an MTU of 1500 bytes.
const WHOLE_PACKET: &str = "1472";

/// Two pods by `kubectl run` ping each other. Their counters, read with bpftool, grow by exactly
/// the sent packets, and `tc filter show` lists the program.
pub(super) fn article(bench: &Bench) -> Result<()> {
    let node = bench.cluster.node(1);
    let placement = format!("--overrides={{\"spec\":{{\"nodeName\":\"{}\"}}}}", node.name());
    for name in ["pod-a", "pod-b"] {
        bench.words(&format!("run {name} --image {TOOLS_IMAGE} {placement}"))?;
    }
    bench.wait_ready()?;
    let [a, b] = [&bench.addresses("pod-a")?[0], &bench.addresses("pod-b")?[0]];
    let before = [counters(&node, a)?, counters(&node, b)?];
    bench.exec("pod-a", &["ping", "-q", "-i", "0.05", "-c", &PINGS.to_string(), b])?;
    let after = [counters(&node, a)?, counters(&node, b)?];
    for (name, before, after) in [("pod-a", before[0], after[0]), ("pod-b", before[1], after[1])] {
        let grown = [after[0] - before[0], after[1] - before[1]];
        ensure!(
            grown == [PINGS, PINGS],
            "{PINGS} echo requests and replies passed, and the counters of {name} have grown by {grown:?} (sent, received)"
        );
    }
    let veth = host_interface(&node, "pod-a")?;
    let filters = run(node.command("tc")?.args(["filter", "show", "dev", &veth, "ingress"]))?;
    ensure!(filters.contains("cni_tc_main"), "tc filter show dev {veth} ingress lists no cni_tc_main:\n{filters}");
    Ok(())
}

/// Packets that an address has sent and received, from the pinned map.
fn counters(node: &Node, address: &str) -> Result<[u64; 2]> {
    let text = run(node
        .command("bpftool")?
        .args(["--json", "map", "lookup", "pinned", COUNTERS, "key"])
        .args(address.split('.')))?;
    let entry: Value = serde_json::from_str(&text).with_context(|| format!("bpftool: {text}"))?;
    let processors = entry["formatted"]["values"].as_array().context("a value of each processor")?;
    let sum = |key: &str| {
        let values = processors.iter().map(|processor| processor["value"][key].as_u64());
        values.sum::<Option<u64>>().with_context(|| format!("no {key} of {address}: {entry}"))
    };
    Ok([sum("tx_packets")?, sum("rx_packets")?])
}

/// The node's end of a pod's veth pair, from the plugin.
pub(super) fn host_interface(node: &Node, pod: &str) -> Result<String> {
    let pods: Value = serde_json::from_str(&node.shell("/opt/cni/bin/simple-ebpf-cni pods --json")?)?;
    let entry = pods["pods"].as_array().into_iter().flatten().find(|entry| entry["podName"] == pod);
    let entry = entry.with_context(|| format!("`pods` does not list {pod} on {}: {pods}", node.name()))?;
    entry["hostInterface"].as_str().map(str::to_owned).with_context(|| format!("no interface: {entry}"))
}

/// Pods of all nodes reach each other, with whole packets and by TCP, and see each other's address.
pub(super) fn every_pair_of_nodes(bench: &Bench) -> Result<()> {
    let nodes = bench.nodes();
    let pods: Vec<_> = nodes
        .iter()
        .flat_map(|node| [0, 1].map(|number| (format!("pod-{}-{number}", node.number()), node.name())))
        .collect();
    bench.create_ready(pods.iter().map(|(name, node)| pod(name, node, server())))?;
    for (source, _) in &pods {
        let own = bench.addresses(source)?;
        for (target, _) in pods.iter().filter(|(target, _)| target != source) {
            for (family, address) in bench.addresses(target)?.iter().enumerate() {
                let size = WHOLE_PACKET_OF[family];
                let report = bench
                    .exec(source, &["ping", "-q", "-i", "0.05", "-c", "3", "-M", "do", "-s", size, address])
                    .with_context(|| format!("{source} pings {target}"))?;
                ensure!(report.contains("3 received"), "{source} pings {target}:\n{report}");
                let seen = bench.fetch(source, address, HTTP.into(), "clientip")?;
                let seen = client_address(&seen);
                ensure!(
                    seen == own[family],
                    "{target} sees {seen} as the address of {source}, which is {}",
                    own[family]
                );
            }
        }
    }
    Ok(())
}

/// The largest echo request of each family: the header of IPv6 has 20 bytes more.
const WHOLE_PACKET_OF: [&str; 2] = [WHOLE_PACKET, "1452"];

/// Pods of all nodes resolve the name of the API's service.
pub(super) fn names_resolve(bench: &Bench) -> Result<()> {
    let pods: Vec<_> = bench.nodes().iter().map(|node| (format!("client-{}", node.number()), node.name())).collect();
    bench.create_ready(pods.iter().map(|(name, node)| pod(name, node, idle())))?;
    for (name, node) in &pods {
        let found = bench.exec(name, &["dig", "+short", "+time=5", "kubernetes.default.svc.cluster.local"])?;
        if found.trim() != "10.96.0.1" {
            bail!("a pod on {node} resolves the API's service to {found:?}, and not to 10.96.0.1");
        }
    }
    Ok(())
}

/// `doctor` finds no problem on any node.
pub(super) fn doctor(bench: &Bench) -> Result<()> {
    for node in bench.nodes() {
        let report = node.shell("/opt/cni/bin/simple-ebpf-cni doctor 2>&1 || true")?;
        ensure!(
            report.lines().all(|line| line.starts_with("ok ")),
            "doctor on {} reports problems:\n{report}",
            node.name()
        );
    }
    Ok(())
}
