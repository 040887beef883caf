//! Programs of another build replace the old ones while pods have traffic.

use std::fs;
use std::path::{Path, PathBuf};

use cnikit_testbed::{Namespace, kernel};
use serde_json::{Value, json};

use crate::support::{Attached, Network, code, on_host};

/// The path of the programs of the replaced build.
const OLD: &str = "/sys/fs/bpf/old";

/// The number of pings during the upgrades, and the number of upgrades.
const PINGS: u32 = 700;
const ROUNDS: usize = 5;

/// The directions of packets, in the words of `tc`, and the program of each.
pub(crate) const HOOKS: [(&str, &str); 2] = [("ingress", "cni_tc_main"), ("egress", "cni_tc_egress")];

/// Two pods: the first with a clsact qdisc, the second with TCX links if the kernel has them. Only
/// direct packets pass between them.
#[track_caller]
fn with_pods_of_both_ways(test: impl FnOnce(&Network, [&Attached; 2]) + Send) {
    on_host(|network| {
        let attach = if kernel() < (6, 6) { "clsact" } else { "tcx" };
        let by_links = network.by(network.with("attach", attach));
        let (one, two) = (network.attach("one"), by_links.attach("two"));
        for (from, to) in [(&one, &two), (&two, &one)] {
            network.host.command("bridge").words(&format!("link set dev {} isolated on", from.host_veth())).run();
            from.pod.ip(&format!("neighbour replace {} lladdr {} dev eth0 nud permanent", to.address(), to.mac()));
        }
        test(network, [&one, &two]);
        network.detach(&one);
        by_links.detach(&two);
    });
}

/// Marks the pinned programs as a different build for the plugin.
#[track_caller]
pub(crate) fn make_foreign(network: &Network) {
    let directory = network.pin("");
    let entries = fs::read_dir(&directory).expect("the pins").filter_map(Result::ok);
    let is_mark = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(b"build-");
    let marks: Vec<_> = entries.filter(is_mark).collect();
    assert_eq!(marks.len(), 1, "{marks:?}");
    fs::rename(marks[0].path(), directory.join("build-of-another")).expect("a mark can be renamed");
}

/// The block of a direction's filter.
#[track_caller]
pub(crate) fn block(network: &Network, direction: &str) -> u64 {
    let qdiscs = network.host.tc("qdisc show dev cbr0");
    let blocks = qdiscs.as_array().into_iter().flatten().find_map(|qdisc| qdisc[format!("{direction}_block")].as_u64());
    blocks.unwrap_or_else(|| panic!("no {direction} block: {qdiscs}"))
}

/// The ids of the programs in a block.
#[track_caller]
pub(crate) fn in_block(network: &Network, direction: &str) -> Vec<u64> {
    let filters = network.host.tc(&format!("filter show block {}", block(network, direction)));
    filters.as_array().into_iter().flatten().filter_map(|filter| filter["options"]["prog"]["id"].as_u64()).collect()
}

/// The ids of the programs in TCX links, by the names of their pins.
#[track_caller]
fn in_links(network: &Network) -> Vec<(PathBuf, Value)> {
    let Ok(entries) = fs::read_dir(network.pin("").with_file_name("links")) else { return Vec::new() };
    let pins = entries.map(|entry| entry.expect("an entry").path());
    pins.map(|pin| {
        let shown = network.host.command("bpftool").args(["-j", "link", "show", "pinned"]).arg(&pin).json();
        (pin, shown["prog_id"].clone())
    })
    .collect()
}

/// Each port runs the pinned programs.
#[track_caller]
fn assert_current(network: &Network) {
    let links = in_links(network);
    assert_eq!(links.len(), if kernel() < (6, 6) { 0 } else { 2 }, "{links:?}");
    for (direction, name) in HOOKS {
        let pinned = network.program_id(name);
        assert_eq!(in_block(network, direction), [pinned], "{name}");
        let end = format!("_{direction}");
        for (pin, id) in links.iter().filter(|(pin, _)| pin.to_string_lossy().ends_with(&end)) {
            assert_eq!(*id, json!(pinned), "{}", pin.display());
        }
    }
}

#[test]
fn an_upgrade_loses_no_packet_and_no_count() {
    with_pods_of_both_ways(|network, pods| {
        let [one, two] = pods;
        let count = PINGS.to_string();
        let output = std::thread::scope(|scope| {
            let ping = one.pod.command("ping");
            let ping = ping.args(["-n", "-q", "-i", "0.002", "-W", "1", "-c", &count, two.address()]);
            let flood = scope.spawn(|| ping.output());
            for round in 0..ROUNDS {
                let before = HOOKS.map(|(_, name)| network.program_id(name));
                network.make_foreign();
                let newer = network.attach(&format!("newer-{round}"));
                for (before, (_, name)) in before.into_iter().zip(HOOKS) {
                    assert_ne!(network.program_id(name), before, "{name} was replaced");
                }
                assert_current(network);
                for attached in [one, two, &newer] {
                    network.check(attached).silent();
                }
                network.detach(&newer);
            }
            flood.join().expect("ping ends")
        });
        assert!(output.stdout.contains(&format!(" {PINGS} received, 0% packet loss")), "{output:?}");
        for attached in pods {
            let counted = network.counters(attached.address()).expect("an entry");
            assert_eq!((counted.tx_packets, counted.tx_direct), (u64::from(PINGS), u64::from(PINGS)));
        }
    });
}

/// An ADD that upgrades pins the new programs, updates the links, and then the filter of each
/// block. CHECK reports any filter that a killed ADD left unchanged, and the next ADD replaces it.
#[test]
fn the_next_add_completes_a_killed_upgrade() {
    with_pods_of_both_ways(|network, pods| {
        fs::create_dir(OLD).expect("a bpffs is writable");
        for (round, left) in [&HOOKS[..], &HOOKS[..1], &HOOKS[1..]].into_iter().enumerate() {
            for (_, name) in HOOKS {
                let pin = Path::new(OLD).join(name);
                let _ = fs::remove_file(&pin);
                let id = network.program_id(name).to_string();
                network.host.command("bpftool").args(["prog", "pin", "id", &id]).arg(pin).run();
            }
            make_foreign(network);
            let newer = network.attach(&format!("newer-{round}"));
            assert_current(network);
            for (direction, name) in left {
                let block = block(network, direction);
                let filters = network.host.tc(&format!("filter show block {block}"));
                let filter = filters.as_array().into_iter().flatten().find(|filter| !filter["options"].is_null());
                let [priority, handle] =
                    filter.map(|filter| [&filter["pref"], &filter["options"]["handle"]]).expect("one");
                let handle = handle.as_str().expect("a handle");
                let place = format!("block {block} pref {priority} handle {handle}");
                network
                    .host
                    .command("tc")
                    .words(&format!("filter replace {place} bpf direct-action"))
                    .args(["object-pinned"])
                    .arg(Path::new(OLD).join(name))
                    .run();
                assert_ne!(in_block(network, direction), [network.program_id(name)]);
            }
            let refused = network.check(pods[0]).error(code::DIFFERS);
            for (_, name) in left {
                assert!(refused.contains(name), "{refused}");
            }
            assert!(pods[0].pod.ping(pods[1].address(), 5).status.success(), "old and new programs share their maps");

            let next = network.attach(&format!("next-{round}"));
            assert_current(network);
            for attached in [pods[0], pods[1], &newer, &next] {
                network.check(attached).silent();
            }
            network.detach(&next);
            network.detach(&newer);
        }
        assert!(pods[0].pod.ping(pods[1].address(), 5).status.success());
        fs::remove_dir_all(OLD).expect("a bpffs is writable");
    });
}
