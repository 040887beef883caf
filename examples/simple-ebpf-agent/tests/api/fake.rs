//! A server with the part of the Kubernetes API that the agent uses.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

/// The longest life of a watch, so that no thread outlives a test for long.
const MOST_ROUNDS: usize = 3000;

/// The pause between two looks for new events.
const ROUND: Duration = Duration::from_millis(10);

/// The server. Its threads end with the process.
#[derive(Clone)]
pub(crate) struct FakeApi {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    nodes: BTreeMap<String, Value>,
    version: u64,
    /// The changes, by version.
    changes: Vec<(u64, Value)>,
    /// Watches from an older version end with the status 410.
    oldest: u64,
    /// Watches of an older number end.
    connections: u64,
    lists: usize,
    /// The bodies of changes by the agent, with method and path.
    received: Vec<(String, Value)>,
}

impl FakeApi {
    /// Starts the server on the loopback link of the test's host.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let api = Self { address: listener.local_addr().expect("an address"), state: Arc::default() };
        let server = api.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                thread::spawn(move || server.serve(&stream));
            }
        });
        api
    }

    /// The text of a kubeconfig for this server.
    pub(crate) fn kubeconfig(&self) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": format!("http://{}", self.address)}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
            "users": [{"name": "fake", "user": {}}],
        })
        .to_string()
    }

    /// Creates or replaces a node.
    pub(crate) fn apply(&self, name: &str, pod_cidrs: &[&str], address: &str, is_unavailable: bool) {
        let mut state = self.lock();
        let kind = if state.nodes.contains_key(name) { "MODIFIED" } else { "ADDED" };
        let version = state.version + 1;
        let status = if is_unavailable { "True" } else { "False" };
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "resourceVersion": version.to_string()},
            "spec": {"podCIDRs": pod_cidrs},
            "status": {
                "addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address}],
                "conditions": [{"type": "NetworkUnavailable", "status": status}],
            },
        });
        state.nodes.insert(name.to_owned(), node.clone());
        state.record(kind, node);
    }

    /// Deletes a node.
    pub(crate) fn delete(&self, name: &str) {
        let mut state = self.lock();
        let node = state.nodes.remove(name).expect("a node");
        state.record("DELETED", node);
    }

    /// Deletes a node and ends all watches before they send the change. The next ones must list
    /// again, because their version is too old.
    pub(crate) fn delete_unseen(&self, name: &str) {
        let mut state = self.lock();
        state.nodes.remove(name).expect("a node");
        state.version += 1;
        state.oldest = state.version;
        state.changes.clear();
        state.connections += 1;
    }

    /// The number of lists.
    pub(crate) fn lists(&self) -> usize {
        self.lock().lists
    }

    /// The bodies that the agent has sent to paths with this text.
    pub(crate) fn received(&self, path: &str) -> Vec<Value> {
        self.lock().received.iter().filter(|(line, _)| line.contains(path)).map(|(_, body)| body.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread has panicked")
    }

    fn serve(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        let (mut request, mut length) = (String::new(), 0);
        if reader.read_line(&mut request).is_err() {
            return;
        }
        loop {
            let mut header = String::new();
            match reader.read_line(&mut header) {
                Ok(read) if read > 2 => {}
                _ => break,
            }
            if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        if request.starts_with("GET /api/v1/nodes?") && request.contains("watch=") {
            self.watch(stream, &request);
        } else if request.starts_with("GET /api/v1/nodes?") {
            let mut state = self.lock();
            state.lists += 1;
            let items: Vec<&Value> = state.nodes.values().collect();
            let list = json!({
                "apiVersion": "v1", "kind": "NodeList",
                "metadata": {"resourceVersion": state.version.to_string()}, "items": items,
            });
            answer(stream, &list);
        } else {
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            let mut state = self.lock();
            state.received.push((request.clone(), body.clone()));
            let node = request.split(['/', '?']).find_map(|part| state.nodes.get(part).cloned());
            answer(stream, &node.unwrap_or(body));
        }
    }

    fn watch(&self, mut stream: &TcpStream, request: &str) {
        let from = request.split("resourceVersion=").nth(1).unwrap_or_default();
        let mut from: u64 = from.split(['&', ' ']).next().and_then(|number| number.parse().ok()).unwrap_or(0);
        let connection = self.lock().connections;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
        if stream.write_all(head.as_bytes()).is_err() {
            return;
        }
        let mut send = |event: &Value| {
            let line = format!("{event}\n");
            write!(stream, "{:x}\r\n{line}\r\n", line.len()).is_ok()
        };
        for _ in 0..MOST_ROUNDS {
            let (news, is_current) = {
                let state = self.lock();
                if from < state.oldest {
                    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                        "message": "too old resource version", "reason": "Expired", "code": 410});
                    send(&json!({"type": "ERROR", "object": status}));
                    break;
                }
                let news: Vec<_> = state.changes.iter().filter(|(version, _)| *version > from).cloned().collect();
                (news, state.connections == connection)
            };
            for (version, event) in news {
                from = version;
                if !send(&event) {
                    return;
                }
            }
            if !is_current {
                break;
            }
            thread::sleep(ROUND);
        }
        let _ = stream.write_all(b"0\r\n\r\n");
    }
}

impl State {
    fn record(&mut self, kind: &str, node: Value) {
        self.version += 1;
        self.changes.push((self.version, json!({"type": kind, "object": node})));
    }
}

fn answer(mut stream: &TcpStream, body: &Value) {
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    // The agent may have closed the connection.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
}
