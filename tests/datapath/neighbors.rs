//! Receivers and senders of neighbor solicitations and ARP requests, and of their answers.

use std::time::Duration;

use cnikit_testbed::{Namespace, eventually, host};

use crate::fixture::{Fixture, GATEWAY, GATEWAY_MAC, addresses, mac};
use cnikit_testbed::raw::Ear;

const TIMEOUT: Duration = Duration::from_secs(5);

/// The number of ARP requests or neighbor solicitations that the third pod has received.
fn requests(ear: &Ear, family: usize) -> usize {
    let is_request = |frame: &Vec<u8>| match family {
        0 => frame[12..14] == [0x08, 0x06] && frame[21] == 1,
        _ => frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && frame[54] == 135,
    };
    ear.frames().iter().filter(|frame| is_request(frame)).count()
}

#[test]
fn requests_of_pods_and_of_the_host_reach_no_other_pod() {
    host(|host| {
        let fixture = Fixture::new(host);
        let ear = fixture.pods[2].enter(|| Ear::open().unwrap());
        for family in [0, 1] {
            let [one, other, gateway] = [addresses(0)[family], addresses(1)[family], GATEWAY[family]];
            let answers = |fixture: &Fixture| {
                let stats = fixture.datapath.stats().unwrap();
                [stats.arp_answers, stats.nd_answers][family]
            };
            eventually("silence", TIMEOUT, || requests(&ear, family) == 0);

            let before = answers(&fixture);
            for (sender, target, mac) in [(0, other, mac(1)), (0, gateway, GATEWAY_MAC), (1, gateway, GATEWAY_MAC)] {
                let pod = &fixture.pods[sender];
                assert!(pod.ping(&target.to_string(), 2).status.success(), "{target}");
                assert_eq!(neighbor(pod, &target.to_string()), Some(mac.to_string()));
            }
            // Requests for the gateway go to the host, which answers itself.
            assert!(answers(&fixture) > before);
            host.ip("neighbour flush dev cbr0");
            let before = answers(&fixture);
            assert!(host.ping(&one.to_string(), 2).status.success(), "the host");
            assert_eq!(neighbor(host, &one.to_string()), Some(mac(0).to_string()));
            assert!(answers(&fixture) > before);
            assert_eq!(requests(&ear, family), 0, "no other pod receives a request");

            // Without an entry the bridge floods the request.
            fixture.datapath.open_endpoints().unwrap().remove(other).unwrap();
            let index = crate::fixture::index(host, "veth1");
            fixture.datapath.open_port_configs().unwrap().remove(index).unwrap();
            flush(&fixture.pods[0]);
            let before = answers(&fixture);
            assert!(fixture.pods[0].ping(&other.to_string(), 2).status.success(), "through the bridge");
            assert!(requests(&ear, family) > 0, "the third pod receives a request");
            assert_eq!(answers(&fixture), before);
        }
        fixture.end(host);
    });
}

#[test]
fn duplicate_address_detection_finds_the_pod() {
    host(|host| {
        let fixture = Fixture::new(host);
        let taken = addresses(1)[1];
        // Without an entry for the port, the spoof check does not drop the packets of the sender.
        fixture.datapath.open_port_configs().unwrap().remove(crate::fixture::index(host, "veth0")).unwrap();
        fixture.pods[0].command("sysctl").words("-q -w net.ipv6.conf.eth0.accept_dad=1").run();
        fixture.pods[0].ip(&format!("address add {taken}/64 dev eth0"));
        let failed = || {
            let shown = fixture.pods[0].ip("-6 address show dev eth0 dadfailed");
            shown.to_string().contains(&taken.to_string())
        };
        eventually("the kernel to detect the duplicate", TIMEOUT, failed);
        fixture.end(host);
    });
}

/// The MAC of an address in the neighbor table of a namespace.
fn neighbor(namespace: &impl Namespace, address: &str) -> Option<String> {
    let shown = namespace.ip(&format!("neighbour show {address}"));
    shown[0]["lladdr"].as_str().map(str::to_owned)
}

fn flush(namespace: &impl Namespace) {
    namespace.ip("neighbour flush dev eth0");
}
