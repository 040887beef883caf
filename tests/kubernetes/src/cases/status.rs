//! STATUS: containerd 2.2 asks the plugin, and a node that cannot attach a pod becomes NotReady.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::bench::{Bench, PATIENCE};
use super::objects::{idle, pod};
use crate::node::Node;
use crate::output;
use crate::process::wait_until;

/// The directory with the leases of the network.
const LEASES: &str = "/var/lib/cni/simple-ebpf-cni/podnet";

/// The pool of the node has three addresses for pods. The fourth pod finds none, and the node is
/// NotReady until a pod ends.
pub(super) fn full_pool(bench: &Bench) -> Result<()> {
    let node = bench.cluster.node(1);
    let configuration = "/etc/cni/net.d/10-podnet.conflist";
    let saved = node.shell(&format!("cat {configuration}"))?;
    let taken = leases(&node)?;
    let mut list: Value = serde_json::from_str(&saved)?;
    // As many addresses as there are pods now, and two more.
    let plugin = &mut list["plugins"][0];
    let subnet = plugin["subnets"][0].as_str().unwrap_or_default().to_owned();
    let base = subnet.trim_end_matches(".0/24");
    let last = node.shell("/opt/cni/bin/simple-ebpf-cni leases --json")?;
    let last: Value = serde_json::from_str(&last)?;
    let highest = highest_host(&last);
    plugin.as_object_mut().map(|plugin| plugin.remove("subnets"));
    plugin["ipam"] = serde_json::json!({ "ranges": [[{
        "subnet": subnet, "rangeStart": format!("{base}.2"), "rangeEnd": format!("{base}.{}", highest + 2),
    }]] });
    write(&node, configuration, &list.to_string())?;
    let result = fill(bench, &node, u64::from(highest) + 2 - 1 - taken);
    write(&node, configuration, &saved)?;
    result?;
    wait_ready(bench, true)?;
    Ok(())
}

/// Takes all free addresses, and observes the node.
fn fill(bench: &Bench, node: &Node, free: u64) -> Result<()> {
    wait_ready(bench, true)?;
    let names: Vec<_> = (0..free).map(|number| format!("pod-{number}")).collect();
    bench.create_ready(names.iter().map(|name| pod(name, &node.name(), idle())))?;
    let after = wait_ready(bench, false)?;
    let condition = condition(bench)?;
    let message = condition["message"].as_str().unwrap_or_default();
    ensure!(message.contains("free") || message.contains("address"), "the node does not name the cause: {condition}");
    let taints = bench.kubectl.json("get node node-1")?["spec"]["taints"].clone();
    ensure!(taints.to_string().contains("node.kubernetes.io/not-ready"), "the node has the taints {taints}");
    bench.words(&format!("delete pod {} --timeout={}s", names[0], PATIENCE.as_secs()))?;
    let back = wait_ready(bench, true)?;
    output::note(&format!(
        "a full pool: NotReady after {} s, Ready {} s after a pod has ended",
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

fn leases(node: &Node) -> Result<u64> {
    Ok(node.shell(&format!("ls {LEASES}/leases | wc -l"))?.trim().parse()?)
}

/// The highest last byte of the leased IPv4 addresses.
fn highest_host(leases: &Value) -> u8 {
    let text = leases.to_string();
    let bytes = text
        .split('"')
        .filter(|word| word.starts_with("10.244."))
        .filter_map(|word| word.rsplit_once('.')?.1.split('/').next()?.parse().ok());
    bytes.max().unwrap_or(1)
}

fn write(node: &Node, path: &str, content: &str) -> Result<()> {
    node.shell(&format!("cat >{path}.new <<'END'\n{content}\nEND\nmv {path}.new {path}"))?;
    Ok(())
}
