//! Restarts of daemons and of a node.

use anyhow::{Result, ensure};
use serde_json::Value;

use super::bench::{Bench, PATIENCE, strings};
use super::churn::{settled_traces, wait_for_traces};
use super::objects::{HTTP, deployment, idle, pod, running, server};
use crate::daemons::Daemon;
use crate::deploy::manifests;
use crate::process::{run, wait_until};

/// The number of pings during a restart, and the time between two of them in seconds.
const PINGS: u32 = 1500;
const INTERVAL: &str = "0.02";

/// Pods that exchange pings while something happens.
pub(super) struct Traffic<'b> {
    bench: &'b Bench<'b>,
    senders: Vec<String>,
}

impl<'b> Traffic<'b> {
    /// Starts a sender on each node. It pings a pod of its node and a pod of the last node.
    pub(super) fn start(bench: &'b Bench<'b>) -> Result<Self> {
        let nodes = bench.nodes();
        bench.create_ready(nodes.iter().map(|node| pod(&format!("target-{}", node.number()), &node.name(), idle())))?;
        let mut senders = Vec::new();
        for node in &nodes {
            let targets = [node.number(), nodes.len() as u8];
            for target in &targets[..if targets[0] == targets[1] { 1 } else { 2 }] {
                for (family, address) in bench.addresses(&format!("target-{target}"))?.iter().enumerate() {
                    let name = format!("sender-{}-{target}-{family}", node.number());
                    let count = PINGS.to_string();
                    let command = ["ping", "-q", "-i", INTERVAL, "-W", "1", "-c", &count, address];
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
        Ok(Self { bench, senders })
    }

    /// Waits for the end of all senders, and requires an answer to each ping.
    pub(super) fn finish(self) -> Result<()> {
        for sender in &self.senders {
            wait_until(&format!("the end of {sender}"), PATIENCE, || {
                let pod = self.bench.object(&format!("pod {sender}"))?;
                Ok(matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")))
            })?;
            let report = self.bench.words(&format!("logs {sender}"))?;
            ensure!(
                report.contains(&format!("{PINGS} packets transmitted, {PINGS} received")),
                "{sender} has lost packets:\n{report}"
            );
        }
        Ok(())
    }

    /// Fails if a sender has ended: then the event has lasted longer than the traffic.
    pub(super) fn still_runs(&self) -> Result<()> {
        for sender in &self.senders {
            let phase = self.bench.object(&format!("pod {sender}"))?["status"]["phase"].clone();
            ensure!(phase == "Running", "{sender} is {phase} before the end of the event");
        }
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
    bench.words(&format!("delete pods --all --timeout={}s", PATIENCE.as_secs()))?;
    for (node, before) in nodes.iter().zip(&before) {
        wait_for_traces(node, before)?;
    }
    Ok(())
}

/// The DaemonSet is deleted and applied again. Pods keep their network, and new pods get one.
pub(super) fn daemonset(bench: &Bench) -> Result<()> {
    let traffic = Traffic::start(bench)?;
    bench
        .kubectl
        .words(&format!("-n kube-system delete daemonset simple-ebpf-cni --timeout={}s", PATIENCE.as_secs()))?;
    bench.create_ready([pod("without", &bench.both_ends()[1].name(), server())])?;
    run(bench.kubectl.command()?.args(["apply", "-k"]).arg(manifests()))?;
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
    let leases = node.shell("ls /var/lib/cni/simple-ebpf-cni/podnet/leases")?.lines().count();
    let pods: Value = serde_json::from_str(&node.shell("/opt/cni/bin/simple-ebpf-cni pods --json")?)?;
    let attached = pods["pods"].as_array().map_or(0, Vec::len);
    ensure!(attached > 0 && leases == attached, "{} has {leases} leases for {attached} pods", node.name());
    Ok(())
}
