//! The paths and the counters of packets.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cnikit_testbed::{Namespace, Pod};

use crate::support::{Attached, Counters, GATEWAY, Network, on_host};

/// The bytes of a ping's IPv4 packet, and of its frame.
const PING: (u64, u64) = (84, 98);

#[track_caller]
fn ping(pod: &Pod, target: &str, count: u32) {
    let output = pod.ping(target, count);
    assert!(output.status.success(), "{target} does not answer: {output:?}");
}

#[track_caller]
fn counters(network: &Network, attached: &Attached) -> Counters {
    network.counters(attached.address()).unwrap_or_else(|| panic!("{} has no entry in pkt_count", attached.address()))
}

#[test]
fn every_ping_is_counted_once_and_forwarded_directly() {
    on_host(|network| {
        let (one, two) = (network.attach("one"), network.attach("two"));
        assert_eq!([&one, &two].map(|pod| counters(network, pod)), [Counters::default(); 2]);
        ping(&one.pod, two.address(), 50);
        for attached in [&one, &two] {
            let counted = counters(network, attached);
            assert_eq!((counted.tx_packets, counted.tx_direct), (50, 50));
            assert_eq!((counted.rx_packets, counted.rx_direct), (50, 50));
            for bytes in [counted.tx_bytes, counted.rx_bytes] {
                assert!([50 * PING.0, 50 * PING.1].contains(&bytes), "{bytes} bytes for 50 pings");
            }
        }
        ping(&two.pod, one.address(), 30);
        for attached in [&one, &two] {
            let Counters { tx_packets, tx_direct, rx_packets, rx_direct, .. } = counters(network, attached);
            assert_eq!((tx_packets, tx_direct, rx_packets, rx_direct), (80, 80, 80, 80));
        }
        network.detach(&one);
        network.detach(&two);
    });
}

/// A bridge forwards nothing between isolated ports, so a packet that arrives is direct.
#[test]
fn packets_arrive_between_isolated_ports() {
    on_host(|network| {
        let (one, two) = (network.attach("one"), network.attach("two"));
        for (from, to) in [(&one, &two), (&two, &one)] {
            network.host.command("bridge").words(&format!("link set dev {} isolated on", from.host_veth())).run();
            from.pod.ip(&format!("neighbour replace {} lladdr {} dev eth0 nud permanent", to.address(), to.mac()));
        }
        ping(&one.pod, two.address(), 20);
        network.detach_programs();
        assert!(!one.pod.ping(two.address(), 3).status.success(), "the ports are not isolated after all");
        network.detach(&one);
        network.detach(&two);
    });
}

#[test]
fn without_the_programs_packets_pass_the_bridge() {
    on_host(|network| {
        let (one, two) = (network.attach("one"), network.attach("two"));
        ping(&one.pod, two.address(), 5);
        let before = counters(network, &one);
        network.detach_programs();
        ping(&one.pod, two.address(), 20);
        assert_eq!(counters(network, &one), before);
        network.detach(&one);
        network.detach(&two);
    });
}

#[test]
fn the_gateway_is_reached_through_the_stack() {
    on_host(|network| {
        let one = network.attach("one");
        ping(&one.pod, GATEWAY, 20);
        let Counters { tx_packets, tx_direct, rx_packets, rx_direct, .. } = counters(network, &one);
        assert_eq!((tx_packets, tx_direct, rx_packets, rx_direct), (20, 0, 20, 0));
        network.detach(&one);
    });
}

#[test]
fn the_host_reaches_a_pod() {
    on_host(|network| {
        let one = network.attach("one");
        let output = network.host.ping(one.address(), 10);
        assert!(output.status.success(), "{output:?}");
        network.detach(&one);
    });
}

#[test]
fn the_program_shows_on_the_bridge_and_on_every_port() {
    on_host(|network| {
        let (one, two) = (network.attach("one"), network.attach("two"));
        let id = network.program_id("cni_tc_main");
        for device in ["cbr0", one.host_veth(), two.host_veth()] {
            let filters = network.host.tc(&format!("filter show dev {device} ingress"));
            let shown = filters.as_array().into_iter().flatten().find(|filter| filter["options"]["prog"]["id"] == id);
            assert!(shown.is_some(), "no program {id} on {device}: {filters}");
        }
        network.detach(&one);
        network.detach(&two);
    });
}

/// The kernel notices that a bridge is running after its first port, in a work item that needs the
/// lock of all links. Until then the bridge drops packets of the host. Changes of other links delay
/// this work item.
#[test]
fn the_host_reaches_the_first_pod_as_soon_as_its_add_returns() {
    on_host(|network| {
        let (elsewhere, is_over) = (network.host.pod(), AtomicBool::new(false));
        let deadline = Instant::now() + Duration::from_secs(60);
        std::thread::scope(|scope| {
            for number in 0..2 {
                let (elsewhere, is_over) = (&elsewhere, &is_over);
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) && Instant::now() < deadline {
                        elsewhere.ip(&format!("link add a{number} type veth peer name b{number}"));
                        elsewhere.ip(&format!("link del a{number}"));
                    }
                });
            }
            let states: Vec<String> = (0..25)
                .map(|round| {
                    let first = network.attach(&format!("first-{round}"));
                    let state = fs::read_to_string("/sys/class/net/cbr0/operstate").expect("the bridge exists");
                    network.detach(&first);
                    network.host.ip("link del cbr0");
                    state
                })
                .collect();
            is_over.store(true, Ordering::Relaxed);
            assert!(states.iter().all(|state| state == "up\n"), "{states:?}");
        });
    });
}
