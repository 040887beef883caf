//! Hairpin ports: a bridge sends a frame back to its ingress port. Only unicast frames may return.

use std::time::Duration;

use cnikit_testbed::raw::{self, Ear};
use cnikit_testbed::{Namespace, Pod};

use crate::support::{Attached, GATEWAY, Network, on_host};

#[track_caller]
fn with_and_without_spoof_check(test: impl Fn(&Network) + Send + Sync) {
    for spoof_check in [true, false] {
        on_host(|network| {
            let network = network.by(network.with("spoofCheck", spoof_check));
            test(&network);
        });
    }
}

/// The MAC of `eth0` in a pod, as octets.
fn mac(attached: &Attached) -> [u8; 6] {
    let octets = attached.mac().split(':').map(|octet| u8::from_str_radix(octet, 16).expect("hexadecimal"));
    octets.collect::<Vec<_>>().try_into().expect("six octets")
}

/// IEEE 802.1D, section 7.7.1.
#[test]
fn a_pod_does_not_receive_its_own_broadcasts_and_multicasts() {
    with_and_without_spoof_check(|network| {
        let [one, two] = ["one", "two"].map(|container| network.attach(container));
        let own = mac(&one);
        let hear = |pod: &Pod| pod.enter(Ear::open).expect("a socket");
        let (back, elsewhere) = (hear(&one.pod), hear(&two.pod));
        for group in [[0xff; 6], [0x33, 0x33, 0, 0, 0, 1], [0x01, 0x00, 0x5e, 0, 0, 0xfb]] {
            // An Ethertype for experiments: IEEE 802, section 9.2.3. No kernel sends it.
            let frame = [&group[..], &own, &[0x88, 0xb5], &[0; 46]].concat();
            one.pod.enter(|| raw::send(&frame)).expect("sent");
        }
        let of_experiment = |ear: &Ear| ear.frames().iter().filter(|frame| frame[12..14] == [0x88, 0xb5]).count();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!((of_experiment(&elsewhere), of_experiment(&back)), (3, 0));
        [one, two].iter().for_each(|attached| network.detach(attached));
    });
}

/// RFC 4862, without the nonce of RFC 7527 that lets newer systems recognize their own probes.
#[test]
fn duplicate_address_detection_of_an_old_system_finds_no_duplicate() {
    with_and_without_spoof_check(|network| {
        let one = network.attach("one");
        let settings = "enhanced_dad=0 accept_dad=1 disable_ipv6=0";
        for setting in settings.split(' ') {
            one.pod.command("sysctl").words(&format!("-q -w net.ipv6.conf.eth0.{setting}")).run();
        }
        one.pod.command("sysctl").words("-q -w net.ipv6.conf.all.enhanced_dad=0").run();
        one.pod.ip("address add fd00:5::5/64 dev eth0");
        // Detection takes one second, and up to one more second before it begins.
        cnikit_testbed::eventually("the end of the detection", Duration::from_secs(5), || {
            !one.pod.ip("-6 address show dev eth0 scope global").to_string().contains("\"tentative\":true")
        });
        let addresses = one.pod.ip("-6 address show dev eth0 scope global").to_string();
        assert!(addresses.contains("fd00:5::5") && !addresses.contains("dadfailed"), "{addresses}");
        network.detach(&one);
    });
}

/// A virtual machine with the pod's address, behind a bridge in the pod, as KubeVirt and
/// containerlab create.
#[test]
fn a_machine_behind_a_bridge_in_the_pod_is_reachable() {
    on_host(|network| {
        let network = network.by(network.with("spoofCheck", false));
        let [one, two] = ["one", "two"].map(|container| network.attach(container));
        for own_mac in [false, true] {
            let machine = network.host.pod();
            let mac = if own_mac { "02:00:00:00:00:42" } else { one.mac() };
            one.pod.ip("address flush dev eth0");
            one.pod.ip("link set eth0 down");
            one.pod.ip("link set eth0 address 02:00:00:00:00:99");
            one.pod.ip("link add in0 type bridge");
            let netns = machine.netns();
            one.pod.ip(&format!("link add tap type veth peer name eth0 address {mac} netns {}", netns.display()));
            for port in ["eth0", "tap"] {
                one.pod.ip(&format!("link set {port} master in0"));
            }
            for link in ["in0", "eth0", "tap"] {
                one.pod.ip(&format!("link set {link} up"));
            }
            machine.ip("link set eth0 up");
            machine.ip(&format!("address add {}/24 dev eth0", one.address()));
            two.pod.ip("neighbour flush all");
            network.host.ip("neighbour flush all");
            // A bridge serves a port as soon as it has noticed the carrier.
            cnikit_testbed::eventually("the reply to the machine", Duration::from_secs(5), || {
                machine.ping(GATEWAY, 1).status.success()
            });
            assert!(machine.ping(two.address(), 3).status.success(), "the machine to a pod, own MAC {own_mac}");
            assert!(two.pod.ping(one.address(), 3).status.success(), "a pod to the machine, own MAC {own_mac}");
            let learnt = one.pod.command("bridge").words("-j fdb show br in0").json();
            let learnt = learnt
                .as_array()
                .into_iter()
                .flatten()
                .find(|entry| entry["mac"] == mac && entry["state"] != "permanent");
            assert_eq!(learnt.expect("learnt")["ifname"], "tap", "own MAC {own_mac}");
            one.pod.ip("link delete tap");
            one.pod.ip("link delete in0");
        }
        [one, two].iter().for_each(|attached| network.detach(attached));
    });
}
