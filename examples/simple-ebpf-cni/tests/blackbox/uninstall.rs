//! The command `uninstall`: removed and kept objects of a node.

use std::fs;
use std::path::Path;

use cnikit_testbed::{Call, Command, Footprint, Namespace as _, Ruling};
use serde_json::json;

use crate::cli::{BINARY, command, conflist_of, refused, shown};
use crate::install::{BLACKBOX, Node};
use crate::support::{DATA_DIR, ORPHANS, STATE_DIR, on_host};

/// The protocol number of nftables sockets.
const NETLINK_NETFILTER: u64 = 12;

const PINS: &str = "/sys/fs/bpf/simple-ebpf-cni";

#[test]
fn a_purge_leaves_nothing_of_the_network() {
    on_host(|network| {
        let node = Node::new(network);
        let before = network.footprint();
        shown(&node.install(BLACKBOX));
        let installed = node.network("10-blackbox.conflist");
        let pods = ["one", "two"].map(|name| installed.attach(name));
        installed.detach(&installed.attach("three"));
        let planned = shown(&node.uninstall("--purge --force -n"));
        let text = shown(&node.uninstall("--purge --force"));
        assert_eq!(planned.replace("would remove", "removed"), text, "a dry run lists the same");
        assert!(text.contains(&format!("removed {STATE_DIR}\n")) && text.contains(&format!("removed {DATA_DIR}\n")));
        for what in [
            format!("removed {ORPHANS}"),
            format!("removed {}", node.binary().display()),
            format!("removed {}", node.conf("10-blackbox.conflist").display()),
            format!("removed veth {}", pods[0].host_veth()),
            format!("removed veth {}", pods[1].host_veth()),
            "removed bridge cbr0".into(),
            "removed programs and maps pinned in /sys/fs/bpf/simple-ebpf-cni/blackbox".into(),
            format!("removed leases in {DATA_DIR}/blackbox"),
        ] {
            assert!(text.contains(&what), "{what}: {text}");
        }
        network.footprint().assert_unchanged(&before, "install and purge");
        node.files().assert_unchanged(&Footprint::default(), "install and purge");
        assert!(!Path::new(DATA_DIR).exists() && !Path::new("/sys/fs/bpf/simple-ebpf-cni").exists());
        assert!(!Path::new(STATE_DIR).exists());
        for pod in &pods {
            assert!(pod.pod.link("eth0").is_none());
            network.detach(pod);
        }
    });
}

/// The runtime of another network starts no pod without a `loopback`.
#[test]
fn a_loopback_that_other_networks_need_is_kept() {
    on_host(|network| {
        for way in ["--force", "removed", "replaced"] {
            let node = Node::new(network);
            shown(&node.install(BLACKBOX));
            let other = json!({ "cniVersion": "1.0.0", "name": "other", "plugins": [{ "type": "bridge" }] });
            let file = node.conf("20-other.conflist");
            fs::write(&file, other.to_string()).expect("room");
            let planned = shown(&node.uninstall("--purge -n"));
            let text = shown(&node.uninstall("--purge"));
            assert_eq!(planned.replace("would remove", "removed"), text, "a dry run lists the same");
            for path in [node.binary(), node.loopback()] {
                let kept = text.lines().find(|line| line.starts_with(&format!("kept {}: ", path.display())));
                let kept = kept.unwrap_or_else(|| panic!("{text}"));
                assert!(kept.contains(file.to_str().expect("a text")) && kept.contains("--force"), "{kept}");
            }
            assert!(text.contains(&format!("removed {}\n", node.conf("10-blackbox.conflist").display())), "{text}");
            assert_eq!(fs::read(node.loopback()).expect("a file"), fs::read(BINARY).expect("a file"));
            let options = if way == "--force" { "--purge --force" } else { "--purge" };
            match way {
                "removed" => fs::remove_file(&file).expect("the file"),
                "replaced" => {
                    fs::remove_file(node.loopback()).expect("the link");
                    fs::copy("/bin/true", node.loopback()).expect("room");
                }
                _ => {}
            }
            shown(&node.uninstall(options));
            assert_eq!(node.loopback().exists(), way == "replaced");
            assert!(!node.binary().exists() && !Path::new(DATA_DIR).exists());
        }
    });
}

/// An error of one network does not stop the removal of another. A forced purge finds the pods by
/// the ports of the bridge.
#[test]
fn a_purge_continues_after_unreadable_leases() {
    on_host(|network| {
        let pod = network.attach("one");
        let leases = Path::new(DATA_DIR).join("blackbox/leases");
        std::fs::remove_dir_all(&leases).expect("the leases");
        std::fs::write(&leases, "in the way").expect("room");
        let output = command("uninstall --purge --force");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stderr.contains("leases"), "{output:?}");
        assert!(output.stdout.contains(&format!("removed veth {}", pod.host_veth())), "{output:?}");
        assert!(network.host.link("cbr0").is_none() && !Path::new(PINS).exists(), "{output:?}");
        std::fs::remove_file(&leases).expect("the file");
        shown("uninstall --purge --force");
        assert!(!Path::new(DATA_DIR).exists());
        network.detach(&pod);
    });
}

/// Two runs, or two configurations, with leases in a directory that only the first one names.
#[test]
fn leases_are_found_by_a_second_run() {
    on_host(|network| {
        let node = Node::new(network);
        let data_dir = network.host.scratch();
        let own = network.with("dataDir", data_dir.to_str().expect("a name"));
        for is_reinstalled in [false, true] {
            let file = network.host.scratch().join("own.conflist");
            let list = serde_json::json!({ "cniVersion": "1.0.0", "name": "blackbox", "plugins": [own] });
            std::fs::write(&file, list.to_string()).expect("room");
            shown(&node.install(&format!("--config {}", file.display())));
            let pod = network.by(own.clone()).attach("one");
            shown(&node.uninstall("--force"));
            assert!(data_dir.join("blackbox/leases").exists(), "without --purge they stay");
            if is_reinstalled {
                shown(&node.install(BLACKBOX));
            }
            shown(&node.uninstall("--purge --force"));
            assert!(!data_dir.join("blackbox").exists(), "{is_reinstalled}");
            assert!(!Path::new(DATA_DIR).exists(), "{is_reinstalled}");
            network.detach(&pod);
        }
    });
}

/// Two plugins may share a state directory.
#[test]
fn a_purge_keeps_foreign_files_beside_its_leases() {
    on_host(|network| {
        let data_dir = network.host.scratch();
        let theirs = data_dir.join("theirs");
        std::fs::create_dir(&theirs).expect("room");
        // The layout of host-local's leases.
        for file in ["10.88.0.2", "last_reserved_ip.0", "lock"] {
            std::fs::write(theirs.join(file), "theirs").expect("room");
        }
        let config = network.with("dataDir", data_dir.to_str().expect("a name"));
        let pod = network.by(config).attach("one");
        assert!(data_dir.join("blackbox/leases").exists());
        let text = shown(&format!("uninstall --purge --force --data-dir {}", data_dir.display()));
        assert!(text.contains("blackbox") && !text.contains("theirs"), "{text}");
        assert_eq!(std::fs::read_dir(&theirs).expect("it stays").count(), 3);
        assert!(!data_dir.join("blackbox").exists());
        network.detach(&pod);
    });
}

#[test]
fn a_purge_keeps_an_existing_bridge_and_foreign_links() {
    on_host(|network| {
        network.host.ip("link add cbr0 type bridge");
        network.host.ip("link add other0 type veth peer name other1");
        network.host.ip("link set other0 master cbr0");
        let pod = network.attach("one");
        let node = Node::new(network);
        let qdiscs = || network.host.command("tc").words("qdisc show dev cbr0").run();
        assert!(qdiscs().contains("clsact"));
        let text = shown(&node.uninstall("--purge --force"));
        assert!(text.contains("kept bridge cbr0") && text.contains("the gateway's address 10.99.0.1/24"), "{text}");
        assert!(text.contains("removed the eBPF programs from bridge cbr0, which stays"), "{text}");
        assert!(!qdiscs().contains("clsact"));
        assert_eq!(network.host.link("cbr0").expect("it stays")["ifalias"], serde_json::Value::Null);
        assert!(network.host.addresses("cbr0").contains(&"10.99.0.1/24".to_owned()));
        shown(&node.install("--network other --bridge cbr0 --subnet 10.97.0.0/24"));
        shown(&node.uninstall(""));
        assert!(network.host.link("cbr0").is_some() && network.host.link("other0").is_some());
        assert!(network.host.link(pod.host_veth()).is_none());
        network.host.ip("link del other0");
        network.detach(&pod);
    });
}

/// Another program may need forwarding, so it stays on and is listed.
#[test]
fn a_purge_lists_forwarding_that_stays_on() {
    on_host(|network| {
        let plain = network.attach("one");
        network.detach(&plain);
        assert!(!shown("uninstall --purge").contains("ip_forward"), "without masquerading");
        let pod = network.by(network.with("ipMasq", true)).attach("one");
        network.detach(&pod);
        let planned = shown("uninstall --purge -n");
        let text = shown("uninstall --purge");
        assert!(text.contains("kept /proc/sys/net/ipv4/ip_forward on"), "{text}");
        assert_eq!(planned.replace("would remove", "removed"), text);
    });
}

/// Leases lead to pairs, and pins to the bridge. They stay while a pair or the bridge remains.
#[test]
fn remaining_objects_are_found_by_the_next_run() {
    on_host(|network| {
        // Both pairs and the bridge, in this order, and rules that cannot be listed.
        let deletion: fn(&Call) -> bool = |call| call.to_string().starts_with("sendto type 17");
        let netfilter: fn(&Call) -> bool = |call| call.name() == "socket" && call.argument(2) == NETLINK_NETFILTER;
        let cases = [
            (1, deletion, "veth"),
            (2, deletion, "veth"),
            (3, deletion, "bridge cbr0"),
            (0, netfilter, "masquerade rules"),
        ];
        for (moment, is_it, object) in cases {
            let node = Node::new(network);
            let before = network.footprint();
            shown(&node.install(BLACKBOX));
            let installed = node.network("10-blackbox.conflist");
            let pods = ["one", "two"].map(|name| installed.attach(name));
            let line = node.uninstall("--purge --force");
            let mut calls = 0;
            let output = Command::new(BINARY).env_clear().words(&line).supervised(|call| {
                calls += u32::from(is_it(call));
                let fails = is_it(call) && (moment == 0 || calls == moment);
                if fails { Ruling::Fail(libc::ENOBUFS) } else { Ruling::Continue }
            });
            assert_eq!(output.status.code(), Some(1), "{output:#?}");
            assert!(output.stderr.contains(&format!("remove {object}")), "{output:#?}");
            assert!(output.stdout.contains("lead") && output.stdout.contains("run uninstall again"), "{output:#?}");
            assert!(Path::new(DATA_DIR).join("blackbox/leases/one@eth0.json").exists(), "{output:#?}");
            assert!(Path::new(PINS).join("blackbox").exists() && node.binary().exists(), "{output:#?}");
            assert!(!node.conf("10-blackbox.conflist").exists(), "no new pod comes");

            shown(&line);
            network.footprint().assert_unchanged(&before, "two purges");
            node.files().assert_unchanged(&Footprint::default(), "two purges");
            assert!(!Path::new(DATA_DIR).exists() && !Path::new(PINS).exists());
            for pod in &pods {
                network.detach(pod);
            }
        }
    });
}

/// Only the configuration names the directory, and the configuration is removed first.
#[test]
fn leases_in_a_directory_of_their_own_are_found_by_the_next_run() {
    on_host(|network| {
        let node = Node::new(network);
        let elsewhere = network.host.scratch().join("leases");
        let before = network.footprint();
        let list = conflist_of(network, &network.with("dataDir", elsewhere.to_str().expect("a text")));
        // The other plugin of the list does not exist, so a check fails.
        shown(&node.install(&format!("--ignore-checks --config {}", list.display())));
        let mut installed = node.network("10-blackbox.conflist");
        installed.config = network.with("dataDir", elsewhere.to_str().expect("a text"));
        let pod = installed.attach("one");
        assert!(refused(1, &node.uninstall("--purge")).contains("1 pod is"));
        let line = node.uninstall("--purge --force");
        let output = Command::new(BINARY).env_clear().words(&line).supervised(|call| {
            if call.to_string().starts_with("sendto type 17") { Ruling::Fail(libc::ENOBUFS) } else { Ruling::Continue }
        });
        assert_eq!(output.status.code(), Some(1), "{output:#?}");
        assert!(elsewhere.join("blackbox/leases/one@eth0.json").exists(), "{output:#?}");
        // Without the directory, the lease would not lead to its pair.
        let text = shown(&line);
        assert!(text.contains(&format!("removed veth {}", pod.host_veth())), "{text}");
        assert!(!elsewhere.join("blackbox").exists() && !Path::new(DATA_DIR).exists(), "{text}");
        network.footprint().assert_unchanged(&before, "two purges");
        node.files().assert_unchanged(&Footprint::default(), "two purges");
    });
}

#[test]
fn one_of_several_directories_can_be_selected() {
    on_host(|network| {
        let before = network.footprint();
        let (one, other) = (Node::new(network), Node::new(network));
        let other = Node { bin_dir: one.bin_dir.clone(), ..other };
        shown(&one.install(BLACKBOX));
        shown(&other.install("--network other --bridge br7 --subnet 10.97.0.0/24"));
        let theirs = other.network("10-other.conflist");
        let (pod, their_pod) = (one.network("10-blackbox.conflist").attach("one"), theirs.attach("two"));

        // The pods of the other network do not prevent the removal, and stay.
        assert!(refused(1, &one.uninstall("--purge")).contains("1 pod is"));
        network.detach(&pod);
        let text = shown(&one.uninstall("--purge"));
        assert!(text.contains(&format!("kept {}: it serves other", one.binary().display())), "{text}");
        assert!(!one.conf("10-blackbox.conflist").exists() && other.conf("10-other.conflist").exists());
        assert!(network.host.link("cbr0").is_none() && network.host.link("br7").is_some());
        assert!(!Path::new(PINS).join("blackbox").exists() && Path::new(PINS).join("other").exists());
        theirs.check(&their_pod).silent();

        // Without --conf-dir, all installed files are selected.
        shown(&one.install(BLACKBOX));
        assert!(refused(1, "uninstall --purge").contains("1 pod is"));
        theirs.detach(&their_pod);
        shown(&one.uninstall(""));
        assert!(one.binary().exists());
        shown(&one.install(BLACKBOX));
        shown("uninstall --purge");
        one.files().and(other.files()).assert_unchanged(&Footprint::default(), "uninstall");
        network.footprint().assert_unchanged(&before, "uninstall");
        assert!(!Path::new(DATA_DIR).exists() && !Path::new(PINS).exists());
        assert_eq!(command("uninstall --purge").stdout, "There is nothing to remove.\n");
    });
}

/// A renamed file is foreign, and its future pods need the binary.
#[test]
fn a_renamed_configuration_stays_with_the_binary() {
    on_host(|network| {
        let node = Node::new(network);
        shown(&node.install(BLACKBOX));
        let renamed = node.conf("07-blackbox.conflist");
        fs::rename(node.conf("10-blackbox.conflist"), &renamed).expect("the file");
        let text = shown(&node.uninstall("--purge"));
        assert!(text.contains(&format!("kept {}: not written by install", renamed.display())), "{text}");
        assert!(text.contains(&format!("kept {}: it serves blackbox", node.binary().display())), "{text}");
        assert!(renamed.exists() && node.binary().exists());
        fs::remove_file(&renamed).expect("the file");
        shown(&node.uninstall("--purge"));
        node.files().assert_unchanged(&Footprint::default(), "uninstall");
    });
}

#[test]
fn the_reorder_command_of_doctor_works() {
    on_host(|network| {
        let node = Node::new(network);
        shown(&node.install(BLACKBOX));
        let theirs = node.conf("05-theirs.conf");
        fs::write(&theirs, r#"{ "cniVersion": "1.0.0", "name": "theirs", "type": "bridge" }"#).expect("room");
        let line = format!("doctor --conf-dir {} --bin-dir {}", node.conf_dir.display(), node.bin_dir.display());
        let report = command(&line).stdout;
        let (_, advice) = report.split_once("or run simple-ebpf-cni install ").expect("a command that does it");
        let advised = advice.lines().next().expect("a line");
        let text = shown(&format!("install {advised}"));
        let (old, new) = (node.conf("10-blackbox.conflist"), node.conf("05-blackbox.conflist"));
        assert!(text.contains(&format!("removed {}", old.display())), "{text}");
        assert!(!old.exists() && new.exists());
        assert!(!command(&line).stdout.contains("sorts first"));
        shown(&node.uninstall("--purge --force"));
        assert!(!new.exists() && !node.binary().exists() && theirs.exists());
    });
}
