//! All fields of a route, replacement, comparison and tables, checked with `ip route`.

use cnikit::{
    netlink::{Error, IfIndex, Netns, RejectAction, Route},
    spec::{ErrorCode, HasErrorCode as _},
};
use serde_json::{Value, json};

use crate::support::{Fixture, json as ip, name, run};

const V4: &str = "10.96.0.0/12";
const V6: &str = "fd00:96::/48";

struct Host {
    fixture: Fixture,
    index: IfIndex,
}

impl Host {
    /// A host with the link `up0`, up, with an address of both families.
    fn new() -> Option<Self> {
        let fixture = Fixture::new()?;
        let netns = &fixture.host;
        run(netns, "ip link add up0 type veth peer name far0");
        run(netns, "ip link set far0 up");
        run(netns, "ip link set up0 up");
        run(netns, "ip addr add 10.22.0.5/24 dev up0");
        run(netns, "ip addr add fd00:22::5/64 dev up0 nodad");
        let index = fixture.on_host.link_by_name(&name("up0")).expect("look up").expect("up0").index;
        Some(Self { fixture, index })
    }

    fn netns(&self) -> &Netns {
        &self.fixture.host
    }

    fn route(&self, dst: &str) -> Route {
        Route::new(dst.parse().expect("a network"), self.index)
    }

    fn via(&self, dst: &str, gateway: &str) -> Route {
        self.route(dst).via(address(gateway))
    }

    /// What `ip` lists for one destination in all tables.
    fn seen(&self, dst: &str) -> Value {
        let family = if dst.contains(':') { "-6" } else { "-4" };
        ip(self.netns(), &format!("ip -d -j {family} route show table all {dst}"))
    }
}

fn address(text: &str) -> std::net::IpAddr {
    text.parse().expect("an address")
}

#[test]
fn route_is_read_back_whole() {
    let Some(host) = Host::new() else { return };
    let socket = &host.fixture.on_host;
    let full = |route: Route, src: &str| route.src(address(src)).onlink().protocol(200).table(70_000).priority(42);
    for (route, src) in [
        (host.via(V4, "192.0.2.1"), "10.22.0.5"),
        (host.via(V6, "2001:db8::1"), "fd00:22::5"),
        (host.via("10.112.0.0/12", "fd00:77::1"), "10.22.0.5"),
    ] {
        let route = full(route, src).mtu(1380).advmss(1320).scope(0);
        socket.add_route(&route).unwrap_or_else(|error| panic!("{error}"));
        let dst = route.dst.to_string();
        let seen = host.seen(&dst);
        assert_eq!(seen.as_array().map(Vec::len), Some(1), "{seen}");
        let seen = &seen[0];
        let gateway = Value::from(route.gateway.expect("a gateway").to_string());
        let of_other_family = dst == "10.112.0.0/12";
        let expected_via = if of_other_family { json!({ "family": "inet6", "host": gateway }) } else { Value::Null };
        assert_eq!(seen["via"], expected_via);
        assert_eq!(seen["gateway"], if of_other_family { Value::Null } else { gateway });
        assert_eq!((&seen["prefsrc"], &seen["flags"]), (&src.into(), &json!(["onlink"])));
        assert_eq!((&seen["table"], &seen["protocol"], &seen["metric"]), (&"70000".into(), &"200".into(), &42.into()));
        assert_eq!(seen["metrics"], json!([{ "mtu": 1380, "advmss": 1320 }]));

        let listed = socket.routes_of(70_000).expect("list");
        assert_eq!(listed, std::slice::from_ref(&route));
        assert!(socket.routes_of_all_tables().expect("list").contains(&route));
        socket.delete_route(&listed[0]).expect("delete");
        assert_eq!(host.seen(&dst), json!([]));
    }
}

/// `ip` prints the same words in the same order, with `dev` and a name.
#[test]
fn text_has_the_order_of_ip() {
    let Some(host) = Host::new() else { return };
    let via = host.via(V4, "192.0.2.1").src(address("10.22.0.5")).onlink().protocol(200).table(70_000);
    for route in [via.clone().priority(42).mtu(1380).advmss(1320), via, host.route(V4).protocol(4).mtu(1380)] {
        host.fixture.on_host.add_route(&route).expect("add");
        let listed = host.fixture.on_host.routes_of(route.table_id()).expect("list");
        let listed = listed.iter().find(|listed| listed.dst == route.dst).expect("the route");
        let printed = run(host.netns(), &format!("ip -N route show table all {V4}"));
        let words: Vec<_> = printed.split_whitespace().collect();
        let expected = words.join(" ").replace("dev up0", &format!("by link {}", host.index));
        let names = [(" proto 4", " proto static"), (" scope 253", " scope link")];
        let expected = names.iter().fold(expected, |text, (number, name)| text.replace(number, name));
        assert_eq!(listed.to_string(), expected);
        host.fixture.on_host.delete_route(listed).expect("delete");
    }
}

#[test]
fn onlink_and_source_are_needed_for_such_routes() {
    let Some(host) = Host::new() else { return };
    let socket = &host.fixture.on_host;
    for (dst, gateway, src) in [(V4, "192.0.2.1", "192.0.2.7"), (V6, "2001:db8::1", "2001:db8::7")] {
        let error = socket.add_route(&host.via(dst, gateway)).expect_err("the gateway is on no subnet");
        let expected = [Some(libc::ENETUNREACH), Some(libc::EHOSTUNREACH)];
        assert!(expected.contains(&error.raw_os_error()), "{error}");
        socket.add_route(&host.via(dst, gateway).onlink()).expect("onlink");
        let error = socket.add_route(&host.route(dst).priority(7).src(address(src))).expect_err("a foreign address");
        assert_eq!((error.raw_os_error(), error.code()), (Some(libc::EINVAL), ErrorCode::IO), "{error}");
    }
}

#[test]
fn tables_are_listed_one_by_one() {
    let Some(host) = Host::new() else { return };
    let socket = &host.fixture.on_host;
    assert_eq!(socket.routes_of(100).expect("list"), [], "there is no such table");
    for (table, dst) in [(100, V4), (100, V6), (101, V4), (70_000, V6)] {
        socket.add_route(&host.route(dst).table(table)).expect("add");
    }
    run(
        host.netns(),
        "ip route add 198.51.100.0/24 table 100 nexthop via 10.22.0.1 dev up0 nexthop via 10.22.0.2 dev up0",
    );
    for table in [100, 101, 70_000, 254, 253] {
        let mut seen = Vec::new();
        for family in ["-4", "-6"] {
            let listed = ip(host.netns(), &format!("ip -N -j {family} route show table all type unicast"));
            // `ip` omits the main table.
            let is_of = |route: &&Value| route["table"].as_str().unwrap_or("254") == table.to_string();
            for route in listed.as_array().expect("routes").iter().filter(is_of) {
                let dst = route["dst"].as_str().expect("a destination").to_owned();
                let hops = route["nexthops"].as_array().map_or(1, Vec::len);
                seen.extend(std::iter::repeat_n(dst, hops));
            }
        }
        let listed: Vec<_> = socket.routes_of(table).expect("list").iter().map(|route| route.dst.to_string()).collect();
        assert_eq!(listed, seen, "{table}");
    }
    assert_eq!(socket.all_routes().expect("list"), socket.routes_of(Route::MAIN_TABLE).expect("list"));
}

#[test]
fn route_is_replaced_by_table_destination_and_priority() {
    let Some(host) = Host::new() else { return };
    let socket = &host.fixture.on_host;
    for (dst, [a, b, c]) in
        [(V4, ["10.22.0.1", "10.22.0.2", "10.22.0.3"]), (V6, ["fd00:22::1", "fd00:22::2", "fd00:22::3"])]
    {
        let family = if dst == V4 { "-4" } else { "-6" };
        let gateways = || {
            let seen = host.seen(dst);
            let mut all = Vec::new();
            for route in seen.as_array().expect("routes") {
                let hops = route["nexthops"].as_array().cloned().unwrap_or_else(|| vec![route.clone()]);
                all.extend(hops.iter().map(|hop| hop["gateway"].as_str().map(str::to_owned)));
            }
            all
        };
        let one = |gateway: &str| vec![Some(gateway.to_owned())];
        socket.replace_route(&host.via(dst, a)).expect("create");
        assert_eq!(gateways(), one(a));
        let error = socket.add_route(&host.via(dst, b)).expect_err("it exists");
        assert!(matches!(error, Error::Exists { .. }), "{error:?}");
        socket.replace_route(&host.via(dst, b).mtu(1300).protocol(200)).expect("replace");
        assert_eq!(gateways(), one(b));
        assert_eq!(host.seen(dst)[0]["protocol"], "200");
        socket.replace_route(&host.via(dst, c).priority(7)).expect("another priority");
        assert_eq!(gateways().len(), 2);
        socket.delete_route(&host.via(dst, c).priority(7)).expect("delete");
        // All next hops of a multipath route are replaced at once.
        let hops = format!("nexthop via {a} dev up0 nexthop via {b} dev up0");
        run(host.netns(), &format!("ip {family} route replace {dst} {hops}"));
        assert_eq!(gateways().len(), 2);
        let error = socket.ensure_route(&host.via(dst, a)).expect_err("a multipath route is another route");
        assert!(matches!(error, Error::Exists { .. }), "{error:?}");
        socket.replace_route(&host.via(dst, c)).expect("replace");
        assert_eq!(gateways(), one(c));
        // Only IPv6 can have a route of the other kind beside it.
        run(host.netns(), &format!("ip {family} route append {dst} dev up0"));
        assert_eq!(gateways().len(), 2);
        socket.replace_route(&host.via(dst, b)).expect("replace");
        assert_eq!(gateways()[0].as_deref(), Some(b));
        assert_eq!(gateways().len(), 2, "the route of the other kind stays");
        run(host.netns(), &format!("ip {family} route flush {dst}"));
        run(host.netns(), &format!("ip {family} route add {dst} via {a} dev up0"));
        socket.replace_route(&host.route(dst)).expect("replace");
        assert_eq!(gateways(), [None], "without one of the same kind, the other is replaced");
        run(host.netns(), &format!("ip {family} route flush {dst}"));
    }
}

#[test]
fn the_same_route_is_ensured_and_a_different_one_is_not() {
    let Some(host) = Host::new() else { return };
    let socket = &host.fixture.on_host;
    for (dst, gateway, other) in [(V4, "10.22.0.1", "10.22.0.2"), (V6, "fd00:22::1", "fd00:22::2")] {
        run(host.netns(), &format!("ip route add {dst} via {gateway} dev up0 mtu 1380"));
        let before = host.seen(dst);
        let same = host.via(dst, gateway).mtu(1380);
        socket.ensure_route(&same).expect("the same");
        socket.ensure_route(&same.clone().table(Route::MAIN_TABLE)).expect("the same");
        for different in
            [host.via(dst, gateway), host.via(dst, other).mtu(1380), host.route(dst), same.clone().onlink()]
        {
            let error = socket.ensure_route(&different).expect_err("a different route");
            assert!(matches!(error, Error::Exists { .. }), "{error:?}");
            assert!(error.to_string().starts_with(&format!("ensure route {dst}")), "{error}");
        }
        assert_eq!(host.seen(dst), before);
        socket.ensure_route(&same.clone().table(100)).expect("another table");
        assert_eq!(host.seen(dst).as_array().map(Vec::len), Some(2));
    }
    // The kernel adds such a route with the address.
    socket.ensure_route(&host.route("10.22.0.0/24")).expect("the kernel's own route");
}

#[test]
fn deletion_compares_the_fields_that_are_set() {
    let Some(host) = Host::new() else { return };
    let socket = &host.fixture.on_host;
    for (dst, gateway, other) in [(V4, "10.22.0.1", "10.22.0.2"), (V6, "fd00:22::1", "fd00:22::2")] {
        run(host.netns(), &format!("ip route add {dst} via {gateway} dev up0 metric 7 proto 200"));
        let count = || host.seen(dst).as_array().map(Vec::len);
        let route = || host.route(dst);
        for different in [host.via(dst, other), route().priority(8), route().protocol(4), route().table(100)] {
            socket.delete_route(&different).expect("absent");
            assert_eq!(count(), Some(1), "{different}");
        }
        socket.delete_route(&route()).expect("delete");
        assert_eq!(count(), Some(0));
    }
}

#[test]
fn repeated_deletion_can_match_another_route() {
    let Some(host) = Host::new() else { return };
    let socket = &host.fixture.on_host;
    let listed = |dst: &str| {
        let routes = socket.routes_of_all_tables().expect("list");
        routes.into_iter().find(|route| route.dst.to_string() == dst && route.gateway.is_none()).expect("a route")
    };
    // The kernel takes a priority of 0 for a missing one.
    run(host.netns(), &format!("ip route add {V4} dev up0 metric 0"));
    run(host.netns(), &format!("ip route add {V4} dev up0 metric 5"));
    let first = listed(V4);
    for left in [1, 0] {
        socket.delete_route(&first).expect("delete");
        assert_eq!(host.seen(V4).as_array().map(Vec::len), Some(left));
    }
    // A missing gateway matches the route with a gateway.
    run(host.netns(), &format!("ip route add {V6} via fd00:22::1 dev up0 metric 9"));
    run(host.netns(), &format!("ip route append {V6} dev up0 metric 9"));
    socket.delete_route(&listed(V6)).expect("delete");
    assert_eq!(host.seen(V6)[0].get("gateway"), None);
}

#[test]
fn multipath_route_is_deleted_as_documented() {
    let Some(host) = Host::new() else { return };
    let socket = &host.fixture.on_host;
    run(host.netns(), &format!("ip route add {V4} nexthop via 10.22.0.1 dev up0 nexthop via 10.22.0.2 dev up0"));
    socket.delete_route(&host.via(V4, "10.22.0.2")).expect("not the first");
    assert_eq!(host.seen(V4)[0]["nexthops"].as_array().map(Vec::len), Some(2));
    socket.delete_route(&host.via(V4, "10.22.0.1")).expect("the first");
    assert_eq!(host.seen(V4), json!([]));
    run(host.netns(), &format!("ip route add {V6} nexthop via fd00:22::1 dev up0 nexthop via fd00:22::2 dev up0"));
    socket.delete_route(&host.via(V6, "fd00:22::1")).expect("one next hop");
    assert_eq!(host.seen(V6)[0]["gateway"], "fd00:22::2");
}

#[test]
fn reject_routes_are_listed_apart() {
    let Some(host) = Host::new() else { return };
    let socket = &host.fixture.on_host;
    let routes = [
        ("blackhole", V4, RejectAction::Blackhole),
        ("unreachable", "0.0.0.0/0", RejectAction::Unreachable),
        ("prohibit", V6, RejectAction::Prohibit),
        ("throw", "fd00:97::/48", RejectAction::Throw),
    ];
    for (kind, dst, _) in routes {
        run(host.netns(), &format!("ip route add {kind} {dst} table 70000 metric 7 proto 200"));
    }
    let listed = socket.reject_routes().expect("list");
    for (_, dst, action) in routes {
        let found: Vec<_> = listed.iter().filter(|route| route.dst.to_string() == dst).collect();
        let [found] = found[..] else { panic!("{dst}: {listed:?}") };
        assert_eq!((found.action, found.table, found.priority, found.protocol), (action, 70_000, Some(7), 200));
    }
    assert_eq!(socket.routes_of(70_000).expect("list"), []);
}
