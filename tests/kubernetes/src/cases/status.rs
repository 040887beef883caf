//! STATUS: containerd 2.2 asks the plugin, and a node that cannot attach a pod becomes NotReady.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::bench::{Bench, PATIENCE};
use super::objects::{deployment, idle};
use crate::node::Node;
use crate::output;
use crate::process::wait_until;

/// The configuration of the node's network.
const CONFIGURATION: &str = "/etc/cni/net.d/10-podnet.conflist";

/// The directory with the leases of the network.
const LEASES: &str = "/var/lib/cni/simple-ebpf-cni/podnet";

/// More pods want addresses than the pool of the node has. The node is NotReady until they are
/// gone.
pub(super) fn full_pool(bench: &Bench) -> Result<()> {
    let node = bench.cluster.node(1);
    let saved = node.shell(&format!("cat {CONFIGURATION}"))?;
    let mut list: Value = serde_json::from_str(&saved)?;
    let subnet = list["plugins"][0]["subnets"][0].as_str().unwrap_or_default().to_owned();
    let Some(base) = subnet.strip_suffix("0/24") else { bail!("the node has the pod CIDR {subnet}, not a /24") };
    // Pods that have addresses outside of this range keep them.
    let [first, last] = [250, 253].map(|host| format!("{base}{host}"));
    let range = json!({ "subnet": subnet, "rangeStart": first, "rangeEnd": last });
    let plugin = list["plugins"][0].as_object_mut().context("an object")?;
    plugin.remove("subnets");
    plugin.insert("ipam".to_owned(), json!({ "ranges": [[range]] }));
    write_configuration(&node, &list.to_string())?;
    let result = overfill(bench);
    write_configuration(&node, &saved)?;
    result?;
    wait_ready(bench, true)?;
    Ok(())
}

/// Creates more pods than the pool has addresses, and observes the node.
fn overfill(bench: &Bench) -> Result<()> {
    const PODS: u32 = 6;
    wait_ready(bench, true)?;
    bench.create([deployment("many", PODS, idle())])?;
    let after = wait_ready(bench, false)?;
    let condition = condition(bench)?;
    let message = condition["message"].as_str().unwrap_or_default();
    ensure!(message.contains("are leased"), "the node does not name the cause: {condition}");
    wait_until("the taint not-ready", PATIENCE, || {
        let taints = bench.kubectl.json("get node node-1")?["spec"]["taints"].to_string();
        Ok(taints.contains("node.kubernetes.io/not-ready") && taints.contains("NoSchedule"))
    })?;
    bench.words("delete deployment many")?;
    let back = wait_ready(bench, true)?;
    output::note(&format!(
        "a full pool: NotReady after {} s, Ready {} s after the pods are deleted",
        after.as_secs(),
        back.as_secs()
    ));
    Ok(())
}

/// While the directory of the leases cannot be written, the node is NotReady.
pub(super) fn unwritable_state(bench: &Bench) -> Result<()> {
    let node = bench.cluster.node(1);
    wait_ready(bench, true)?;
    node.shell(&format!("mount --bind {LEASES} {LEASES}; mount -o remount,bind,ro {LEASES}"))?;
    let result = wait_ready(bench, false);
    node.shell(&format!("umount {LEASES}"))?;
    let after = result?;
    let back = wait_ready(bench, true)?;
    output::note(&format!("read-only leases: NotReady after {} s, Ready after {} s", after.as_secs(), back.as_secs()));
    Ok(())
}

/// Waits until the first node is ready, or not ready. Returns the time.
fn wait_ready(bench: &Bench, is_ready: bool) -> Result<Duration> {
    let started = Instant::now();
    let expected = if is_ready { "True" } else { "False" };
    wait_until(&format!("the condition Ready={expected} of node-1"), PATIENCE, || {
        Ok(condition(bench)?["status"] == expected)
    })?;
    Ok(started.elapsed())
}

fn condition(bench: &Bench) -> Result<Value> {
    let node = bench.kubectl.json("get node node-1")?;
    let mut conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default().into_iter();
    Ok(conditions.find(|condition| condition["type"] == "Ready").unwrap_or_default())
}

/// Replaces the configuration in one step, as `install` does.
fn write_configuration(node: &Node, content: &str) -> Result<()> {
    node.shell(&format!("cat >{CONFIGURATION}.new <<'END'\n{content}\nEND\nmv {CONFIGURATION}.new {CONFIGURATION}"))?;
    Ok(())
}
