//! A pod's names in Kubernetes: from `CNI_ARGS` to the lease, the tables and the log.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;

use cnikit_testbed::{Namespace as _, Outcome, Pod};
use serde_json::{Value, json};

use crate::cli::{cells, command, conflist, conflist_of, json_of, shown};
use crate::logs::{LOG, assert_fields, lines, only_line, with_log};
use crate::support::{NAME, Network, on_host};

/// The arguments of containerd, without `IgnoreUnknown=1`.
const ARGS: &str = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=6f2a7a1e-1d4b-4a52-9b0c-2f1c5f1f4c11;\
                    K8S_POD_INFRA_CONTAINER_ID=4fe2c9";

const UID: &str = "6f2a7a1e-1d4b-4a52-9b0c-2f1c5f1f4c11";

#[track_caller]
fn call(network: &Network, verb: &str, container: &str, pod: &Pod, args: &str) -> Outcome {
    network.plugin.on(verb, &network.config, container, pod).env("CNI_ARGS", args).run()
}

fn looking(network: &Network, words: &str) -> String {
    format!("{words} --conf-dir {}", conflist(network).parent().expect("a directory").display())
}

#[track_caller]
fn lease(network: &Network, container: &str) -> Value {
    serde_json::from_slice(&fs::read(network.lease(container)).expect("a lease")).expect("JSON")
}

#[test]
fn pods_are_shown_with_their_kubernetes_names() {
    on_host(|network| {
        let pod = network.host.pod();
        let container = "4fe2c9d1a87b4fe2c9d1a87b4fe2c9d1a87b4fe2c9d1a87b4fe2c9d1a87b0123";
        let result = call(network, "ADD", container, &pod, ARGS).result();
        let address = result["ips"][0]["address"].as_str().expect("an address").to_owned();
        let unnamed = network.attach("plain");

        let stored = lease(network, container);
        assert_eq!([&stored["podNamespace"], &stored["podName"], &stored["podUid"]], ["shop", "web-0", UID]);
        assert!(lease(network, "plain").as_object().expect("an object").keys().all(|key| !key.starts_with("pod")));

        for (line, beside) in [("pods", 1), ("top --interval 0.1 --once", 1), ("leases", 2)] {
            let text = shown(&looking(network, line));
            let cells = cells(&text);
            assert_eq!(cells[0][..2], ["NAMESPACE/POD", "NETWORK"], "{line}");
            assert_eq!(cells[1][..2], ["shop/web-0", NAME], "{line}");
            assert_eq!(cells[1][1 + beside], &container[..12], "{line}");
            assert_eq!([cells[2][0], cells[2][1 + beside]], ["-", "plain"], "{line}");
        }
        let pods = json_of(&looking(network, "pods --json"));
        let top = json_of(&looking(network, "top --interval 0.1 --json"));
        let leases = json_of(&looking(network, "leases --json"));
        let find = |list: &Value, of: &dyn Fn(&Value) -> Value| {
            let all: Vec<Value> = list.as_array().expect("a list").iter().map(of).collect();
            all.into_iter().find(|one| one["containerId"] == container).expect("it is listed")
        };
        for one in [
            find(&pods["pods"], &Value::clone),
            find(&top["pods"], &|rate| rate["pod"].clone()),
            find(&leases["networks"][0]["leases"], &Value::clone),
        ] {
            assert_eq!([&one["podNamespace"], &one["podName"], &one["podUid"]], ["shop", "web-0", UID], "{one:#}");
        }
        assert_eq!(
            pods["pods"].as_array().expect("a list").iter().filter(|pod| pod.get("podName").is_some()).count(),
            1
        );

        // A message about an attachment names the pod.
        let veth = result["interfaces"][1]["name"].as_str().expect("a name");
        network.host.ip(&format!("link del {veth}"));
        let status = json_of(&looking(network, "status --json"));
        assert!(status["networks"][0]["notes"][0].as_str().expect("a note").contains("(shop/web-0)"), "{status:#}");
        assert!(command(&looking(network, "doctor --network blackbox")).stdout.contains("(shop/web-0)"));

        // The same container and address with another name: a sandbox that the runtime created
        // again.
        let renamed = ARGS.replace("web-0", "web-1");
        let again = call(network, "ADD", container, &pod, &renamed).result();
        assert_eq!(
            (again["ips"][0]["address"].as_str(), &lease(network, container)["podName"]),
            (Some(address.as_str()), &json!("web-1"))
        );

        // A call without names keeps the names of the lease.
        network.host.ip(&format!("link del {veth}"));
        call(network, "ADD", container, &pod, "").result();
        assert_eq!(lease(network, container)["podName"], "web-1");

        call(network, "DEL", container, &pod, ARGS).silent();
        network.detach(&unnamed);
    });
}

#[test]
fn only_the_keys_of_kubernetes_need_no_ignore_unknown() {
    on_host(|network| {
        let pod = network.host.pod();
        for other in ["K8S_POD_COLOR=red", "k8s_pod_name=web-0", "K8S_POD_NAME_=web-0"] {
            let message = call(network, "ADD", "one", &pod, &format!("{ARGS};{other}")).error(4);
            let key = other.split('=').next().expect("a key");
            assert!(message.contains(key) && !message.contains("K8S_POD_UID"), "{message}");
        }
        call(network, "ADD", "one", &pod, &format!("{ARGS};K8S_POD_COLOR=red;IgnoreUnknown=1")).result();
        call(network, "DEL", "one", &pod, ARGS).silent();
    });
}

/// The caller chooses the values of `CNI_ARGS`. They must not control a terminal or a log line.
#[test]
fn an_invalid_name_causes_only_a_warning() {
    with_log(None, |network| {
        let long = "x".repeat(50_000);
        let hostile =
            ["\u{1b}[2J\u{1b}[31mred", "a\nb", "a  b", "a/b", "../../etc", "\u{202e}daol", "a\"b=c\\", "-", &long];
        for value in hostile {
            let pod = network.host.pod();
            let args = format!("K8S_POD_NAMESPACE=shop;K8S_POD_NAME={value};K8S_POD_UID={value}");
            let outcome = call(network, "ADD", "one", &pod, &args);
            let warnings: Vec<&str> = outcome.stderr.lines().collect();
            assert_eq!(warnings.len(), 2, "{warnings:?}");
            for warning in &warnings {
                assert!(warning.starts_with("simple-ebpf-cni: CNI_ARGS: pod ") && warning.len() < 500, "{warning:?}");
                assert!(!warning.contains(|c: char| c.is_control() || c == '\u{202e}'), "{warning:?}");
            }
            outcome.result();
            let stored = lease(network, "one");
            assert_eq!(
                (&stored["podNamespace"], stored.get("podName"), stored.get("podUid")),
                (&json!("shop"), None, None)
            );
            let text = shown(&looking(network, "pods"));
            assert_eq!((text.lines().count(), cells(&text)[1][0]), (4, "shop/-"), "{text:?}");
            let outcome = call(network, "DEL", "one", &pod, &args);
            assert_eq!(outcome.stderr, "");
            outcome.silent();
            let lines = lines();
            assert_eq!(lines.len(), 4, "two warnings, ADD and DEL: {lines:#?}");
            assert!(lines.iter().all(|line| line["pod"] == "shop/-" && !line.contains_key("pod_uid")), "{lines:#?}");
            fs::write(LOG, "").expect("root may write");
        }
        // Bytes that are not UTF-8.
        let pod = network.host.pod();
        let args = OsString::from_vec(b"K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web\xff".to_vec());
        let outcome = network.plugin.on("ADD", &network.config, "one", &pod).env("CNI_ARGS", args).run();
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        outcome.result();
        assert_eq!(cells(&shown(&looking(network, "pods")))[1][0], "shop/-");
        call(network, "DEL", "one", &pod, "").silent();
        // An empty value causes no warning: CRI-O passes an empty UID.
        let pod = network.host.pod();
        let outcome = call(network, "ADD", "one", &pod, "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=");
        assert_eq!(outcome.stderr, "");
        outcome.result();
        call(network, "DEL", "one", &pod, "").silent();
    });
}

#[test]
fn long_names_are_accepted_and_cut_in_tables() {
    on_host(|network| {
        let (namespace, name) = ("n".repeat(63), "p".repeat(253));
        let pod = network.host.pod();
        let args = format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}");
        let outcome = call(network, "ADD", "one", &pod, &args);
        assert_eq!(outcome.stderr, "");
        outcome.result();
        let all = json_of(&looking(network, "pods --json"));
        assert_eq!((&all["pods"][0]["podNamespace"], &all["pods"][0]["podName"]), (&json!(namespace), &json!(name)));
        for line in ["pods", "leases", "top --once --interval 0.1"] {
            let text = shown(&looking(network, line));
            assert_eq!(cells(&text)[1][0].chars().count(), 64, "{text}");
            assert!(cells(&text)[1][0].ends_with('…'), "{text}");
        }
        assert!(shown(&looking(network, "pods --no-trunc")).contains(&format!("{namespace}/{name}  ")));
        call(network, "DEL", "one", &pod, "").silent();
    });
}

#[test]
fn the_log_names_the_pod_of_each_call() {
    with_log(None, |network| {
        let pod = network.host.pod();
        let named = [("pod", "shop/web-0"), ("pod_uid", UID), ("container", "one"), ("result", "ok")];
        let take = |verb: &str| {
            let line = only_line();
            assert_fields(&line, &named);
            assert_eq!(line["command"], verb);
        };
        let result = call(network, "ADD", "one", &pod, &format!("IgnoreUnknown=1;{ARGS}")).result();
        take("ADD");
        let checked = network.by(network.with("prevResult", result));
        for args in [ARGS, ""] {
            call(&checked, "CHECK", "one", &pod, args).silent();
            take("CHECK");
        }
        // From the lease, if the caller passes no names.
        call(network, "DEL", "one", &pod, "").silent();
        take("DEL");
        // From CNI_ARGS, if the lease is gone.
        call(network, "DEL", "one", &pod, ARGS).silent();
        take("DEL");
        let failed = network.by(network.with("mtu", 1));
        let _ = call(&failed, "ADD", "one", &pod, ARGS).error(7);
        assert_fields(&only_line(), &[("pod", "shop/web-0"), ("result", "error")]);
    });
}

#[test]
fn gc_names_the_pods_that_it_collects() {
    with_log(Some("debug"), |network| {
        let pod = network.host.pod();
        call(network, "ADD", "one", &pod, ARGS).result();
        fs::write(LOG, "").expect("root may write");
        let config = network.with("cni.dev/valid-attachments", json!([]));
        network.plugin.invocation("GC").config(&config).run().silent();
        let lines = lines();
        let collected = lines.iter().find(|line| line.get("step").is_some_and(|step| step == "collect"));
        assert_fields(collected.expect("the step is logged"), &[("pod", "shop/web-0"), ("pod_uid", UID)]);
    });
}

/// A lease of an older build has no such keys. It is valid, and so is one with invalid values.
#[test]
fn a_lease_without_names_or_with_invalid_ones_is_valid() {
    on_host(|network| {
        let pods = ["old", "odd"].map(|name| network.attach(name));
        let mut odd = lease(network, "odd");
        (odd["podNamespace"], odd["podName"], odd["podUid"]) = (json!("a\u{1b}[2Jb"), json!(["web-0"]), json!("u1"));
        fs::write(network.lease("odd"), odd.to_string()).expect("room");
        let text = shown(&looking(network, "leases"));
        for row in &cells(&text)[1..3] {
            assert_eq!((row[0], row[6]), ("-", "held"), "{text:?}");
        }
        assert!(text.contains("2 leases, 2 addresses"), "{text}");
        assert_eq!(json_of(&looking(network, "pods --json"))["pods"][1]["podUid"], "u1");
        pods.iter().for_each(|pod| network.detach(pod));
    });
}

/// The cache file of libcni for an attachment. cnitool, containerd and CRI-O write it.
fn cached(container: &str, args: &[[&str; 2]]) -> Value {
    json!({
        "kind": "cniCacheV1", "containerId": container, "config": "e30=", "ifName": "eth0", "networkName": NAME,
        "netns": "/run/netns/none", "cniArgs": args, "result": { "cniVersion": "1.0.0" },
    })
}

/// The result cache names the pod if another plugin assigns the addresses, or the lease has no
/// names.
#[test]
fn the_result_cache_names_pods_without_a_name_in_the_lease() {
    on_host(|network| {
        for file in ["route 10.98.0.0/24", "file /var/lib/cni/networks/"] {
            network.host.keep(file);
        }
        let results = std::path::Path::new("/var/lib/cni/results");
        fs::create_dir_all(results).expect("a directory");
        let args = [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", "web-7"]];
        fs::write(results.join("blackbox-theirs-eth0"), cached("theirs", &args).to_string()).expect("room");
        let bad = [["K8S_POD_NAME", "\u{1b}[2J"]];
        fs::write(results.join("blackbox-bad-eth0"), cached("bad", &bad).to_string()).expect("room");

        let (old, bad) = (network.attach("theirs"), network.attach("bad"));
        for line in ["pods", "leases"] {
            let text = shown(&looking(network, line));
            let names: Vec<&str> = cells(&text)[1..3].iter().map(|row| row[0]).collect();
            assert_eq!(names, ["shop/web-7", "-"], "{line}");
        }
        network.detach(&old);
        network.detach(&bad);

        let config = network.with_keys(json!({ "ipam": { "type": "host-local", "subnet": "10.98.0.0/24" } }));
        let pod = network.host.pod();
        let call = |verb: &str| network.plugin.on(verb, &config, "theirs", &pod).env("CNI_PATH", "/usr/lib/cni").run();
        call("ADD").result();
        let line =
            format!("pods --conf-dir {}", conflist_of(network, &config).parent().expect("a directory").display());
        let text = shown(&line);
        assert_eq!([cells(&text)[1][0], cells(&text)[1][2]], ["shop/web-7", "theirs"], "{text}");
        call("DEL").silent();
        fs::remove_dir_all(results).expect("it is there");
    });
}
