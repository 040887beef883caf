//! The cluster, a namespace and kubectl for one test.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::kubectl::{Kubectl, strings, texts};
use crate::node::Node;
use crate::process::{run, wait_until};

/// The time for pods to start, to end or to become reachable.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A cluster with a namespace for one test.
#[derive(Debug)]
pub(crate) struct Bench<'c> {
    pub(crate) cluster: &'c Cluster,
    pub(crate) kubectl: Kubectl,
    namespace: String,
    /// The binary of the plugin, and of another build of it.
    pub(crate) plugin: PathBuf,
    pub(crate) next_plugin: Option<PathBuf>,
    /// Only the short form of the test.
    pub(crate) is_short: bool,
}

/// The options of a test run, beside the cluster.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Plugins {
    /// Binary of the plugin
    #[arg(long, value_name = "FILE")]
    pub(crate) plugin: PathBuf,
    /// Binary of another build of the plugin, for the test of upgrades
    #[arg(long, value_name = "FILE")]
    pub(crate) next_plugin: Option<PathBuf>,
}

impl<'c> Bench<'c> {
    /// Creates the namespace of a test.
    pub(crate) fn new(cluster: &'c Cluster, namespace: &str, plugins: &Plugins, is_short: bool) -> Result<Self> {
        let kubectl = cluster.kubectl();
        kubectl.run(&["create", "namespace", namespace])?;
        // Pods cannot be created before the service account exists.
        let account = ["-n", namespace, "get", "serviceaccount", "default"];
        wait_until("the service account of the namespace", PATIENCE, || Ok(kubectl.run(&account).is_ok()))?;
        let Plugins { plugin, next_plugin } = plugins.clone();
        Ok(Self { cluster, kubectl, namespace: namespace.to_owned(), plugin, next_plugin, is_short })
    }

    /// Deletes the pods and waits until they are gone. The rest of the namespace disappears later.
    pub(crate) fn finish(self) -> Result<()> {
        let limit = PATIENCE.as_secs();
        self.words("delete deployments,services --all")?;
        self.words(&format!("delete pods --all --timeout={limit}s"))?;
        self.kubectl.words(&format!("delete namespace {} --wait=false", self.namespace))?;
        Ok(())
    }

    /// The namespace of the test.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The nodes of the cluster.
    pub(crate) fn nodes(&self) -> Vec<Node> {
        self.cluster.nodes().collect()
    }

    /// The first and the last node, which are the same in a cluster of one node.
    pub(crate) fn both_ends(&self) -> [Node; 2] {
        [self.cluster.node(1), self.cluster.node(self.cluster.settings().nodes)]
    }

    /// The number of address families.
    pub(crate) fn families(&self) -> usize {
        if self.cluster.settings().dual_stack { 2 } else { 1 }
    }

    /// kubectl in the namespace of the test.
    pub(crate) fn words(&self, line: &str) -> Result<String> {
        self.kubectl.words(&format!("-n {} {line}", self.namespace))
    }

    /// An object of the namespace: `pod web`.
    pub(crate) fn object(&self, line: &str) -> Result<Value> {
        self.kubectl.json(&format!("-n {} get {line}", self.namespace))
    }

    /// Creates objects in the namespace.
    pub(crate) fn create(&self, objects: impl IntoIterator<Item = Value>) -> Result<()> {
        let items: Vec<Value> = objects
            .into_iter()
            .map(|mut object| {
                object["metadata"]["namespace"] = self.namespace.clone().into();
                object
            })
            .collect();
        self.kubectl.apply(&json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string())
    }

    /// Creates pods, and waits until they are ready.
    pub(crate) fn create_ready(&self, pods: impl IntoIterator<Item = Value>) -> Result<()> {
        let pods: Vec<Value> = pods.into_iter().collect();
        let names = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).collect::<Vec<_>>().join(" ");
        self.create(pods)?;
        self.words(&format!("wait --for=condition=Ready pods {names} --timeout={}s", PATIENCE.as_secs()))?;
        Ok(())
    }

    /// Waits until all pods of the namespace are ready.
    pub(crate) fn wait_ready(&self) -> Result<()> {
        self.words(&format!("wait --for=condition=Ready pods --all --timeout={}s", PATIENCE.as_secs()))?;
        Ok(())
    }

    /// Runs a program in a pod.
    pub(crate) fn exec(&self, pod: &str, words: &[&str]) -> Result<String> {
        let mut arguments = vec!["-n", &self.namespace, "exec", pod, "--"];
        arguments.extend(words);
        self.kubectl.run(&arguments)
    }

    /// The addresses of a pod, one for each family.
    pub(crate) fn addresses(&self, pod: &str) -> Result<Vec<String>> {
        let pod_object = self.object(&format!("pod {pod}"))?;
        let addresses = strings(&pod_object["status"]["podIPs"], "ip");
        if addresses.len() != self.families() {
            bail!("pod {pod} has the addresses {addresses:?}, and needs one of each of {} families", self.families());
        }
        Ok(addresses)
    }

    /// The address of a service in each family.
    pub(crate) fn service_addresses(&self, service: &str) -> Result<Vec<String>> {
        let addresses = texts(&self.object(&format!("service {service}"))?["spec"]["clusterIPs"]);
        if addresses.len() != self.families() {
            bail!("service {service} has the addresses {addresses:?} for {} families", self.families());
        }
        Ok(addresses)
    }

    /// The port on the nodes of a port of a service.
    pub(crate) fn node_port(&self, service: &str, port: &str) -> Result<u64> {
        let service = self.object(&format!("service {service}"))?;
        let ports = service["spec"]["ports"].as_array().context("a list of ports")?;
        let port = ports.iter().find(|candidate| candidate["name"] == port).context("a port of this name")?;
        port["nodePort"].as_u64().context("a port of the nodes")
    }

    /// The response to an HTTP request from a pod.
    pub(crate) fn fetch(&self, pod: &str, address: &str, port: u64, path: &str) -> Result<String> {
        let mut arguments = CURL.to_vec();
        let url = url(address, port, path);
        arguments.push(&url);
        self.exec(pod, &arguments)
    }

    /// Waits until an HTTP request from a pod succeeds: kube-proxy needs a moment for new services.
    pub(crate) fn wait_fetch(&self, pod: &str, address: &str, port: u64) -> Result<()> {
        let what = format!("an answer from {} to {pod}", url(address, port, ""));
        wait_until(&what, PATIENCE, || self.fetch(pod, address, port, "hostname").map(|_| true))
    }

    /// Waits until requests from a pod have reached all of these servers, and no other.
    pub(crate) fn reaches_all(&self, from: &str, target: (&str, u64), servers: &[&str]) -> Result<()> {
        let (address, port) = target;
        self.wait_fetch(from, address, port)?;
        let what = format!("answers of {servers:?} at {address} port {port} to {from}");
        let seen = answers_of_all(&what, servers, || self.fetch(from, address, port, "hostname"))?;
        if seen.len() != servers.len() {
            bail!("{from} reached {seen:?} at {address} port {port}, and only {servers:?} are backends");
        }
        Ok(())
    }
}

/// Repeats a request until all servers have answered. Returns all answers.
pub(crate) fn answers_of_all(
    what: &str,
    servers: &[&str],
    mut request: impl FnMut() -> Result<String>,
) -> Result<BTreeSet<String>> {
    let mut seen = BTreeSet::new();
    wait_until(what, PATIENCE, || {
        seen.insert(request()?);
        Ok(servers.iter().all(|server| seen.contains(*server)))
    })
    .with_context(|| format!("the answers were {seen:?}"))?;
    Ok(seen)
}

/// An HTTP request with time limits.
pub(crate) const CURL: [&str; 6] = ["curl", "--silent", "--show-error", "--fail", "--max-time", "5"];

/// The response to an HTTP request by a command of another network.
pub(crate) fn fetch_by(command: Result<Command>, address: &str, port: u64, path: &str) -> Result<String> {
    run(command?.args(&CURL[1..]).arg(url(address, port, path)))
}

/// The URL of a server. IPv6 addresses need brackets.
pub(crate) fn url(address: &str, port: u64, path: &str) -> String {
    if address.contains(':') {
        format!("http://[{address}]:{port}/{path}")
    } else {
        format!("http://{address}:{port}/{path}")
    }
}

/// The address in an answer of `clientip`: `10.244.0.2:4000` or `[fd00::2]:4000`.
pub(crate) fn client_address(answer: &str) -> &str {
    answer.rsplit_once(':').map_or(answer, |(address, _port)| address).trim_matches(['[', ']'])
}
