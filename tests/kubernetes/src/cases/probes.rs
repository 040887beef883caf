//! Probes of the kubelet, which come from the node's address.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::bench::{Bench, PATIENCE};
use super::objects::{HTTP, pod, server};
use crate::images::AGNHOST_IMAGE;
use crate::process::wait_until;

/// The port of agnhost's `grpc-health-checking`.
const GRPC: u16 = 5000;

/// Containers become ready by each kind of probe, and are not restarted.
pub(super) fn pass(bench: &Bench) -> Result<()> {
    let mut pods = Vec::new();
    for node in bench.nodes() {
        let mut tcp = server();
        set_probes(&mut tcp, &json!({ "tcpSocket": { "port": HTTP }, "periodSeconds": 1 }));
        let mut http = server();
        set_probes(&mut http, &json!({ "httpGet": { "path": "/healthz", "port": HTTP }, "periodSeconds": 1 }));
        let mut grpc = json!({ "name": "server", "image": AGNHOST_IMAGE, "args": ["grpc-health-checking"] });
        set_probes(&mut grpc, &json!({ "grpc": { "port": GRPC }, "periodSeconds": 1 }));
        for (kind, container) in [("http", http), ("tcp", tcp), ("grpc", grpc)] {
            pods.push(pod(&format!("{kind}-{}", node.number()), &node.name(), container));
        }
    }
    bench.create_ready(pods)?;
    // Three failed liveness probes restart a container, so some periods must pass.
    std::thread::sleep(std::time::Duration::from_secs(6));
    let pods = bench.object("pods")?;
    for pod in pods["items"].as_array().into_iter().flatten() {
        let restarts = &pod["status"]["containerStatuses"][0]["restartCount"];
        ensure!(restarts == 0, "the probes of {} failed, and restarted it {restarts} times", pod["metadata"]["name"]);
    }
    Ok(())
}

/// A liveness probe that fails restarts the container. The pod keeps its address.
pub(super) fn restart(bench: &Bench) -> Result<()> {
    let mut container = server();
    let failing =
        json!({ "httpGet": { "path": "/absent", "port": HTTP + 1 }, "periodSeconds": 1, "failureThreshold": 1 });
    container["livenessProbe"] = failing;
    bench.create_ready([pod("failing", &bench.both_ends()[1].name(), container)])?;
    let before = bench.addresses("failing")?;
    wait_until("a restart of the container", PATIENCE, || {
        let restarts = bench.object("pod failing")?["status"]["containerStatuses"][0]["restartCount"].as_u64();
        Ok(restarts >= Some(1))
    })?;
    let after = bench.addresses("failing")?;
    ensure!(after == before, "the pod had {before:?}, and has {after:?} after a restart of its container");
    Ok(())
}

fn set_probes(container: &mut Value, probe: &Value) {
    for kind in ["readinessProbe", "livenessProbe"] {
        container[kind] = probe.clone();
    }
}
