//! Who hears the question for an address, and who answers it.

use std::time::Duration;

use cnikit_testbed::{Namespace, eventually, host};

use crate::bed::{Bed, GATEWAY, GATEWAY_MAC, addresses, mac};
use cnikit_testbed::raw::Ear;

const LIMIT: Duration = Duration::from_secs(5);

/// The questions for an address that the bystander, the third pod, has heard: ARP requests and neighbour solicitations.
fn questions(ear: &Ear, family: usize) -> usize {
    let is_question = |frame: &Vec<u8>| match family {
        0 => frame[12..14] == [0x08, 0x06] && frame[21] == 1,
        _ => frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && frame[54] == 135,
    };
    ear.frames().iter().filter(|frame| is_question(frame)).count()
}

#[test]
fn questions_of_pods_and_of_the_host_reach_nobody_else() {
    host(|host| {
        let bed = Bed::new(host);
        let ear = bed.pods[2].enter(|| Ear::open().unwrap());
        for family in [0, 1] {
            let [one, other, gateway] = [addresses(0)[family], addresses(1)[family], GATEWAY[family]];
            let answers = |bed: &Bed| {
                let stats = bed.datapath.stats().unwrap();
                [stats.arp_answers, stats.nd_answers][family]
            };
            eventually("silence", LIMIT, || questions(&ear, family) == 0);

            let before = answers(&bed);
            for (asker, asked, address) in [(0, other, mac(1)), (0, gateway, GATEWAY_MAC), (1, gateway, GATEWAY_MAC)] {
                let pod = &bed.pods[asker];
                assert!(pod.ping(&asked.to_string(), 2).status.success(), "{asked}");
                assert_eq!(neighbour(pod, &asked.to_string()), Some(address.to_string()));
            }
            // About the gateway the host is asked, which answers itself.
            assert!(answers(&bed) > before);
            host.ip("neighbour flush dev cbr0");
            let before = answers(&bed);
            assert!(host.ping(&one.to_string(), 2).status.success(), "the host");
            assert_eq!(neighbour(host, &one.to_string()), Some(mac(0).to_string()));
            assert!(answers(&bed) > before);
            assert_eq!(questions(&ear, family), 0, "nobody else is asked");

            // Without a row the bridge floods the question, as ever.
            bed.datapath.open_endpoints().unwrap().remove(other).unwrap();
            let index = crate::bed::index(host, "veth1");
            bed.datapath.open_port_configs().unwrap().remove(index).unwrap();
            forget(&bed.pods[0]);
            let before = answers(&bed);
            assert!(bed.pods[0].ping(&other.to_string(), 2).status.success(), "by the bridge");
            assert!(questions(&ear, family) > 0, "the bystander hears it");
            assert_eq!(answers(&bed), before);
        }
        bed.end(host);
    });
}

#[test]
fn a_duplicate_address_is_found_out() {
    host(|host| {
        let bed = Bed::new(host);
        let taken = addresses(1)[1];
        // The asker's port is nobody's, so that the address is not its own to be refused.
        bed.datapath.open_port_configs().unwrap().remove(crate::bed::index(host, "veth0")).unwrap();
        bed.pods[0].command("sysctl").words("-q -w net.ipv6.conf.eth0.accept_dad=1").run();
        bed.pods[0].ip(&format!("address add {taken}/64 dev eth0"));
        let failed = || {
            let shown = bed.pods[0].ip("-6 address show dev eth0 dadfailed");
            shown.to_string().contains(&taken.to_string())
        };
        eventually("the kernel to find it out", LIMIT, failed);
        bed.end(host);
    });
}

/// The MAC that a namespace has found out for an address.
fn neighbour(namespace: &impl Namespace, address: &str) -> Option<String> {
    let shown = namespace.ip(&format!("neighbour show {address}"));
    shown[0]["lladdr"].as_str().map(str::to_owned)
}

fn forget(namespace: &impl Namespace) {
    namespace.ip("neighbour flush dev eth0");
}
