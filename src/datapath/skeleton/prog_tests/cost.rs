//! Measures the run time of the programs per packet, without the network stack:
//!
//! ```sh
//! cargo test --lib cost_of_each_case -- --ignored --nocapture
//! ```

use super::frames::*;
use super::{PORT, index, loaded, time};

const REPEAT: u32 = 1_000_000;

#[test]
#[ignore = "a measurement"]
fn cost_of_each_case() {
    loaded(|loaded| {
        let programs = &loaded.skeleton.progs;
        let nanoseconds = |program, frame: &[u8]| time(program, frame, REPEAT).as_nanos();
        let mut lines = Vec::new();
        for (family, [a, b]) in PODS.into_iter().enumerate() {
            let send = |protocol, payload: &[u8]| frame(MAC_B, &ip(a, b, 64, protocol, payload));
            let answer = send(TCP, &tcp(80, 1000, ACK));
            let question = ethernet(
                MAC_A,
                MAC_GATEWAY,
                if a.is_ipv4() { IPV4 } else { IPV6 },
                &ip(b, a, 63, TCP, &tcp(1000, 80, ACK)),
            );
            let name = ["IPv4", "IPv6"][family];
            let mut ingress = |what: &str, frame: &[u8]| {
                lines.push(format!("{:>5} ns  ingress  {name} {what}", nanoseconds(&programs.cni_tc_main, frame)));
            };
            ingress("TCP, direct", &answer);
            ingress("TCP SYN, direct", &send(TCP, &tcp(80, 1000, SYN)));
            ingress("UDP, direct", &send(UDP, &udp(1, 2)));
            ingress("to an external address", &datagram(MAC_GATEWAY, a, EXTERNAL[family], 64));
            ingress("spoofed, dropped", &datagram(MAC_B, EXTERNAL[family], b, 64));
            loaded.egress(&question);
            ingress("TCP, answer in a flow of the stack", &answer);
            loaded.configure(|config| config.spoof_check = false);
            ingress("UDP, direct, spoof check off", &send(UDP, &udp(1, 2)));
            loaded.configure(|config| config.direct_forwarding = false);
            ingress("UDP, direct off, spoof check off", &send(UDP, &udp(1, 2)));
            loaded.configure(|_| ());
            let egress = nanoseconds(&programs.cni_tc_egress, &question);
            lines.push(format!("{egress:>5} ns  egress   {name} TCP, tracked flow"));
            let external = datagram(MAC_A, EXTERNAL[family], a, 64);
            let egress = nanoseconds(&programs.cni_tc_egress, &external);
            lines.push(format!("{egress:>5} ns  egress   {name} from an external address"));
        }
        let reply = ethernet(MAC_ALL, MAC_A, ARP, &arp(2, (MAC_A, PODS[0][0]), ([0; 6], PODS[0][1])));
        lines.push(format!("{:>5} ns  ingress  ARP reply, checked", nanoseconds(&programs.cni_tc_main, &reply)));
        loaded.configure(|config| config.bridge_ifindex = Some(index(PORT)));
        let up = datagram(MAC_GATEWAY, PODS[0][0], EXTERNAL[0], 64);
        lines.push(format!("{:>5} ns  ingress  at the bridge", nanoseconds(&programs.cni_tc_main, &up)));
        eprintln!("{}", lines.join("\n"));
    });
}
