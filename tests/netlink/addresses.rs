use cnikit::netlink::{Error, IfIndex, Route};
use ipnetwork::IpNetwork;
use serde_json::Value;

use crate::support::{Fixture, ifindex, json, run};

#[test]
fn addresses_of_both_families() {
    let Some(fixture) = Fixture::new() else { return };
    let eth1 = up_pair(&fixture);
    let (v4, v6) = (net("10.22.0.5/24"), net("fd00:22::5/64"));
    fixture.in_pod.add_address(eth1, v6).expect("add the IPv6 address");
    fixture.in_pod.add_address(eth1, v4).expect("add the IPv4 address");

    let seen = json(&fixture.pod, "ip -j addr show dev eth1");
    let seen_v4 = find(&seen[0]["addr_info"], "local", "10.22.0.5");
    assert_eq!(seen_v4["prefixlen"], 24);
    assert_eq!(seen_v4["broadcast"], "10.22.0.255");
    assert_eq!(seen_v4["scope"], "global");
    let seen_v6 = find(&seen[0]["addr_info"], "local", "fd00:22::5");
    assert_eq!(seen_v6["prefixlen"], 64);
    assert_eq!(seen_v6["nodad"], true);
    assert_eq!(seen_v6["tentative"], Value::Null, "it is usable at once");

    let own = fixture.in_pod.addresses(eth1).expect("list");
    assert_eq!(own[0], v4);
    assert!(own.contains(&v6), "{own:?}");
    // The third is the link-local address from the kernel.
    assert!(own.len() <= 3, "{own:?}");
    assert_eq!(fixture.in_pod.addresses(IfIndex::LOOPBACK).expect("list"), []);
}

#[test]
fn existing_address_is_reported() {
    let Some(fixture) = Fixture::new() else { return };
    let eth1 = up_pair(&fixture);
    for address in [net("10.22.0.5/24"), net("fd00:22::5/64")] {
        fixture.in_pod.add_address(eth1, address).expect("add");
        let error = fixture.in_pod.add_address(eth1, address).expect_err("already exists");
        assert!(matches!(error, Error::Exists { .. }), "{error:?}");
    }
    let error = fixture.in_pod.add_address(ifindex(4_711), net("10.22.0.6/24")).expect_err("no such link");
    assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
}

#[test]
fn primary_address_takes_others_with_it() {
    let Some(fixture) = Fixture::new() else { return };
    let link = up_pair(&fixture);
    let addresses = [net("10.22.0.5/24"), net("10.22.0.6/24")];
    for (promote, left) in [(0, 0), (1, 1)] {
        run(&fixture.pod, &format!("sysctl -q -w net.ipv4.conf.eth1.promote_secondaries={promote}"));
        addresses.iter().for_each(|address| fixture.in_pod.add_address(link, *address).expect("add"));
        fixture.in_pod.delete_address(link, addresses[0]).expect("delete");
        let found = fixture.in_pod.addresses(link).expect("list");
        assert_eq!(found.iter().filter(|found| found.is_ipv4()).count(), left, "{found:?}");
    }
}

#[test]
fn link_without_ipv6_is_reported() {
    let Some(fixture) = Fixture::new() else { return };
    let eth1 = up_pair(&fixture);
    let switch = "/proc/sys/net/ipv6/conf/eth1/disable_ipv6";
    fixture.pod.run(|| std::fs::write(switch, "1")).expect("enter").expect("disable IPv6");
    let error = fixture.in_pod.add_address(eth1, net("fd00:22::5/64")).expect_err("disabled");
    assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{error}");
}

#[test]
fn single_addresses_have_no_broadcast() {
    let Some(fixture) = Fixture::new() else { return };
    let eth1 = up_pair(&fixture);
    fixture.in_pod.add_address(eth1, net("10.22.0.5/32")).expect("add");
    let seen = json(&fixture.pod, "ip -j -4 addr show dev eth1");
    assert_eq!(seen[0]["addr_info"][0]["broadcast"], Value::Null);
    assert_eq!(fixture.in_pod.addresses(eth1).expect("list")[0], net("10.22.0.5/32"));
}

#[test]
fn routes_of_both_families() {
    let Some(fixture) = Fixture::new() else { return };
    let eth1 = up_pair(&fixture);
    fixture.in_pod.add_address(eth1, net("10.22.0.5/24")).expect("add");
    fixture.in_pod.add_address(eth1, net("fd00:22::5/64")).expect("add");

    let gateway = "10.22.0.1".parse().expect("address");
    let gateway6 = "fd00:22::1".parse().expect("address");
    let routes = [
        Route::default_via(gateway, eth1),
        Route::new(net("10.96.0.0/12"), eth1).via(gateway).mtu(1400).advmss(1360).priority(7),
        Route::new(net("192.0.2.0/24"), eth1),
        Route::default_via(gateway6, eth1),
        Route::new(net("fd00:96::/48"), eth1).via(gateway6).mtu(1400).priority(7),
        Route::new(net("198.51.100.0/24"), eth1).table(1_000),
    ];
    for route in &routes {
        fixture.in_pod.add_route(route).unwrap_or_else(|error| panic!("{error}"));
    }

    let seen = json(&fixture.pod, "ip -j -d -4 route");
    let default = find(&seen, "dst", "default");
    assert_eq!((&default["gateway"], &default["dev"]), (&"10.22.0.1".into(), &"eth1".into()));
    let services = find(&seen, "dst", "10.96.0.0/12");
    assert_eq!(services["metrics"][0]["mtu"], 1400);
    assert_eq!(services["metrics"][0]["advmss"], 1360);
    assert_eq!(services["metric"], 7);
    let on_link = find(&seen, "dst", "192.0.2.0/24");
    assert_eq!((&on_link["scope"], &on_link["gateway"]), (&"link".into(), &Value::Null));

    let seen6 = json(&fixture.pod, "ip -j -d -6 route");
    assert_eq!(find(&seen6, "dst", "default")["gateway"], "fd00:22::1");
    assert_eq!(find(&seen6, "dst", "fd00:96::/48")["metric"], 7);
    let other = json(&fixture.pod, "ip -j -4 route show table 1000");
    assert_eq!(find(&other, "dst", "198.51.100.0/24")["dev"], "eth1");

    let own = fixture.in_pod.routes(eth1).expect("list");
    let services = own.iter().find(|route| route.dst == net("10.96.0.0/12")).expect("route");
    assert_eq!((services.mtu, services.advmss), (Some(1400), Some(1360)));
    assert_eq!((services.gateway, services.priority), (Some(gateway), Some(7)));
    assert!(own.iter().any(|route| route.dst == net("::/0") && route.gateway == Some(gateway6)));
    assert!(own.iter().any(|route| route.dst == net("10.22.0.0/24")), "the kernel's own");
    assert!(own.iter().all(|route| route.table == Some(254)), "{own:?}");
}

#[test]
fn existing_route_is_reported() {
    let Some(fixture) = Fixture::new() else { return };
    let eth1 = up_pair(&fixture);
    // Host bits are cleared, because the kernel rejects them.
    for dst in [net("192.0.2.77/24"), net("fd00:96::77/64")] {
        let route = Route::new(dst, eth1);
        fixture.in_pod.add_route(&route).expect("add");
        let error = fixture.in_pod.add_route(&route).expect_err("already exists");
        assert!(matches!(error, Error::Exists { .. }), "{error:?}");
    }
}

#[test]
fn a_fresh_namespace_has_no_routes() {
    let Some(fixture) = Fixture::new() else { return };
    assert_eq!(fixture.in_pod.routes(IfIndex::LOOPBACK).expect("list"), []);
}

fn up_pair(fixture: &Fixture) -> IfIndex {
    let indexes = fixture.veth(1, None);
    fixture.in_pod.set_up(indexes.peer).expect("bring the peer up");
    indexes.peer
}

fn net(text: &str) -> IpNetwork {
    text.parse().expect("a network")
}

fn find<'a>(list: &'a Value, key: &str, wanted: &str) -> &'a Value {
    let list = list.as_array().expect("a list");
    let found = list.iter().find(|item| item[key] == wanted);
    found.unwrap_or_else(|| panic!("no {wanted} in {list:?}"))
}

#[test]
fn foreign_and_absent_objects_can_be_deleted() {
    let Some(fixture) = Fixture::new() else { return };
    let eth1 = up_pair(&fixture);
    let address = net("10.22.0.5/24");
    fixture.in_pod.add_address(eth1, address).expect("add");
    // With another protocol and another scope than this library's routes.
    run(&fixture.pod, "ip route add 10.96.0.0/12 via 10.22.0.1 proto boot");
    run(&fixture.pod, "ip route add 10.97.0.0/16 dev eth1 scope global proto 99");
    for route in ["10.96.0.0/12", "10.97.0.0/16"].map(|dst| Route::new(net(dst), eth1)) {
        let route = if route.dst == net("10.96.0.0/12") { route.via("10.22.0.1".parse().unwrap()) } else { route };
        fixture.in_pod.delete_route(&route).expect("delete");
        assert!(fixture.in_pod.routes(eth1).expect("list").iter().all(|left| left.dst != route.dst), "{route}");
        fixture.in_pod.delete_route(&route).expect("absent");
    }
    fixture.in_pod.delete_address(eth1, address).expect("delete");
    assert!(!fixture.in_pod.addresses(eth1).expect("list").contains(&address));
    fixture.in_pod.delete_address(eth1, address).expect("absent");
}
