//! Moves, names and flags of links.

use cnikit::{
    netlink::{Error, LinkKind, LinkSpec},
    spec::IfIndex,
};
use serde_json::{Value, json as value};

use crate::support::{Fixture, json, link, name, run};

#[test]
fn link_moves_under_its_name_or_another() {
    let Some(fixture) = Fixture::new() else { return };
    let device = ifb(&fixture, "ifb0");
    // The index is taken in the pod, so the kernel chooses another.
    run(&fixture.pod, &format!("ip link add taken index {device} type bridge"));
    let moved = fixture.on_host.move_link(device, &fixture.pod).expect("move");
    assert_ne!(moved, device);
    assert_eq!(link(&fixture.pod, "ifb0")["ifindex"], moved.get());
    assert_eq!(names(&json(&fixture.host, "ip -j link")), ["lo"]);

    let back = fixture.in_pod.move_link_as(moved, &fixture.host, &name("dev7")).expect("move back");
    assert_eq!(link(&fixture.host, "dev7")["ifindex"], back.get());
    assert_eq!(names(&json(&fixture.pod, "ip -j link")), ["lo", "taken"]);

    // The former name is taken in the pod, the new one is free.
    run(&fixture.pod, "ip link add dev7 type bridge");
    let there = fixture.on_host.move_link_as(back, &fixture.pod, &name("net1")).expect("move again");
    assert_eq!(link(&fixture.pod, "net1")["ifindex"], there.get());
    assert_eq!(names(&json(&fixture.pod, "ip -j link")), ["dev7", "lo", "net1", "taken"]);
}

#[test]
fn link_that_cannot_move_stays() {
    let Some(fixture) = Fixture::new() else { return };
    let device = ifb(&fixture, "ifb0");
    run(&fixture.pod, "ip link add ifb0 type bridge");
    run(&fixture.pod, "ip link add net1 type bridge");
    for moved in [
        fixture.on_host.move_link(device, &fixture.pod),
        fixture.on_host.move_link_as(device, &fixture.pod, &name("net1")),
    ] {
        let error = moved.expect_err("the name is taken");
        assert!(matches!(error, Error::Exists { .. }), "{error:?}");
    }
    assert_eq!(names(&json(&fixture.host, "ip -j link")), ["ifb0", "lo"]);

    let error = fixture.on_host.move_link_as(IfIndex::LOOPBACK, &fixture.pod, &name("lo2")).expect_err("bound");
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}");
    let gone = IfIndex::new(4_711).expect("not zero");
    for moved in
        [fixture.on_host.move_link(gone, &fixture.pod), fixture.on_host.move_link_as(gone, &fixture.pod, &name("x0"))]
    {
        assert_eq!(moved.expect_err("no such link").raw_os_error(), Some(libc::ENODEV));
    }
}

#[test]
fn link_is_renamed() {
    let Some(fixture) = Fixture::new() else { return };
    let device = ifb(&fixture, "ifb0");
    run(&fixture.host, "ip link add taken type bridge");
    fixture.on_host.rename_link(device, &name("net1")).expect("rename");
    assert_eq!(link(&fixture.host, "net1")["ifindex"], device.get());
    let error = fixture.on_host.rename_link(device, &name("taken")).expect_err("taken");
    assert!(matches!(error, Error::Exists { .. }), "{error:?}");

    fixture.on_host.set_up(device).expect("bring it up");
    match fixture.on_host.rename_link(device, &name("net2")) {
        Ok(()) => assert!(cnikit_testbed::kernel() >= (6, 2), "older kernels refuse"),
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::EBUSY), "{error}");
            assert!(cnikit_testbed::kernel() < (6, 2));
        }
    }
}

#[test]
fn flags_and_queue_are_set_and_read() {
    let Some(fixture) = Fixture::new() else { return };
    let device = ifb(&fixture, "ifb0");
    let read = || fixture.on_host.link_by_index(device).expect("look up").expect("link");
    let shown = |flag: &str| link(&fixture.host, "ifb0")["flags"].as_array().expect("flags").contains(&value!(flag));
    for on in [true, false] {
        fixture.on_host.set_promiscuous(device, on).expect("set");
        assert_eq!((shown("PROMISC"), shown("ALLMULTI"), read().promiscuous, read().allmulti), (on, false, on, false));
    }
    for on in [true, false] {
        fixture.on_host.set_allmulti(device, on).expect("set");
        assert_eq!((shown("PROMISC"), shown("ALLMULTI"), read().promiscuous, read().allmulti), (false, on, false, on));
    }
    for on in [false, true] {
        fixture.on_host.set_arp(device, on).expect("set");
        assert_eq!((shown("NOARP"), read().arp), (!on, on));
    }
    // A change of one flag keeps the others.
    fixture.on_host.set_up(device).expect("bring it up");
    fixture.on_host.set_promiscuous(device, true).expect("set");
    fixture.on_host.set_allmulti(device, true).expect("set");
    fixture.on_host.set_allmulti(device, false).expect("clear");
    assert!(shown("UP") && shown("PROMISC") && !shown("ALLMULTI"));

    fixture.on_host.set_txqlen(device, 77).expect("set");
    assert_eq!((&link(&fixture.host, "ifb0")["txqlen"], read().txqlen), (&value!(77), 77));
    let gone = IfIndex::new(4_711).expect("not zero");
    let error = fixture.on_host.set_promiscuous(gone, true).expect_err("no such link");
    assert_eq!(error.to_string(), "set the promiscuous mode of link 4711: No such device (os error 19)");
}

#[test]
fn link_leaves_its_master() {
    let Some(fixture) = Fixture::new() else { return };
    let bridge = fixture.bridge();
    let port = fixture.veth(1, Some(bridge)).host;
    assert_eq!(link(&fixture.host, "veth1")["master"], "cbr0");
    fixture.on_host.clear_master(port).expect("clear");
    assert_eq!(link(&fixture.host, "veth1")["master"], Value::Null);
    fixture.on_host.clear_master(port).expect("there is none");
}

fn ifb(fixture: &Fixture, link: &str) -> IfIndex {
    fixture.on_host.create_link(&LinkSpec::new(name(link), LinkKind::Ifb)).expect("create an ifb")
}

fn names(links: &Value) -> Vec<String> {
    let links = links.as_array().expect("links");
    let mut names: Vec<_> = links.iter().map(|link| link["ifname"].as_str().expect("name").to_owned()).collect();
    names.sort();
    names
}

#[test]
fn alias_that_exceeds_an_attribute_is_refused() {
    let Some(fixture) = Fixture::new() else { return };
    let index = fixture.veth(1, None).host;
    fixture.on_host.set_alias(index, "mine").expect("set");
    // In 16 bits, the length equals the length of an empty alias. The kernel would read the text as
    // attributes.
    let error = fixture.on_host.set_alias(index, &"x".repeat(0x1_0000)).expect_err("too long");
    assert!(matches!(error, Error::Message { .. }), "{error:?}");
    let seen = json(&fixture.host, "ip -j link show dev veth1");
    assert_eq!(seen[0]["ifalias"], "mine", "{seen}");
}
