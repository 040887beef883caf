//! The command `nodes`, and the removal of the node agent's objects by `uninstall`.

use std::fs;
use std::path::Path;

use cnikit_testbed::Namespace as _;
use serde_json::{Value, json};

use crate::cli::{command, json_of, refused, shown};
use crate::doctor::{configured, doctor, found};
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
                "reason": "on-link", "link": "eth0", "mtu": 1500, "bypass": true,
                "probe": {"answered": 1_700_000_000, "lost": 2}},
            {"node": "node-3", "podCidr": "10.244.3.0/24", "address": null, "way": "none",
                "reason": "no address", "link": null, "mtu": null, "bypass": false, "probe": null},
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
        assert_eq!(lines[1][..7], ["node-2", "10.244.2.0/24", "direct", "yes", "192.0.2.2", "eth0", "1500"]);
        assert!(text.contains(" ago, 2 lost since  on-link"), "{text}");
        assert_eq!(lines[2], ["node-3", "10.244.3.0/24", "none", "no", "-", "-", "-", "-", "no", "address"]);
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
        host.ip("link add tunnel0 type veth peer name tunnel1");
        host.ip("link set tunnel0 alias simple-ebpf-agent");
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
            "removed link tunnel0",
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

#[test]
fn a_purge_removes_the_rules_of_the_agent_from_foreign_chains() {
    on_host(|network| {
        let node = Node::new(network);
        shown(&node.install(BLACKBOX));
        network.host.command("iptables-nft").words("-P FORWARD DROP").run();
        network.host.command("iptables-nft").words("-A FORWARD -i lo -j ACCEPT").run();
        let before = network.host.command("iptables-nft").words("-S").run();
        for field in ["saddr", "daddr"] {
            let rule = format!("insert rule ip filter FORWARD ip {field} 10.244.1.0/24 accept comment");
            let rule = rule + " \"simple-ebpf-agent: pods\"";
            network.host.command("nft").arg(rule).run();
        }
        let text = shown(&node.uninstall("--purge"));
        assert!(text.contains("removed rules for pods in the nftables chain ip filter FORWARD"), "{text}");
        assert_eq!(network.host.command("iptables-nft").words("-S").run(), before);
        assert!(!shown(&node.uninstall("--purge")).contains("FORWARD"));
    });
}

#[test]
fn doctor_reports_a_dropping_chain_with_a_command_that_works() {
    on_host(|network| {
        let dir = configured(network);
        network.host.command("iptables-nft").words("-P FORWARD DROP").run();
        let (_, checks) = doctor(&dir);
        assert_eq!(found(&checks, "forward", "fail"), "", "a node without an agent");
        write_report();
        let (status, checks) = doctor(&dir);
        let failed: Vec<_> = checks.iter().filter(|check| check["check"] == "forward").collect();
        assert_eq!(status, Some(1), "{checks:#?}");
        assert!(failed[0]["found"].as_str().is_some_and(|text| text.contains("ip filter FORWARD")), "{checks:#?}");
        let remedy = failed[0]["remedy"].as_str().expect("a command");
        network.host.command("sh").args(["-c", remedy]).run();
        let (status, checks) = doctor(&dir);
        assert_eq!(status, Some(0), "{checks:#?}");
        assert!(!found(&checks, "forward", "ok").is_empty(), "{checks:#?}");
        fs::remove_dir_all("/run/simple-ebpf-agent").expect("remove a directory");
    });
}

#[test]
fn doctor_and_status_show_whether_the_agent_runs() {
    on_host(|network| {
        let dir = configured(network);
        let status = || {
            let output = command(&format!("status --json --conf-dir {}", dir.display()));
            serde_json::from_str::<Value>(&output.stdout).expect("JSON")["agent"].clone()
        };
        assert_eq!(status(), Value::Null);
        let mut report = write_report();
        let ways = json!({"direct": 1, "none": 1});
        assert_eq!((&status()["running"], &status()["nodes"]), (&json!(false), &ways));
        let (_, checks) = doctor(&dir);
        let warned = found(&checks, "agent", "warn");
        assert!(warned.contains("no process") && warned.contains("node-3: no address"), "{warned}");

        // The kernel names a process after its file.
        let program = network.host.scratch().join("simple-ebpf-agent");
        fs::copy("/bin/sleep", &program).expect("copy a program");
        let mut agent = cnikit_testbed::Command::new(&program).arg("60").spawn();
        report["pid"] = agent.pid().into();
        fs::write(REPORT, report.to_string()).expect("write");
        assert_eq!(status()["running"], false, "the report is old");
        report["time"] = std::time::UNIX_EPOCH.elapsed().expect("a time").as_secs().into();
        fs::write(REPORT, report.to_string()).expect("write");
        assert_eq!(status()["running"], true);
        let text = command(&format!("status --conf-dir {}", dir.display())).stdout;
        assert!(text.starts_with("agent running; ways to other nodes: 1 direct, 1 none\n"), "{text}");
        let (_, checks) = doctor(&dir);
        assert!(found(&checks, "agent", "ok").contains("node-1"), "{checks:#?}");
        agent.kill();
        fs::remove_dir_all("/run/simple-ebpf-agent").expect("remove a directory");
    });
}
