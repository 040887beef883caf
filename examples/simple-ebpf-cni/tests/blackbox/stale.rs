//! Entries that outlive their pod: its namespace was deleted, and no DEL has run yet.

use std::fs;
use std::thread;
use std::time::Duration;

use cnikit_testbed::{Namespace, Pod, eventually};

use crate::support::{Attached, Network, on_host, silence};

/// The number of links that are created while the links of a pod disappear.
const OTHER_LINKS: usize = 20;

/// The kernel deletes the links of a namespace some time after the namespace.
const LIMIT: Duration = Duration::from_secs(10);

/// The kernel assigns indexes below this number, and the plugin above.
const CHOSEN: u64 = 1 << 30;

/// The data of a deleted pod.
struct Lost {
    address: String,
    mac: String,
    host_veth: String,
    index: u64,
}

/// A pod outside of the network with the addresses and MAC of the deleted pod. The host end of its
/// pair has the requested index, or an index of the kernel.
#[track_caller]
fn unrelated_pod(network: &Network, lost: &Lost, name: &str, index: Option<u64>) -> (Pod, u64) {
    let pod = network.host.pod();
    pod.enter(silence);
    let argument = index.map(|index| format!("index {index}")).unwrap_or_default();
    let (mac, netns) = (&lost.mac, pod.netns());
    let inside = format!("name eth0 address {mac} netns {}", netns.display());
    network.host.ip(&format!("link add {name} {argument} up type veth peer {inside}"));
    pod.ip("link set eth0 up");
    pod.ip(&format!("address add {}/24 dev eth0", lost.address));
    (pod, index_of(network, name).expect("the link exists"))
}

/// The number of echo requests at a pod's stack. Before Linux 6.7, direct packets do not count as
/// frames of its link.
#[track_caller]
fn echoes(pod: &Pod) -> u64 {
    let text = pod.enter(|| fs::read_to_string("/proc/thread-self/net/snmp")).expect("/proc is mounted");
    let mut lines = text.lines().filter(|line| line.starts_with("Icmp: ")).map(str::split_whitespace);
    let counted = lines.next().zip(lines.next()).and_then(|(names, mut values)| {
        let place = names.into_iter().position(|name| name == "InEchos")?;
        values.nth(place)?.parse().ok()
    });
    counted.unwrap_or_else(|| panic!("no InEchos: {text}"))
}

fn index_of(network: &Network, link: &str) -> Option<u64> {
    network.host.link(link)?["ifindex"].as_u64()
}

/// Two pods that have reached each other, in otherwise silent namespaces.
#[track_caller]
fn attach_two(network: &Network) -> [Attached; 2] {
    silence();
    let [one, two] = ["one", "two"].map(|container| {
        let pod = network.host.pod();
        pod.enter(silence);
        network.attach_pod(container, pod)
    });
    assert!(one.pod.ping(two.address(), 3).status.success());
    one.pod.ip(&format!("neighbour replace {} lladdr {} dev eth0 nud permanent", two.address(), two.mac()));
    [one, two]
}

/// Packets for the pod flow while it is deleted, while others are created, and afterwards.
#[test]
fn packets_for_a_deleted_pod_reach_no_other_pod() {
    on_host(|network| {
        let [one, two] = attach_two(network);
        let index = index_of(network, two.host_veth()).expect("an attached link");
        let [address, mac, host_veth] = [two.address(), two.mac(), two.host_veth()].map(str::to_owned);
        let lost = Lost { address, mac, host_veth, index };
        assert!(index >= CHOSEN, "{index}");
        let sent_directly = || network.counters(one.address()).expect("an entry").tx_direct;
        let others: Vec<_> = thread::scope(|scope| {
            let ping = one.pod.command("ping").args(["-n", "-q", "-i", "0.002", "-c", "300", "-W", "1", &lost.address]);
            let flood = scope.spawn(|| ping.output());
            drop(two.pod);
            let make = |number| unrelated_pod(network, &lost, &format!("other{number}"), None);
            let others = (0..OTHER_LINKS).map(make).collect();
            let _ = flood.join().expect("ping ends");
            others
        });
        eventually("the end of the pod's link", LIMIT, || network.host.link(&lost.host_veth).is_none());
        let entry = format!("entry pod_ifindex {}", lost.address);
        assert!(network.map_entries().lines().any(|line| line == entry), "{}", network.map_entries());
        let before = sent_directly();
        assert!(!one.pod.ping(&lost.address, 3).status.success());
        assert!(!network.host.ping(&lost.address, 3).status.success());
        assert_eq!(sent_directly(), before + 3, "the packets were redirected to the endpoint of the entry");
        for (pod, index) in &others {
            assert!(*index < CHOSEN, "{index}");
            assert_eq!(echoes(pod), 0, "link {index}");
        }

        // The control: a pod that requests exactly this index receives the packets.
        let (pod, _) = unrelated_pod(network, &lost, "double", Some(lost.index));
        let _ = one.pod.ping(&lost.address, 3);
        assert_eq!(echoes(&pod), 3);

        for (number, _) in others.iter().enumerate() {
            network.host.ip(&format!("link del other{number}"));
        }
        network.host.ip("link del double");
        network.plugin.on("DEL", &network.config, "two", &one.pod).without("CNI_NETNS").run().silent();
        network.detach(&one);
    });
}
