//! A result applied to an interface, and an interface compared with a result.

use cnikit::{
    netlink::{Difference, Error, INTERFACE_DIFFERS, VerifyError},
    spec::{AddResult, HasErrorCode as _, IfIndex, Interface, IpConfig, Route},
};
use serde_json::Value;

use crate::support::{Fixture, address, json, name, net, peer_mac, run, up_pair};

/// The pod's interface `eth1`, down.
fn pod_link() -> Option<Fixture> {
    let fixture = Fixture::new()?;
    fixture.veth(1, None);
    Some(fixture)
}

/// Two addresses with gateways, default routes without a gateway, and a route with all values.
fn result() -> AddResult {
    let mut services = route("10.96.0.0/12").via(address("10.22.0.9"));
    (services.mtu, services.table, services.priority) = (Some(1380), Some(1_000), Some(7));
    AddResult::default()
        .with_ip(ip("10.22.0.5/24", "10.22.0.1"))
        .with_ip(ip("fd00:22::5/64", "fd00:22::1"))
        .with_route(route("0.0.0.0/0"))
        .with_route(route("::/0"))
        .with_route(services)
}

fn ip(address: &str, gateway: &str) -> IpConfig {
    IpConfig::new(net(address)).gateway(self::address(gateway))
}

fn route(dst: &str) -> Route {
    Route::new(net(dst))
}

fn routes(fixture: &Fixture, selector: &str) -> Value {
    json(&fixture.pod, &format!("ip -j {selector}"))
}

#[test]
fn result_is_applied_twice_with_the_same_effect() {
    let Some(fixture) = pod_link() else { return };
    for setting in ["eth1", "lo"] {
        run(&fixture.pod, &format!("sysctl -q -w net.ipv6.conf.{setting}.disable_ipv6=1"));
    }
    let result = result();
    let all = || {
        [
            "-4 addr show dev eth1",
            "-6 addr show dev eth1 scope global",
            "-4 route show table all",
            // The kernel adds the route to link-local addresses later.
            "-6 route show dev eth1 proto static",
        ]
        .map(|selector| routes(&fixture, selector))
    };
    let first = fixture.pod.configure(&name("eth1"), &result).expect("configure");
    let seen = all();
    let second = fixture.pod.configure(&name("eth1"), &result).expect("configure again");
    assert_eq!(all()[0][0]["addr_info"], seen[0][0]["addr_info"]);
    assert_eq!(all()[2..], seen[2..]);
    assert_eq!(first.routes, result.routes);
    assert_eq!(second, first);

    let link = json(&fixture.pod, "ip -j link show dev eth1");
    assert_eq!(link[0]["ifindex"], first.index.get());
    assert!(link[0]["flags"].as_array().expect("flags").contains(&"UP".into()), "{link}");
    assert_eq!(
        (&seen[0][0]["addr_info"][0]["local"], &seen[0][0]["addr_info"][0]["prefixlen"]),
        (&"10.22.0.5".into(), &24.into())
    );
    let v6 = &seen[1][0]["addr_info"][0];
    assert_eq!((&v6["local"], &v6["prefixlen"], &v6["tentative"]), (&"fd00:22::5".into(), &64.into(), &Value::Null));
    assert_eq!(routes(&fixture, "-4 route show default")[0]["gateway"], "10.22.0.1");
    assert_eq!(routes(&fixture, "-6 route show default")[0]["gateway"], "fd00:22::1");
    let services = routes(&fixture, "-d -4 route show table 1000");
    assert_eq!((&services[0]["dst"], &services[0]["gateway"]), (&"10.96.0.0/12".into(), &"10.22.0.9".into()));
    assert_eq!((&services[0]["metric"], &services[0]["metrics"][0]["mtu"]), (&7.into(), &1380.into()));
    assert_eq!(run(&fixture.pod, "sysctl -n net.ipv6.conf.lo.disable_ipv6").trim(), "0");
    fixture.pod.verify(&name("eth1"), &result).expect("verify");
}

#[test]
fn metrics_that_the_kernel_reduces_are_no_difference() {
    let Some(fixture) = pod_link() else { return };
    let high = |dst: &str| {
        let mut route = route(dst);
        // The greatest MTU of a veth.
        (route.mtu, route.advmss) = (Some(65_535), Some(65_500));
        route
    };
    let mut zero = route("10.112.0.0/12");
    (zero.mtu, zero.advmss, zero.priority) = (Some(0), Some(0), Some(0));
    let mut result = result();
    result.routes = vec![high("10.96.0.0/12"), high("fd00:96::/48"), zero];
    for _ in 0..2 {
        let interface = fixture.pod.configure(&name("eth1"), &result).expect("configure");
        assert_eq!(interface.routes, result.routes);
        fixture.pod.verify(&name("eth1"), &result).expect("verify");
    }
}

#[test]
fn existing_route_without_onlink_is_the_same() {
    let Some(fixture) = pod_link() else { return };
    let gateway = "169.254.1.1";
    for command in [
        "ip link set eth1 up",
        "ip addr add 10.22.0.5/32 dev eth1",
        "ip route add 169.254.1.1 dev eth1",
        "ip route add default via 169.254.1.1 dev eth1",
    ] {
        run(&fixture.pod, command);
    }
    let result = AddResult::default().with_ip(ip("10.22.0.5/32", gateway)).with_route(route("0.0.0.0/0"));
    let interface = fixture.pod.configure(&name("eth1"), &result).expect("configure");
    assert_eq!(interface.routes, result.routes);
    fixture.pod.verify(&name("eth1"), &result).expect("verify");
}

#[test]
fn addresses_without_gateway_have_routes_on_the_link() {
    let Some(fixture) = pod_link() else { return };
    let result = AddResult::default()
        .with_ip(IpConfig::new(net("10.22.0.5/32")))
        .with_route(route("10.22.0.1/32"))
        .with_route(route("0.0.0.0/0").via(address("10.22.0.1")));
    fixture.pod.configure(&name("eth1"), &result).expect("configure");
    let gateway = routes(&fixture, "-4 route show 10.22.0.1");
    assert_eq!((&gateway[0]["scope"], &gateway[0]["gateway"]), (&"link".into(), &Value::Null));
    assert_eq!(routes(&fixture, "-4 route show default")[0]["gateway"], "10.22.0.1");
    fixture.pod.verify(&name("eth1"), &result).expect("verify");
}

/// Routed pods have no subnet. Their gateway can have any address.
#[test]
fn gateway_of_an_address_without_subnet_is_on_the_link() {
    let Some(fixture) = pod_link() else { return };
    let result = AddResult::default()
        .with_ip(ip("10.22.0.5/32", "169.254.1.1"))
        .with_ip(ip("fd00:22::5/128", "fd00:99::1"))
        .with_route(route("0.0.0.0/0"))
        .with_route(route("::/0"));
    let configured = fixture.pod.configure(&name("eth1"), &result).expect("configure");
    assert_eq!(configured.routes, result.routes);
    for (family, gateway) in [("-4", "169.254.1.1"), ("-6", "fd00:99::1")] {
        let found = routes(&fixture, &format!("{family} route show default"));
        assert_eq!((&found[0]["gateway"], &found[0]["flags"][0]), (&gateway.into(), &"onlink".into()), "{found}");
    }
    fixture.pod.verify(&name("eth1"), &result).expect("no difference");
}

#[test]
fn ipv6_stays_disabled_without_ipv6_addresses() {
    let Some(fixture) = pod_link() else { return };
    run(&fixture.pod, "sysctl -q -w net.ipv6.conf.eth1.disable_ipv6=1");
    let result = AddResult::default().with_ip(ip("10.22.0.5/24", "10.22.0.1"));
    fixture.pod.configure(&name("eth1"), &result).expect("configure");
    assert_eq!(run(&fixture.pod, "sysctl -n net.ipv6.conf.eth1.disable_ipv6").trim(), "1");
}

#[test]
fn each_interface_gets_its_own_addresses_and_routes() {
    let Some(fixture) = pod_link() else { return };
    fixture.veth(2, None);
    let mut result = AddResult::default();
    let [eth1, eth2] = ["eth1", "eth2"].map(|name| result.push_interface(Interface::new(name).sandbox("/run/netns/a")));
    let result = result
        .with_ip(ip("10.22.0.5/24", "10.22.0.1").interface(eth1))
        .with_ip(ip("10.23.0.5/24", "10.23.0.1").interface(eth2))
        .with_route(route("10.96.0.0/12").via(address("10.22.0.1")))
        .with_route(route("10.112.0.0/12").via(address("10.23.0.1")));
    for (interface, own, dst) in [("eth1", "10.22.0.5", "10.96.0.0/12"), ("eth2", "10.23.0.5", "10.112.0.0/12")] {
        let configured = fixture.pod.configure(&name(interface), &result).expect("configure");
        assert_eq!(configured.routes.iter().map(|route| route.dst).collect::<Vec<_>>(), [net(dst)]);
        let seen = json(&fixture.pod, &format!("ip -j -4 addr show dev {interface}"));
        let seen: Vec<_> = seen[0]["addr_info"].as_array().expect("a list").iter().map(|a| &a["local"]).collect();
        assert_eq!(seen, [own]);
        assert_eq!(routes(&fixture, &format!("-4 route show {dst}"))[0]["dev"], interface);
        fixture.pod.verify(&name(interface), &result).expect("verify");
    }
}

#[test]
fn default_route_of_another_interface_stays() {
    let Some(fixture) = pod_link() else { return };
    fixture.veth(2, None);
    run(&fixture.pod, "ip link set eth2 up");
    run(&fixture.pod, "ip addr add 10.99.0.5/24 dev eth2");
    run(&fixture.pod, "ip addr add fd00:99::5/64 dev eth2 nodad");
    run(&fixture.pod, "ip route add default via 10.99.0.1");
    run(&fixture.pod, "ip -6 route add default via fd00:99::1 metric 1024");
    let mut result = result();
    let configured = fixture.pod.configure(&name("eth1"), &result).expect("configure");
    assert_eq!(configured.routes, result.routes[2..]);
    for (family, gateway) in [("-4", "10.99.0.1"), ("-6", "fd00:99::1")] {
        let defaults = routes(&fixture, &format!("{family} route show default"));
        assert_eq!(defaults.as_array().map(Vec::len), Some(1), "{defaults}");
        assert_eq!(defaults[0]["gateway"], gateway);
    }

    let error = fixture.pod.verify(&name("eth1"), &result).expect_err("two routes are missing");
    assert_eq!(differences(error).len(), 2);
    result.routes = configured.routes;
    fixture.pod.verify(&name("eth1"), &result).expect("verify the routes in place");
}

#[test]
fn repeated_route_is_returned_once() {
    let Some(fixture) = pod_link() else { return };
    let result = AddResult::default()
        .with_ip(ip("10.22.0.5/24", "10.22.0.1"))
        .with_route(route("0.0.0.0/0"))
        .with_route(route("0.0.0.0/0").via(address("10.22.0.1")));
    let configured = fixture.pod.configure(&name("eth1"), &result).expect("configure");
    assert_eq!(configured.routes, result.routes[..1]);
}

#[test]
fn what_cannot_be_applied_is_an_error() {
    let Some(fixture) = pod_link() else { return };
    let error = fixture.pod.configure(&name("eth9"), &result()).expect_err("no such link");
    assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{error}");
    assert!(error.to_string().contains("eth9"), "{error}");
    let elsewhere = AddResult::default()
        .with_ip(ip("10.22.0.5/24", "10.22.0.1"))
        .with_route(route("0.0.0.0/0").via(address("192.0.2.1")));
    let error = fixture.pod.configure(&name("eth1"), &elsewhere).expect_err("no subnet has the gateway");
    assert_eq!(error.raw_os_error(), Some(libc::ENETUNREACH), "{error}");
    run(&fixture.pod, "ip addr add fd00:22::5/128 dev eth1");
    let error = fixture.pod.configure(&name("eth1"), &result()).expect_err("another prefix length");
    assert!(matches!(error, Error::Exists { .. }), "{error:?}");
}

/// The differences of an error that has the code of CHECK.
fn differences(error: VerifyError) -> Vec<Difference> {
    assert_eq!(error.code(), INTERFACE_DIFFERS);
    match error {
        VerifyError::Differs { differences, .. } => differences,
        error => panic!("{error:?}"),
    }
}

/// Configures `eth1`, tampers with it, and returns the text of the only difference.
fn tampered(commands: &[&str]) -> Option<String> {
    let fixture = pod_link()?;
    run(&fixture.pod, "sysctl -q -w net.ipv6.conf.all.keep_addr_on_down=1");
    let mut result = result();
    let eth1 = result.push_interface(Interface::new("eth1").mac(peer_mac(1)).sandbox("/run/netns/a"));
    result.ips.iter_mut().for_each(|ip| ip.interface = Some(eth1));
    fixture.pod.configure(&name("eth1"), &result).expect("configure");
    fixture.pod.verify(&name("eth1"), &result).expect("verify");
    commands.iter().for_each(|command| drop(run(&fixture.pod, command)));
    let error = fixture.pod.verify(&name("eth1"), &result).expect_err("it was tampered with");
    let text = error.to_string();
    let differences = differences(error);
    assert!(text.starts_with("interface eth1 differs from the result of its ADD: "), "{text}");
    assert!(differences.iter().all(|difference| text.contains(&difference.to_string())), "{text}");
    Some(differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
}

#[test]
fn missing_link_is_named() {
    let Some(text) = tampered(&["ip link delete eth1"]) else { return };
    assert_eq!(text, "the link is missing");
}

#[test]
fn link_that_is_down_is_named() {
    let Some(text) = tampered(&["ip link set eth1 down"]) else { return };
    assert!(text.starts_with("the link is down; "), "{text}");
    assert!(text.contains("the route 0.0.0.0/0 via 10.22.0.1"), "the kernel deletes the routes: {text}");
}

#[test]
fn other_mac_is_named() {
    let Some(text) = tampered(&["ip link set eth1 address 02:00:00:00:00:77"]) else { return };
    assert_eq!(text, "the MAC is 02:00:00:00:00:77, not 02:00:00:00:02:01");
}

#[test]
fn missing_address_is_named() {
    let fd = "ip addr del fd00:22::5/64 dev eth1";
    let Some(text) = tampered(&["ip addr add fd00:22::6/64 dev eth1 nodad", fd]) else { return };
    assert!(text.starts_with("the address fd00:22::5/64 is missing (present: "), "{text}");
    assert!(text.contains("fd00:22::6/64"), "{text}");
    assert!(!text.contains("10.22.0.5"), "the other address is in place: {text}");
}

#[test]
fn address_with_another_prefix_length_is_named() {
    let commands = ["ip addr add 10.22.0.5/16 dev eth1", "ip addr del 10.22.0.5/24 dev eth1"];
    let Some(text) = tampered(&commands) else { return };
    assert!(text.contains("the address 10.22.0.5/24 is missing (present: 10.22.0.5/16)"), "{text}");
}

#[test]
fn missing_route_is_named() {
    let Some(text) = tampered(&["ip -6 route del default"]) else { return };
    assert!(text.starts_with("the route ::/0 via fd00:22::1 by link "), "{text}");
    assert!(text.ends_with("is missing (no route to its destination)"), "{text}");
}

#[test]
fn other_gateway_is_named() {
    let Some(text) = tampered(&["ip route replace default via 10.22.0.66"]) else { return };
    assert!(text.starts_with("the route 0.0.0.0/0 via 10.22.0.1 by link "), "{text}");
    assert!(text.contains("(present: 0.0.0.0/0 via 10.22.0.66 by link "), "{text}");
}

#[test]
fn other_mtu_and_other_table_are_named() {
    let mtu = "ip route replace 10.96.0.0/12 via 10.22.0.9 dev eth1 metric 7 mtu 1200 table 1000";
    let Some(text) = tampered(&[mtu]) else { return };
    assert!(text.contains("table 1000 priority 7 mtu 1380 is missing (present: "), "{text}");
    assert!(text.contains("mtu 1200"), "{text}");
    let table =
        ["ip route flush table 1000", "ip route add 10.96.0.0/12 via 10.22.0.9 dev eth1 metric 7 mtu 1380 table 1001"];
    let text = tampered(&table).expect("a fixture");
    assert!(text.contains("present: 10.96.0.0/12 via 10.22.0.9") && text.contains("table 1001"), "{text}");
}

/// As `sbr` does.
#[test]
fn route_without_a_table_may_be_in_any_table() {
    let Some(fixture) = pod_link() else { return };
    let result = result();
    fixture.pod.configure(&name("eth1"), &result).expect("configure");
    run(&fixture.pod, "ip route del default");
    run(&fixture.pod, "ip route add default via 10.22.0.1 dev eth1 table 100");
    fixture.pod.verify(&name("eth1"), &result).expect("verify");
}

#[test]
fn duplicate_address_is_a_difference() {
    let Some(fixture) = Fixture::new() else { return };
    let eth1: IfIndex = up_pair(&fixture);
    run(&fixture.host, "ip addr add fd00:22::5/64 dev veth1 nodad");
    run(&fixture.pod, "ip addr add fd00:22::5/64 dev eth1");
    fixture.in_pod.wait_addresses_settled(eth1, std::time::Duration::from_secs(10)).expect_err("a duplicate");
    let result = AddResult::default().with_ip(IpConfig::new(net("fd00:22::5/64")));
    let error = fixture.pod.verify(&name("eth1"), &result).expect_err("it is not usable");
    assert_eq!(differences(error), [Difference::DuplicateAddress { address: net("fd00:22::5/64") }]);
}
