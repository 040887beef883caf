//! Installs the plugin on all nodes, as docs/deploy.md describes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::images;
use crate::kubectl::texts;
use crate::process::{run, wait_until};
use crate::settings::{Runtime, addresses};

/// The time for nodes and pods to become ready.
const PATIENCE: Duration = Duration::from_secs(90);

/// The version in deploy/kustomization.yaml.
pub(crate) const TAG: &str = "0.1.0";

/// Where distributions install the reference plugins.
const REFERENCE_PLUGINS: &str = "/usr/lib/cni";

/// The log of the plugin on each node.
pub(crate) const LOG_FILE: &str = "/var/log/simple-ebpf-cni.log";

/// Cluster DNS.
const COREDNS: &str = include_str!("../manifests/coredns.yaml");

/// The directory of the plugin's manifests.
pub(crate) fn manifests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy")
}

impl Cluster {
    /// Installs the plugin and cluster DNS, and waits until all nodes are ready.
    pub(crate) fn deploy(&self, binary: &Path) -> Result<()> {
        let archive = images::build_plugin(self.layout(), binary, self.settings().agent.as_deref(), TAG)?;
        for node in self.nodes() {
            self.import(&node, &archive)?;
            // The package kubernetes-cni brings portmap to a node.
            let portmap = self.portmap();
            node.shell(&format!("mkdir -p /opt/cni/bin; cp {} /opt/cni/bin/", portmap.display()))
                .with_context(|| "cannot copy portmap: run scripts/preflight.sh kubernetes")?;
        }
        if self.settings().agent.is_some() {
            // Before the nodes have pod CIDRs: the agent waits for them.
            self.apply_manifests()?;
            self.wait_for_pod_cidrs()?;
        } else {
            self.wait_for_pod_cidrs()?;
            self.configure_nodes()?;
            self.apply_manifests()?;
        }
        self.connect_nodes()?;
        let kubectl = self.kubectl();
        kubectl.apply(COREDNS)?;
        self.wait_until_ready()
    }

    /// Applies the one manifest with the agent, or the manifests without it.
    pub(crate) fn apply_manifests(&self) -> Result<()> {
        let kubectl = self.kubectl();
        if self.settings().agent.is_none() {
            run(kubectl.command()?.args(["apply", "-k"]).arg(manifests()))?;
            return Ok(());
        }
        let manifest = fs::read_to_string(manifests().join("simple-ebpf-cni.yaml"))?;
        let rendered = run(kubectl.command()?.arg("kustomize").arg(manifests().join("agent")))?;
        let rendered_lines = rendered.lines().filter(|line| !line.starts_with('#'));
        if !manifest.lines().filter(|line| !line.starts_with('#')).eq(rendered_lines) {
            bail!("deploy/simple-ebpf-cni.yaml differs from deploy/agent: scripts/manifest.sh");
        }
        // Settings of this cluster, which an operator would change in the ConfigMap.
        let option = "SIMPLE_EBPF_AGENT_MODE: auto\n";
        if !manifest.contains(option) {
            bail!("deploy/simple-ebpf-cni.yaml has no line {option:?}");
        }
        let own = format!(
            "{option}  SIMPLE_EBPF_AGENT_CNI_VERSION: {}\n  SIMPLE_EBPF_AGENT_PLUGIN_LOG: {LOG_FILE}\n",
            self.settings().cni_version
        );
        kubectl.apply(&manifest.replace(option, &own))
    }

    /// The plugin `portmap` for the nodes. Debian's does not know CNI 1.1.0, and fails STATUS.
    fn portmap(&self) -> PathBuf {
        match self.settings().runtime {
            Runtime::System => Path::new(REFERENCE_PLUGINS).join("portmap"),
            Runtime::Containerd2 => self.layout().containerd().join("portmap"),
        }
    }

    /// Writes the ConfigMap with the network configuration of each node.
    fn configure_nodes(&self) -> Result<()> {
        let template = fs::read_to_string(manifests().join("nodes.gotemplate"))?;
        let version = format!("\"cniVersion\": {:?}", self.settings().cni_version);
        let template = template.replace("\"cniVersion\": \"1.0.0\"", &version);
        // The shipped template has no log, because its directory is a choice of the operator.
        let bridge = "\"bridge\": \"cbr0\",";
        let template = template.replace(bridge, &format!("{bridge} \"logFile\": {LOG_FILE:?},"));
        let kubectl = self.kubectl();
        let map = kubectl.run(&["get", "nodes", "-o", &format!("go-template={template}")])?;
        kubectl.apply(&map)
    }

    /// Waits until the nodes, the plugin's DaemonSet and cluster DNS are ready.
    pub(crate) fn wait_until_ready(&self) -> Result<()> {
        let kubectl = self.kubectl();
        let limit = PATIENCE.as_secs();
        kubectl.words(&format!("-n kube-system rollout status daemonset/simple-ebpf-cni --timeout={limit}s"))?;
        kubectl.words(&format!("wait --for=condition=Ready nodes --all --timeout={limit}s"))?;
        kubectl.words(&format!("-n kube-system rollout status deployment/coredns --timeout={limit}s"))?;
        Ok(())
    }

    fn wait_for_pod_cidrs(&self) -> Result<()> {
        wait_until("the pod CIDRs of all nodes", PATIENCE, || {
            let cidrs = self.pod_cidrs()?;
            Ok(cidrs.len() == usize::from(self.settings().nodes) && cidrs.iter().all(|(_, cidrs)| !cidrs.is_empty()))
        })
    }

    /// The name and the pod CIDRs of each node.
    fn pod_cidrs(&self) -> Result<Vec<(String, Vec<String>)>> {
        let nodes = self.kubectl().json("get nodes")?;
        let nodes = nodes["items"].as_array().context("a list of nodes")?.iter();
        let name = |node: &Value| node["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        Ok(nodes.map(|node| (name(node), texts(&node["spec"]["podCIDRs"]))).collect())
    }

    /// Adds the routes to the pods of each other node, which docs/deploy.md leaves to the operator
    /// without the agent. The world outside gets them too, so that it reaches pods.
    pub(crate) fn connect_nodes(&self) -> Result<()> {
        for (target, cidr, next_hop) in self.routes()? {
            let route = ["route", "replace", &cidr, "via", &next_hop];
            // The agent adds the routes of nodes.
            for node in self.nodes().filter(|node| self.settings().agent.is_none() && node.number() != target) {
                run(node.command("ip")?.args(route))?;
            }
            run(self.world().command("ip")?.args(route))?;
        }
        Ok(())
    }

    /// The number, pod CIDR and address of each node, for each family.
    fn routes(&self) -> Result<Vec<(u8, String, String)>> {
        let cidrs = self.pod_cidrs()?;
        let mut routes = Vec::new();
        for target in self.nodes() {
            let own = cidrs.iter().filter(|(name, _)| *name == target.name()).flat_map(|(_, cidrs)| cidrs);
            for cidr in own {
                let next_hop = addresses(target.number())[usize::from(cidr.contains(':'))].to_string();
                routes.push((target.number(), cidr.clone(), next_hop));
            }
        }
        Ok(routes)
    }
}
