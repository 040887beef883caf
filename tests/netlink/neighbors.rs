//! Neighbor entries, proxy entries, and the remotes of a VXLAN link.

use std::time::Duration;

use cnikit::{
    netlink::{Error, FdbState, Neighbor, NeighborState},
    spec::{IfIndex, MacAddr},
};
use cnikit_testbed::{eventually, skipped};
use serde_json::Value;

use crate::support::{Fixture, address, json, name, peer_mac, run, try_run, up_pair};

const MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 9]);
const ABSENT: Option<IfIndex> = IfIndex::new(4_711);

#[test]
fn neighbor_is_set_replaced_and_deleted() {
    let Some(fixture) = Fixture::new() else { return };
    let eth1 = up_pair(&fixture);
    for (ip, other) in [("10.22.0.9", "10.22.0.8"), ("fd00:22::9", "fd00:22::8")] {
        let show = format!("ip -j neigh show {ip} dev eth1");
        run(&fixture.pod, &format!("ip neigh add {other} lladdr 02:00:00:00:00:08 dev eth1 nud stale"));
        fixture.in_pod.set_neighbor(&Neighbor::new(eth1, address(ip), MAC)).expect("create");
        let seen = json(&fixture.pod, &show);
        assert_eq!(seen[0]["lladdr"], "02:00:00:00:00:09");
        assert_eq!(seen[0]["state"], serde_json::json!(["PERMANENT"]));

        let stale = Neighbor::new(eth1, address(ip), MacAddr::new([2, 0, 0, 0, 0, 7])).state(NeighborState::Stale);
        fixture.in_pod.set_neighbor(&stale).expect("replace");
        let seen = json(&fixture.pod, &show);
        assert_eq!(seen[0]["lladdr"], "02:00:00:00:00:07");
        assert_eq!(seen[0]["state"], serde_json::json!(["STALE"]));

        fixture.in_pod.delete_neighbor(eth1, address(ip)).expect("delete");
        fixture.in_pod.delete_neighbor(eth1, address(ip)).expect("absent is success");
        assert_eq!(json(&fixture.pod, &format!("ip -j neigh show {ip} nud all dev eth1"))[0]["lladdr"], Value::Null);
        assert_eq!(json(&fixture.pod, &format!("ip -j neigh show {other}"))[0]["lladdr"], "02:00:00:00:00:08");
    }
    let absent = ABSENT.expect("an index");
    let error = fixture.in_pod.set_neighbor(&Neighbor::new(absent, address("10.22.0.9"), MAC)).expect_err("no link");
    assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{error}");
    fixture.in_pod.delete_neighbor(absent, address("10.22.0.9")).expect("absent is success");
}

#[test]
fn neighbors_are_listed_per_link_and_with_their_state() {
    let Some(fixture) = Fixture::new() else { return };
    let eth1 = up_pair(&fixture);
    fixture.veth(2, None);
    run(&fixture.pod, "ip link set eth2 up");
    for command in [
        "ip neigh add 10.22.0.9 lladdr 02:00:00:00:00:09 dev eth1 nud permanent",
        "ip neigh add fd00:22::9 lladdr 02:00:00:00:00:09 dev eth1 nud reachable",
        "ip neigh add 10.22.0.7 lladdr 02:00:00:00:00:07 dev eth1 nud noarp",
        "ip neigh add 10.22.1.9 lladdr 02:00:00:00:00:19 dev eth2 nud permanent",
        "ip neigh add proxy 10.22.0.5 dev eth1",
    ] {
        run(&fixture.pod, command);
    }
    let listed = fixture.in_pod.neighbors(eth1).expect("list");
    for (ip, last, state) in [
        ("10.22.0.9", 9, NeighborState::Permanent),
        ("fd00:22::9", 9, NeighborState::Reachable),
        ("10.22.0.7", 7, NeighborState::NoArp),
    ] {
        let expected = Neighbor::new(eth1, address(ip), MacAddr::new([2, 0, 0, 0, 0, last])).state(state);
        assert!(listed.contains(&expected), "{expected:?} is not in {listed:?}");
    }
    for ip in ["10.22.1.9", "10.22.0.5"] {
        assert!(listed.iter().all(|found| found.address != address(ip)), "{ip} is in {listed:?}");
    }
    assert_eq!(fixture.in_pod.proxy_neighbors(eth1).expect("list"), [address("10.22.0.5")]);
}

#[test]
fn proxy_entries_are_set_listed_and_deleted() {
    let Some(fixture) = Fixture::new() else { return };
    let eth1 = up_pair(&fixture);
    for ip in ["10.22.0.5", "fd00:22::5"] {
        for _ in 0..2 {
            fixture.in_pod.ensure_proxy_neighbor(eth1, address(ip)).expect("create");
        }
        let family = if ip.contains(':') { "-6" } else { "-4" };
        let seen = json(&fixture.pod, &format!("ip {family} -j neigh show proxy"));
        assert_eq!((&seen[0]["dst"], &seen[0]["dev"]), (&ip.into(), &"eth1".into()), "{seen}");
        assert_eq!(fixture.in_pod.proxy_neighbors(eth1).expect("list"), [address(ip)]);
        for _ in 0..2 {
            fixture.in_pod.delete_proxy_neighbor(eth1, address(ip)).expect("delete");
        }
        assert_eq!(json(&fixture.pod, &format!("ip {family} -j neigh show proxy")), serde_json::json!([]));
    }
}

/// The entries of a VXLAN link as `bridge fdb` shows them: the destinations of a MAC.
fn remotes(fixture: &Fixture, mac: &str) -> Vec<String> {
    let seen = json(&fixture.host, "bridge -j fdb show dev vxlan0");
    let seen = seen.as_array().expect("a list");
    let mut dst: Vec<String> = seen.iter().filter(|entry| entry["mac"] == mac).map(|e| e["dst"].to_string()).collect();
    dst.sort();
    dst.into_iter().map(|dst| dst.trim_matches('"').to_owned()).collect()
}

#[test]
fn vxlan_remotes_are_appended_listed_and_deleted() {
    let Some(fixture) = Fixture::new() else { return };
    if !try_run(&fixture.host, "ip link add vxlan0 type vxlan id 42 dstport 4789 local 192.0.2.9") {
        skipped("needs a kernel with VXLAN");
        return;
    }
    run(&fixture.host, "ip link set vxlan0 up");
    let found = fixture.on_host.link_by_name(&name("vxlan0")).expect("look up").expect("vxlan0");
    let vxlan0 = found.index;
    let zero = MacAddr::new([0; 6]);
    let append = |mac, remote| fixture.on_host.append_fdb_remote(vxlan0, mac, address(remote));

    for remote in ["192.0.2.1", "192.0.2.2", "192.0.2.1"] {
        append(zero, remote).expect("append");
    }
    assert_eq!(remotes(&fixture, "00:00:00:00:00:00"), ["192.0.2.1", "192.0.2.2"]);
    append(MAC, "192.0.2.1").expect("add");
    append(MAC, "192.0.2.3").expect("a unicast MAC has one remote");
    assert_eq!(remotes(&fixture, "02:00:00:00:00:09"), ["192.0.2.3"]);

    let listed = fixture.on_host.fdb(vxlan0).expect("list");
    let mut listed: Vec<_> =
        listed.iter().map(|entry| (entry.mac, entry.remote.expect("a remote"), entry.state)).collect();
    listed.sort_by_key(|(mac, remote, _)| (mac.octets(), *remote));
    let expected = [(zero, "192.0.2.1"), (zero, "192.0.2.2"), (MAC, "192.0.2.3")];
    assert_eq!(listed, expected.map(|(mac, remote)| (mac, address(remote), FdbState::Permanent)));

    for _ in 0..2 {
        fixture.on_host.delete_fdb_remote(vxlan0, zero, address("192.0.2.1")).expect("delete");
    }
    assert_eq!(remotes(&fixture, "00:00:00:00:00:00"), ["192.0.2.2"]);
    fixture.on_host.delete_fdb_remote(vxlan0, MAC, address("192.0.2.3")).expect("delete");
    assert_eq!(remotes(&fixture, "02:00:00:00:00:09"), [""; 0]);
    let absent = ABSENT.expect("an index");
    fixture.on_host.delete_fdb_remote(absent, zero, address("192.0.2.1")).expect("absent is success");
    let error = fixture.on_host.append_fdb_remote(absent, zero, address("192.0.2.1")).expect_err("no link");
    assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{error}");
    let error = append(zero, "2001:db8::1").expect_err("another family than the link");
    assert_eq!(error.raw_os_error(), Some(libc::EAFNOSUPPORT), "{error}");
}

#[test]
fn a_vxlan_port_has_entries_of_its_bridge_and_of_its_remotes() {
    let Some(fixture) = Fixture::new() else { return };
    if !try_run(&fixture.host, "ip link add vxlan0 type vxlan id 42 dstport 4789") {
        skipped("needs a kernel with VXLAN");
        return;
    }
    let bridge = fixture.bridge();
    let vxlan0 = fixture.on_host.link_by_name(&name("vxlan0")).expect("look up").expect("vxlan0").index;
    fixture.on_host.set_master(vxlan0, bridge).expect("make it a port");
    fixture.on_host.set_fdb(vxlan0, MAC).expect("set");
    run(&fixture.host, "bridge fdb append 00:00:00:00:00:00 dev vxlan0 dst 192.0.2.1");
    let entries = fixture.on_host.fdb(vxlan0).expect("list");
    let of = |wanted| entries.iter().find(|entry| entry.mac == wanted).expect("an entry");
    assert_eq!(of(MAC).remote, None);
    assert_eq!(of(MAC).state, FdbState::Static);
    assert_eq!(of(MacAddr::new([0; 6])).remote, Some(address("192.0.2.1")));
}

#[test]
fn announcement_replaces_the_mac_of_neighbors() {
    let Some(fixture) = Fixture::new() else { return };
    let eth1 = up_pair(&fixture);
    assert!(fixture.in_pod.wait_running(eth1, Duration::from_secs(5)).expect("wait"));
    let addresses = ["10.22.0.5", "fd00:22::5"];
    run(&fixture.host, "ip addr add 10.22.0.1/24 dev veth1");
    run(&fixture.host, "ip addr add fd00:22::1/64 dev veth1 nodad");
    for ip in addresses {
        run(&fixture.host, &format!("ip neigh add {ip} lladdr 02:00:00:00:00:99 dev veth1 nud stale"));
    }
    fixture.pod.announce(&name("eth1"), &addresses.map(address)).expect("announce");
    for ip in addresses {
        let known = || json(&fixture.host, &format!("ip -j neigh show {ip} dev veth1"))[0]["lladdr"].clone();
        eventually("the new MAC", Duration::from_secs(5), || known() == peer_mac(1).to_string());
    }

    let error = fixture.pod.announce(&name("eth9"), &addresses.map(address)).expect_err("no such link");
    assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{error}");
    run(&fixture.pod, "ip link set eth1 down");
    let error = fixture.pod.announce(&name("eth1"), &addresses.map(address)).expect_err("the link is down");
    assert!(matches!(error, Error::Announce { .. }), "{error:?}");
    assert_eq!(error.raw_os_error(), Some(libc::ENETDOWN), "{error}");
}
