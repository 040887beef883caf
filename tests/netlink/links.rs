use cnikit::netlink::{BridgePort, BridgeSpec, Error, IfIndex, Netns};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use serde_json::{Value, json as value};

use crate::support::{BRIDGE_MAC, Fixture, host_mac, ifindex, json, link, name, pair, peer_mac, run};

#[test]
fn bridge_keeps_its_mac_when_ports_join() {
    let Some(fixture) = Fixture::new() else { return };
    let spec = BridgeSpec::new(name("cbr0")).mac(BRIDGE_MAC).mtu(1400).up();
    let bridge = fixture.on_host.create_bridge(&spec).expect("create cbr0");
    let seen = link(&fixture.host, "cbr0");
    assert_eq!(seen["ifindex"], bridge.get());
    assert_eq!(seen["linkinfo"]["info_kind"], "bridge");
    assert_eq!(seen["address"], "02:00:00:00:00:b0");
    assert_eq!(seen["mtu"], 1400);
    assert!(flags(&seen).contains(&value!("UP")));

    let mut port = pair(1, &fixture.pod).mtu(1400).master(bridge);
    // Lower than the bridge's MAC: without a fixed MAC, the bridge would take this one.
    port.host.mac = cnikit::spec::MacAddr::new([0x02, 0, 0, 0, 0, 0x01]);
    fixture.on_host.create_veth(&port).expect("create a port");
    let seen = link(&fixture.host, "cbr0");
    assert_eq!(seen["address"], "02:00:00:00:00:b0");
    assert_eq!(seen["mtu"], 1400);
}

#[test]
fn multicast_snooping_is_on_by_default_and_can_be_off() {
    let Some(fixture) = Fixture::new() else { return };
    let plain = BridgeSpec::new(name("plain"));
    for (spec, expected) in
        [(plain.clone(), 1), (plain.clone().mcast_snooping(true), 1), (plain.mcast_snooping(false), 0)]
    {
        let bridge = fixture.on_host.create_bridge(&spec).expect("create a bridge");
        let seen = link(&fixture.host, "plain");
        assert_eq!(seen["linkinfo"]["info_data"]["mcast_snooping"], expected, "{spec:?}");
        fixture.on_host.delete_link(bridge).expect("delete it");
    }
}

#[test]
fn veth_pair_is_created_complete() {
    let Some(fixture) = Fixture::new() else { return };
    let bridge = fixture.bridge();
    // Other links come first, so that the indexes of the two ends differ.
    fixture.veth(1, None);
    fixture.on_host.create_bridge(&BridgeSpec::new(name("other"))).expect("create other");

    let pair = pair(2, &fixture.pod).mtu(1450).master(bridge).host_up();
    let indexes = fixture.on_host.create_veth(&pair).expect("create the pair");
    assert_ne!(indexes.host, indexes.peer);

    let host = link(&fixture.host, "veth2");
    assert_eq!(host["ifindex"], indexes.host.get());
    assert_eq!(host["address"], "02:00:00:00:01:02");
    assert_eq!(host["mtu"], 1450);
    assert_eq!(host["master"], "cbr0");
    assert_eq!(host["link_index"], indexes.peer.get());
    assert!(flags(&host).contains(&value!("UP")));

    let peer = link(&fixture.pod, "eth2");
    assert_eq!(peer["ifindex"], indexes.peer.get());
    assert_eq!(peer["address"], "02:00:00:00:02:02");
    assert_eq!(peer["mtu"], 1450);
    assert!(!flags(&peer).contains(&value!("UP")));

    fixture.in_pod.set_up(indexes.peer).expect("bring the peer up");
    assert!(flags(&link(&fixture.pod, "eth2")).contains(&value!("UP")));

    let own = fixture.on_host.link_by_index(indexes.host).expect("look up").expect("host end");
    assert_eq!(own.name, name("veth2"));
    assert_eq!(own.kind.as_deref(), Some("veth"));
    assert_eq!((own.mac, own.mtu, own.up), (Some(host_mac(2)), 1450, true));
    assert_eq!((own.master, own.peer_index), (Some(bridge), Some(indexes.peer)));
    assert!(own.link_netnsid.is_some(), "{own:?}");
    let own = fixture.in_pod.link_by_name(&name("eth2")).expect("look up").expect("peer");
    assert_eq!((own.index, own.mac), (indexes.peer, Some(peer_mac(2))));
}

#[test]
fn ends_with_equal_indexes_are_reported() {
    let Some(fixture) = Fixture::new() else { return };
    let indexes = fixture.veth(1, None);
    assert_eq!(link(&fixture.host, "veth1")["ifindex"], indexes.host.get());
    assert_eq!(link(&fixture.pod, "eth1")["ifindex"], indexes.peer.get());
    assert_eq!(indexes.host, indexes.peer, "fresh namespaces count from the same number");
}

#[test]
fn taken_name_is_reported_and_nothing_is_created() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.veth(1, None);

    let mut same_host = pair(2, &fixture.pod);
    same_host.host.name = name("veth1");
    let error = fixture.on_host.create_veth(&same_host).expect_err("veth1 is taken");
    assert!(matches!(error, Error::Exists { .. }), "{error:?}");

    let mut same_peer = pair(3, &fixture.pod);
    same_peer.peer.name = name("eth1");
    let error = fixture.on_host.create_veth(&same_peer).expect_err("eth1 is taken");
    assert!(matches!(error, Error::Exists { .. }), "{error:?}");

    assert_eq!(names(&json(&fixture.host, "ip -j link")), ["lo", "veth1"]);
    assert_eq!(names(&json(&fixture.pod, "ip -j link")), ["eth1", "lo"]);
}

#[test]
fn pair_that_cannot_join_its_bridge_is_not_left_behind() {
    let Some(fixture) = Fixture::new() else { return };
    let error = fixture.on_host.create_veth(&pair(1, &fixture.pod).master(ifindex(4_711))).expect_err("no bridge");
    assert!(matches!(error, Error::Kernel { .. }), "{error:?}");
    assert_eq!(names(&json(&fixture.host, "ip -j link")), ["lo"]);
    assert_eq!(names(&json(&fixture.pod, "ip -j link")), ["lo"]);
}

#[test]
fn a_missing_capability_is_named() {
    let Some(fixture) = Fixture::new() else { return };
    // Capabilities belong to a thread.
    let error = std::thread::spawn(move || {
        let none = CapabilitySet::empty();
        let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
        set_capabilities(None, sets).expect("drop all capabilities");
        let refused = fixture.on_host.create_bridge(&BridgeSpec::new(name("cbr0")));
        (refused.expect_err("not permitted"), fixture.pod.socket().expect_err("not permitted"))
    });
    let (bridge, namespace) = error.join().expect("the thread");
    assert_eq!(bridge.to_string(), "create bridge cbr0: Operation not permitted (os error 1); CAP_NET_ADMIN is needed");
    assert_eq!(
        namespace.to_string(),
        "cannot enter a network namespace: Operation not permitted (os error 1); CAP_SYS_ADMIN is needed"
    );
}

#[test]
fn bridge_name_of_another_link_kind_is_visible() {
    let Some(fixture) = Fixture::new() else { return };
    let mut impostor = pair(1, &fixture.pod);
    impostor.host.name = name("cbr0");
    fixture.on_host.create_veth(&impostor).expect("create the impostor");

    let error = fixture.on_host.create_bridge(&BridgeSpec::new(name("cbr0"))).expect_err("taken");
    assert!(matches!(error, Error::Exists { .. }), "{error:?}");
    let found = fixture.on_host.link_by_name(&name("cbr0")).expect("look up").expect("impostor");
    assert_eq!(found.kind.as_deref(), Some("veth"));
}

#[test]
fn deleting_is_idempotent() {
    let Some(fixture) = Fixture::new() else { return };
    let first = fixture.veth(1, None);
    fixture.on_host.delete_link(first.host).expect("delete");
    assert_eq!(names(&json(&fixture.host, "ip -j link")), ["lo"]);
    assert_eq!(names(&json(&fixture.pod, "ip -j link")), ["lo"]);
    fixture.on_host.delete_link(first.host).expect("delete what is gone");

    fixture.veth(2, None);
    fixture.on_host.delete_link_by_name(&name("veth2")).expect("delete by name");
    fixture.on_host.delete_link_by_name(&name("veth2")).expect("delete what is gone");
    assert_eq!(fixture.on_host.link_by_name(&name("veth2")).expect("look up"), None);
    assert_eq!(fixture.on_host.link_by_index(ifindex(4_711)).expect("look up"), None);
}

#[test]
fn attributes_change_one_at_a_time() {
    let Some(fixture) = Fixture::new() else { return };
    let bridge = fixture.bridge();
    let veth = fixture.veth(1, Some(bridge));

    fixture.on_host.set_alias(veth.host, "pod blue, eth0").expect("set the alias");
    fixture.on_host.set_mtu(veth.host, 1300).expect("set the MTU");
    fixture.on_host.set_mac(veth.host, host_mac(9)).expect("set the address");
    let port = BridgePort::default().hairpin(true).isolated(true);
    fixture.on_host.set_bridge_port(veth.host, port).expect("set the port");
    let port = BridgePort::default().isolated(false);
    fixture.on_host.set_bridge_port(veth.host, port).expect("set the port again");

    let seen = link(&fixture.host, "veth1");
    assert_eq!(seen["ifalias"], "pod blue, eth0");
    assert_eq!(seen["mtu"], 1300);
    assert_eq!(seen["address"], "02:00:00:00:01:09");
    assert_eq!(seen["linkinfo"]["info_slave_data"]["hairpin"], true);
    assert_eq!(seen["linkinfo"]["info_slave_data"]["isolated"], false);
    assert_eq!(seen["linkinfo"]["info_slave_data"]["learning"], true);

    let own = fixture.on_host.link_by_index(veth.host).expect("look up").expect("link");
    assert_eq!(own.alias.as_deref(), Some("pod blue, eth0"));
    let long = "x".repeat(256);
    let error = fixture.on_host.set_alias(veth.host, &long).expect_err("one byte too long");
    assert_eq!(error.raw_os_error(), Some(libc::ERANGE), "{error}");
    fixture.on_host.set_alias(veth.host, "").expect("remove the alias");
    assert_eq!(link(&fixture.host, "veth1")["ifalias"], Value::Null);

    fixture.on_host.set_down(veth.host).expect("take it down");
    assert!(!flags(&link(&fixture.host, "veth1")).contains(&value!("UP")));
}

#[test]
fn refusal_has_the_operation_and_the_kernels_explanation() {
    let Some(fixture) = Fixture::new() else { return };
    let error = fixture.on_host.set_up(ifindex(4_711)).expect_err("no such link");
    assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    assert!(error.to_string().starts_with("bring up link 4711: "), "{error}");

    let error = fixture.on_host.set_mtu(fixture.bridge(), 1).expect_err("too small");
    let Error::Kernel { message: Some(message), .. } = &error else { panic!("{error:?}") };
    assert!(message.contains("mtu"), "{message}");
    let alone = fixture.veth(1, None).host;
    let port = BridgePort::default().hairpin(true);
    let error = fixture.on_host.set_bridge_port(alone, port).expect_err("it is no port");
    assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP), "{error}");
    // The socket works after an error.
    assert_eq!(fixture.on_host.links().expect("list").len(), 3);
}

#[test]
fn three_hundred_links_are_listed() {
    const LINKS: usize = 300;
    let Some(fixture) = Fixture::new() else { return };
    bridges(&fixture.host, LINKS);

    let mut found: Vec<_> = fixture.on_host.links().expect("list").iter().map(|link| link.name.to_string()).collect();
    found.sort();
    assert_eq!(found.len(), LINKS + 1);
    assert_eq!(found, names(&json(&fixture.host, "ip -j link")));
}

#[test]
fn list_is_complete_while_links_are_added() {
    const STANDING: usize = 60;
    const COMING: usize = 20;
    let Some(fixture) = Fixture::new() else { return };
    bridges(&fixture.host, STANDING);

    let other = fixture.host.socket().expect("another socket");
    let maker = std::thread::spawn(move || {
        for n in 0..COMING {
            let spec = BridgeSpec::new(name(&format!("new{n}")));
            other.create_bridge(&spec).expect("create another bridge");
        }
    });
    while !maker.is_finished() {
        match fixture.on_host.links() {
            Ok(links) => {
                let old = links.iter().filter(|link| link.name.as_str().starts_with("br"));
                assert_eq!(old.count(), STANDING);
            }
            Err(error) => assert!(matches!(error, Error::DumpInterrupted { .. }), "{error:?}"),
        }
    }
    maker.join().expect("the maker");
}

#[test]
fn loopback_has_its_fixed_index() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.in_pod.set_up(IfIndex::LOOPBACK).expect("bring loopback up");
    assert!(flags(&link(&fixture.pod, "lo")).contains(&value!("UP")));
    let lo = fixture.in_pod.link_by_index(IfIndex::LOOPBACK).expect("look up").expect("loopback");
    assert_eq!((lo.name, lo.kind), (name("lo"), None));
}

/// Creates the bridges `br0`, `br1` and so on with one process.
fn bridges(host: &Netns, count: usize) {
    let batch: String = (0..count).map(|n| format!("link add br{n} type bridge\n")).collect();
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    std::fs::write(&file, batch).expect("write the batch");
    run(host, &format!("ip -batch {}", file.path().display()));
}

fn flags(link: &Value) -> &[Value] {
    link["flags"].as_array().expect("flags")
}

fn names(links: &Value) -> Vec<String> {
    let links = links.as_array().expect("links");
    let mut names: Vec<_> = links.iter().map(|link| link["ifname"].as_str().expect("name").to_owned()).collect();
    names.sort();
    names
}
