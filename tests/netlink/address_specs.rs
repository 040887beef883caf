//! Addresses with a peer, a label or duplicate address detection, and their flags.

use std::time::{Duration, Instant};

use cnikit::{
    netlink::{Address, AddressSpec, Error},
    spec::IfIndex,
};
use serde_json::Value;

use crate::support::{Fixture, json, net, run, up_pair};

/// The address as `ip` shows it; `Null` if the link does not have it.
fn shown(fixture: &Fixture, local: &str) -> Value {
    let seen = json(&fixture.pod, "ip -j addr show dev eth1");
    let list = seen[0]["addr_info"].as_array().expect("a list");
    list.iter().find(|address| address["local"] == local).cloned().unwrap_or_default()
}

fn read(fixture: &Fixture, eth1: IfIndex, local: &str) -> Address {
    let all = fixture.in_pod.all_addresses().expect("list");
    let is_it = |found: &Address| found.ifindex == eth1 && found.address.ip().to_string() == local;
    all.iter().find(|found| is_it(found)).unwrap_or_else(|| panic!("no {local} in {all:?}")).clone()
}

#[test]
fn peer_of_another_family_is_refused() {
    let Some(fixture) = Fixture::new() else { return };
    let eth1 = up_pair(&fixture);
    for (local, peer) in [("10.22.0.5", "fd00::/16"), ("fd00:22::5", "10.22.0.1/32")] {
        let spec = AddressSpec::new(net(local)).peer(net(peer));
        let error = fixture.in_pod.add_address_with(eth1, &spec).expect_err("another family");
        assert!(matches!(error, Error::Message { .. }), "{error:?}");
        assert_eq!(shown(&fixture, local), Value::Null);
    }
}

#[test]
fn address_with_a_peer_of_both_families() {
    let Some(fixture) = Fixture::new() else { return };
    let eth1 = up_pair(&fixture);
    for (local, peer, prefix) in [("10.22.0.5", "10.22.0.1/32", 32), ("fd00:22::5", "fd00:22::1/128", 128)] {
        let spec = AddressSpec::new(net(local)).peer(net(peer));
        fixture.in_pod.add_address_with(eth1, &spec).expect("add");
        let seen = shown(&fixture, local);
        assert_eq!(seen["address"], peer.split('/').next().expect("the address"), "{seen}");
        assert_eq!(seen["prefixlen"], prefix);
        let read = read(&fixture, eth1, local);
        assert_eq!((read.address, read.peer), (net(local), Some(net(peer))));

        // For IPv4, the same address without the peer is another address.
        if prefix == 128 {
            let error = fixture.in_pod.ensure_address(eth1, net(local)).expect_err("it has a peer");
            assert!(matches!(error, Error::Exists { .. }), "{error:?}");
        }
        for _ in 0..2 {
            fixture.in_pod.delete_address_with(eth1, &spec).expect("delete");
        }
        assert_eq!(shown(&fixture, local), Value::Null);
    }
}

#[test]
fn address_without_route_to_its_subnet() {
    let Some(fixture) = Fixture::new() else { return };
    let eth1 = up_pair(&fixture);
    for (address, family, subnet) in [("10.22.0.5/24", "-4", "10.22.0.0/24"), ("fd00:22::5/64", "-6", "fd00:22::/64")] {
        let local = address.split('/').next().expect("the address");
        let routes = || json(&fixture.pod, &format!("ip {family} -j route show {subnet}"));
        fixture.in_pod.add_address_with(eth1, &AddressSpec::new(net(address)).no_prefix_route()).expect("add");
        assert_eq!(routes(), serde_json::json!([]));
        assert_eq!(shown(&fixture, local)["noprefixroute"], true);
        assert!(read(&fixture, eth1, local).no_prefix_route);

        fixture.in_pod.delete_address(eth1, net(address)).expect("delete");
        assert!(fixture.in_pod.ensure_address(eth1, net(address)).expect("add"));
        assert_eq!(routes()[0]["dev"], "eth1");
        assert!(!read(&fixture, eth1, local).no_prefix_route);
    }
}

#[test]
fn scope_and_label() {
    let Some(fixture) = Fixture::new() else { return };
    let eth1 = up_pair(&fixture);
    let spec = AddressSpec::new(net("10.22.0.5/24")).scope(253).label("eth1:1");
    fixture.in_pod.add_address_with(eth1, &spec).expect("add");
    let seen = shown(&fixture, "10.22.0.5");
    assert_eq!((&seen["scope"], &seen["label"]), (&"link".into(), &"eth1:1".into()));
    let read = read(&fixture, eth1, "10.22.0.5");
    assert_eq!((read.scope, read.label.as_deref()), (253, Some("eth1:1")));
    let long = AddressSpec::new(net("10.22.0.6/24")).label("0123456789abcdef");
    let error = fixture.in_pod.add_address_with(eth1, &long).expect_err("16 bytes");
    assert_eq!(error.raw_os_error(), Some(libc::ERANGE), "{error}");
    let lo = IfIndex::LOOPBACK;
    fixture.in_pod.add_address_with(lo, &AddressSpec::new(net("127.0.0.9/8"))).expect("add");
    let seen = json(&fixture.pod, "ip -j addr show dev lo");
    assert_eq!(seen[0]["addr_info"][0]["scope"], "host");
}

#[test]
fn existing_address_is_reused_only_with_its_prefix_length() {
    let Some(fixture) = Fixture::new() else { return };
    let eth1 = up_pair(&fixture);
    for address in ["10.22.0.5/24", "fd00:22::5/64"] {
        assert!(fixture.in_pod.ensure_address(eth1, net(address)).expect("add"));
        assert!(!fixture.in_pod.ensure_address(eth1, net(address)).expect("it is there"));
    }
    let error = fixture.in_pod.ensure_address(eth1, net("fd00:22::5/128")).expect_err("it is there with /64");
    assert!(matches!(error, Error::Exists { .. }), "{error:?}");
    assert_eq!(shown(&fixture, "fd00:22::5")["prefixlen"], 64);
}

#[test]
fn lifetime_is_read() {
    let Some(fixture) = Fixture::new() else { return };
    let eth1 = up_pair(&fixture);
    run(&fixture.pod, "ip addr add 10.22.0.5/24 dev eth1 valid_lft 600 preferred_lft 0");
    run(&fixture.pod, "ip addr add 10.22.0.6/24 dev eth1");
    let mortal = read(&fixture, eth1, "10.22.0.5");
    let left = mortal.valid_lifetime.expect("it has a lifetime");
    assert!(left <= Duration::from_secs(600) && left > Duration::from_secs(500), "{left:?}");
    assert!(mortal.deprecated);
    let permanent = read(&fixture, eth1, "10.22.0.6");
    assert_eq!((permanent.valid_lifetime, permanent.deprecated), (None, false));
}

#[test]
fn address_settles_after_duplicate_address_detection() {
    let Some(fixture) = Fixture::new() else { return };
    let eth1 = up_pair(&fixture);
    run(&fixture.host, "ip link set veth1 up");
    let spec = AddressSpec::new(net("fd00:22::5/64")).dad();
    fixture.in_pod.add_address_with(eth1, &spec).expect("add");
    assert_eq!(shown(&fixture, "fd00:22::5")["tentative"], true);
    assert!(read(&fixture, eth1, "fd00:22::5").tentative);
    let none = fixture.in_pod.wait_addresses_settled(eth1, Duration::ZERO).expect("look");
    assert!(!none, "no time was given");
    let start = Instant::now();
    assert!(fixture.in_pod.wait_addresses_settled(eth1, Duration::from_secs(10)).expect("wait"));
    assert!(start.elapsed() > Duration::from_millis(100), "{:?}", start.elapsed());
    assert_eq!(shown(&fixture, "fd00:22::5")["tentative"], Value::Null);
}

#[test]
fn duplicate_address_is_an_error() {
    let Some(fixture) = Fixture::new() else { return };
    let eth1 = up_pair(&fixture);
    run(&fixture.host, "ip addr add fd00:22::5/64 dev veth1 nodad");
    fixture.in_pod.add_address_with(eth1, &AddressSpec::new(net("fd00:22::5/64")).dad()).expect("add");
    let error = fixture.in_pod.wait_addresses_settled(eth1, Duration::from_secs(10)).expect_err("a duplicate");
    assert!(
        matches!(error, Error::DuplicateAddress { address, ifindex } if address == net("fd00:22::5/64") && ifindex == eth1),
        "{error:?}"
    );
    assert_eq!(shown(&fixture, "fd00:22::5")["dadfailed"], true);
    assert!(read(&fixture, eth1, "fd00:22::5").dad_failed);
}
