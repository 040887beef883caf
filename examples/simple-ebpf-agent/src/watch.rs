//! The watch of the Node objects, and the changes of the agent's own Node.

use std::convert::Infallible;

use std::pin::pin;
use std::sync::Arc;

use futures_util::StreamExt as _;
use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1::{Node as FullNode, ObjectReference};
use kube::api::{ApiResource, Patch, PatchParams};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::events::{Event as KubeEvent, EventType, Recorder, Reporter};
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client};
use serde_json::json;
use simple_ebpf_cni::agent::NAME;
use tokio::sync::watch;
use tracing::{debug, warn};

use crate::http::Pages;
use crate::nodes::{Node, Nodes};
use crate::view::ClusterView;

/// Objects in one page of a list. A Node object has some 10 kB, and a page is in memory as a whole.
const PAGE: u32 = 100;

/// The state of the API that the agent uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// The nodes.
    pub view: ClusterView,
    /// Whether the API has the own node.
    pub has_own_node: bool,
    /// Whether the own node has the condition `NetworkUnavailable`.
    pub is_network_unavailable: bool,
}

/// A client of the Node objects.
#[derive(Clone)]
pub struct NodeApi {
    api: Api<Node>,
    recorder: Recorder,
    own: String,
    own_cidrs: Vec<IpNetwork>,
}

impl std::fmt::Debug for NodeApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeApi").field("own", &self.own).finish_non_exhaustive()
    }
}

impl NodeApi {
    /// The Node objects, for the agent on node `own`. `own_cidrs` replace the pod CIDRs of this
    /// node, unless they are empty.
    #[must_use]
    pub fn new(client: Client, own: &str, own_cidrs: &[IpNetwork]) -> Self {
        let api = Api::all_with(client.clone(), &ApiResource::erase::<FullNode>(&()));
        let reporter = Reporter { controller: NAME.to_owned(), instance: Some(own.to_owned()) };
        Self { api, recorder: Recorder::new(client, reporter), own: own.to_owned(), own_cidrs: own_cidrs.to_vec() }
    }

    /// Watches all nodes, and sends each change. Never returns: if the API cannot be reached, it
    /// tries again with growing pauses, and the last view stays.
    pub async fn watch(&self, changes: watch::Sender<Option<Cluster>>, pages: Arc<Pages>) -> Infallible {
        let config = Config::default().any_semantic().page_size(PAGE);
        let mut nodes = Nodes::default();
        let mut is_listing = true;
        loop {
            let mut stream = pin!(watcher(self.api.clone(), config.clone()).default_backoff());
            while let Some(event) = stream.next().await {
                if event.is_ok() {
                    pages.saw_event();
                }
                match event {
                    Ok(Event::Init) => {
                        is_listing = true;
                        nodes.begin_list();
                    }
                    Ok(Event::InitApply(node) | Event::Apply(node)) => nodes.apply(&node),
                    Ok(Event::Delete(node)) => nodes.delete(&node),
                    Ok(Event::InitDone) => {
                        is_listing = false;
                        nodes.end_list();
                    }
                    Err(error) => {
                        warn!("cannot watch the nodes: {error}; the node keeps its state, and the agent tries again");
                        continue;
                    }
                }
                // A part of a list would look like deleted nodes.
                if !is_listing {
                    let cluster = Some(self.cluster(&nodes));
                    changes.send_if_modified(|known| {
                        let is_new = *known != cluster;
                        *known = cluster;
                        is_new
                    });
                }
            }
        }
    }

    fn cluster(&self, nodes: &Nodes) -> Cluster {
        Cluster {
            view: nodes.view(&self.own, &self.own_cidrs),
            has_own_node: nodes.has(&self.own),
            is_network_unavailable: nodes.is_network_unavailable(&self.own),
        }
    }

    /// Sets the condition `NetworkUnavailable` of the own node, which keeps pods away from it.
    /// Returns whether the API has accepted it.
    pub async fn set_network_unavailable(&self, is_unavailable: bool, reason: &str, message: &str) -> bool {
        let now = k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let patch = json!({ "status": { "conditions": [{
            "type": "NetworkUnavailable",
            "status": if is_unavailable { "True" } else { "False" },
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }]}});
        let patched = self.api.patch_status(&self.own, &PatchParams::default(), &Patch::Strategic(patch)).await;
        match patched {
            Ok(_) => true,
            Err(error) => {
                warn!("cannot set the condition NetworkUnavailable of node {}: {error}", self.own);
                false
            }
        }
    }

    /// Creates an Event about the own node.
    pub async fn warn(&self, reason: &str, note: &str) {
        // `kubectl describe node` looks for events with the name of the node as the uid.
        let node = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(self.own.clone()),
            uid: Some(self.own.clone()),
            ..ObjectReference::default()
        };
        let event = KubeEvent {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(note.to_owned()),
            action: "SetUpNetwork".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &node).await {
            debug!("cannot create an event: {error}");
        }
    }
}
