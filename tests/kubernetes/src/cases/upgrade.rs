//! Another build of the plugin replaces the running one.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

use super::bench::Bench;
use super::objects::{pod, server};
use super::restarts::Traffic;
use crate::deploy::TAG;
use crate::images::{PLUGIN_IMAGE, build_plugin};

/// The tag of the other build's image.
const NEXT_TAG: &str = "next";

/// Enough for two rollouts: the DaemonSet replaces its pods one after the other.
const PINGS: u32 = 4500;

/// The image of the DaemonSet changes to a build with other programs, and back. No packet is lost.
pub(super) fn under_traffic(bench: &Bench) -> Result<()> {
    let Some(next) = &bench.next_plugin else {
        bail!("needs another build of the plugin: --next-plugin FILE, as scripts/test-kubernetes.sh builds one");
    };
    let builds = |node: &crate::node::Node| node.shell("ls /sys/fs/bpf/simple-ebpf-cni/podnet/v2 | grep ^build-");
    let first = bench.cluster.node(1);
    let rollouts: [(&str, &Path); 2] = [(NEXT_TAG, next), (TAG, &bench.plugin)];
    for (tag, binary) in rollouts {
        import(bench, tag, binary)?;
    }
    let traffic = Traffic::of_pings(bench, PINGS)?;
    let old = builds(&first)?;
    for (tag, _) in rollouts {
        roll_out(bench, tag)?;
        for node in bench.nodes() {
            // The first ADD of the new binary replaces the programs.
            let name = format!("after-{tag}-{}", node.number()).replace('.', "-");
            bench.create_ready([pod(&name, &node.name(), server())])?;
        }
        let new = builds(&first)?;
        ensure!((new == old) == (tag == TAG), "after the rollout of {tag} the programs are {new}, and before {old}");
    }
    traffic.still_runs()?;
    traffic.finish()
}

/// Imports an image of the plugin and the agent on all nodes.
fn import(bench: &Bench, tag: &str, binary: &Path) -> Result<()> {
    let archive = build_plugin(bench.cluster.layout(), binary, bench.cluster.settings().agent.as_deref(), tag)?;
    for node in bench.nodes() {
        bench.cluster.import(&node, &archive)?;
    }
    Ok(())
}

fn roll_out(bench: &Bench, tag: &str) -> Result<()> {
    let image = format!("{PLUGIN_IMAGE}:{tag}");
    let main = if bench.cluster.settings().agent.is_some() { "agent" } else { "wait" };
    let line = format!("-n kube-system set image daemonset/simple-ebpf-cni install={image} {main}={image}");
    bench.kubectl.words(&line).with_context(|| format!("cannot roll out {tag}"))?;
    bench.cluster.wait_until_ready()
}
