//! The uplink, and all fields of a CNI result's route.

use cnikit::{
    netlink::{Netns, Route},
    spec::IfName,
};
use ipnetwork::IpNetwork;
use serde_json::Value;

use crate::support::{Fixture, json, name, run};

#[test]
fn a_host_without_default_route_has_no_uplink() {
    let Some(fixture) = Fixture::new() else { return };
    assert_eq!(fixture.on_host.uplink().expect("look"), None);
    uplinks(&fixture.host);
    run(&fixture.host, "ip route add 10.96.0.0/12 dev up0");
    run(&fixture.host, "ip route add unreachable default metric 4000");
    run(&fixture.host, "ip route add default dev up0 table 100");
    assert_eq!(fixture.on_host.uplink().expect("look"), None);
}

#[test]
fn uplink_is_the_link_of_the_best_default_route() {
    let Some(fixture) = Fixture::new() else { return };
    uplinks(&fixture.host);
    run(&fixture.host, "ip -6 route add default via fd00:22::1 dev up2 metric 10");
    assert_eq!(uplink(&fixture), name("up2"));
    assert_eq!(fixture.on_host.uplink().expect("look").expect("up2").mtu, 1402);
    run(&fixture.host, "ip -6 route add default via fe80::1 dev up1 metric 5");
    assert_eq!(uplink(&fixture), name("up1"));

    run(&fixture.host, "ip route add default via 10.22.0.1 dev up0 metric 300");
    assert_eq!(uplink(&fixture), name("up0"), "IPv4 comes first");
    run(&fixture.host, "ip route add default via 10.22.1.1 dev up1 metric 100");
    assert_eq!(uplink(&fixture), name("up1"));
    run(&fixture.host, "ip route add default nexthop via 10.22.2.1 dev up2 nexthop via 10.22.0.1 dev up0");
    assert_eq!(uplink(&fixture), name("up2"), "no metric is the lowest");
    let up2 = fixture.on_host.link_by_name(&name("up2")).expect("look up").expect("up2").index;
    let routes = fixture.on_host.routes(up2).expect("list");
    let default = routes.iter().find(|route| route.dst == net("0.0.0.0/0")).expect("the route with two hops");
    assert_eq!(default.gateway, Some("10.22.2.1".parse().expect("address")));
}

#[test]
fn route_has_all_fields_of_a_cni_result() {
    let Some(fixture) = Fixture::new() else { return };
    uplinks(&fixture.host);
    let up0 = fixture.on_host.link_by_name(&name("up0")).expect("look up").expect("up0").index;
    let v4 = Route::new(net("10.96.0.0/12"), up0).via("10.22.0.1".parse().expect("address"));
    let v6 = Route::new(net("fd00:96::/48"), up0).via("fd00:22:0:1::1".parse().expect("address"));
    run(&fixture.host, "ip addr add fd00:22:0:1::5/64 dev up0 nodad");
    for route in [v4, v6] {
        let route = route.mtu(1380).advmss(1320).priority(42).table(70_000);
        fixture.on_host.add_route(&route).unwrap_or_else(|error| panic!("{error}"));
        let family = if route.dst.is_ipv4() { "-4" } else { "-6" };
        let seen = json(&fixture.host, &format!("ip -j -d {family} route show table 70000"));
        let seen = &seen.as_array().expect("routes")[0];
        assert_eq!(seen["dst"], route.dst.to_string());
        assert_eq!(seen["gateway"], route.gateway.expect("gateway").to_string());
        assert_eq!(seen["metric"], 42);
        assert_eq!((&seen["metrics"][0]["mtu"], &seen["metrics"][0]["advmss"]), (&1380.into(), &1320.into()));

        fixture.on_host.delete_route(&route).expect("delete");
        let left = json(&fixture.host, &format!("ip -j {family} route show table 70000"));
        assert_eq!(left.as_array().map(Vec::len), Some(0));
    }
    let local = Route::new(net("192.0.2.0/24"), up0).scope(254);
    fixture.on_host.add_route(&local).expect("add");
    let seen = json(&fixture.host, "ip -j -d -4 route show 192.0.2.0/24");
    assert_eq!(seen[0]["scope"], "host");
    assert_eq!(seen[0]["gateway"], Value::Null);
}

#[test]
fn routes_of_all_tables_are_listed_with_all_next_hops() {
    let Some(fixture) = Fixture::new() else { return };
    uplinks(&fixture.host);
    run(&fixture.host, "ip route add 192.0.2.0/24 via 10.22.0.1 dev up0 table 70000");
    run(&fixture.host, "ip route add default nexthop via 10.22.0.2 dev up0 nexthop via 10.22.1.3 dev up1");
    run(&fixture.host, "ip -6 route add default via fe80::9 dev up2 table 12");
    run(&fixture.host, "ip route add 198.51.100.0/24 via inet6 fe80::8 dev up1");
    run(&fixture.host, "ip route add unreachable 203.0.113.0/24");
    let routes = fixture.on_host.routes_of_all_tables().expect("list");
    let hop = |dst: &str, gateway: &str| {
        let gateway = gateway.parse().expect("an address");
        let found = routes.iter().find(|route| route.dst == net(dst) && route.gateway == Some(gateway));
        let route = found.unwrap_or_else(|| panic!("{dst} via {gateway} is not in {routes:?}"));
        let link = fixture.on_host.link_by_index(route.oif).expect("look up").expect("the route's link");
        (link.name.to_string(), route.table.expect("a table"))
    };
    assert_eq!(hop("192.0.2.0/24", "10.22.0.1"), ("up0".to_owned(), 70_000));
    assert_eq!(hop("0.0.0.0/0", "10.22.0.2"), ("up0".to_owned(), 254));
    assert_eq!(hop("0.0.0.0/0", "10.22.1.3"), ("up1".to_owned(), 254));
    assert_eq!(hop("::/0", "fe80::9"), ("up2".to_owned(), 12));
    assert_eq!(hop("198.51.100.0/24", "fe80::8"), ("up1".to_owned(), 254));
    assert!(routes.iter().all(|route| route.dst != net("203.0.113.0/24")), "it is no unicast route");
}

#[test]
fn routes_by_next_hop_objects_are_listed_with_their_hops() {
    let Some(fixture) = Fixture::new() else { return };
    uplinks(&fixture.host);
    for compat in [1, 0] {
        run(&fixture.host, &format!("sysctl -q -w net.ipv4.nexthop_compat_mode={compat}"));
        for command in [
            "ip nexthop add id 1 via 10.22.0.1 dev up0",
            "ip nexthop add id 2 via 10.22.1.1 dev up1",
            "ip nexthop add id 10 group 1/2",
            "ip route add 192.0.2.0/24 nhid 1",
            "ip route add 198.51.100.0/24 nhid 10",
        ] {
            run(&fixture.host, command);
        }
        let routes = fixture.on_host.routes_of_all_tables().expect("list");
        let hops = |dst: &str| {
            let of = routes.iter().filter(|route| route.dst == net(dst));
            of.map(|route| route.gateway.expect("a gateway").to_string()).collect::<Vec<_>>()
        };
        assert_eq!(hops("192.0.2.0/24"), ["10.22.0.1"], "with {compat}");
        assert_eq!(hops("198.51.100.0/24"), ["10.22.0.1", "10.22.1.1"], "with {compat}");
        for id in [10, 2, 1] {
            run(&fixture.host, &format!("ip nexthop del id {id}"));
        }
    }
}

/// RFC 8950: an IPv6 router may be the next hop of an IPv4 route.
#[test]
fn ipv4_route_may_have_an_ipv6_gateway() {
    let Some(fixture) = Fixture::new() else { return };
    uplinks(&fixture.host);
    let [up0, up2] =
        ["up0", "up2"].map(|link| fixture.on_host.link_by_name(&name(link)).expect("look up").expect(link).index);
    let router = "fd00:22::1".parse().expect("address");

    let ours = Route::new(net("10.96.0.0/12"), up2).via(router).mtu(1380);
    fixture.on_host.add_route(&ours).expect("add");
    let seen = json(&fixture.host, "ip -j -4 route show 10.96.0.0/12");
    assert_eq!(seen[0]["via"], serde_json::json!({ "family": "inet6", "host": "fd00:22::1" }));
    assert_eq!((&seen[0]["dev"], &seen[0]["gateway"]), (&"up2".into(), &Value::Null));
    run(&fixture.host, "ip route add 10.112.0.0/12 via inet6 fd00:22::1 dev up2");
    run(&fixture.host, "ip route add 10.128.0.0/12 nexthop via inet6 fd00:22::1 dev up2 nexthop via 10.22.0.1 dev up0");
    run(&fixture.host, "ip route add 10.144.0.0/12 nexthop via 10.22.0.1 dev up0 nexthop via inet6 fd00:22::1 dev up2");
    let by = |routes: Vec<Route>, dst| {
        let found = routes.into_iter().find(|route| route.dst == net(dst)).unwrap_or_else(|| panic!("no {dst}"));
        (found.gateway, found.oif)
    };
    for dst in ["10.96.0.0/12", "10.112.0.0/12", "10.128.0.0/12"] {
        assert_eq!(by(fixture.on_host.routes(up2).expect("list"), dst), (Some(router), up2), "{dst}");
    }
    let first = Some("10.22.0.1".parse().expect("address"));
    assert_eq!(by(fixture.on_host.all_routes().expect("list"), "10.144.0.0/12"), (first, up0));

    // The next hop is compared too: there is no such route with another next hop.
    fixture
        .on_host
        .delete_route(&Route::new(net("10.96.0.0/12"), up2).via("fd00:22::2".parse().expect("address")))
        .expect("none");
    assert_ne!(json(&fixture.host, "ip -j -4 route show 10.96.0.0/12"), serde_json::json!([]));
    fixture.on_host.delete_route(&ours).expect("delete");
    assert_eq!(json(&fixture.host, "ip -j -4 route show 10.96.0.0/12"), serde_json::json!([]));

    run(&fixture.host, "ip route add default via inet6 fe80::1 dev up1");
    assert_eq!(uplink(&fixture), name("up1"));
}

#[test]
fn ipv6_route_cannot_have_an_ipv4_gateway() {
    let Some(fixture) = Fixture::new() else { return };
    uplinks(&fixture.host);
    let up2 = fixture.on_host.link_by_name(&name("up2")).expect("look up").expect("up2").index;
    let route = Route::new(net("fd00:96::/48"), up2).via("10.22.2.1".parse().expect("address"));
    let error = fixture.on_host.add_route(&route).expect_err("the kernel knows no such route");
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}");
    assert!(error.to_string().contains("RTA_VIA"), "{error}");
}

/// Creates `up0` to `up2` with the MTUs 1400 to 1402, up, each with an address of both families.
fn uplinks(host: &Netns) {
    for number in 0..3 {
        run(host, &format!("ip link add up{number} mtu 140{number} type veth peer name far{number}"));
        run(host, &format!("ip link set far{number} up"));
        run(host, &format!("ip link set up{number} up"));
        run(host, &format!("ip addr add 10.22.{number}.5/24 dev up{number}"));
    }
    run(host, "ip addr add fd00:22::5/64 dev up2 nodad");
}

fn uplink(fixture: &Fixture) -> IfName {
    fixture.on_host.uplink().expect("look").expect("an uplink").name
}

fn net(text: &str) -> IpNetwork {
    text.parse().expect("a network")
}
