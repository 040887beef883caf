//! Calls that see another BPF file system: pods with TCX links, pods with addresses of another
//! plugin, and parallel first ADDs.

use std::fs;
use std::path::Path;

use cnikit::bpf::{Direction, TcxLink};
use cnikit::netlink::IfIndex;
use cnikit_testbed::{Namespace as _, kernel};
use serde_json::json;

use crate::pins::{Elsewhere, PINS, assert_direct, assert_whole, map_id, with_two_pods};
use crate::resync::can_spoof;
use crate::support::{Attached, Network, on_host};
use crate::upgrade::make_foreign;

/// The programs on the ports of pods with TCX links stay the only programs there.
#[test]
fn tcx_links_pinned_elsewhere_stay_in_use() {
    if kernel() < (6, 6) {
        return;
    }
    with_two_pods(|network, [one, two], elsewhere| {
        let by_links = network.by(network.with("attach", "tcx"));
        let linked = by_links.attach("linked");
        let index = network.host.link(linked.host_veth()).expect("it")["ifindex"].as_u64().expect("an index");
        let index = IfIndex::try_from(index as u32).expect("an index");
        let attached = || {
            [Direction::Ingress, Direction::Egress]
                .map(|way| TcxLink::attached(index, way).expect("the links of the port").len())
        };
        assert_eq!(attached(), [1, 1]);
        for is_older in [false, true, false] {
            let next = elsewhere.enter(|| {
                if is_older {
                    make_foreign(network);
                }
                let next = network.attach("next");
                assert_eq!(attached(), [1, 1]);
                assert_whole(network, &[one, two, &linked, &next]);
                by_links.check(&linked).silent();
                next
            });
            network.detach(&next);
            let last = network.attach("last");
            assert_whole(network, &[one, two, &linked, &last]);
            by_links.check(&linked).silent();
            network.detach(&last);
        }
        elsewhere.enter(|| by_links.detach(&linked));
        // GC removes the pins of its links in the file system that has them.
        let (mut config, kept) = (network.with("cniVersion", "1.1.0"), [one, two]);
        config["cni.dev/valid-attachments"] =
            kept.map(|pod| json!({ "containerID": pod.container, "ifname": "eth0" })).to_vec().into();
        network.plugin.invocation("GC").config(&config).run().silent();
        assert!(fs::read_dir(network.pin("").with_file_name("links")).is_ok_and(|mut pins| pins.next().is_none()));
    });
}

#[test]
fn pods_with_addresses_of_another_plugin_are_served_from_elsewhere() {
    on_host(|network| {
        let config = network.with_keys(
            json!({ "ipam": { "type": "host-local", "subnet": "10.99.0.0/24", "dataDir": network.host.scratch() } }),
        );
        let network = &Network { host: network.host, plugin: network.plugin.clone().beside("/usr/lib/cni"), config };
        let elsewhere = Elsewhere::new(network);
        let (one, two) = (network.attach("one"), network.attach("two"));
        assert_direct(network, &one, &two);
        let three = elsewhere.enter(|| {
            let three = network.attach("three");
            assert_whole(network, &[&one, &two, &three]);
            network.detach(&two);
            three
        });
        let four = network.attach("four");
        assert_whole(network, &[&one, &three, &four]);
        [&one, &three, &four].into_iter().for_each(|pod| network.detach(pod));
    });
}

/// Each of two mount namespaces loads its own programs and maps. One set runs in the end, and all
/// pods are in its maps.
#[test]
fn parallel_first_adds_from_two_mount_namespaces_create_one_network() {
    on_host(|network| {
        let elsewhere = Elsewhere::new(network);
        let there = Network { host: network.host, plugin: elsewhere.plugin(network), config: network.config.clone() };
        for round in 0..5 {
            let attach = |(number, network): (usize, &Network)| {
                let pod = network.host.pod();
                let container = format!("pod-{round}-{number}");
                let result = network.call("ADD", &container, &pod).result();
                Attached { container, pod, result }
            };
            let pods: Vec<Attached> = std::thread::scope(|scope| {
                let calls = [network, &there, network, &there].into_iter().enumerate();
                let calls: Vec<_> = calls.map(|call| scope.spawn(move || attach(call))).collect();
                calls.into_iter().map(|call| call.join().expect("ADD succeeds")).collect()
            });
            // Before another ADD corrects entries.
            for (from, to) in pods.iter().zip(pods.iter().cycle().skip(1)) {
                assert!(!can_spoof(from, to), "round {round}: the spoof check does not apply to {}", from.address());
            }
            let (here, last) = (network.attach("here"), there.attach("there"));
            let pods: Vec<&Attached> = pods.iter().chain([&here, &last]).collect();
            assert_whole(network, &pods);
            let map = map_id(network, "pod_ifindex");
            elsewhere.enter(|| assert_eq!(map_id(network, "pod_ifindex"), map, "round {round}"));
            for pod in pods {
                network.check(pod).silent();
                network.detach(pod);
            }
            network.host.ip("link del cbr0");
            for pins in [Path::new(PINS), &elsewhere.0.join("simple-ebpf-cni")] {
                fs::remove_dir_all(pins).expect("a bpffs is writable");
            }
        }
    });
}
