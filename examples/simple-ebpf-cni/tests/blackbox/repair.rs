//! The command `repair`, for damage that cuts pods off or disables the spoof check.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use cnikit_testbed::{Host, Namespace as _, Pod};
use serde_json::{Value, json};

use crate::cli::command;
use crate::doctor::{configured, doctor, found};
use crate::drift::{GATEWAY_V6, assert_ok, repair, status, with_pod};
use crate::support::{Attached, GATEWAY, NAME, Network, code, on_host};

const MAC: &str = "02:00:5e:00:53:77";

/// Debian's plugin directory.
const PEERS: &str = "/usr/lib/cni";

/// Fills the pod's neighbor table with both addresses of the gateway.
#[track_caller]
fn meet_gateway(pod: &Pod) {
    for gateway in [GATEWAY, GATEWAY_V6] {
        assert!(pod.ping(gateway, 2).status.success(), "{gateway}");
    }
    // The kernel does not override an entry in its first second (`locktime`).
    thread::sleep(Duration::from_millis(1100));
}

#[track_caller]
fn reaches_gateway(pod: &Pod) {
    for gateway in [GATEWAY, GATEWAY_V6] {
        assert!(pod.ping(gateway, 3).status.success(), "{gateway}: {:?}", pod.ip(&format!("neighbour show {gateway}")));
    }
}

fn recreate(host: &Host) {
    host.ip("link del cbr0");
    host.ip("link add cbr0 type bridge");
    host.ip("link set cbr0 up");
}

#[test]
fn pods_learn_the_mac_of_a_recreated_bridge() {
    with_pod(|network, pod, dir| {
        meet_gateway(&pod.pod);
        recreate(network.host);
        let (_, problems) = status(dir);
        // The remedy repeats the directory, because it is not the default.
        let words = format!(
            "cbr0 was created again outside the plugin, and the pods of blackbox are not its ports: simple-ebpf-cni \
             repair --network blackbox --conf-dir {}",
            dir.display()
        );
        assert!(problems.contains(&words), "{problems:?}");
        repair(dir, &["created again"]);
        reaches_gateway(&pod.pod);
        assert_eq!(status(dir), (Some(0), Vec::new()));
    });
}

#[test]
fn an_add_announces_the_mac_of_a_recreated_bridge() {
    with_pod(|network, pod, dir| {
        meet_gateway(&pod.pod);
        recreate(network.host);
        let two = network.attach("two");
        reaches_gateway(&pod.pod);
        reaches_gateway(&two.pod);
        assert_eq!(status(dir), (Some(0), Vec::new()));
        network.detach(&two);
    });
}

/// A bridge that an operator created, and its pod.
fn on_bridge_of_operator(test: impl FnOnce(&Network, &Attached, &Path) + Send) {
    on_host(|network| {
        for line in ["link br0 ", "address br0 ", "route fd00:99::/64", "route fe80::/64"] {
            network.host.keep(line);
        }
        network.host.ip("link add br0 type bridge");
        network.host.ip("link set br0 up");
        let network = network.by(network.with("subnets", json!(["fd00:99::/64"])));
        let network = network.by(network.with("bridge", "br0"));
        let pod = network.attach("one");
        test(&network, &pod, &configured(&network));
        network.detach(&pod);
    });
}

#[test]
fn pods_learn_a_changed_mac_of_an_operators_bridge() {
    on_bridge_of_operator(|network, pod, dir| {
        meet_gateway(&pod.pod);
        network.host.ip(&format!("link set br0 address {MAC}"));
        repair(dir, &[MAC]);
        reaches_gateway(&pod.pod);
    });
}

#[test]
fn an_add_announces_a_changed_mac_of_an_operators_bridge() {
    on_bridge_of_operator(|network, pod, _| {
        meet_gateway(&pod.pod);
        network.host.ip(&format!("link set br0 address {MAC}"));
        let two = network.attach("two");
        reaches_gateway(&pod.pod);
        network.detach(&two);
    });
}

/// CHECK, `status` and `doctor` report the fault, and `repair` fixes it.
#[track_caller]
fn assert_repairs_port(network: &Network, pod: &Attached, dir: &Path, words: &str) {
    let differences = network.check(pod).error(code::DIFFERS);
    assert!(differences.contains(words) && differences.contains(pod.host_veth()), "{differences}");
    let (status, problems) = status(dir);
    let joined = problems.join("\n");
    assert!(status == Some(1) && joined.contains(words) && joined.contains("pod one"), "{problems:?}");
    assert!(joined.contains("simple-ebpf-cni repair --network blackbox"), "{joined}");
    let (_, checks) = doctor(dir);
    let failed = found(&checks, "port", "fail");
    assert!(failed.contains(words) && failed.contains("pod one"), "{checks:#?}");
    repair(dir, &[words]);
    assert_ok(network, pod, dir);
}

#[test]
fn the_port_of_one_pod_is_repaired() {
    with_pod(|network, pod, dir| {
        let two = network.attach("two");
        let veth = pod.host_veth();
        let clsact = || network.host.tc(&format!("qdisc show dev {veth}")).to_string().contains("clsact");
        assert!(clsact(), "the control");
        network.host.command("tc").words(&format!("qdisc del dev {veth} clsact")).run();
        assert_repairs_port(network, pod, dir, "the eBPF programs do not run on");
        assert!(clsact(), "the pod is again a port of the network's blocks");

        network.host.ip(&format!("link set {veth} nomaster"));
        assert_repairs_port(network, pod, dir, "is no port of the bridge cbr0");

        network.host.ip(&format!("link set {veth} down"));
        assert_repairs_port(network, pod, dir, "is down");
        assert!(two.pod.ping(pod.address(), 2).status.success());

        network.host.command("bridge").words(&format!("fdb delete {} dev {veth} master", pod.mac())).run();
        assert_repairs_port(network, pod, dir, "does not know");

        // All faults at once, of two pods.
        for pod in [pod, &two] {
            let veth = pod.host_veth();
            network.host.command("tc").words(&format!("qdisc del dev {veth} clsact")).run();
            network.host.ip(&format!("link set {veth} nomaster down"));
        }
        let (_, problems) = status(dir);
        assert!(problems.join("").contains("pod two"), "{problems:?}");
        repair(dir, &["are down", "are no ports", "do not run"]);
        assert_ok(network, pod, dir);
        network.check(&two).silent();
        network.detach(&two);
    });
}

/// The bridge's own qdisc is the network's claim.
#[test]
fn the_claim_of_a_bridge_is_repaired() {
    with_pod(|network, pod, dir| {
        network.host.command("tc").words("qdisc del dev cbr0 clsact").run();
        let (ended, problems) = status(dir);
        assert!(ended == Some(1) && problems.join("").contains("do not run on cbr0"), "{problems:?}");
        let shown = command(&format!("status --conf-dir {}", dir.display())).stdout;
        assert!(shown.contains("eBPF     not on cbr0, direct forwarding on"), "{shown}");
        repair(dir, &["do not run on cbr0"]);
        assert_ok(network, pod, dir);
        network.host.ip("link del cbr0");
        let shown = command(&format!("status --conf-dir {}", dir.display())).stdout;
        assert!(shown.contains("bridge   cbr0 is missing"), "{shown}");
        repair(dir, &["is gone"]);
        assert_ok(network, pod, dir);
    });
}

#[test]
fn detached_programs_are_attached_again() {
    with_pod(|network, pod, dir| {
        network.detach_programs();
        let (ended, problems) = status(dir);
        let joined = problems.join("");
        assert!(ended == Some(1) && joined.contains("not attached: simple-ebpf-cni repair"), "{problems:?}");
        let output = command(&format!("repair --conf-dir {}", dir.display()));
        let repaired: Vec<&str> = output.stdout.lines().filter(|line| line.contains("repaired:")).collect();
        assert!(repaired.iter().any(|line| line.ends_with("not attached")), "{output:#?}");
        assert_ok(network, pod, dir);
    });
}

#[test]
fn disabled_ipv6_on_the_bridge_is_enabled() {
    with_pod(|network, pod, dir| {
        fs::write("/proc/sys/net/ipv6/conf/cbr0/disable_ipv6", "1").expect("a private setting");
        assert_eq!(status(dir).0, Some(1));
        let output = command(&format!("repair --conf-dir {}", dir.display()));
        assert_eq!(output.status.code(), Some(0), "{output:#?}");
        let setting = fs::read_to_string("/proc/sys/net/ipv6/conf/cbr0/disable_ipv6").expect("a setting");
        assert_eq!(setting.trim(), "0");
        assert_ok(network, pod, dir);
    });
}

/// The map entry of a gateway stays after the bridge is deleted, through `repair` and GC.
#[test]
fn a_new_bridge_without_the_gateway_of_a_delegate_is_reported() {
    on_host(|network| {
        let state = network.host.scratch();
        let config =
            network.with_keys(json!({ "ipam": { "type": "host-local", "subnet": "10.99.0.0/24", "dataDir": state } }));
        let call = |verb: &str, config: &Value, container: &str, pod: &Pod| {
            network.plugin.on(verb, config, container, pod).env("CNI_PATH", PEERS).run()
        };
        let (one, two) = (network.host.pod(), network.host.pod());
        let result = call("ADD", &config, "one", &one).result();
        let dir = network.host.scratch();
        fs::write(dir.join("10-blackbox.conf"), config.to_string()).expect("room");
        assert_eq!(status(&dir), (Some(0), Vec::new()));

        network.host.ip("link del cbr0");
        let words = "the bridge cbr0 lacks the gateway's address 10.99.0.1";
        let is_missed = || {
            let (ended, problems) = status(&dir);
            let remedy = format!("{words}: attach a pod of {NAME}");
            assert!(ended == Some(1) && problems.contains(&remedy), "{problems:?}");
            let (_, checks) = doctor(&dir);
            assert!(found(&checks, "gateway", "fail").contains(words), "{checks:#?}");
            assert!(found(&checks, "endpoints", "warn").is_empty(), "{checks:#?}");
            let mut checked = config.clone();
            checked["prevResult"] = result.clone();
            let differences = call("CHECK", &checked, "one", &one).error(code::DIFFERS);
            assert!(differences.contains("lacks the gateway's address 10.99.0.1/24"), "{differences}");
        };
        for _ in 0..2 {
            let output = command(&format!("repair --conf-dir {}", dir.display()));
            assert!(output.status.code() == Some(1) && output.stdout.contains(words), "{output:#?}");
            is_missed();
        }
        let mut valid = config.clone();
        valid["cniVersion"] = "1.1.0".into();
        valid["cni.dev/valid-attachments"] = json!([{ "containerID": "one", "ifname": "eth0" }]);
        // Debian's host-local refuses GC. The plugin still removes entries.
        let _outcome = network.plugin.invocation("GC").config(&valid).env("CNI_PATH", PEERS).run();
        is_missed();

        call("ADD", &config, "two", &two).result();
        assert_eq!(status(&dir), (Some(0), Vec::new()));
        for pod in [&one, &two] {
            assert!(pod.ping(GATEWAY, 3).status.success());
        }
        call("DEL", &config, "one", &one).silent();
        call("DEL", &config, "two", &two).silent();
    });
}

/// The port of a pod without a lease has an entry in the maps.
#[test]
fn the_port_of_a_pod_without_a_lease_is_repaired() {
    on_host(|network| {
        let state = network.host.scratch();
        let config =
            network.with_keys(json!({ "ipam": { "type": "host-local", "subnet": "10.99.0.0/24", "dataDir": state } }));
        let pod = network.host.pod();
        let call = |verb: &str| network.plugin.on(verb, &config, "one", &pod).env("CNI_PATH", PEERS).run();
        let result = call("ADD").result();
        let dir = network.host.scratch();
        fs::write(dir.join("10-blackbox.conf"), config.to_string()).expect("room");
        let veth = result["interfaces"][1]["name"].as_str().expect("a name");
        network.host.command("tc").words(&format!("qdisc del dev {veth} clsact")).run();
        network.host.ip(&format!("link set {veth} nomaster down"));
        assert_eq!(status(&dir).0, Some(1));
        repair(&dir, &["is down", "no port of", "do not run"]);
        assert_eq!(status(&dir), (Some(0), Vec::new()));
        assert!(pod.ping(GATEWAY, 3).status.success());
        call("DEL").silent();
    });
}

#[test]
fn a_network_without_its_configuration_has_a_remedy() {
    with_pod(|network, pod, dir| {
        let file = dir.join("10-blackbox.conf");
        fs::rename(&file, dir.join("kept")).expect("it is there");
        let options = format!("--conf-dir {}", dir.display());
        let remedy = &format!(
            "restore its configuration, for example with simple-ebpf-cni install --network blackbox --subnet PREFIX \
             {options}, then simple-ebpf-cni repair --network blackbox {options}"
        );
        let (_, problems) = status(dir);
        assert!(problems[0].starts_with("no file in") && problems[0].ends_with(remedy), "{problems:?}");
        let (_, problems) = status(&dir.join("none"));
        assert!(problems[0].starts_with("there is no ") && problems[0].ends_with("with --conf-dir"), "{problems:?}");
        network.host.ip("link del cbr0");
        let (_, problems) = status(dir);
        assert!(problems.iter().any(|found| found.contains("is gone") && found.ends_with(remedy)), "{problems:?}");
        fs::rename(dir.join("kept"), &file).expect("it is there");
        repair(dir, &["is gone"]);
        assert_ok(network, pod, dir);
    });
}

/// Pods keep the addresses of a subnet that is no longer configured.
#[test]
fn gateways_of_former_subnets_are_restored_while_a_pod_needs_them() {
    with_pod(|network, pod, dir| {
        let config = network.with("subnets", json!(["fd00:98::/64"]));
        fs::write(dir.join("10-blackbox.conf"), config.to_string()).expect("room");
        network.host.ip("link del cbr0");
        repair(dir, &["is gone"]);
        reaches_gateway(&pod.pod);
        assert!(network.host.addresses("cbr0").contains(&format!("{GATEWAY_V6}/64")), "the prefix of the lease");

        let other = network.by(config);
        let two = other.attach("two");
        network.detach(pod);
        network.host.ip("link del cbr0");
        repair(dir, &["is gone"]);
        assert!(!network.host.addresses("cbr0").contains(&format!("{GATEWAY_V6}/64")), "no pod needs it");
        assert_eq!(status(dir), (Some(0), Vec::new()));
        other.detach(&two);
        network.host.ip("link del cbr0");
    });
}
