//! A report of the cluster for a failed test.

use serde_json::Value;

use crate::cluster::Cluster;
use crate::kubectl::strings;
use crate::node::{Node, PLUGIN};
use crate::process::tail;

/// The most pods that are described.
const MOST_PODS: usize = 4;

impl Cluster {
    /// The state of nodes and pods, the events of pods that are not ready, the log of the plugin,
    /// and the report of `doctor`. What cannot be read is left out.
    pub(crate) fn diagnosis(&self) -> String {
        let kubectl = self.kubectl();
        let mut text = String::new();
        let mut add = |title: &str, content: &str| {
            if !content.trim().is_empty() {
                text += &format!("--- {title}\n{}\n", tail(content));
            }
        };
        for line in ["get nodes -o wide", "get pods --all-namespaces -o wide"] {
            add(&format!("kubectl {line}"), &kubectl.words(line).unwrap_or_else(|error| format!("{error:#}")));
        }
        let pods = kubectl.json("get pods --all-namespaces").unwrap_or_default();
        let unready = pods["items"].as_array().into_iter().flatten().filter(|pod| !is_ready(pod));
        for pod in unready.take(MOST_PODS) {
            let [namespace, name] = ["namespace", "name"].map(|key| pod["metadata"][key].as_str().unwrap_or_default());
            let described = kubectl.words(&format!("-n {namespace} describe pod {name}")).unwrap_or_default();
            let events = described.split_once("Events:").map_or("", |(_, events)| events);
            add(&format!("events of {namespace}/{name}"), events);
            let containers = ["initContainers", "containers"].map(|kind| strings(&pod["spec"][kind], "name"));
            for container in containers.into_iter().flatten() {
                // A container that was not created has no log.
                let line = format!("-n {namespace} logs {name} -c {container} --tail 20");
                add(&format!("kubectl {line}"), &kubectl.words(&line).unwrap_or_default());
            }
        }
        for node in self.nodes().filter(Node::is_up) {
            let name = node.name();
            let log = node.shell(&format!("tail -n 20 {}", crate::deploy::LOG_FILE)).unwrap_or_default();
            add(&format!("log of the plugin on {name}"), &log);
            // doctor fails if it finds problems.
            let doctor = node.shell(&format!("{PLUGIN} doctor 2>&1 || true")).unwrap_or_default();
            add(&format!("simple-ebpf-cni doctor on {name}"), &doctor);
            let errors = node.shell(
                "grep -hE 'level=(error|fatal)|^E[0-9]{4}' /var/log/containerd.log /var/log/kubelet.log | tail -n 8",
            );
            add(&format!("errors of containerd and the kubelet on {name}"), &errors.unwrap_or_default());
        }
        text
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}
