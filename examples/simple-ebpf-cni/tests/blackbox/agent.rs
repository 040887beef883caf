//! The command `nodes`, and the removal of the node agent's objects by `uninstall`.

use std::fs;
use std::path::Path;

use cnikit_testbed::Namespace as _;
use serde_json::{Value, json};

use crate::cli::{json_of, refused, shown};
use crate::install::{BLACKBOX, Node};
use crate::support::on_host;

const REPORT: &str = "/run/simple-ebpf-agent/nodes.json";

/// A report with the keys of docs/multi-node.md.
fn write_report() -> Value {
    let report = json!({
        "version": "0.1.0", "pid": 1, "node": "node-1", "time": 1_700_000_000, "isReady": true,
        "podCidrs": ["10.244.1.0/24"], "mtu": null,
        "peers": [
            {"node": "node-2", "podCidr": "10.244.2.0/24", "address": "192.0.2.2", "way": "direct",
                "reason": "on-link", "link": "eth0", "mtu": 1500},
            {"node": "node-3", "podCidr": "10.244.3.0/24", "address": null, "way": "none",
                "reason": "no address", "link": null, "mtu": null},
        ],
        "problems": ["no route to pods of node node-3: no address"],
    });
    fs::create_dir_all(Path::new(REPORT).parent().expect("a directory")).expect("create a directory");
    fs::write(REPORT, report.to_string()).expect("write");
    report
}

#[test]
fn nodes_shows_the_report_of_the_agent() {
    on_host(|_| {
        let message = refused(1, "nodes");
        assert!(message.contains(REPORT) && message.contains("deploy/simple-ebpf-cni.yaml"), "{message}");
        let report = write_report();
        let text = shown("nodes");
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["node-2", "10.244.2.0/24", "direct", "192.0.2.2", "eth0", "1500", "on-link"]);
        assert_eq!(lines[2], ["node-3", "10.244.3.0/24", "none", "-", "-", "-", "no", "address"]);
        assert!(text.contains("2 pod CIDRs of other nodes, from node-1 (10.244.1.0/24)"), "{text}");
        assert!(text.contains("the agent may not run"), "{text}");
        assert!(text.contains("problem: no route to pods of node node-3"), "{text}");
        assert_eq!(json_of("nodes --json"), report);
        fs::write(REPORT, "{").expect("write");
        assert!(refused(1, "nodes").contains(REPORT));
        fs::remove_dir_all("/run/simple-ebpf-agent").expect("remove a directory");
    });
}

#[test]
fn a_purge_removes_the_objects_of_the_agent() {
    on_host(|network| {
        let (node, host) = (Node::new(network), network.host);
        shown(&node.install(BLACKBOX));
        host.ip("link add uplink type veth peer name switch");
        host.ip("link set switch up");
        host.ip("address add 192.0.2.1/24 dev uplink");
        host.ip("link set uplink up");
        let plugin = json!({"type": "simple-ebpf-cni", "subnets": ["10.244.1.0/24"], "ipMasq": false});
        let list = |extra: Value| {
            let mut list = json!({"cniVersion": "1.0.0", "name": "podnet", "plugins": [plugin]});
            list.as_object_mut().expect("an object").extend(extra.as_object().expect("an object").clone());
            list.to_string()
        };
        let (written, foreign) = (node.conf("10-podnet.conflist"), node.conf("20-other.conflist"));
        fs::write(&written, list(json!({"managedBy": "simple-ebpf-agent"}))).expect("write");
        fs::write(&foreign, list(json!({"name": "other"}))).expect("write");
        host.ip("route add 10.244.2.0/24 via 192.0.2.2 proto 201");
        host.ip("route add 10.244.9.0/24 via 192.0.2.9 proto static");
        host.command("nft").words("add table inet simple-ebpf-agent").run();
        host.command("nft").words("add chain inet simple-ebpf-agent postrouting").run();
        write_report();

        let planned = shown(&node.uninstall("--purge -n"));
        assert!(written.exists() && Path::new(REPORT).exists(), "a dry run changes nothing");
        let text = shown(&node.uninstall("--purge"));
        assert_eq!(planned.replace("would remove", "removed"), text, "a dry run lists the same");
        for object in [
            &format!("removed {}", written.display()),
            "removed route 10.244.2.0/24 via 192.0.2.2",
            "removed nftables table inet simple-ebpf-agent",
            &format!("removed {REPORT}"),
        ] {
            assert!(text.contains(object), "{object}: {text}");
        }
        assert!(foreign.exists(), "the agent has not written this file");
        let routes = host.ip("route show").to_string();
        assert!(routes.contains("10.244.9.0/24") && !routes.contains("10.244.2.0/24"), "{routes}");
        assert!(!host.command("nft").words("list ruleset").run().contains("simple-ebpf-agent"));
        assert!(!Path::new("/run/simple-ebpf-agent").exists());
        host.ip("link delete uplink");
        fs::remove_file(&foreign).expect("remove a file");
        shown(&node.uninstall("--purge"));
    });
}
