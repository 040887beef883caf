//! The index of the cluster's nodes. Pure: objects of the API go in, a [`ClusterView`] comes out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use ipnetwork::IpNetwork;
use kube::core::Object;
use serde::{Deserialize, Serialize};
use simple_ebpf_cni::agent::Mode;

use crate::view::{ClusterView, OwnNode, PeerNode};

/// The annotation with the [`Mode`] of the way to a node.
pub const MODE_ANNOTATION: &str = "simple-ebpf-cni/mode";

/// The annotation with the pod CIDRs of a node, separated by commas, instead of those in its
/// specification.
pub const POD_CIDRS_ANNOTATION: &str = "simple-ebpf-cni/pod-cidrs";

/// The parts of a Node object that the agent reads. The decoder drops all others.
pub type Node = Object<NodeSpec, NodeStatus>;

/// `Node.spec`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    /// The pod CIDRs, as the controller manager assigned them.
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
}

/// `Node.status`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct NodeStatus {
    /// The addresses of the node.
    pub addresses: Vec<NodeAddress>,
    /// The conditions of the node.
    pub conditions: Vec<NodeCondition>,
}

/// An element of `Node.status.addresses`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct NodeAddress {
    /// `InternalIP`, or another type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The address, or a name.
    pub address: String,
}

/// An element of `Node.status.conditions`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct NodeCondition {
    /// For example `NetworkUnavailable`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
}

/// The nodes of the cluster.
#[derive(Debug, Default)]
pub struct Nodes {
    nodes: BTreeMap<String, Entry>,
    /// The nodes of a list that has not ended. They replace `nodes` at its end, so that nodes that
    /// were deleted in the meantime disappear.
    listed: Option<BTreeMap<String, Entry>>,
}

/// The parts of a node that the index keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    pod_cidrs: Vec<IpNetwork>,
    addresses: Vec<IpAddr>,
    mode: Option<Mode>,
    is_network_unavailable: bool,
    problems: Vec<String>,
}

impl Nodes {
    /// A full list begins.
    pub fn begin_list(&mut self) {
        self.listed = Some(BTreeMap::new());
    }

    /// A full list has ended.
    pub fn end_list(&mut self) {
        if let Some(listed) = self.listed.take() {
            self.nodes = listed;
        }
    }

    /// Adds or replaces a node.
    pub fn apply(&mut self, node: &Node) {
        let Some(name) = node.metadata.name.clone() else { return };
        self.listed.as_mut().unwrap_or(&mut self.nodes).insert(name, Entry::of(node));
    }

    /// Deletes a node.
    pub fn delete(&mut self, node: &Node) {
        if let Some(name) = &node.metadata.name {
            self.listed.as_mut().unwrap_or(&mut self.nodes).remove(name);
        }
    }

    /// Whether the condition `NetworkUnavailable` of a node is `True`.
    #[must_use]
    pub fn is_network_unavailable(&self, name: &str) -> bool {
        self.nodes.get(name).is_some_and(|node| node.is_network_unavailable)
    }

    /// Whether the API has the node.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.nodes.contains_key(name)
    }

    /// The nodes as node `own` sees them. A node without a pod CIDR or without an address has no
    /// pods that others can reach. `own_cidrs` replace the pod CIDRs of the own node, unless they
    /// are empty.
    #[must_use]
    pub fn view(&self, own: &str, own_cidrs: &[IpNetwork]) -> ClusterView {
        let mut view = ClusterView::default();
        for (name, Entry { pod_cidrs, addresses, mode, problems, .. }) in &self.nodes {
            view.problems.extend(problems.iter().map(|problem| format!("node {name}: {problem}")));
            let is_replaced = name == own && !own_cidrs.is_empty();
            let pod_cidrs = if is_replaced { own_cidrs.to_vec() } else { pod_cidrs.clone() };
            let (name, addresses) = (name.clone(), addresses.clone());
            if pod_cidrs.is_empty() {
                continue;
            }
            if name == own {
                view.own = Some(OwnNode { name, pod_cidrs, addresses });
            } else if !addresses.is_empty() {
                view.peers.push(PeerNode { name, pod_cidrs, addresses, mode: *mode });
            }
        }
        view
    }
}

impl Entry {
    fn of(node: &Node) -> Self {
        let status = node.status.as_ref();
        let addresses = status.map(|status| status.addresses.as_slice()).unwrap_or_default();
        let conditions = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
        let mut problems = Vec::new();
        let annotation = node.metadata.annotations.as_ref().and_then(|annotations| annotations.get(MODE_ANNOTATION));
        let mode = annotation.and_then(|text| {
            let refused = |error| problems.push(format!("{MODE_ANNOTATION} is {text:?}; {error}"));
            text.parse::<Mode>().map_err(refused).ok()
        });
        let annotated =
            node.metadata.annotations.as_ref().and_then(|annotations| annotations.get(POD_CIDRS_ANNOTATION));
        let annotated: Option<Vec<String>> =
            annotated.map(|text| text.split(',').map(|cidr| cidr.trim().to_owned()).collect());
        let pod_cidrs = annotated.as_ref().unwrap_or(&node.spec.pod_cidrs);
        let addresses = addresses.iter().filter(|address| address.kind == "InternalIP").map(|address| &address.address);
        Self {
            pod_cidrs: parsed("pod CIDR", pod_cidrs, &mut problems),
            addresses: parsed("InternalIP", addresses, &mut problems),
            mode,
            is_network_unavailable: conditions
                .iter()
                .any(|condition| condition.kind == "NetworkUnavailable" && condition.status == "True"),
            problems,
        }
    }
}

/// The valid values. Each invalid one becomes a problem.
fn parsed<'a, T: FromStr>(
    what: &str,
    texts: impl IntoIterator<Item = &'a String>,
    problems: &mut Vec<String>,
) -> Vec<T> {
    let mut values = Vec::new();
    for text in texts {
        match text.parse() {
            Ok(value) => values.push(value),
            Err(_) => problems.push(format!("the {what} {text:?} is invalid")),
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, cidrs: &[&str], addresses: &[&str]) -> Node {
        let addresses: Vec<_> =
            addresses.iter().map(|address| serde_json::json!({"type": "InternalIP", "address": address})).collect();
        serde_json::from_value(serde_json::json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "managedFields": [{"manager": "kubelet"}]},
            "spec": {"podCIDR": cidrs.first(), "podCIDRs": cidrs, "taints": []},
            "status": {"addresses": addresses, "images": [{"names": ["x"]}],
                "conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .expect("a node")
    }

    fn peers(nodes: &Nodes) -> Vec<String> {
        nodes.view("a", &[]).peers.into_iter().map(|peer| peer.name).collect()
    }

    #[test]
    fn own_node_and_peers_are_separate() {
        let mut nodes = Nodes::default();
        nodes.apply(&node("b", &["10.244.2.0/24", "fd00:10:244:2::/64"], &["192.0.2.2", "2001:db8::2"]));
        nodes.apply(&node("a", &["10.244.1.0/24"], &["192.0.2.1"]));
        let view = nodes.view("a", &[]);
        assert_eq!(view.own.expect("an own node").pod_cidrs, ["10.244.1.0/24".parse().expect("a network")]);
        assert_eq!(view.peers.len(), 1);
        assert_eq!(view.peers[0].pod_cidrs.len(), 2);
        assert_eq!(view.peers[0].addresses.len(), 2);
    }

    #[test]
    fn node_without_pod_cidr_or_address_is_no_peer() {
        let mut nodes = Nodes::default();
        nodes.apply(&node("a", &[], &["192.0.2.1"]));
        nodes.apply(&node("b", &[], &["192.0.2.2"]));
        nodes.apply(&node("c", &["10.244.3.0/24"], &[]));
        nodes.apply(&node("d", &["10.244.4.0/24"], &["not an address"]));
        let view = nodes.view("a", &[]);
        assert_eq!((view.own, view.peers), (None, Vec::new()));
        assert_eq!(view.problems, ["node d: the InternalIP \"not an address\" is invalid"]);
        assert!(nodes.has("a"));
    }

    #[test]
    fn change_of_a_node_replaces_it() {
        let mut nodes = Nodes::default();
        nodes.apply(&node("b", &["10.244.2.0/24"], &["192.0.2.2"]));
        nodes.apply(&node("b", &["10.244.7.0/24"], &["192.0.2.7"]));
        let peer = nodes.view("a", &[]).peers.remove(0);
        assert_eq!(peer.pod_cidrs[0].to_string(), "10.244.7.0/24");
        assert_eq!(peer.addresses[0].to_string(), "192.0.2.7");
        nodes.delete(&node("b", &[], &[]));
        assert!(peers(&nodes).is_empty());
    }

    #[test]
    fn node_that_a_new_list_lacks_disappears_at_the_end_of_the_list() {
        let mut nodes = Nodes::default();
        for name in ["b", "c"] {
            nodes.apply(&node(name, &["10.244.2.0/24"], &["192.0.2.2"]));
        }
        nodes.begin_list();
        nodes.apply(&node("c", &["10.244.3.0/24"], &["192.0.2.3"]));
        assert_eq!(peers(&nodes), ["b", "c"], "the old nodes stay during the list");
        nodes.end_list();
        assert_eq!(peers(&nodes), ["c"]);
    }

    #[test]
    fn annotation_and_option_replace_the_pod_cidrs() {
        let mut nodes = Nodes::default();
        let mut other = node("b", &["10.244.2.0/24"], &["192.0.2.2"]);
        let annotation = (POD_CIDRS_ANNOTATION.to_owned(), "10.9.0.0/24, fd00:9::/64".to_owned());
        other.metadata.annotations = Some([annotation].into());
        nodes.apply(&other);
        nodes.apply(&node("a", &[], &["192.0.2.1"]));
        let own: IpNetwork = "10.8.0.0/24".parse().expect("a network");
        let view = nodes.view("a", &[own]);
        assert_eq!(view.own.expect("an own node").pod_cidrs, [own]);
        let cidrs: Vec<String> = view.peers[0].pod_cidrs.iter().map(ToString::to_string).collect();
        assert_eq!(cidrs, ["10.9.0.0/24", "fd00:9::/64"]);
    }

    #[test]
    fn annotation_and_condition_are_read() {
        let mut object = node("b", &["10.244.2.0/24"], &["192.0.2.2"]);
        object.metadata.annotations = Some([(MODE_ANNOTATION.to_owned(), "routed".to_owned())].into());
        let condition = NodeCondition { kind: "NetworkUnavailable".to_owned(), status: "True".to_owned() };
        object.status.as_mut().expect("a status").conditions.push(condition);
        let mut nodes = Nodes::default();
        nodes.apply(&object);
        assert_eq!(nodes.view("a", &[]).peers[0].mode, Some(Mode::Routed));
        assert!(nodes.is_network_unavailable("b") && !nodes.is_network_unavailable("a"));
        object.metadata.annotations = Some([(MODE_ANNOTATION.to_owned(), "ipip".to_owned())].into());
        nodes.apply(&object);
        let view = nodes.view("a", &[]);
        assert_eq!(view.peers[0].mode, None);
        assert!(view.problems[0].contains("ipip"), "{:?}", view.problems);
    }
}
