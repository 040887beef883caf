//! Slots for later programs: `stages`, a program array that the programs tail-call.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use cnikit_testbed::{classifier, host, tool};

use crate::fixture::{Fixture, GATEWAY, addresses};
use crate::support::{bpftool, make_foreign};

/// `enum stage`
const FROM_POD: u8 = 0;
const TO_POD: u8 = 1;

/// `TC_ACT_SHOT`
const SHOT: i32 = 2;

/// How long a datagram may take that arrives, and one that does not.
const TIMEOUT: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(100);

/// Fills a slot with a program that drops all packets, and closes its descriptor.
fn fill(fixture: &Fixture, slot: u8) {
    let (program, id) = classifier(SHOT);
    let map = fixture.datapath.directory().join("stages");
    let words = format!("key {slot} 0 0 0 value id {id}");
    bpftool().words("map update pinned").arg(map).words(&words).run();
    drop(program);
}

fn empty(fixture: &Fixture, slot: u8) {
    let map = fixture.datapath.directory().join("stages");
    bpftool().words("map delete pinned").arg(map).words(&format!("key {slot} 0 0 0")).run();
}

/// Whether a datagram arrives at the second pod.
fn arrives(fixture: &Fixture, sender: &UdpSocket, to: IpAddr, limit: Duration) -> bool {
    let receiver = fixture.pods[1].enter(|| UdpSocket::bind((to, 0)).expect("bind"));
    receiver.set_read_timeout(Some(limit)).expect("a limit");
    sender.send_to(b"x", receiver.local_addr().expect("an address")).expect("send");
    receiver.recv_from(&mut [0]).is_ok()
}

#[test]
fn a_filled_slot_outlives_its_loader_and_an_upgrade() {
    if !tool("bpftool") {
        return;
    }
    host(|host| {
        let fixture = Fixture::new(host);
        for (family, to) in addresses(1).into_iter().enumerate() {
            let pod = fixture.pods[0].enter(|| UdpSocket::bind((addresses(0)[family], 0)).expect("bind"));
            let gateway = UdpSocket::bind((GATEWAY[family], 0)).expect("bind");
            assert!(
                arrives(&fixture, &pod, to, TIMEOUT) && arrives(&fixture, &gateway, to, TIMEOUT),
                "the slots are empty"
            );

            fill(&fixture, FROM_POD);
            assert!(!arrives(&fixture, &pod, to, SHORT));
            assert!(arrives(&fixture, &gateway, to, TIMEOUT), "the host's packets pass another slot");
            make_foreign(&fixture.datapath.directory());
            fixture.datapath.ensure().expect("an upgrade");
            fixture.datapath.settle().expect("a mark");
            assert!(!arrives(&fixture, &pod, to, SHORT));
            empty(&fixture, FROM_POD);

            fill(&fixture, TO_POD);
            assert!(arrives(&fixture, &pod, to, TIMEOUT), "a redirected packet passes the sender's hook only");
            assert!(!arrives(&fixture, &gateway, to, SHORT));
            empty(&fixture, TO_POD);
            assert!(
                arrives(&fixture, &pod, to, TIMEOUT) && arrives(&fixture, &gateway, to, TIMEOUT),
                "the slots are empty again"
            );
        }
        let sent: u64 = addresses(0).map(|address| fixture.counters(address).tx_packets).iter().sum();
        assert!(
            sent > 0 && fixture.datapath.drops().expect("read").total() == 0,
            "a stage's drops are not the spoof check's"
        );
        fixture.end(host);
    });
}
