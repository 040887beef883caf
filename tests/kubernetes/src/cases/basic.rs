//! Two pods, their counters, and every path between pods.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::bench::{Bench, client_address};
use super::objects::{HTTP, idle, pod, server};
use crate::images::TOOLS_IMAGE;
use crate::node::{Node, PLUGIN};
use crate::process::run;

/// The number of pings.
const PINGS: u64 = 20;

/// The pinned map with the counters of IPv4 addresses.
const COUNTERS: &str = "/sys/fs/bpf/simple-ebpf-cni/podnet/v2/pkt_count";

/// The headers of an echo request of each family.
const HEADERS: [u32; 2] = [28, 48];

/// Two pods by `kubectl run` ping each other, and the node pings one of them. The counters, read
/// with bpftool, grow by exactly these packets, and `tc filter show` lists the program.
pub(super) fn article(bench: &Bench) -> Result<()> {
    let node = bench.cluster.node(1);
    let placement = format!("--overrides={{\"spec\":{{\"nodeName\":\"{}\"}}}}", node.name());
    for name in ["pod-a", "pod-b"] {
        bench.words(&format!("run {name} --image {TOOLS_IMAGE} {placement}"))?;
    }
    bench.wait_ready()?;
    let [a, b] = [&bench.addresses("pod-a")?[0], &bench.addresses("pod-b")?[0]];
    let count = PINGS.to_string();
    let ping = |address| ["-q", "-i", "0.05", "-c", &count, address];
    // The eBPF programs forward packets between pods of a node directly.
    let expected = Counters { sent: PINGS, received: PINGS, sent_directly: PINGS, received_directly: PINGS };
    counted(&node, [(a, expected), (b, expected)], || {
        let words: Vec<&str> = std::iter::once("ping").chain(ping(b)).collect();
        bench.exec("pod-a", &words)
    })?;
    // The stack delivers packets of the node.
    let expected = Counters { sent_directly: 0, received_directly: 0, ..expected };
    counted(&node, [(a, expected)], || run(node.command("ping")?.args(ping(a))))?;
    let veth = host_interface(&node, "pod-a")?;
    let filters = run(node.command("tc")?.args(["filter", "show", "dev", &veth, "ingress"]))?;
    ensure!(filters.contains("cni_tc_main"), "tc filter show dev {veth} ingress lists no cni_tc_main:\n{filters}");
    Ok(())
}

/// The packets of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counters {
    sent: u64,
    received: u64,
    sent_directly: u64,
    received_directly: u64,
}

/// Fails if the counters of these addresses grow by other numbers while packets pass.
fn counted<const N: usize>(
    node: &Node,
    expected: [(&String, Counters); N],
    pass: impl FnOnce() -> Result<String>,
) -> Result<()> {
    let before = expected.map(|(address, _)| counters(node, address));
    pass()?;
    for ((address, expected), before) in expected.into_iter().zip(before) {
        let (before, after) = (before?, counters(node, address)?);
        let grown = Counters {
            sent: after.sent - before.sent,
            received: after.received - before.received,
            sent_directly: after.sent_directly - before.sent_directly,
            received_directly: after.received_directly - before.received_directly,
        };
        ensure!(grown == expected, "the counters of {address} have grown by {grown:?}, and {expected:?} passed");
    }
    Ok(())
}

/// The counters of an address in the pinned map.
fn counters(node: &Node, address: &str) -> Result<Counters> {
    let mut bpftool = node.command("bpftool")?;
    bpftool.args(["--json", "map", "lookup", "pinned", COUNTERS, "key"]).args(address.split('.'));
    let text = run(&mut bpftool)?;
    let entry: Value = serde_json::from_str(&text).with_context(|| format!("bpftool: {text}"))?;
    let processors = entry["formatted"]["values"].as_array().context("a value of each processor")?;
    let sum = |key: &str| {
        let values = processors.iter().map(|processor| processor["value"][key].as_u64());
        values.sum::<Option<u64>>().with_context(|| format!("no {key} of {address}: {entry}"))
    };
    Ok(Counters {
        sent: sum("tx_packets")?,
        received: sum("rx_packets")?,
        sent_directly: sum("tx_direct")?,
        received_directly: sum("rx_direct")?,
    })
}

/// The node's end of a pod's veth pair, from the plugin.
fn host_interface(node: &Node, pod: &str) -> Result<String> {
    let pods = node.report("pods")?;
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
        let mtu: u32 = bench.exec(source, &["cat", "/sys/class/net/eth0/mtu"])?.trim().parse()?;
        for (target, _) in pods.iter().filter(|(target, _)| target != source) {
            for (family, address) in bench.addresses(target)?.iter().enumerate() {
                let size = (mtu - HEADERS[family]).to_string();
                let report = bench
                    .exec(source, &["ping", "-q", "-i", "0.05", "-c", "3", "-M", "do", "-s", &size, address])
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
        let report = node.shell(&format!("{PLUGIN} doctor 2>&1 || true"))?;
        ensure!(
            report.lines().all(|line| line.starts_with("ok ")),
            "doctor on {} reports problems:\n{report}",
            node.name()
        );
    }
    Ok(())
}
