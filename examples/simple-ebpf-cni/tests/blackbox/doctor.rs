//! The command `doctor`: each test creates a fault and expects its report.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use cnikit_testbed::{Command, Footprint, Namespace as _};
use serde_json::{Value, json};

use crate::cli::{BINARY, command, conflist, shown};
use crate::install::{BLACKBOX, Node};
use crate::support::{DATA_DIR, Network, bin, on_host};

/// The exit status and the checks of `doctor` with this configuration directory.
#[track_caller]
pub(crate) fn doctor(conf_dir: &Path) -> (Option<i32>, Vec<Value>) {
    doctor_in(conf_dir, bin())
}

/// The same with another plugin directory.
#[track_caller]
fn doctor_in(conf_dir: &Path, bin_dir: &Path) -> (Option<i32>, Vec<Value>) {
    let (conf_dir, bin_dir) = (conf_dir.display(), bin_dir.display());
    let output = command(&format!("doctor --json --conf-dir {conf_dir} --bin-dir {bin_dir}"));
    let report: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:#?}"));
    (output.status.code(), report["checks"].as_array().expect("a list").clone())
}

/// The findings with this check name and verdict, with their fixes.
pub(crate) fn found(checks: &[Value], check: &str, verdict: &str) -> String {
    let of = checks.iter().filter(|one| one["check"] == check && one["verdict"] == verdict);
    of.map(|one| format!("{} -> {}\n", one["found"], one["remedy"])).collect()
}

/// Writes an executable shell script.
fn script(path: &Path, line: &str) {
    fs::write(path, format!("#!/bin/sh\n{line}\n")).expect("room");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("the owner");
}

/// A directory with the network's configuration, as a single plugin.
pub(crate) fn configured(network: &Network) -> std::path::PathBuf {
    let dir = network.host.scratch();
    fs::write(dir.join("10-blackbox.conf"), network.config.to_string()).expect("room");
    dir
}

#[test]
fn a_working_node_passes_and_does_not_change() {
    on_host(|network| {
        let dir = configured(network);
        let (status, checks) = doctor(&dir);
        assert_eq!(status, Some(0), "{checks:#?}");
        for check in ["kernel", "capabilities", "bpffs", "selftest", "binary", "config"] {
            assert!(!found(&checks, check, "ok").is_empty(), "{check}: {checks:#?}");
        }
        network.footprint().assert_unchanged(&Footprint::default(), "doctor");

        let pod = network.attach("one");
        let before = network.footprint();
        let (status, checks) = doctor(&dir);
        assert_eq!(status, Some(0), "{checks:#?}");
        assert!(found(&checks, "network", "ok").contains("1 pod"), "{checks:#?}");
        network.footprint().assert_unchanged(&before, "doctor");
        let text = command(&format!("doctor --conf-dir {} --bin-dir {}", dir.display(), bin().display()));
        assert!(text.stdout.starts_with("ok    kernel "), "{text:?}");
        network.detach(&pod);
    });
}

#[test]
fn missing_privileges_are_reported() {
    on_host(|network| {
        let dir = configured(network);
        let copy = network.host.scratch().join("simple-ebpf-cni");
        fs::copy(BINARY, &copy).expect("room");
        let unprivileged = |words: &str| {
            let setpriv =
                Command::new("setpriv").args(["--bounding-set=-all", "--inh-caps=-all", "--reuid=65534", "--"]);
            setpriv.arg(&copy).words(words).arg("--conf-dir").arg(&dir).output()
        };
        // A process that cannot read the pods must not report that none exist.
        for words in ["pods", "top --once", "status", "uninstall"] {
            let output = unprivileged(words);
            assert_eq!((output.status.code(), output.stdout.as_str()), (Some(1), ""), "{output:?}");
            let message = output.stderr.trim_end();
            assert!(message.ends_with("run it as root") && !message.contains('\n'), "{message}");
        }
        let output = unprivileged("doctor --json");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let report: Value = serde_json::from_str(&output.stdout).expect("JSON");
        let checks = report["checks"].as_array().expect("a list");
        let failed = found(checks, "capabilities", "fail");
        assert!(
            ["CAP_NET_ADMIN", "CAP_SYS_ADMIN", "CAP_BPF", "root"].iter().all(|word| failed.contains(word)),
            "{failed}"
        );
    });
}

#[test]
fn an_unmounted_bpf_file_system_is_reported() {
    on_host(|network| {
        let dir = configured(network);
        // The machine may have its own mount below the mount of the test.
        let is_mounted = || {
            let mounts = network.host.command("cat").arg("/proc/self/mounts").run();
            mounts.contains(" /sys/fs/bpf bpf ")
        };
        assert!(is_mounted());
        while is_mounted() {
            network.host.command("umount").arg("/sys/fs/bpf").run();
        }
        let (_, checks) = doctor(&dir);
        assert!(found(&checks, "bpffs", "warn").contains("mount -t bpf"), "{checks:#?}");
        let skipped = found(&checks, "selftest", "warn");
        assert!(skipped.contains("skipped: it would mount the BPF file system"), "{checks:#?}");
        assert!(!is_mounted(), "doctor has mounted it");
    });
}

#[test]
fn unusable_and_foreign_configurations_are_reported() {
    on_host(|network| {
        let dir = network.host.scratch();
        let (_, checks) = doctor(&dir);
        assert!(found(&checks, "config", "warn").contains("install"), "{checks:#?}");

        fs::copy(conflist(network), dir.join("10-blackbox.conflist")).expect("room");
        let (status, checks) = doctor(&dir);
        // The list has the plugin tuning too, which is not in the plugin directory.
        assert_eq!(status, Some(1));
        assert!(found(&checks, "plugins", "fail").contains("tuning"), "{checks:#?}");

        let theirs = json!({ "cniVersion": "1.0.0", "name": "theirs", "type": "bridge" });
        fs::write(dir.join("05-theirs.conf"), theirs.to_string()).expect("room");
        fs::write(dir.join("06-broken.conf"), "{").expect("room");
        let (_, checks) = doctor(&dir);
        let warned = found(&checks, "config", "warn");
        assert!(warned.contains("05-theirs.conf sorts first") && warned.contains("06-broken.conf"), "{warned}");

        fs::write(dir.join("10-blackbox.conflist"), network.with("subnet", "10.99.0.7/24").to_string()).expect("room");
        let (status, checks) = doctor(&dir);
        assert_eq!(status, Some(1));
        assert!(found(&checks, "config", "fail").contains("10.99.0.0/24"), "{checks:#?}");
    });
}

#[test]
fn a_taken_bridge_and_overlapping_routes_are_reported() {
    on_host(|network| {
        let dir = configured(network);
        network.host.ip("link add cbr0 type veth peer name far");
        let (status, checks) = doctor(&dir);
        assert_eq!(status, Some(1));
        assert!(found(&checks, "bridge", "fail").contains("cbr0"), "{checks:#?}");
        network.host.ip("link del cbr0");

        network.host.ip("link add up0 type veth peer name far");
        network.host.ip("link set far up");
        network.host.ip("link set up0 up");
        network.host.ip("route add 10.99.0.128/25 dev up0");
        let (status, checks) = doctor(&dir);
        assert_eq!(status, Some(0));
        let warned = found(&checks, "routes", "warn");
        assert!(warned.contains("10.99.0.128/25") && warned.contains("up0"), "{checks:#?}");
        network.host.ip("route add default dev up0");
        network.host.ip("route del 10.99.0.128/25");
        let (_, checks) = doctor(&dir);
        assert_eq!(found(&checks, "routes", "warn"), "", "a default route does not overlap");
        network.host.ip("link del up0");
    });
}

#[test]
fn disabled_forwarding_is_reported() {
    on_host(|network| {
        let dir = configured(network);
        for (value, verdict) in [("0", "warn"), ("1", "ok")] {
            fs::write("/proc/sys/net/ipv4/ip_forward", value).expect("a private setting");
            let (_, checks) = doctor(&dir);
            assert!(!found(&checks, "ip_forward", verdict).is_empty(), "{checks:#?}");
        }
    });
}

#[test]
fn stale_leases_entries_and_pins_are_reported() {
    on_host(|network| {
        let dir = configured(network);
        let pod = network.attach("one");
        network.host.ip(&format!("link del {}", pod.host_veth()));
        let (_, checks) = doctor(&dir);
        assert!(found(&checks, "leases", "warn").contains("1 lease of blackbox"), "{checks:#?}");
        assert!(found(&checks, "endpoints", "warn").contains("1 entry"), "{checks:#?}");
        network.detach(&pod);

        fs::remove_file(dir.join("10-blackbox.conf")).expect("the file");
        let (_, checks) = doctor(&dir);
        assert!(found(&checks, "pins", "warn").contains("uninstall --purge --network blackbox"), "{checks:#?}");
    });
}

#[test]
fn a_missing_or_different_binary_is_reported() {
    on_host(|network| {
        let (dir, bin_dir) = (configured(network), network.host.scratch());
        let checks = || {
            let output =
                command(&format!("doctor --json --conf-dir {} --bin-dir {}", dir.display(), bin_dir.display()));
            let report: Value = serde_json::from_str(&output.stdout).expect("JSON");
            (output.status.code(), report["checks"].as_array().expect("a list").clone())
        };
        let (status, missing) = checks();
        assert_eq!(status, Some(1));
        assert!(found(&missing, "binary", "fail").contains("install"), "{missing:#?}");
        fs::copy("/bin/true", bin_dir.join("simple-ebpf-cni")).expect("room");
        let (status, other) = checks();
        assert_eq!(status, Some(0), "{other:#?}");
        assert!(found(&other, "binary", "warn").contains("another build"), "{other:#?}");
    });
}

/// Only a kubelet makes a missing `loopback` a failure, and only if it has a network to use.
#[test]
fn a_missing_loopback_is_reported() {
    on_host(|network| {
        let (dir, empty, bin_dir) = (configured(network), network.host.scratch(), network.host.scratch());
        fs::copy(BINARY, bin_dir.join("simple-ebpf-cni")).expect("room");
        let loopback = |conf_dir: &Path, verdict: &str| {
            let (status, checks) = doctor_in(conf_dir, &bin_dir);
            assert_eq!(status, Some(i32::from(verdict == "fail")), "{checks:#?}");
            let found = found(&checks, "loopback", verdict);
            assert!(!found.is_empty(), "{verdict}: {checks:#?}");
            found
        };
        let link = bin_dir.join("loopback");
        let install = format!("simple-ebpf-cni install --conf-dir {} --bin-dir {}", dir.display(), bin_dir.display());
        let warned = loopback(&dir, "warn");
        assert!(warned.contains("containerd and CRI-O start no pod") && warned.contains(&install), "{warned}");
        network.host.empty_dir("/var/lib/kubelet");
        assert!(loopback(&dir, "fail").contains(&install));
        loopback(&empty, "warn");
        symlink("gone", &link).expect("room");
        assert!(loopback(&dir, "fail").contains(&format!("remove {}, then simple-ebpf", link.display())));
        fs::remove_file(&link).expect("the link");
        fs::copy("/bin/true", &link).expect("room");
        assert!(loopback(&dir, "ok").contains("another plugin"));
        fs::remove_file(&link).expect("the file");
        symlink("simple-ebpf-cni", &link).expect("room");
        assert!(loopback(&dir, "ok").contains("is this plugin"));
        // install alone repairs its own link.
        fs::remove_file(bin_dir.join("simple-ebpf-cni")).expect("the binary");
        let broken = loopback(&dir, "fail");
        assert!(broken.contains(&format!("-> \"{install}")) && !broken.contains("remove"), "{broken}");
    });
}

/// `cp` to `loopback` writes through the link to the binary.
#[test]
fn an_overwritten_binary_is_reported() {
    on_host(|network| {
        let node = Node::new(network);
        shown(&node.install(BLACKBOX));
        let (status, checks) = doctor_in(&node.conf_dir, &node.bin_dir);
        assert!(status == Some(0) && !found(&checks, "loopback", "ok").is_empty(), "{checks:#?}");
        network.host.command("cp").arg("/bin/true").arg(node.loopback()).run();
        let (status, checks) = doctor_in(&node.conf_dir, &node.bin_dir);
        let (conf_dir, bin_dir) = (node.conf_dir.display(), node.bin_dir.display());
        let remedy = format!("simple-ebpf-cni install --force --conf-dir {conf_dir} --bin-dir {bin_dir}");
        assert_eq!(status, Some(1), "{checks:#?}");
        let failed = found(&checks, "binary", "fail");
        assert!(failed.contains("another program") && failed.contains(&remedy), "{checks:#?}");
        assert!(found(&checks, "loopback", "warn").contains(&remedy), "{checks:#?}");
        shown(remedy.strip_prefix("simple-ebpf-cni ").expect("the plugin"));
        let (status, checks) = doctor_in(&node.conf_dir, &node.bin_dir);
        assert!(status == Some(0) && found(&checks, "loopback", "ok").contains("this plugin"), "{checks:#?}");
        // An edited file of install would stay after uninstall.
        script(&node.bin_dir.join("portmap"), r#"echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}'"#);
        let (_, checks) = doctor_in(&node.conf_dir, &node.bin_dir);
        let warned = found(&checks, "portmap", "warn");
        assert!(
            warned.contains("run the same simple-ebpf-cni install again") && !warned.contains(".conflist"),
            "{warned}"
        );
        shown(&node.install(BLACKBOX));
        let (_, checks) = doctor_in(&node.conf_dir, &node.bin_dir);
        assert_eq!(found(&checks, "portmap", "warn"), "");
        shown(&node.uninstall(""));
    });
}

/// Runtimes ignore ports to publish if no plugin of the list takes them.
#[test]
fn a_list_without_portmap_is_reported() {
    on_host(|network| {
        let (dir, bin_dir) = (configured(network), network.host.scratch());
        fs::copy(BINARY, bin_dir.join("simple-ebpf-cni")).expect("room");
        let file = dir.join("10-blackbox.conf").display().to_string();
        let (status, checks) = doctor_in(&dir, &bin_dir);
        let noted = found(&checks, "portmap", "ok");
        assert!(noted.contains("does not have portmap") && noted.contains("install portmap there"), "{checks:#?}");
        assert_eq!(status, Some(0));

        script(&bin_dir.join("portmap"), r#"echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}'"#);
        let (status, checks) = doctor_in(&dir, &bin_dir);
        let warned = found(&checks, "portmap", "warn");
        assert!(warned.contains("the node has it") && warned.contains(&file), "{checks:#?}");
        assert_eq!(status, Some(0));

        let list =
            json!({ "cniVersion": "1.0.0", "name": "blackbox", "plugins": [network.config, { "type": "portmap" }] });
        fs::remove_file(dir.join("10-blackbox.conf")).expect("the file");
        fs::write(dir.join("10-blackbox.conflist"), list.to_string()).expect("room");
        let (status, checks) = doctor_in(&dir, &bin_dir);
        assert!(checks.iter().all(|check| check["check"] != "portmap" && check["check"] != "plugins"), "{checks:#?}");
        assert_eq!(status, Some(0));
    });
}

/// Such a plugin fails at each ADD and STATUS.
#[test]
fn a_plugin_that_does_not_support_the_version_is_reported() {
    on_host(|network| {
        let (dir, bin_dir) = (network.host.scratch(), network.host.scratch());
        fs::copy(BINARY, bin_dir.join("simple-ebpf-cni")).expect("room");
        let mut ours = network.config.clone();
        ours["ipam"] = json!({ "type": "addresses" });
        ours.as_object_mut().expect("an object").remove("subnet");
        let list = json!({ "cniVersion": "1.1.0", "name": "blackbox", "plugins": [ours, { "type": "portmap" }] });
        fs::write(dir.join("10-blackbox.conflist"), list.to_string()).expect("room");
        // The plugin does not support the newest version.
        let old = r#"echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0","1.2.0"]}'"#;
        let new = r#"echo '{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}'"#;
        for (portmap, addresses, reported) in
            [(new, new, &[][..]), (old, new, &["portmap"]), (old, old, &["portmap", "addresses"]), (new, "exit 7", &[])]
        {
            script(&bin_dir.join("portmap"), portmap);
            script(&bin_dir.join("addresses"), addresses);
            let (status, checks) = doctor_in(&dir, &bin_dir);
            let failed = found(&checks, "plugins", "fail");
            assert_eq!(failed.lines().count(), reported.len(), "{checks:#?}");
            for plugin in reported {
                assert!(failed.contains(&format!("{plugin} does not support CNI version 1.1.0")), "{failed}");
                assert!(
                    failed.contains(&format!("install a newer {plugin}")) && failed.contains("to \\\"1.0.0"),
                    "{failed}"
                );
            }
            assert_eq!(status, Some(i32::from(!reported.is_empty())), "{checks:#?}");
        }
    });
}

/// The limits of `bandwidth` apply at a qdisc that direct packets bypass.
#[test]
fn bypassed_bandwidth_limits_are_reported() {
    on_host(|network| {
        let dir = network.host.scratch();
        for (direct, limit, warns) in [
            (true, json!({ "ingressRate": 1_000_000, "ingressBurst": 1_000_000 }), true),
            (true, json!({ "egressRate": 1_000_000, "egressBurst": 1_000_000 }), true),
            (true, json!({ "capabilities": { "bandwidth": true } }), false),
            (false, json!({ "ingressRate": 1_000_000, "ingressBurst": 1_000_000 }), false),
        ] {
            let mut ours = network.config.clone();
            ours["directForwarding"] = direct.into();
            let mut bandwidth = limit.clone();
            bandwidth["type"] = "bandwidth".into();
            let list = json!({ "cniVersion": "1.0.0", "name": "blackbox", "plugins": [ours, bandwidth] });
            fs::write(dir.join("10-blackbox.conflist"), list.to_string()).expect("room");
            let (_, checks) = doctor(&dir);
            let warned = found(&checks, "bandwidth", "warn");
            assert_eq!(warned.contains("directForwarding"), warns, "{direct} {limit}: {checks:#?}");
        }
    });
}

#[test]
fn conflicting_networks_are_reported() {
    on_host(|network| {
        let dir = network.host.scratch();
        for (bridge, subnet, word) in [
            ("cbr0", "10.98.0.0/24", "both have the bridge cbr0"),
            ("other0", "10.99.0.0/25", "overlaps with 10.99.0.0/25 of other"),
            ("other0", "10.98.0.0/24", ""),
        ] {
            let mut other = network.config.clone();
            (other["name"], other["bridge"], other["subnet"]) = ("other".into(), bridge.into(), subnet.into());
            fs::write(dir.join("10-blackbox.conf"), network.config.to_string()).expect("room");
            fs::write(dir.join("20-other.conf"), other.to_string()).expect("room");
            let (status, checks) = doctor(&dir);
            let failed = found(&checks, "config", "fail");
            assert!(failed.contains(word) && failed.is_empty() == word.is_empty(), "{bridge} {subnet}: {checks:#?}");
            assert_eq!(status, Some(i32::from(!word.is_empty())), "{checks:#?}");
        }
    });
}

/// These settings are harmless before the first pod, and cut off attached pods.
#[test]
fn lost_masquerading_and_forwarding_are_reported() {
    on_host(|network| {
        let network = &network.by(network.with("ipMasq", true));
        let dir = configured(network);
        let pod = network.attach("one");
        let status = || command(&format!("status --conf-dir {}", dir.display()));
        assert!(doctor(&dir).0 == Some(0) && status().status.success(), "{:?}", status());

        network.host.command("nft").words("flush ruleset").run();
        let (ended, checks) = doctor(&dir);
        let failed = found(&checks, "masquerade", "fail");
        assert!(ended == Some(1) && failed.contains("simple-ebpf-cni repair --network blackbox"), "{checks:#?}");
        let output = status();
        assert!(output.status.code() == Some(1) && output.stdout.contains("masquerade"), "{output:?}");
        let other = network.attach("two");
        assert!(
            doctor(&dir).0 == Some(0) && status().status.success(),
            "the next ADD repairs the rules: {:?}",
            status()
        );

        fs::write("/proc/sys/net/ipv4/ip_forward", "0").expect("a private setting");
        let (ended, checks) = doctor(&dir);
        let failed = found(&checks, "ip_forward", "fail");
        assert!(ended == Some(1) && failed.contains("sysctl -w net.ipv4.ip_forward=1"), "{checks:#?}");
        let output = status();
        assert!(output.status.code() == Some(1) && output.stdout.contains("net.ipv4.ip_forward=1"), "{output:?}");
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("a private setting");
        [pod, other].iter().for_each(|pod| network.detach(pod));
        let chain = "nft delete table inet simple-ebpf-cni";
        network.host.command("sh").args(["-c", chain]).run();
    });
}

#[test]
fn pods_without_leases_are_reported() {
    on_host(|network| {
        let dir = configured(network);
        let pods = ["one", "two"].map(|name| network.attach(name));
        let kept = network.host.scratch().join("state");
        network.host.command("mv").arg(DATA_DIR).arg(&kept).run();
        let (ended, checks) = doctor(&dir);
        let failed = found(&checks, "leases", "fail");
        assert!(ended == Some(1) && failed.contains("2 pods of blackbox have no lease"), "{checks:#?}");
        let output = command(&format!("status --conf-dir {}", dir.display()));
        assert!(
            output.status.code() == Some(1) && output.stdout.contains("2 pods of blackbox have no lease"),
            "{output:?}"
        );
        network.host.command("mv").arg(&kept).arg(DATA_DIR).run();
        assert_eq!(doctor(&dir).0, Some(0));
        pods.iter().for_each(|pod| network.detach(pod));
    });
}

#[test]
fn a_bridge_that_is_down_or_deleted_under_pods_is_reported() {
    on_host(|network| {
        let dir = configured(network);
        let pod = network.attach("one");
        network.host.ip("link set cbr0 down");
        let (ended, checks) = doctor(&dir);
        assert!(ended == Some(1) && found(&checks, "bridge", "fail").contains("ip link set cbr0 up"), "{checks:#?}");
        network.host.ip("link del cbr0");
        let (ended, checks) = doctor(&dir);
        assert!(ended == Some(1) && found(&checks, "bridge", "fail").contains("is gone"), "{checks:#?}");
        network.detach(&pod);
    });
}

#[test]
fn a_node_without_an_installation_passes() {
    on_host(|network| {
        let [conf_dir, bin_dir] = [(); 2].map(|()| network.host.scratch());
        let output =
            command(&format!("doctor --json --conf-dir {} --bin-dir {}", conf_dir.display(), bin_dir.display()));
        let report: Value = serde_json::from_str(&output.stdout).expect("JSON");
        let warned = found(report["checks"].as_array().expect("a list"), "binary", "warn");
        assert_eq!(output.status.code(), Some(0), "{output:#?}");
        assert!(warned.contains("install") && !warned.contains("CNI_PATH"), "{warned}");
    });
}
