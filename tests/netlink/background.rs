//! Deletions that leave the wait to another process.

use std::sync::atomic::{AtomicU32, Ordering};

use cnikit::netlink::{Error, IfIndex, OrphanRecord};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use tempfile::TempDir;

use crate::support::{Fixture, ifindex, json, name, pair};

/// A record for each deletion, so that each leaves a process behind, whether or not orphans are
/// reaped here.
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
    let chosen = ifindex(4_711);
    let Some(fixture) = Fixture::new() else { return };
    let bridge = fixture.bridge();
    let records = Records::new();
    for round in 0..50 {
        let pair = pair(1, &fixture.pod).host_index(chosen).master(bridge).host_up();
        let indexes = fixture.on_host.create_veth(&pair).unwrap_or_else(|error| panic!("round {round}: {error}"));
        fixture.in_pod.set_up(indexes.peer).expect("bring the peer up");
        fixture.on_host.delete_link_nowait(indexes.host, &records.another()).expect("delete");
        assert_eq!(fixture.on_host.link_by_index(chosen).expect("look up"), None);
        assert_eq!(fixture.on_host.link_by_name(&name("veth1")).expect("look up"), None);
        assert_eq!(fixture.in_pod.link_by_name(&name("eth1")).expect("look up"), None);
    }
    let names = |netns| json(netns, "ip -j link").as_array().map(Vec::len);
    assert_eq!((names(&fixture.host), names(&fixture.pod)), (Some(2), Some(1)));
}

#[test]
fn absent_link_succeeds_and_refusal_is_an_error() {
    let Some(fixture) = Fixture::new() else { return };
    let records = Records::new();
    fixture.on_host.delete_link_nowait(ifindex(4_711), &records.another()).expect("no such link");
    let error = fixture.on_host.delete_link_nowait(IfIndex::LOOPBACK, &records.another()).expect_err("loopback stays");
    let plain = fixture.on_host.delete_link(IfIndex::LOOPBACK).expect_err("loopback stays");
    assert_eq!((error.raw_os_error(), error.to_string()), (plain.raw_os_error(), plain.to_string()));

    let veth = fixture.veth(1, None).host;
    let error = std::thread::scope(|scope| {
        let socket = fixture.host.socket().expect("open a socket");
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
    assert!(fixture.on_host.link_by_index(veth).expect("look up").is_some());
}

#[test]
fn socket_works_after_deletions() {
    let Some(fixture) = Fixture::new() else { return };
    let records = Records::new();
    let ends = [1, 2, 3].map(|number| fixture.veth(number, None));
    for ends in &ends {
        fixture.on_host.delete_link_nowait(ends.host, &records.another()).expect("delete");
        // The acknowledgement of the deletion arrives among the answers to these requests.
        assert!(fixture.on_host.links().expect("list").iter().all(|link| link.index != ends.host));
    }
    fixture.on_host.delete_link(ends[0].host).expect("it is gone");
}
