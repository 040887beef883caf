//! The way to one address, checked with `ip route get`.

use cnikit::netlink::{LinkSpec, ResolvedRoute, TunnelEncap, Vxlan};
use serde_json::Value;

use crate::{
    kinds::lacks,
    support::{Fixture, address, json, name, run},
};

fn new() -> Option<Fixture> {
    let fixture = Fixture::new()?;
    let netns = &fixture.host;
    run(netns, "ip link set lo up");
    for (number, subnet) in [(0, "192.0.2"), (1, "198.51.100")] {
        run(netns, &format!("ip link add up{number} type veth peer name far{number}"));
        run(netns, &format!("ip link set far{number} up"));
        run(netns, &format!("ip link set up{number} up"));
        run(netns, &format!("ip addr add {subnet}.1/24 dev up{number}"));
    }
    run(netns, "ip addr add 192.0.2.7/24 dev up0");
    run(netns, "ip addr add 2001:db8::1/64 dev up0 nodad");
    Some(fixture)
}

fn way(fixture: &Fixture, to: &str) -> ResolvedRoute {
    fixture.on_host.route_to(address(to)).expect("look up").unwrap_or_else(|| panic!("no route to {to}"))
}

#[test]
fn way_is_that_of_ip() {
    let Some(fixture) = new() else { return };
    let netns = &fixture.host;
    run(netns, "ip route add 10.244.2.0/24 via 192.0.2.2 mtu 1380");
    run(netns, "ip route add 10.244.3.0/24 via inet6 fe80::3 dev up1 src 192.0.2.7");
    run(netns, "ip route add default via 198.51.100.9 table 1234");
    run(netns, "ip rule add to 203.0.113.0/24 lookup 1234");
    run(netns, "ip -6 route add fd00:2::/64 via 2001:db8::2 mtu 1320");
    for to in ["192.0.2.2", "10.244.2.7", "10.244.3.7", "203.0.113.5", "192.0.2.7", "127.0.0.1"].iter().chain(&[
        "2001:db8::2",
        "fd00:2::7",
        "2001:db8::1",
    ]) {
        // -N prints the number of each table.
        let seen = json(netns, &format!("ip -N -d -j route get {to}"))[0].take();
        let found = way(&fixture, to);
        let link = fixture.on_host.link_by_index(found.oif).expect("look up").expect("the link");
        assert_eq!(seen["dev"], link.name.as_str(), "{seen}");
        let gateway = seen.get("gateway").or(seen["via"].get("host"));
        let shown = |address: Option<std::net::IpAddr>| address.map(|address| Value::from(address.to_string()));
        assert_eq!(gateway, shown(found.gateway).as_ref(), "{seen}");
        assert_eq!(seen.get("prefsrc"), shown(found.src).as_ref(), "{seen}");
        // `ip` omits the main table.
        let table = seen.get("table").map_or("254".to_owned(), |table| table.as_str().expect("a table").to_owned());
        assert_eq!(table, found.table.to_string(), "{seen}");
        assert_eq!(seen["metrics"][0].get("mtu"), found.mtu.map(Value::from).as_ref(), "{seen}");
        assert_eq!(seen["type"] == "2" || seen["type"] == "local", found.local, "{seen}");
    }
    assert_eq!(way(&fixture, "10.244.2.7").mtu, Some(1380));
    assert_eq!(way(&fixture, "203.0.113.5").table, 1234);
    assert!(way(&fixture, "192.0.2.7").local && !way(&fixture, "192.0.2.2").local);
}

#[test]
fn missing_way_is_none() {
    let Some(fixture) = new() else { return };
    let netns = &fixture.host;
    let to = |text: &str| fixture.on_host.route_to(address(text));
    for text in ["203.0.113.1", "fd00:9::1"] {
        assert_eq!(to(text).expect("look up"), None, "{text}");
    }
    for (dst, text) in [("203.0.113.0/24", "203.0.113.1"), ("fd00:9::/64", "fd00:9::1")] {
        run(netns, &format!("ip route add unreachable {dst}"));
        assert_eq!(to(text).expect("look up"), None, "{text}");
        run(netns, &format!("ip route del unreachable {dst}"));
        for (action, errno) in [("prohibit", libc::EACCES), ("blackhole", libc::EINVAL)] {
            run(netns, &format!("ip route add {action} {dst}"));
            let error = to(text).expect_err(action);
            assert_eq!(error.raw_os_error(), Some(errno), "{error}");
            assert!(error.to_string().starts_with(&format!("look up the route to {text}: ")), "{error}");
            run(netns, &format!("ip route del {action} {dst}"));
        }
    }
    run(netns, "ip link set up0 down");
    assert_eq!(to("192.0.2.2").expect("look up"), None);
}

#[test]
fn way_through_a_tunnel_has_its_header() {
    let Some(fixture) = new() else { return };
    if lacks(&fixture, "vxlan external dstport 4789", "") {
        return;
    }
    let netns = &fixture.host;
    let tunnel = LinkSpec::new(name("vx0"), Vxlan::external()).no_arp().up();
    let tunnel = fixture.on_host.create_link(&tunnel).expect("create");
    run(netns, "ip addr add 10.244.1.1/32 dev vx0");
    run(netns, "ip addr add fd00:1::1/128 dev vx0 nodad");
    run(netns, "ip route add 10.244.2.0/24 encap ip id 77 dst 192.0.2.2 ttl 64 dev vx0");
    run(netns, "ip route add fd00:2::/64 encap ip id 77 dst 192.0.2.2 ttl 64 dev vx0");
    let header = Some(TunnelEncap::new(77, address("192.0.2.2")).ttl(64));
    for (to, src) in [("10.244.2.7", "10.244.1.1"), ("fd00:2::7", "fd00:1::1")] {
        // Linux 5.10 does not report the header.
        let is_reported = json(netns, &format!("ip -d -j route get {to}"))[0].get("encap").is_some();
        let found = way(&fixture, to);
        assert_eq!((found.oif, found.src, found.gateway), (tunnel, Some(address(src)), None), "{to}");
        assert_eq!(found.encap, header.filter(|_| is_reported), "{to}");
    }
}
