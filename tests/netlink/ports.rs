//! Bridge ports: index, flags, and entries in the forwarding database.

use std::{net::UdpSocket, thread, time::Duration};

use cnikit::netlink::{BridgePort, Error, FdbState, IfIndex};
use cnikit::spec::MacAddr;
use cnikit_testbed::eventually;
use serde_json::Value;

use crate::support::{Fixture, host_mac, ifindex, json, link, name, pair, peer_mac, run};

#[test]
fn the_index_of_the_host_end_can_be_chosen() {
    let chosen = ifindex(1 << 24 | 7);
    let Some(fixture) = Fixture::new() else { return };
    let bridge = fixture.bridge();
    let pair = pair(1, &fixture.pod).host_index(chosen).master(bridge).host_up();
    let indexes = fixture.on_host.create_veth(&pair).expect("create the pair");
    assert_eq!(indexes.host, chosen);
    assert_eq!(link(&fixture.host, "veth1")["ifindex"], chosen.get());
    assert_eq!(link(&fixture.host, "veth1")["link_index"], indexes.peer.get());
    assert_eq!(link(&fixture.pod, "eth1")["ifindex"], indexes.peer.get());
    assert_eq!(link(&fixture.pod, "eth1")["link_index"], chosen.get());
    let next = fixture.veth(2, None);
    assert!(next.host < chosen, "the kernel counts on from where it was: {next:?}");
}

#[test]
fn taken_index_is_distinguished_from_taken_name() {
    let Some(fixture) = Fixture::new() else { return };
    let taken = fixture.veth(1, None).host;
    for index in [IfIndex::LOOPBACK, taken] {
        let error =
            fixture.on_host.create_veth(&pair(2, &fixture.pod).host_index(index)).expect_err("the index is taken");
        assert!(matches!(error, Error::IndexTaken { ifindex: taken, .. } if taken == index), "{error:?}");
        assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
    }
    for number in [1, 2] {
        let mut pair = pair(number, &fixture.pod).host_index(ifindex(4_711));
        pair.peer.name = name("eth1");
        let error = fixture.on_host.create_veth(&pair).expect_err("a name is taken");
        assert!(matches!(error, Error::Exists { .. }), "{error:?}");
    }
    let links = json(&fixture.host, "ip -j link");
    assert_eq!(links.as_array().map(Vec::len), Some(2), "nothing was created: {links}");

    fixture.on_host.delete_link(taken).expect("delete");
    let again = fixture.on_host.create_veth(&pair(2, &fixture.pod).host_index(taken)).expect("it is free again");
    assert_eq!(again.host, taken);
}

#[test]
fn the_flags_of_a_port_are_set_at_once_and_read_back() {
    let Some(fixture) = Fixture::new() else { return };
    let bridge = fixture.bridge();
    let veth = fixture.veth(1, Some(bridge)).host;
    let usual = fixture.on_host.link_by_index(veth).expect("look up").expect("port").bridge_port;
    let on = BridgePort::default().learning(true).flood(true).mcast_flood(true).bcast_flood(true);
    let on = on.hairpin(false).isolated(false).guard(false).fast_leave(false).proxy_arp(false).neigh_suppress(false);
    assert_eq!(usual, Some(on), "the kernel's defaults");

    let wanted = BridgePort::default()
        .hairpin(true)
        .isolated(true)
        .learning(false)
        .flood(false)
        .mcast_flood(false)
        .bcast_flood(false)
        .guard(true)
        .fast_leave(true)
        .proxy_arp(true)
        .neigh_suppress(true);
    fixture.on_host.set_bridge_port(veth, wanted).expect("set");
    let seen = &link(&fixture.host, "veth1")["linkinfo"]["info_slave_data"];
    let flags = ["hairpin", "isolated", "learning", "flood", "mcast_flood", "bcast_flood"];
    let more = ["guard", "fastleave", "proxy_arp", "neigh_suppress"];
    let seen: Vec<_> = flags.into_iter().chain(more).map(|flag| (flag, seen[flag].as_bool())).collect();
    let expected = [
        ("hairpin", Some(true)),
        ("isolated", Some(true)),
        ("learning", Some(false)),
        ("flood", Some(false)),
        ("mcast_flood", Some(false)),
        ("bcast_flood", Some(false)),
        ("guard", Some(true)),
        ("fastleave", Some(true)),
        ("proxy_arp", Some(true)),
        ("neigh_suppress", Some(true)),
    ];
    assert_eq!(seen, expected);
    let own = fixture.on_host.link_by_index(veth).expect("look up").expect("port");
    assert_eq!(own.bridge_port, Some(wanted));
    let master = fixture.on_host.link_by_index(bridge).expect("look up").expect("bridge");
    assert_eq!(master.bridge_port, None);
}

#[test]
fn entries_of_the_forwarding_database() {
    let Some(fixture) = Fixture::new() else { return };
    let bridge = fixture.bridge();
    let ends = fixture.veth(1, Some(bridge));
    let veth = ends.host;
    let other = fixture.veth(2, Some(bridge)).host;
    assert_eq!(entries(&fixture, veth), [(host_mac(1), FdbState::Permanent)], "the port's own");

    fixture.on_host.set_fdb(veth, peer_mac(1)).expect("add before the port forwards");
    let own = entry(&fixture, "veth1", peer_mac(1)).expect("entry");
    assert_eq!((&own["state"], &own["master"]), (&"static".into(), &"cbr0".into()));
    // Otherwise the bridge would learn the frames that the peer sends by itself.
    fixture.on_host.set_bridge_port(veth, BridgePort::default().learning(false)).expect("set");
    // Only a forwarding port accepts an aging entry. The port forwards some time after its peer
    // comes up.
    fixture.in_pod.set_up(ends.peer).expect("bring the peer up");
    let forwards = || link(&fixture.host, "veth1")["linkinfo"]["info_slave_data"]["state"] == "forwarding";
    eventually("the port to forward", Duration::from_secs(5), forwards);
    run(&fixture.host, "bridge fdb add 02:00:00:00:03:01 dev veth1 master dynamic");
    let mut own = entries(&fixture, veth);
    own.sort_by_key(|(mac, _)| mac.octets());
    let learnt = MacAddr::new([0x02, 0, 0, 0, 3, 1]);
    let expected = [(host_mac(1), FdbState::Permanent), (peer_mac(1), FdbState::Static), (learnt, FdbState::Dynamic)];
    assert_eq!(own, expected);

    // The learned entry now stays, and the entry at the other port moves here.
    fixture.on_host.set_fdb(veth, learnt).expect("in the place of one that ages");
    assert!(entries(&fixture, veth).contains(&(learnt, FdbState::Static)));
    fixture.on_host.set_fdb(other, learnt).expect("in the place of one at another port");
    assert!(entries(&fixture, other).contains(&(learnt, FdbState::Static)));
    assert!(!entries(&fixture, veth).contains(&(learnt, FdbState::Static)));
    let sticky = entry(&fixture, "veth2", learnt).expect("entry")["flags"].to_string();
    assert!(sticky.contains("sticky"), "an entry that moves could be stolen: {sticky}");
    let error = fixture.on_host.set_fdb(ifindex(4_711), peer_mac(1)).expect_err("no such link");
    assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{error}");
    let alone = fixture.veth(3, None).host;
    let error = fixture.on_host.set_fdb(alone, peer_mac(3)).expect_err("no port");
    assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP), "{error}");
    assert_eq!(entries(&fixture, alone), []);

    for _ in 0..2 {
        fixture.on_host.delete_fdb(veth, peer_mac(1)).expect("delete");
        assert_eq!(entry(&fixture, "veth1", peer_mac(1)), None);
    }
    fixture.on_host.delete_fdb(ifindex(4_711), peer_mac(1)).expect("no such link");
    fixture.on_host.delete_fdb(alone, peer_mac(1)).expect("no port");
}

#[test]
fn entries_disappear_with_their_port() {
    let Some(fixture) = Fixture::new() else { return };
    let bridge = fixture.bridge();
    let veth = fixture.veth(1, Some(bridge)).host;
    fixture.on_host.set_fdb(veth, peer_mac(1)).expect("add");
    fixture.on_host.delete_link(veth).expect("delete the port");
    let left = json(&fixture.host, "bridge -j fdb show br cbr0").to_string();
    assert!(!left.contains(&peer_mac(1).to_string()), "{left}");
    assert_eq!(entries(&fixture, veth), []);
}

#[test]
fn port_without_flooding_is_reached_through_its_entry() {
    // More frames than all other traffic between the two ends.
    const FRAMES: u64 = 100;
    let Some(fixture) = Fixture::new() else { return };
    let bridge = fixture.bridge();
    let quiet = BridgePort::default().learning(false).flood(false);
    let ends = [1, 2].map(|number| {
        let ends = fixture.veth(number, Some(bridge));
        fixture.on_host.set_bridge_port(ends.host, quiet).expect("set");
        fixture.in_pod.set_up(ends.peer).expect("bring the peer up");
        ends
    });
    fixture.in_pod.add_address(ends[0].peer, "10.22.0.1/24".parse().expect("an address")).expect("add");
    run(&fixture.pod, &format!("ip neigh add 10.22.0.2 lladdr {} dev eth1", peer_mac(2)));
    let arrived = || {
        let before = received(&fixture);
        let send = || {
            let socket = UdpSocket::bind("10.22.0.1:0").expect("bind");
            for _ in 0..FRAMES {
                socket.send_to(b"frame", "10.22.0.2:9").expect("send");
            }
        };
        fixture.pod.run(send).expect("enter");
        // A softirq delivers frames to a veth.
        thread::sleep(Duration::from_millis(50));
        received(&fixture) - before
    };
    assert!(arrived() < FRAMES, "the address is unknown, and unknown addresses are not flooded");
    fixture.on_host.set_fdb(ends[1].host, peer_mac(2)).expect("add");
    assert!(arrived() >= FRAMES);
}

fn received(fixture: &Fixture) -> u64 {
    json(&fixture.pod, "ip -s -j link show dev eth2")[0]["stats64"]["rx"]["packets"].as_u64().expect("a count")
}

fn entries(fixture: &Fixture, port: IfIndex) -> Vec<(MacAddr, FdbState)> {
    let entries = fixture.on_host.fdb(port).expect("list");
    entries.iter().filter(|entry| entry.vlan.is_none()).map(|entry| (entry.mac, entry.state)).collect()
}

/// The output of `bridge` for an address at a port.
fn entry(fixture: &Fixture, port: &str, mac: MacAddr) -> Option<Value> {
    let entries = json(&fixture.host, &format!("bridge -j fdb show dev {port}"));
    let entries = entries.as_array().expect("entries");
    entries.iter().find(|entry| entry["mac"] == mac.to_string()).cloned()
}
