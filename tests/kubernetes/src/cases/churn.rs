//! Many pods, and pods that the runtime forgets.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::bench::{Bench, PATIENCE};
use super::objects::{deployment, idle, pod};
use crate::daemons::Daemon;
use crate::kubectl::strings;
use crate::node::Node;
use crate::output;
use crate::process::{wait_for, wait_until};

/// The pods of the test, and of its short form.
const PODS: [u32; 2] = [100, 10];

/// The time for all of them, on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

/// How long nothing changes on a node without work.
const SETTLED: Duration = Duration::from_secs(2);

/// What pods leave on a node if a DEL does too little, as lines.
pub(super) fn traces(node: &Node) -> Result<BTreeSet<String>> {
    let script = "ip -o link show type veth | awk '{ print \"link\", $2 }'
        find /var/lib/cni/simple-ebpf-cni /var/lib/cni/results /sys/fs/bpf /run/netns /run/simple-ebpf-cni 2>/dev/null || true
        for map in pod_ifindex pod_ifindex_v6 pkt_count pkt_count_v6 port_config port_addresses; do
            file=/sys/fs/bpf/simple-ebpf-cni/podnet/v2/$map
            dump=$(bpftool -j map dump pinned $file)
            echo \"entries of $map: $(echo \"$dump\" | jq length)\"
        done
        for save in iptables-save ip6tables-save; do echo \"portmap: $($save -t nat | grep -c CNI- || true)\"; done";
    Ok(node.shell(script)?.lines().map(str::to_owned).collect())
}

/// The traces after the runtime has ended the pods of earlier tests, which the API no longer lists.
pub(super) fn settled_traces(node: &Node) -> Result<BTreeSet<String>> {
    wait_for(&format!("the end of changes on {}", node.name()), PATIENCE, || {
        let first = traces(node)?;
        std::thread::sleep(SETTLED);
        let second = traces(node)?;
        Ok((first == second).then_some(second))
    })
}

/// Waits until a node has the traces of an earlier time.
pub(super) fn wait_for_traces(node: &Node, before: &BTreeSet<String>) -> Result<()> {
    let mut changes = Vec::new();
    wait_until(&format!("the end of all traces on {}", node.name()), PATIENCE, || {
        let now = traces(node)?;
        let new = now.difference(before).map(|line| format!("+ {line}"));
        changes = new.chain(before.difference(&now).map(|line| format!("- {line}"))).collect();
        Ok(changes.is_empty())
    })
    .with_context(|| format!("these differ from before the pods:\n{}", changes.join("\n")))
}

/// Many pods start at once, all connect, and end at once. Nothing of them is left.
pub(super) fn many_pods(bench: &Bench) -> Result<()> {
    let count = PODS[usize::from(bench.is_short)];
    let nodes = bench.nodes();
    // The first pod of a network leaves its bridge, programs and maps.
    bench.create_ready(nodes.iter().map(|node| pod(&format!("first-{}", node.number()), &node.name(), idle())))?;
    let before = nodes.iter().map(settled_traces).collect::<Result<Vec<_>>>()?;
    let started = Instant::now();
    bench.create([deployment("many", count, idle())])?;
    let limit = LIMIT.as_secs();
    bench.words(&format!("rollout status deployment/many --timeout={limit}s"))?;
    let up = started.elapsed();
    let pods = bench.object("pods -l app=many")?;
    let addresses: Vec<_> = pods["items"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|pod| strings(&pod["status"]["podIPs"], "ip"))
        .collect();
    let unique: BTreeSet<_> = addresses.iter().collect();
    ensure!(
        unique.len() == count as usize * bench.families(),
        "{} of the {count} pods' addresses are different",
        unique.len()
    );
    for address in &addresses {
        bench
            .exec("first-1", &["ping", "-q", "-c", "1", "-W", "5", address])
            .with_context(|| format!("ping {address}"))?;
    }
    let started = Instant::now();
    bench.words("delete deployment many")?;
    bench.words(&format!("wait --for=delete pods -l app=many --timeout={limit}s"))?;
    output::note(&format!(
        "{count} pods: ready after {} s, gone after {} s",
        up.as_secs(),
        started.elapsed().as_secs()
    ));
    for (node, before) in nodes.iter().zip(&before) {
        wait_for_traces(node, before)?;
    }
    Ok(())
}

/// A pod that the runtime has forgotten keeps its address until `gc`. Other pods are not affected.
pub(super) fn forgotten_pod(bench: &Bench) -> Result<()> {
    let node = bench.both_ends()[1].clone();
    bench.create_ready([pod("stays", &node.name(), idle())])?;
    bench.create_ready([pod("forgotten", &node.name(), idle())])?;
    let address = bench.addresses("forgotten")?[0].clone();
    forget(bench, &node, "forgotten")?;
    ensure!(leased_addresses(&node)?.contains(&address), "the lease of {address} is gone before `gc`");
    for (options, is_leased) in [("--dry-run", true), ("", false)] {
        let report = node.report(&format!("gc {options}"))?;
        ensure!(
            removed(&report) == [address.as_str()],
            "`gc {options}` removes other addresses than {address}: {report}"
        );
        ensure!(leased_addresses(&node)?.contains(&address) == is_leased, "`gc {options}`: the lease of {address}");
    }
    let own = bench.addresses("stays")?[0].clone();
    // The restarted kubelet needs a moment to know the pod.
    wait_until("an answer of the other pod", PATIENCE, || {
        bench.exec("stays", &["ping", "-q", "-c", "1", &own]).map(|_| true)
    })?;
    Ok(())
}

/// The addresses of the attachments that `gc` has removed or would remove.
fn removed(report: &Value) -> Vec<&str> {
    let attachments = report["unlisted"].as_array().into_iter().flatten();
    let gone = attachments.filter(|attachment| attachment["result"] == "removed");
    gone.flat_map(|attachment| attachment["addresses"].as_array().into_iter().flatten())
        .filter_map(|address| address.as_str()?.split('/').next())
        // One family is enough to know the pod.
        .filter(|address| !address.contains(':'))
        .collect()
}

/// The addresses that the plugin has leased on a node.
pub(super) fn leased_addresses(node: &Node) -> Result<BTreeSet<String>> {
    let report = node.report("leases")?;
    let networks = report["networks"].as_array().into_iter().flatten();
    let leases = networks.flat_map(|network| network["leases"].as_array().into_iter().flatten());
    let addresses = leases.flat_map(|lease| lease["addresses"].as_array().into_iter().flatten());
    Ok(addresses.filter_map(|address| Some(address.as_str()?.split('/').next()?.to_owned())).collect())
}

/// Makes the runtime lose its records of a pod, as a change of its version in place does. The
/// kubelet then has no pod to stop, so no DEL follows.
fn forget(bench: &Bench, node: &Node, pod: &str) -> Result<()> {
    let ctr = format!("{} --namespace k8s.io", bench.cluster.daemons().ctr().display());
    node.stop_daemon(Daemon::Kubelet.name(), "TERM")?;
    bench.words(&format!("delete pod {pod} --force --grace-period=0"))?;
    // Without the mount of its namespace, the pod loses its pair.
    let script = format!(
        "netns=$({ctr} containers info $({ctr} containers list --quiet 'labels.\"io.kubernetes.pod.name\"=={pod},labels.\"io.cri-containerd.kind\"==sandbox') |
            jq -r '.Spec.linux.namespaces[] | select(.type == \"network\").path')
        for id in $({ctr} containers list --quiet 'labels.\"io.kubernetes.pod.name\"=={pod}'); do
            {ctr} tasks kill --signal SIGKILL --all $id || true
            {ctr} tasks delete --force $id || true
            {ctr} containers delete $id
            # containerd 2 keeps sandboxes apart from containers.
            {ctr} sandboxes remove --force $id 2>/dev/null || true
        done
        umount $netns
        rm $netns"
    );
    node.shell(&script)?;
    node.stop_daemon(Daemon::Containerd.name(), "TERM")?;
    for daemon in [Daemon::Containerd, Daemon::Kubelet] {
        bench.cluster.daemons().start(node, daemon)?;
    }
    bench.cluster.wait_until_ready()
}
