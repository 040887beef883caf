//! The agent's process on a private host, with a fake API server.

mod fake;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use cnikit_testbed::{Host, Namespace as _, Running, eventually, host};
use serde_json::Value;

use fake::FakeApi;

const DIRECTORY: &str = "/run/agent-test";
const CONFLIST: &str = "/run/agent-test/10-podnet.conflist";
const LIMIT: Duration = Duration::from_secs(10);

/// A node with an uplink to 192.0.2.0/24, and the agent's process.
struct Node<'h> {
    host: &'h Host,
    api: FakeApi,
}

impl Node<'_> {
    fn start_agent(&self) -> Running {
        self.start_agent_with("")
    }

    fn start_agent_with(&self, options: &str) -> Running {
        let kubeconfig = Path::new(DIRECTORY).join("kubeconfig");
        fs::write(&kubeconfig, self.api.kubeconfig()).expect("write");
        let agent = self.host.command(env!("CARGO_BIN_EXE_simple-ebpf-agent"));
        let common = format!("--node-name a --plugin-dir {DIRECTORY} --conflist {CONFLIST} --listen 127.0.0.1:9912");
        agent.words(&common).words(options).env("KUBECONFIG", kubeconfig).spawn()
    }

    /// The destinations of the agent's routes.
    fn routes(&self) -> Vec<String> {
        // In the JSON output, the end of a tunnel has the name of the destination.
        let listed = self.host.command("ip").words("route show proto 201").run();
        let routes: BTreeSet<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
        routes.into_iter().map(str::to_owned).collect()
    }

    fn has_routes(&self, expected: &[&str]) {
        eventually(&format!("the routes {expected:?}"), LIMIT, || self.routes() == expected);
    }

    fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect("127.0.0.1:9912").expect("connect");
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").expect("send");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("receive");
        answer.split_once("\r\n\r\n").expect("a body").1.to_owned()
    }

    /// The values of the condition `NetworkUnavailable` that the agent has set.
    fn conditions(&self) -> Vec<Value> {
        let patches = self.api.received("PATCH /api/v1/nodes/a/status");
        patches.iter().map(|patch| patch["status"]["conditions"][0]["status"].clone()).collect()
    }
}

/// The moments of the kills after the start: the agent needs about half a second for its work.
const KILLS: u32 = 12;
const FIRST_KILL: Duration = Duration::from_millis(40);
const KILL_STEP: Duration = Duration::from_millis(50);

fn on_node(test: impl FnOnce(&Node<'_>) + Send) {
    host(|host| {
        fs::create_dir(DIRECTORY).expect("create a directory");
        host.ip("link set lo up");
        host.ip("link add uplink type veth peer name switch");
        host.ip("link set switch up");
        host.ip("address add 192.0.2.1/24 dev uplink");
        host.ip("link set uplink up");
        test(&Node { host, api: FakeApi::start() });
        host.ip("route flush proto 201");
        for link in ["cbr0", "uplink", "cni-vxlan"] {
            host.ip(&format!("link delete {link}"));
        }
        host.command("nft").words("delete table inet simple-ebpf-agent").run();
        let network = "podnet".parse().expect("a name");
        simple_ebpf_cni::agent::remote_datapath(&network).remove().expect("remove the pins");
        simple_ebpf_cni::naming::datapath(&network).remove().expect("remove the pins");
        let _ = fs::remove_dir_all("/var/lib/cni/simple-ebpf-cni");
        for directory in [DIRECTORY, "/run/simple-ebpf-agent"] {
            fs::remove_dir_all(directory).expect("remove a directory");
        }
    });
}

#[test]
fn routes_follow_the_nodes_of_the_api() {
    on_node(|node| {
        node.api.apply("a", &["10.244.1.0/24"], "192.0.2.1", false);
        node.api.apply("b", &["10.244.2.0/24"], "192.0.2.2", false);
        let mut agent = node.start_agent();
        node.has_routes(&["10.244.2.0/24"]);
        node.api.apply("c", &["10.244.3.0/24"], "192.0.2.3", false);
        node.has_routes(&["10.244.2.0/24", "10.244.3.0/24"]);
        node.api.delete("b");
        node.has_routes(&["10.244.3.0/24"]);
        node.api.apply("c", &["10.244.7.0/24"], "192.0.2.7", false);
        node.has_routes(&["10.244.7.0/24"]);
        assert_eq!(node.api.lists(), 1, "changes come from the watch");
        assert!(node.conditions().is_empty(), "the condition was not True");
        assert!(agent.kill());
        assert_eq!(node.routes(), ["10.244.7.0/24"], "a killed agent leaves its routes");
    });
}

#[test]
fn node_deleted_without_a_watch_loses_its_route() {
    on_node(|node| {
        for (number, name) in ["a", "b", "c"].iter().enumerate() {
            let number = number + 1;
            node.api.apply(name, &[&format!("10.244.{number}.0/24")], &format!("192.0.2.{number}"), false);
        }
        let _agent = node.start_agent();
        node.has_routes(&["10.244.2.0/24", "10.244.3.0/24"]);
        node.api.delete_unseen("b");
        node.has_routes(&["10.244.3.0/24"]);
        assert!(node.api.lists() >= 2, "the version of the watch was too old");
    });
}

#[test]
fn own_node_with_another_pod_cidr_gets_another_configuration() {
    on_node(|node| {
        node.api.apply("a", &["10.244.1.0/24"], "192.0.2.1", false);
        let _agent = node.start_agent();
        let has = |text: &str| fs::read_to_string(CONFLIST).is_ok_and(|list| list.contains(text));
        let rules = || node.host.command("nft").words("list table inet simple-ebpf-agent").run();
        eventually("the configuration", LIMIT, || has("10.244.1.0/24"));
        node.api.delete("a");
        node.api.apply("a", &["10.244.9.0/24"], "192.0.2.1", false);
        eventually("the other configuration", LIMIT, || has("10.244.9.0/24"));
        eventually("the other rule", LIMIT, || rules().contains("ip saddr 10.244.9.0/24"));
        assert!(!has("10.244.1.0/24") && !rules().contains("10.244.1.0/24"));
    });
}

#[test]
fn node_waits_for_its_pod_cidr() {
    on_node(|node| {
        node.api.apply("a", &[], "192.0.2.1", false);
        let mut agent = node.start_agent();
        eventually("the condition", LIMIT, || node.conditions() == ["True"]);
        eventually("the event", LIMIT, || !node.api.received("POST /apis/events.k8s.io").is_empty());
        let event = &node.api.received("POST /apis/events.k8s.io")[0];
        assert!(event["note"].as_str().is_some_and(|note| note.contains("--allocate-node-cidrs")), "{event}");
        assert!(node.page("/readyz").contains("--allocate-node-cidrs"));
        assert_eq!(node.page("/healthz"), "ok\n");
        assert!(!Path::new(CONFLIST).exists() && node.host.link("cbr0").is_none());

        node.api.apply("a", &["10.244.1.0/24"], "192.0.2.1", true);
        eventually("the configuration", LIMIT, || Path::new(CONFLIST).exists());
        eventually("the cleared condition", LIMIT, || node.conditions() == ["True", "False"]);
        assert_eq!(node.page("/readyz"), "ready\n");
        let metrics = node.page("/metrics");
        assert!(metrics.contains("simple_ebpf_agent_ready 1\n") && metrics.ends_with("# EOF\n"), "{metrics}");

        node.host.command("kill").words(&format!("-TERM {}", agent.pid())).run();
        assert!(agent.wait(LIMIT).success());
        assert!(Path::new(CONFLIST).exists() && node.host.link("cbr0").is_some(), "SIGTERM leaves everything");
    });
}

/// The agent is killed at some moment of its start. The next one finishes the work.
#[test]
fn next_agent_finishes_the_work_of_a_killed_one() {
    on_node(|node| {
        node.api.apply("a", &["10.244.1.0/24"], "192.0.2.1", false);
        node.api.apply("b", &["10.244.2.0/24"], "192.0.2.2", false);
        for round in 0..KILLS {
            let agent = node.start_agent();
            std::thread::sleep(FIRST_KILL + KILL_STEP * round);
            drop(agent);
            // No reader ever sees a part of the file.
            if let Ok(text) = fs::read_to_string(CONFLIST) {
                assert!(serde_json::from_str::<Value>(&text).is_ok(), "round {round}: {text}");
            }
            let agent = node.start_agent();
            node.has_routes(&["10.244.2.0/24"]);
            eventually("the configuration", LIMIT, || Path::new(CONFLIST).exists());
            eventually("the node is ready", LIMIT, || node.page("/readyz").contains("ready"));
            let shown = node.host.command("ip").words("route show proto 201").run();
            assert_eq!(shown.lines().count(), 2, "round {round}: {shown}");
            let network = "podnet".parse().expect("a name");
            let remote = simple_ebpf_cni::agent::remote_datapath(&network);
            let entries = remote.open_peers().and_then(|peers| peers.entries()).expect("entries");
            assert_eq!(entries.len(), 1, "round {round}");
            drop(agent);
            // The next round begins on an empty node.
            fs::remove_file(CONFLIST).expect("remove the configuration");
            node.host.ip("route flush proto 201");
            node.host.ip("link delete cni-vxlan");
            node.host.ip("link delete cbr0");
            node.host.command("nft").words("delete table inet simple-ebpf-agent").run();
            remote.remove().expect("remove the pins");
            simple_ebpf_cni::naming::datapath(&network).remove().expect("remove the pins");
        }
        // The cleaning up of the fixture expects the objects.
        let agent = node.start_agent();
        eventually("the configuration", LIMIT, || Path::new(CONFLIST).exists());
        drop(agent);
    });
}

/// The agent calls the command of the installed plugin. The plugin's own tests cover its rules.
#[test]
fn forgotten_pods_are_collected_by_the_plugin() {
    on_node(|node| {
        let (plugin, calls) = (Path::new(DIRECTORY).join("simple-ebpf-cni"), Path::new(DIRECTORY).join("calls"));
        fs::write(&plugin, format!("#!/bin/sh\necho \"$@\" >>{}\n", calls.display())).expect("write");
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).expect("make it executable");
        node.api.apply("a", &["10.244.1.0/24"], "192.0.2.1", false);
        let agent = node.start_agent_with("--collect-interval 1 --runtime-endpoint /run/runtime.sock");
        let called = || fs::read_to_string(&calls).unwrap_or_default();
        eventually("two collections", LIMIT, || called().lines().count() >= 2);
        let expected = format!("gc --network podnet --conf-dir {DIRECTORY} --runtime-endpoint /run/runtime.sock");
        assert!(called().lines().all(|line| line == expected), "{}", called());
        let page = node.page("/metrics");
        for metric in [
            "process_cpu_seconds_total ",
            "process_resident_memory_bytes ",
            "simple_ebpf_agent_watch_time_seconds ",
            "simple_ebpf_agent_reconciliation_duration_seconds_count ",
        ] {
            assert!(page.contains(metric), "{metric} in {page}");
        }
        drop(agent);
    });
}
