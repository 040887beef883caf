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

/// The image of the DaemonSet changes to a build with other programs, and back. No packet is lost.
pub(super) fn under_traffic(bench: &Bench) -> Result<()> {
    let Some(next) = &bench.next_plugin else {
        bail!("needs another build of the plugin: --next-plugin FILE, as scripts/test-kubernetes.sh builds one");
    };
    let builds = |node: &crate::node::Node| node.shell("ls /sys/fs/bpf/simple-ebpf-cni/podnet/v2 | grep ^build-");
    let first = bench.cluster.node(1);
    let traffic = Traffic::start(bench)?;
    let old = builds(&first)?;
    for (tag, binary) in [(NEXT_TAG, next), (TAG, &bench.plugin)] {
        roll_out(bench, tag, binary)?;
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

fn roll_out(bench: &Bench, tag: &str, binary: &Path) -> Result<()> {
    let archive = build_plugin(bench.cluster.layout(), binary, bench.cluster.settings().agent.as_deref(), tag)?;
    for node in bench.nodes() {
        bench.cluster.import(&node, &archive)?;
    }
    let image = format!("{PLUGIN_IMAGE}:{tag}");
    let main = if bench.cluster.settings().agent.is_some() { "agent" } else { "wait" };
    let line = format!("-n kube-system set image daemonset/simple-ebpf-cni install={image} {main}={image}");
    bench.kubectl.words(&line).with_context(|| format!("cannot roll out {tag}"))?;
    bench.cluster.wait_until_ready()
}
