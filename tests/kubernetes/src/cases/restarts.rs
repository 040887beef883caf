//! Restarts of daemons and of a node.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::bench::{Bench, PATIENCE};
use super::churn::{leased_addresses, settled_traces, wait_for_traces};
use super::objects::{HTTP, deployment, idle, pod, running, server};
use crate::daemons::Daemon;
use crate::kubectl::strings;
use crate::node::Node;
use crate::process::{run, wait_until};

/// The number of pings during a restart, and the time between two of them.
const PINGS: u32 = 1500;
const INTERVAL: Duration = Duration::from_millis(20);

/// Pods that exchange pings while something happens.
pub(super) struct Traffic<'b> {
    bench: &'b Bench<'b>,
    senders: Vec<String>,
    /// The number of pings of each sender.
    pings: u32,
    /// Before the first ping.
    started: Instant,
}

impl<'b> Traffic<'b> {
    /// Starts a sender on each node. It pings a pod of its node and a pod of the last node.
    pub(super) fn start(bench: &'b Bench<'b>) -> Result<Self> {
        Self::of_pings(bench, PINGS)
    }

    /// The same, for longer events.
    pub(super) fn of_pings(bench: &'b Bench<'b>, pings: u32) -> Result<Self> {
        let nodes = bench.nodes();
        bench.create_ready(nodes.iter().map(|node| pod(&format!("target-{}", node.number()), &node.name(), idle())))?;
        let mut senders = Vec::new();
        let started = Instant::now();
        let interval = INTERVAL.as_secs_f32().to_string();
        for node in &nodes {
            let targets = [node.number(), nodes.len() as u8];
            for target in &targets[..if targets[0] == targets[1] { 1 } else { 2 }] {
                for (family, address) in bench.addresses(&format!("target-{target}"))?.iter().enumerate() {
                    let name = format!("sender-{}-{target}-{family}", node.number());
                    let count = pings.to_string();
                    let command = ["ping", "-q", "-i", &interval, "-W", "1", "-c", &count, address];
                    let mut sender = pod(&name, &node.name(), running(&command));
                    sender["spec"]["restartPolicy"] = "Never".into();
                    bench.create([sender])?;
                    senders.push(name);
                }
            }
        }
        for sender in &senders {
            bench.words(&format!(
                "wait --for=jsonpath={{.status.phase}}=Running pod {sender} --timeout={}s",
                PATIENCE.as_secs()
            ))?;
        }
        Ok(Self { bench, senders, pings, started })
    }

    /// Waits for the end of all senders, and requires an answer to each ping.
    pub(super) fn finish(self) -> Result<()> {
        let pings = self.pings;
        for sender in &self.senders {
            wait_until(&format!("the end of {sender}"), PATIENCE, || {
                let pod = self.bench.object(&format!("pod {sender}"))?;
                Ok(matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")))
            })?;
            let report = self.bench.words(&format!("logs {sender}"))?;
            ensure!(
                report.contains(&format!("{pings} packets transmitted, {pings} received")),
                "{sender} has lost packets:\n{report}"
            );
        }
        Ok(())
    }

    /// Fails if the senders have ended before the event. The API is no evidence, because a stopped
    /// kubelet reports nothing.
    pub(super) fn still_runs(&self) -> Result<()> {
        let (elapsed, length) = (self.started.elapsed(), INTERVAL * self.pings);
        ensure!(elapsed < length, "the event took {elapsed:?}, and the traffic lasts only {length:?}");
        Ok(())
    }
}

/// The kubelet ends by SIGTERM and by SIGKILL. No packet is lost.
pub(super) fn kubelet(bench: &Bench) -> Result<()> {
    restart(bench, Daemon::Kubelet)
}

/// containerd ends by SIGTERM and by SIGKILL. No packet is lost, and pods can be deleted.
pub(super) fn containerd(bench: &Bench) -> Result<()> {
    restart(bench, Daemon::Containerd)
}

fn restart(bench: &Bench, daemon: Daemon) -> Result<()> {
    let nodes = bench.nodes();
    // The first pod of a network leaves its bridge, programs and maps.
    let first: Vec<_> = nodes.iter().map(|node| format!("first-{}", node.number())).collect();
    bench.create_ready(first.iter().zip(&nodes).map(|(name, node)| pod(name, &node.name(), idle())))?;
    let before = nodes.iter().map(settled_traces).collect::<Result<Vec<_>>>()?;
    let traffic = Traffic::start(bench)?;
    for signal in ["TERM", "KILL"] {
        for node in &nodes {
            node.stop_daemon(daemon.name(), signal)?;
            bench.cluster.daemons().start(node, daemon)?;
        }
    }
    traffic.still_runs()?;
    bench.words(&format!("wait --for=condition=Ready nodes --all --timeout={}s", PATIENCE.as_secs()))?;
    traffic.finish()?;
    // The kubelet must know the pods again before their deletion ends.
    let others = format!("app notin ({})", first.join(","));
    let timeout = format!("--timeout={}s", PATIENCE.as_secs());
    bench.kubectl.run(&["-n", bench.namespace(), "delete", "pods", "--selector", &others, &timeout])?;
    for (node, before) in nodes.iter().zip(&before) {
        wait_for_traces(node, before)?;
    }
    bench.create_ready(nodes.iter().map(|node| pod(&format!("after-{}", node.number()), &node.name(), server())))?;
    Ok(())
}

/// The DaemonSet is deleted and applied again. Pods keep their network, and new pods get one.
pub(super) fn daemonset(bench: &Bench) -> Result<()> {
    let traffic = Traffic::start(bench)?;
    bench
        .kubectl
        .words(&format!("-n kube-system delete daemonset simple-ebpf-cni --timeout={}s", PATIENCE.as_secs()))?;
    bench.create_ready([pod("without", &bench.both_ends()[1].name(), server())])?;
    bench.cluster.apply_manifests()?;
    bench.cluster.wait_until_ready()?;
    bench.create_ready([pod("with", &bench.both_ends()[0].name(), server())])?;
    bench.reaches_all("with", (&bench.addresses("without")?[0], HTTP.into()), &["without"])?;
    traffic.still_runs()?;
    traffic.finish()
}

/// All processes of a node are killed at once, and the node boots with another boot id. Its pods
/// run again, and no lease of the earlier boot remains.
pub(super) fn node(bench: &Bench) -> Result<()> {
    const PODS: u32 = 20;
    let node = bench.both_ends()[1].clone();
    bench.create([deployment("pods", PODS, idle())])?;
    bench.words(&format!("rollout status deployment/pods --timeout={}s", PATIENCE.as_secs()))?;
    bench.cluster.reboot(&node)?;
    bench.cluster.wait_until_ready()?;
    // A pod counts as ready until its node reports, so each must answer.
    wait_until("an answer of all pods after the reboot", PATIENCE, || {
        let pods = bench.object("pods")?;
        let addresses =
            pods["items"].as_array().into_iter().flatten().flat_map(|pod| strings(&pod["status"]["podIPs"], "ip"));
        let mut answers = 0;
        for address in addresses {
            run(node.command("ping")?.args(["-q", "-c", "1", "-W", "1", &address]))?;
            answers += 1;
        }
        Ok(answers == PODS as usize * bench.families())
    })?;
    let leased = leased_addresses(&node)?;
    let expected = pod_addresses(bench, &node)?;
    ensure!(leased == expected, "{} leases {leased:?}, and its pods have {expected:?}", node.name());
    Ok(())
}

/// The addresses of the pods that run on a node, from the API.
fn pod_addresses(bench: &Bench, node: &Node) -> Result<BTreeSet<String>> {
    let selector = format!("get pods --all-namespaces --field-selector spec.nodeName={}", node.name());
    let pods = bench.kubectl.json(&selector)?;
    let own = pods["items"].as_array().into_iter().flatten().filter(|pod| pod["spec"]["hostNetwork"] != true);
    Ok(own.flat_map(|pod| strings(&pod["status"]["podIPs"], "ip")).collect())
}
