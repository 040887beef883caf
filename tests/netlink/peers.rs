//! The other end of a veth pair, and the XDP program on it.

use std::time::Duration;

use cnikit::netlink::{Error, Netns};
use cnikit_testbed::{Xdp, eventually};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use crate::support::{Fixture, link, name, pair, run};

#[test]
fn peer_is_found_in_its_namespace() {
    let Some(fixture) = Fixture::new() else { return };
    // Both ends have the same index: the bridge in this namespace, the other end in the pod.
    let bridge = fixture.bridge();
    let indexes = fixture.veth(1, None);
    assert_eq!(indexes.peer, bridge);
    let veth = fixture.on_host.link_by_name(&name("veth1")).expect("a look").expect("a link");
    let peer = fixture.on_host.peer(&veth).expect("a look").expect("the other end");
    let seen = link(&fixture.pod, "eth1");
    assert_eq!((seen["ifindex"].as_u64(), &seen["ifname"]), (Some(peer.index.get().into()), &"eth1".into()));
    assert_eq!(seen["address"], peer.mac.expect("a MAC").to_string());
    // The reverse direction.
    let inside = fixture.in_pod.link_by_name(&name("eth1")).expect("a look").expect("a link");
    let back = fixture.in_pod.peer(&inside).expect("a look").expect("the other end");
    assert_eq!((back.index, back.name, back.mac), (veth.index, veth.name, veth.mac));
}

#[test]
fn both_ends_may_be_in_one_namespace() {
    let Some(fixture) = Fixture::new() else { return };
    run(&fixture.host, "ip link add left type veth peer name right");
    let left = fixture.on_host.link_by_name(&name("left")).expect("a look").expect("a link");
    let right = fixture.on_host.peer(&left).expect("a look").expect("the other end");
    assert_eq!((right.name.as_str(), right.peer_index), ("right", Some(left.index)));
    let lo = fixture.on_host.link_by_name(&name("lo")).expect("a look").expect("a link");
    assert_eq!(fixture.on_host.peer(&lo).expect("a look"), None, "it has none");
}

#[test]
fn missing_peer_is_none() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.veth(1, None);
    let veth = fixture.on_host.link_by_name(&name("veth1")).expect("a look").expect("a link");
    run(&fixture.host, "ip link del veth1");
    assert_eq!(fixture.on_host.peer(&veth).expect("a look"), None, "the pair");

    let ended = Netns::create().expect("a namespace");
    fixture.on_host.create_veth(&pair(2, &ended)).expect("a pair");
    let veth = fixture.on_host.link_by_name(&name("veth2")).expect("a look").expect("a link");
    drop(ended);
    let is_gone = || fixture.on_host.link_by_index(veth.index).expect("a look").is_none();
    eventually("the pair to go with its namespace", Duration::from_secs(5), is_gone);
    assert_eq!(fixture.on_host.peer(&veth).expect("a look"), None, "the namespace");
}

#[test]
fn process_without_privileges_is_refused() {
    // The thread drops its capabilities for good.
    std::thread::spawn(refused).join().expect("the thread passes");
}

fn refused() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.veth(1, None);
    let veth = fixture.on_host.link_by_name(&name("veth1")).expect("a look").expect("a link");
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, sets).expect("drop all capabilities");
    let error = fixture.on_host.peer(&veth).expect_err("the other namespace is not its own");
    assert!(matches!(error, Error::Kernel { .. }), "{error:?}");
    assert!(error.to_string().contains(&format!("the other end of link {}", veth.index)), "{error}");
}

#[test]
fn driver_mode_is_distinguished_from_generic_mode() {
    let Some(fixture) = Fixture::new() else { return };
    let indexes = fixture.veth(1, None);
    let found = || {
        let veth = fixture.on_host.link_by_name(&name("veth1")).expect("a look").expect("a link");
        fixture.on_host.peer(&veth).expect("a look").expect("the other end").driver_xdp
    };
    assert_eq!(found(), None);
    for (mode, is_found) in [(Xdp::GENERIC, false), (Xdp::DRIVER, true)] {
        let attached = fixture.pod.run(|| Xdp::new(Xdp::PASS).link(indexes.peer.get(), mode)).expect("enter the pod");
        let id = link(&fixture.pod, "eth1")["xdp"]["prog"]["id"].as_u64().expect("ip shows the program");
        assert_eq!(found().map(u64::from), is_found.then_some(id), "mode {mode}");
        drop(attached);
        // A process of another test may hold a copy of the descriptor for a moment.
        let is_detached = || link(&fixture.pod, "eth1")["xdp"].is_null();
        eventually("the program to be detached", Duration::from_secs(5), is_detached);
    }
}
