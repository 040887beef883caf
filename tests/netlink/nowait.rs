//! Deletions that leave the waiting to another process.

use std::sync::atomic::{AtomicU32, Ordering};

use cnikit::netlink::{Error, LOOPBACK_INDEX, OrphanRecord};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use tempfile::TempDir;

use crate::support::{Bed, json, name, pair};

/// Records that no other deletion has: each leaves a process behind, whether or not orphans are reaped here.
struct Records(TempDir, AtomicU32);

impl Records {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"), AtomicU32::new(0))
    }

    fn another(&self) -> OrphanRecord {
        OrphanRecord::new(self.0.path().join(self.1.fetch_add(1, Ordering::Relaxed).to_string()))
    }
}

#[test]
fn names_and_index_are_free_at_once() {
    const CHOSEN: u32 = 4_711;
    let Some(bed) = Bed::new() else { return };
    let bridge = bed.bridge();
    let records = Records::new();
    for round in 0..50 {
        let pair = pair(1, &bed.pod).host_index(CHOSEN).master(bridge).host_up();
        let indexes = bed.on_host.create_veth(&pair).unwrap_or_else(|error| panic!("round {round}: {error}"));
        bed.in_pod.set_up(indexes.peer).expect("bring the peer up");
        bed.on_host.delete_link_nowait(indexes.host, &records.another()).expect("delete");
        assert_eq!(bed.on_host.link_by_index(CHOSEN).expect("look up"), None);
        assert_eq!(bed.on_host.link_by_name(&name("veth1")).expect("look up"), None);
        assert_eq!(bed.in_pod.link_by_name(&name("eth1")).expect("look up"), None);
    }
    let names = |netns| json(netns, "ip -j link").as_array().map(Vec::len);
    assert_eq!((names(&bed.host), names(&bed.pod)), (Some(2), Some(1)));
}

#[test]
fn what_is_absent_is_success_and_what_is_refused_an_error() {
    let Some(bed) = Bed::new() else { return };
    let records = Records::new();
    bed.on_host.delete_link_nowait(4_711, &records.another()).expect("no such link");
    let error = bed.on_host.delete_link_nowait(LOOPBACK_INDEX, &records.another()).expect_err("loopback stays");
    let plain = bed.on_host.delete_link(LOOPBACK_INDEX).expect_err("loopback stays");
    assert_eq!((error.raw_os_error(), error.to_string()), (plain.raw_os_error(), plain.to_string()));

    let veth = bed.veth(1, None).host;
    let error = std::thread::scope(|scope| {
        let socket = bed.host.socket().expect("open a socket");
        let records = &records;
        let deprived = move || {
            let none = CapabilitySet::empty();
            let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
            set_capabilities(None, sets).expect("drop all capabilities");
            socket.delete_link_nowait(veth, &records.another()).expect_err("not permitted")
        };
        scope.spawn(deprived).join().expect("the thread")
    });
    assert!(matches!(error, Error::Kernel { .. }), "{error:?}");
    assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
    assert!(bed.on_host.link_by_index(veth).expect("look up").is_some());
}

#[test]
fn the_socket_stays_of_use() {
    let Some(bed) = Bed::new() else { return };
    let records = Records::new();
    let ends = [1, 2, 3].map(|number| bed.veth(number, None));
    for ends in &ends {
        bed.on_host.delete_link_nowait(ends.host, &records.another()).expect("delete");
        // The acknowledgement of the deletion arrives among the answers to these.
        assert!(bed.on_host.links().expect("list").iter().all(|link| link.index != ends.host));
    }
    bed.on_host.delete_link(ends[0].host).expect("it is gone");
}
