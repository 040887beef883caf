//! Routes with a tunnel header, and routes to one destination with several metrics.

use cnikit::netlink::{Error, IfIndex, LinkSpec, Netns, Route, TunnelEncap, Vxlan};

use crate::{
    kinds::lacks,
    support::{Fixture, address, name, net, run},
};

const V4: &str = "10.244.2.0/24";
const V6: &str = "fd00:2::/64";

struct Host {
    fixture: Fixture,
    tunnel: IfIndex,
    uplink: IfIndex,
}

impl Host {
    /// A host with the links `up0` and `vx0`, which takes its headers from metadata.
    fn new() -> Option<Self> {
        let fixture = Fixture::new()?;
        if lacks(&fixture, "vxlan external dstport 4789", "") {
            return None;
        }
        let netns = &fixture.host;
        run(netns, "ip link add up0 type veth peer name far0");
        run(netns, "ip link set far0 up");
        run(netns, "ip link set up0 up");
        run(netns, "ip addr add 192.0.2.1/24 dev up0");
        run(netns, "ip addr add 2001:db8::1/64 dev up0 nodad");
        let tunnel = LinkSpec::new(name("vx0"), Vxlan::external()).no_arp().up();
        let tunnel = fixture.on_host.create_link(&tunnel).expect("create the tunnel");
        run(netns, "ip addr add 10.244.1.1/32 dev vx0");
        run(netns, "ip addr add fd00:1::1/128 dev vx0 nodad");
        let uplink = fixture.on_host.link_by_name(&name("up0")).expect("look up").expect("up0").index;
        Some(Self { fixture, tunnel, uplink })
    }

    fn netns(&self) -> &Netns {
        &self.fixture.host
    }

    fn listed(&self, dst: &str) -> Vec<Route> {
        let mut routes = self.fixture.on_host.routes_of(Route::MAIN_TABLE).expect("list");
        routes.retain(|route| route.dst == net(dst));
        routes
    }

    /// The lines of `ip route` for one destination, without spaces at their ends.
    ///
    /// Its JSON has the key `dst` twice: for the route and for the tunnel.
    fn shown(&self, dst: &str) -> Vec<String> {
        let family = if dst.contains(':') { "-6" } else { "-4" };
        let shown = run(self.netns(), &format!("ip {family} route show {dst}"));
        shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }
}

fn encap(id: u64, destination: &str) -> TunnelEncap {
    TunnelEncap::new(id, address(destination))
}

/// The routes of the test: destination, source, header, and the words of `ip` for the header.
fn routes() -> [(&'static str, &'static str, TunnelEncap, &'static str); 5] {
    const FULL_ID: u64 = 0x0102_0304_0506_0708;
    [
        (V4, "10.244.1.1", encap(77, "192.0.2.2").ttl(64), "encap ip id 77 dst 192.0.2.2 ttl 64"),
        (V4, "10.244.1.1", encap(77, "192.0.2.2").checksum(true), "encap ip id 77 dst 192.0.2.2 csum"),
        (V4, "10.244.1.1", encap(77, "2001:db8::2"), "encap ip6 id 77 dst 2001:db8::2 csum"),
        (V6, "fd00:1::1", encap(77, "2001:db8::2").ttl(9), "encap ip6 id 77 dst 2001:db8::2 hoplimit 9 csum"),
        (V6, "fd00:1::1", encap(FULL_ID, "192.0.2.2"), "encap ip id 72623859790382856 dst 192.0.2.2"),
    ]
}

#[test]
fn header_is_set_as_by_ip_and_read_back() {
    let Some(host) = Host::new() else { return };
    let socket = &host.fixture.on_host;
    for (dst, src, encap, words) in routes() {
        let route = Route::new(net(dst), host.tunnel).src(address(src)).encap(encap).protocol(200);
        socket.add_route(&route).unwrap_or_else(|error| panic!("{error}"));
        let ours = host.shown(dst);
        assert_eq!(ours.len(), 1, "{ours:?}");
        let [read] = &host.listed(dst)[..] else { panic!("{:?}", host.listed(dst)) };
        assert_eq!(read.encap, Some(encap));
        assert!(read.is_same_as(&route));
        socket.ensure_route(&route).expect("the same route");
        socket.delete_route(read).expect("delete");
        assert_eq!(host.shown(dst), Vec::<String>::new());

        run(host.netns(), &format!("ip route add {dst} {words} dev vx0 src {src} proto 200"));
        assert_eq!(host.shown(dst), ours, "ip sets the same");
        let listed = host.listed(dst);
        assert!(listed.len() == 1 && listed[0].is_same_as(&route), "{listed:?}");
        assert!(listed[0].to_string().starts_with(&format!("{dst} {words} by link ")), "{}", listed[0]);
        socket.delete_route(&route).expect("delete");
        assert_eq!(host.shown(dst), Vec::<String>::new());
    }
}

#[test]
fn other_header_is_another_route() {
    let Some(host) = Host::new() else { return };
    let socket = &host.fixture.on_host;
    for (dst, destination) in [(V4, "192.0.2.2"), (V4, "2001:db8::2"), (V6, "2001:db8::2")] {
        let route = |encap| Route::new(net(dst), host.tunnel).encap(encap);
        let header = encap(77, destination);
        socket.add_route(&route(header)).expect("add");
        let others =
            [encap(78, destination), header.ttl(64), header.checksum(!header.checksum), encap(77, "192.0.2.9")];
        for other in others {
            let error = socket.ensure_route(&route(other)).expect_err("another header");
            assert!(matches!(error, Error::Exists { .. }), "{error:?}");
            socket.replace_route(&route(other)).expect("replace");
            let listed = host.listed(dst);
            assert!(listed.len() == 1 && listed[0].encap == Some(other), "{listed:?}");
        }
        // Without a header, the route leads to the link itself.
        socket.replace_route(&Route::new(net(dst), host.tunnel)).expect("replace");
        assert_eq!(host.listed(dst)[0].encap, None);
        socket.replace_route(&route(header)).expect("replace");
        if dst == V4 {
            socket.delete_route(&route(header.ttl(1))).expect("another header");
            assert_eq!(host.listed(dst).len(), 1, "IPv4 compares the header");
        }
        socket.delete_route(&route(header)).expect("delete");
        assert_eq!(host.listed(dst), []);
    }
}

#[test]
fn header_of_each_next_hop_is_read() {
    let Some(host) = Host::new() else { return };
    let [a, b] = ["192.0.2.2", "192.0.2.3"];
    let hop = |to: &str| format!("nexthop encap ip id 77 dst {to} dev vx0");
    run(host.netns(), &format!("ip route add {V4} {} {} nexthop dev up0", hop(a), hop(b)));
    let headers: Vec<_> = host.listed(V4).iter().map(|route| route.encap).collect();
    assert_eq!(headers, [Some(encap(77, a)), Some(encap(77, b)), None]);
}

/// A route through the tunnel is the second choice beside one through the uplink.
#[test]
fn routes_to_one_destination_differ_by_metric() {
    let Some(host) = Host::new() else { return };
    let socket = &host.fixture.on_host;
    for (dst, [gateway, other], inside) in
        [(V4, ["192.0.2.2", "192.0.2.3"], "10.244.2.7"), (V6, ["2001:db8::2", "2001:db8::3"], "fd00:2::7")]
    {
        let direct = |gateway: &str| Route::new(net(dst), host.uplink).via(address(gateway)).priority(100);
        let tunnel = |id| Route::new(net(dst), host.tunnel).encap(encap(id, gateway)).priority(200);
        let state = || -> Vec<_> {
            let mut listed = host.listed(dst);
            listed.sort_by_key(|route| route.priority);
            listed.iter().map(|route| (route.priority, route.gateway, route.encap.map(|encap| encap.id))).collect()
        };
        let way = || socket.route_to(address(inside)).expect("look up").expect("a route").oif;
        let direct_is = |gateway: &str| (Some(100), Some(address(gateway)), None);
        let tunnel_is = |id| (Some(200), None, Some(id));

        for route in [tunnel(77), direct(gateway)] {
            socket.add_route(&route).expect("add");
            let error = socket.add_route(&route).expect_err("it exists");
            assert!(matches!(error, Error::Exists { .. }), "{error:?}");
            socket.ensure_route(&route).expect("the same");
        }
        assert_eq!((state(), way()), (vec![direct_is(gateway), tunnel_is(77)], host.uplink));
        socket.replace_route(&direct(other)).expect("replace");
        assert_eq!(state(), [direct_is(other), tunnel_is(77)]);
        socket.replace_route(&tunnel(78)).expect("replace");
        assert_eq!(state(), [direct_is(other), tunnel_is(78)]);
        socket.delete_route(&direct(other)).expect("delete");
        assert_eq!((state(), way()), (vec![tunnel_is(78)], host.tunnel));
        socket.delete_route(&direct(other)).expect("absent");
        assert_eq!(state(), [tunnel_is(78)]);
        // A replacement creates the route with the lower and with the higher metric.
        socket.replace_route(&direct(gateway)).expect("create");
        assert_eq!((state(), way()), (vec![direct_is(gateway), tunnel_is(78)], host.uplink));
        socket.delete_route(&tunnel(78)).expect("delete");
        socket.replace_route(&tunnel(79)).expect("create");
        assert_eq!(state(), [direct_is(gateway), tunnel_is(79)]);
        // A listed route deletes only itself.
        let listed = host.listed(dst);
        let second = listed.iter().find(|route| route.encap.is_some()).expect("the tunnel");
        socket.delete_route(second).expect("delete");
        assert_eq!(state(), [direct_is(gateway)]);
        // Without a metric, IPv4 uses 0 and IPv6 uses 1024.
        let default = Route::new(net(dst), host.tunnel).encap(encap(80, gateway));
        socket.replace_route(&default).expect("create");
        assert_eq!(state().len(), 2);
        assert_eq!(way(), if dst == V4 { host.tunnel } else { host.uplink });
    }
}
