//! Pins that do not name the running programs. A mount namespace has its own BPF file system, or
//! one is mounted over another. Pins are removed, or pins of another set exist.
//!
//! A file system mounted over `/sys/fs/bpf` simulates a call from a mount namespace with its own.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use cnikit_testbed::{Command, Namespace, Plugin, classifier, classifier_with_maps};
use serde_json::{Value, json};

use crate::resync::can_spoof;
use crate::support::{Attached, NAME, Network, bin, code, on_host};
use crate::upgrade::{HOOKS, block, in_block, make_foreign};

const BPFFS: &str = "/sys/fs/bpf";
pub(crate) const PINS: &str = "/sys/fs/bpf/simple-ebpf-cni";

/// A BPF file system of another mount namespace.
pub(crate) struct Elsewhere(pub(crate) PathBuf);

impl Elsewhere {
    #[track_caller]
    pub(crate) fn new(network: &Network) -> Self {
        let path = network.host.scratch();
        network.host.command("mount").words("-t bpf bpf").arg(&path).run();
        Self(path)
    }

    /// Runs calls that see this file system.
    #[track_caller]
    pub(crate) fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        Command::new("mount").arg("--bind").arg(&self.0).arg(BPFFS).run();
        let done = work();
        Command::new("umount").arg(BPFFS).run();
        done
    }
}

impl Elsewhere {
    /// The plugin in its own mount namespace with this `/sys/fs/bpf`, for parallel calls.
    #[track_caller]
    pub(crate) fn plugin(&self, network: &Network) -> Plugin {
        let script = network.host.scratch().join("simple-ebpf-cni");
        let inside = r#"mount --bind "$0" /sys/fs/bpf && exec "$1""#;
        let (bpffs, plugin) = (self.0.display(), bin().join("simple-ebpf-cni"));
        let text = format!("#!/bin/sh\nexec unshare --mount sh -c '{inside}' {bpffs} {}\n", plugin.display());
        fs::write(&script, text).expect("the scratch space is writable");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("the file is ours");
        Plugin::new(script)
    }
}

/// Two pods with traffic between them, and another BPF file system.
#[track_caller]
pub(crate) fn with_two_pods(test: impl FnOnce(&Network, [&Attached; 2], &Elsewhere) + Send) {
    on_host(|network| {
        let (one, two) = (network.attach("one"), network.attach("two"));
        assert_direct(network, &one, &two);
        assert!(!can_spoof(&one, &two), "the control: the spoof check is on");
        let elsewhere = Elsewhere::new(network);
        test(network, [&one, &two], &elsewhere);
        for pod in [&one, &two] {
            network.check(pod).silent();
            network.detach(pod);
        }
    });
}

/// Packets between the pods are direct, and the maps that are pinned here count them.
#[track_caller]
pub(crate) fn assert_direct(network: &Network, from: &Attached, to: &Attached) {
    let sent = || network.counters(from.address()).expect("an entry").tx_direct;
    let before = sent();
    assert!(from.pod.ping(to.address(), 3).status.success(), "{} to {}", from.address(), to.address());
    assert!(sent() >= before + 3, "{} to {} goes by the bridge", from.address(), to.address());
}

/// The pinned programs run, and the spoof check applies to the pods.
#[track_caller]
pub(crate) fn assert_whole(network: &Network, pods: &[&Attached]) {
    for (direction, name) in HOOKS {
        assert_eq!(in_block(network, direction), [network.program_id(name)], "{name}");
    }
    for (from, to) in pods.iter().zip(pods.iter().cycle().skip(1)) {
        assert_direct(network, from, to);
        assert!(!can_spoof(from, to), "the spoof check does not apply to {}", from.address());
    }
}

/// The id of a pinned map.
#[track_caller]
pub(crate) fn map_id(network: &Network, map: &str) -> u64 {
    let shown = network.host.command("bpftool").words("-j map show pinned").arg(network.pin(map)).json();
    shown["id"].as_u64().expect("an id")
}

/// The programs of the machine that use a map, and the maps of these programs.
#[track_caller]
fn users(network: &Network, map: u64) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let shown = network.host.command("bpftool").words("-j prog show").json();
    let (mut programs, mut maps) = (BTreeSet::new(), BTreeSet::new());
    for program in shown.as_array().into_iter().flatten() {
        let ids: Vec<u64> = program["map_ids"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
        if ids.contains(&map) {
            programs.extend(program["id"].as_u64());
            maps.extend(ids);
        }
    }
    (programs, maps)
}

/// Attaches pods until one has the address.
#[track_caller]
fn attach_at(network: &Network, address: &str) -> Attached {
    for turn in 0..8 {
        let pod = network.attach(&format!("again-{turn}"));
        if pod.address() == address {
            return pod;
        }
        network.detach(&pod);
    }
    panic!("no pod gets {address} again");
}

#[test]
fn calls_with_another_file_system_use_the_maps_in_use() {
    on_host(|network| {
        let mut config = network.config.clone();
        // With so few addresses, the next pods get a released one.
        config["subnet"] = "10.99.0.0/29".into();
        let network = &network.by(config);
        let (one, two) = (network.attach("one"), network.attach("two"));
        assert_direct(network, &one, &two);
        let counted = network.counters(one.address()).expect("an entry");
        let (map, gone) = (map_id(network, "pod_ifindex"), two.address().to_owned());
        let elsewhere = Elsewhere::new(network);
        let three = elsewhere.enter(|| {
            network.detach(&two);
            let three = attach_at(network, &gone);
            assert_eq!(map_id(network, "pod_ifindex"), map, "the maps are the same");
            assert!(network.counters(one.address()).expect("an entry").tx_packets >= counted.tx_packets);
            assert_whole(network, &[&one, &three]);
            three
        });
        // The pins here never changed.
        assert_whole(network, &[&one, &three]);
        let four = network.attach("four");
        assert_whole(network, &[&one, &three, &four]);
        for pod in [&one, &three, &four] {
            network.check(pod).silent();
            network.detach(pod);
        }
    });
}

#[test]
fn alternating_calls_from_two_mount_namespaces_share_programs_and_maps() {
    with_two_pods(|network, [one, two], elsewhere| {
        let map = map_id(network, "pod_ifindex");
        let mut settled = None;
        let mut last: Option<Attached> = None;
        for turn in 0..20 {
            let mut call = || {
                // A call from here detaches the pod of the other namespace.
                last.take().iter().for_each(|pod| network.detach(pod));
                let pod = network.attach(&format!("turn-{turn}"));
                assert_direct(network, one, &pod);
                assert_direct(network, &pod, two);
                network.check(&pod).silent();
                network.check(one).silent();
                if turn % 5 == 0 {
                    assert!(!can_spoof(one, two) && !can_spoof(&pod, one), "turn {turn}");
                }
                pod
            };
            last = Some(if turn % 2 == 0 { elsewhere.enter(&mut call) } else { call() });
            let users = users(network, map);
            if turn > 1 {
                assert_eq!(settled.get_or_insert_with(|| users.clone()), &users, "turn {turn}");
            }
        }
        last.iter().for_each(|pod| network.detach(pod));
    });
}

/// An older build with its own BPF file system finds the maps through the running programs, and
/// attaches programs that track flows without the filter. The pins here do not change.
#[test]
fn add_fills_the_filters_after_programs_without_them_ran() {
    with_two_pods(|network, [one, two], _| {
        let is_full = |filter: &str| {
            let dump = network.host.command("bpftool").words("-j map dump pinned").arg(network.pin(filter)).json();
            let entries = dump.as_array().expect("entries");
            let values: BTreeSet<String> = entries.iter().map(|entry| entry["value"].to_string()).collect();
            assert_eq!(values.len(), 1, "{filter}: {values:?}");
            values.contains(r#"["0x01"]"#)
        };
        assert!(!is_full("flow_filter") && !is_full("port_filter"));
        let own = HOOKS.map(|(_, name)| network.program_id(name));
        let maps = ["port_config", "flows"].map(|map| network.pin(map));
        let older = Elsewhere::new(network);
        for (direction, name) in HOOKS {
            let (_program, id) = classifier_with_maps(name, &maps);
            let pin = older.0.join(name);
            network.host.command("bpftool").args(["prog", "pin", "id", &id.to_string()]).arg(&pin).run();
            let words = format!("filter replace {} bpf direct-action object-pinned", place(network, direction));
            network.host.command("tc").words(&words).arg(&pin).run();
        }

        let next = network.attach("next");
        assert_eq!(HOOKS.map(|(_, name)| network.program_id(name)), own, "the pins were right");
        assert!(is_full("flow_filter") && is_full("port_filter"));
        assert_whole(network, &[one, two, &next]);
        network.detach(&next);
    });
}

/// A runtime with a new mount namespace for each call, without a BPF file system.
#[test]
fn calls_that_each_see_an_empty_file_system_share_programs_and_maps() {
    with_two_pods(|network, [one, two], _| {
        let fresh = || Elsewhere::new(network);
        let map = map_id(network, "pod_ifindex");
        let before = users(network, map);
        for turn in 0..4 {
            let elsewhere = fresh();
            let next = elsewhere.enter(|| network.attach(&format!("next-{turn}")));
            elsewhere.enter(|| {
                assert_eq!(users(network, map_id(network, "pod_ifindex")), before);
                assert_whole(network, &[one, two, &next]);
            });
            fresh().enter(|| network.detach(&next));
            assert!(network.counters(next.address()).is_none(), "nothing is pinned in the file system of DEL");
        }
    });
}

#[test]
fn an_entry_that_a_del_elsewhere_cannot_see_does_not_outlive_the_next_add() {
    with_two_pods(|network, [one, two], elsewhere| {
        let gone = network.attach("gone");
        let known = |address: &str| network.counters(address).is_some();
        // Nothing is pinned there, and the call creates nothing.
        elsewhere.enter(|| {
            network.detach(&gone);
            assert!(!Path::new(PINS).exists());
        });
        assert!(!known(gone.address()), "DEL finds the maps in use by the programs");

        // The programs do not show their maps while they are not attached.
        let gone = network.attach("gone");
        network.detach_programs();
        elsewhere.enter(|| network.detach(&gone));
        assert!(known(gone.address()));
        let next = network.attach("next");
        assert!(!known(gone.address()) || next.address() == gone.address(), "the entry leads nowhere, and is left");
        assert_whole(network, &[one, two, &next]);
        network.detach(&next);
    });
}

#[test]
fn the_maps_in_use_replace_pins_of_another_set_and_of_an_older_build() {
    on_host(|network| {
        let elsewhere = Elsewhere::new(network);
        elsewhere.enter(|| {
            let before = network.attach("before");
            network.detach(&before);
            network.host.ip("link del cbr0");
        });
        let (one, two) = (network.attach("one"), network.attach("two"));
        assert_direct(network, &one, &two);
        let map = map_id(network, "pod_ifindex");
        let counted = network.counters(one.address()).expect("an entry");
        for is_older in [true, false] {
            let next = elsewhere.enter(|| {
                if is_older {
                    assert_ne!(map_id(network, "pod_ifindex"), map, "the control: another set");
                    make_foreign(network);
                }
                let next = network.attach("next");
                assert_eq!(map_id(network, "pod_ifindex"), map);
                assert!(network.counters(one.address()).expect("an entry").tx_packets >= counted.tx_packets);
                assert_whole(network, &[&one, &two, &next]);
                next
            });
            network.detach(&next);
        }
        let last = network.attach("last");
        assert_whole(network, &[&one, &two, &last]);
        [&one, &two, &last].into_iter().for_each(|pod| network.detach(pod));
    });
}

#[test]
fn a_missing_pin_is_restored_under_running_pods() {
    with_two_pods(|network, [one, two], _| {
        for map in ["pod_ifindex", "port_config", "flows", "net_config"] {
            for is_older in [false, true] {
                let id = map_id(network, map);
                fs::remove_file(network.pin(map)).expect("a bpffs is writable");
                if is_older {
                    make_foreign(network);
                }
                let next = network.attach("next");
                assert_eq!(map_id(network, map), id, "{map} is in use");
                assert_whole(network, &[one, two, &next]);
                network.check(one).silent();
                network.detach(&next);
            }
        }
    });
}

/// Programs of another author run in place of the plugin's, and use none of its maps. There is
/// nothing to adopt.
#[test]
fn with_foreign_programs_the_entries_come_from_leases_and_ports() {
    with_two_pods(|network, [one, two], elsewhere| {
        let gone = network.attach("gone");
        let own = HOOKS.map(|(_, name)| network.program_id(name));
        let (_foreign, id) = classifier(-1);
        let pin = Elsewhere::new(network).0.join("foreign");
        network.host.command("bpftool").args(["prog", "pin", "id", &id.to_string()]).arg(&pin).run();
        let put_foreign = || {
            for (direction, _) in HOOKS {
                let words = format!("filter replace {} bpf direct-action object-pinned", place(network, direction));
                network.host.command("tc").words(&words).arg(&pin).run();
            }
        };
        put_foreign();
        assert!(can_spoof(one, two), "the control: the foreign programs have no spoof check");
        elsewhere.enter(|| {
            // No call can see the entries that it leaves in the maps pinned elsewhere.
            network.detach(&gone);
            let next = network.attach("next");
            assert_ne!(network.program_id(HOOKS[0].1), own[0]);
            assert_whole(network, &[one, two, &next]);
            network.detach(&next);
        });
        put_foreign();
        let next = network.attach("next");
        assert_whole(network, &[one, two, &next]);
        assert!(network.counters(gone.address()).is_none() || gone.address() == next.address());
        network.detach(&next);
    });
}

#[test]
fn commands_from_elsewhere_report_the_maps_in_use_and_the_remedy() {
    with_two_pods(|network, [one, two], elsewhere| {
        let conf = network.host.scratch();
        fs::write(
            conf.join("10.conflist"),
            json!({ "cniVersion": "1.0.0", "name": NAME, "plugins": [network.config] }).to_string(),
        )
        .expect("the scratch space is writable");
        let people = |verb: &str| {
            let command = network.host.command(bin().join("simple-ebpf-cni"));
            command.arg(verb).arg("--conf-dir").arg(&conf).output()
        };
        let counted = network.counters(one.address()).expect("an entry").tx_packets;
        elsewhere.enter(|| {
            let refused = network.check(one).error(code::DIFFERS);
            assert!(refused.contains("are not pinned in /sys/fs/bpf/simple-ebpf-cni/"), "{refused}");
            assert!(refused.contains("the next ADD"), "{refused}");
            assert!(!refused.contains("has no entry"), "the maps in use have them: {refused}");

            let status = people("status");
            assert!(status.status.success() && status.stdout.contains("simple-ebpf-cni repair"), "{status:?}");
            assert!(status.stdout.contains("are not pinned in") && status.stdout.contains("findmnt"), "{status:?}");
            assert!(status.stdout.contains("attached, direct forwarding on, spoof check on"), "{status:?}");
            let doctor = people("doctor");
            assert!(doctor.stdout.contains("are not pinned in") && doctor.stdout.contains("findmnt"), "{doctor:?}");
            let pods = network.host.command(bin().join("simple-ebpf-cni"));
            let pods = pods.words("pods --json --conf-dir").arg(&conf).json();
            let shown = pods["pods"].as_array().expect("pods").iter().find(|pod| pod["addresses"][0] == one.address());
            assert!(shown.expect("it")["counters"]["tx"]["packets"].as_u64() >= Some(counted), "{pods}");
            assert!(!Path::new(PINS).exists(), "a read-only command changes nothing");
        });
        network.check(one).silent();
        let status = people("status");
        assert!(!status.stdout.contains("are not pinned in"), "{status:?}");

        // GC removes entries from the maps in use.
        let gone = network.attach("gone");
        let (mut config, kept) = (network.with("cniVersion", "1.1.0"), [one, two]);
        config["cni.dev/valid-attachments"] =
            kept.map(|pod| json!({ "containerID": pod.container, "ifname": "eth0" })).to_vec().into();
        elsewhere.enter(|| network.plugin.invocation("GC").config(&config).run().silent());
        assert!(network.counters(gone.address()).is_none());
    });
}

/// The location of the plugin's filter in a block, as arguments of `tc`.
#[track_caller]
fn place(network: &Network, direction: &str) -> String {
    let block = block(network, direction);
    let filters = network.host.tc(&format!("filter show block {block}"));
    let filter = filters.as_array().into_iter().flatten().find(|filter| !filter["options"].is_null());
    let filter = filter.unwrap_or_else(|| panic!("no filter: {filters}"));
    let handle = filter["options"]["handle"].as_str().expect("a handle");
    format!("block {block} pref {} handle {handle}", filter["pref"])
}

/// A set of an older build lacks the newer maps. It serves its pods until an ADD replaces its
/// programs.
#[test]
fn pods_of_an_older_set_are_checked_listed_and_detached() {
    with_two_pods(|network, [one, _], _| {
        let (three, conf) = (network.attach("three"), network.host.scratch());
        let list = json!({ "cniVersion": "1.0.0", "name": NAME, "plugins": [network.config] }).to_string();
        fs::write(conf.join("10.conflist"), list).expect("the scratch space is writable");
        for map in ["port_addresses", "port_xdp", "flow_filter", "port_filter", "packet_scratch", "stages"] {
            fs::remove_file(network.pin(map)).expect("a writable bpffs");
        }
        network.check(one).silent();
        let people = |verb: &str| {
            let command = network.host.command(bin().join("simple-ebpf-cni"));
            command.arg(verb).arg("--conf-dir").arg(&conf).output()
        };
        let status = people("status");
        assert!(status.status.success() && status.stdout.contains("attached, direct forwarding on"), "{status:?}");
        let pods = people("pods");
        assert!(pods.stdout.contains(three.address()), "{pods:?}");

        network.detach(&three);
        let entries = network.map("pod_ifindex");
        let of_pods = entries.iter().filter(|entry| entry["value"]["ifindex"].as_u64() >= Some(1 << 30)).count();
        assert_eq!(of_pods, 2, "the entries of the two other pods: {entries:?}");
        // The programs still lead to the maps without pins.
        network.detach(&network.attach("four"));
        assert!(network.pin("port_addresses").exists());
    });
}
