//! Slots for later programs: `stages`, a program array that the programs tail-call.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use cnikit_testbed::{Xdp, classifier, host, tool};

use crate::fixture::{Fixture, GATEWAY, addresses};
use crate::support::{bpftool, datapath, ids, make_foreign, map};

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

/// The kernel compares the programs of an array by type, and by use of the JIT: in one function.
/// A program of another type emulates a toggle of net.core.bpf_jit_enable, which is global.
#[test]
fn an_array_of_another_kind_of_program_is_replaced() {
    if !tool("bpftool") {
        return;
    }
    host(|_| {
        let datapath = datapath("one");
        datapath.ensure().unwrap();
        let (directory, before) = (datapath.directory(), ids(&datapath.directory()));
        let (array, program) = (directory.join("stages"), directory.join("xdp"));
        fs::remove_file(&array).unwrap();
        bpftool().words("map create").arg(&array).words("type prog_array key 4 value 4 entries 16 name stages").run();
        Xdp::new(Xdp::PASS).pin(&program);
        bpftool().words("map update pinned").arg(&array).words("key 0 0 0 0 value pinned").arg(&program).run();
        fs::remove_file(&program).unwrap();
        let other = map("show", &directory, "stages", "")["id"].as_u64().unwrap();
        assert!(!datapath.has_stages().unwrap(), "the programs use another array");

        make_foreign(&directory);
        datapath.ensure().unwrap();
        assert!(datapath.has_stages().unwrap());
        let after = ids(&directory);
        assert!(![other, before["stages"]].contains(&after["stages"]));
        for (name, id) in &after {
            let is_new = name == "stages" || name.starts_with("cni_tc_");
            assert_eq!(before[name] != *id, is_new, "{name}: {} became {id}", before[name]);
        }

        // The programs load onto the new array.
        make_foreign(&directory);
        datapath.ensure().unwrap();
        assert_eq!(ids(&directory)["stages"], after["stages"]);
        fs::remove_file(directory.join("stages")).unwrap();
        assert!(!datapath.has_stages().unwrap(), "a set of an older build");
        datapath.remove().unwrap();
        assert!(matches!(datapath.has_stages(), Ok(false)), "no set");
    });
}
