//! The tunnel device on private hosts.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use cnikit::netlink::{Route, Socket};
use cnikit::spec::IfName;
use cnikit_testbed::{Host, Namespace, Pod, eventually, host};
use serde_json::Value;
use simple_ebpf_agent::tunnel::{self, Error, Tunnel};

const LINK: &str = "vx-test";
const PORT: u16 = 8472;
const MTU: u32 = 1450;
const GATEWAYS: [&str; 2] = ["10.244.1.1", "fd00:1::1"];

fn name(text: &str) -> IfName {
    text.parse().expect("a name")
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

fn tunnel(node: &str) -> Tunnel {
    Tunnel::new(node, name(LINK), 77, PORT)
}

/// Ensures the tunnel in the namespace of the calling thread.
fn ensure(tunnel: &Tunnel, gateways: &[&str]) -> Result<u32, Error> {
    let host = Socket::open().expect("a socket");
    tunnel.ensure(&host, MTU, &addresses(gateways)).map(cnikit::netlink::IfIndex::get)
}

fn device(netns: &impl Namespace) -> Value {
    netns.link(LINK).expect("the tunnel")
}

/// All addresses of the device with their prefix lengths, link-local ones included.
fn addresses_of_device(host: &Host) -> Vec<String> {
    let seen = host.ip(&format!("address show dev {LINK}"));
    let all = seen[0]["addr_info"].as_array().expect("addresses").iter();
    all.map(|info| format!("{}/{}", info["local"].as_str().expect("an address"), info["prefixlen"])).collect()
}

fn has_flag(link: &Value, flag: &str) -> bool {
    link["flags"].as_array().expect("flags").contains(&flag.into())
}

fn rp_filter() -> String {
    fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{LINK}/rp_filter")).expect("a setting").trim().to_owned()
}

/// Asserts every setting of a correct device.
fn is_correct(host: &Host, tunnel: &Tunnel) {
    let link = device(host);
    let info = &link["linkinfo"];
    assert_eq!(info["info_kind"], "vxlan");
    let data = &info["info_data"];
    assert_eq!((&data["external"], &data["port"]), (&true.into(), &tunnel.port.into()), "{data}");
    assert_eq!((&data["learning"], &data["udp_csum"]), (&false.into(), &false.into()), "{data}");
    assert!(has_flag(&link, "UP") && has_flag(&link, "NOARP"), "{link}");
    assert_eq!((&link["mtu"], &link["inet6_addr_gen_mode"]), (&MTU.into(), &"none".into()));
    assert_eq!(link["address"], tunnel.mac.to_string());
    assert_eq!(link["ifalias"], "simple-ebpf-agent");
    assert_eq!(addresses_of_device(host), ["10.244.1.1/32", "fd00:1::1/128"]);
    assert_eq!(rp_filter(), "2");
}

#[test]
fn device_is_created_and_removed() {
    host(|host| {
        // The kernel combines this value with the value of the device: the greater one wins.
        fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "1").expect("write");
        let tunnel = tunnel("a");
        let index = ensure(&tunnel, &GATEWAYS).expect("create");
        is_correct(host, &tunnel);
        assert_eq!(device(host)["ifindex"], index);
        let all = fs::read_to_string("/proc/sys/net/ipv4/conf/all/rp_filter").expect("read");
        assert_eq!(all.trim(), "1", "the setting of all links belongs to the node");
        assert_ne!(tunnel.mac, self::tunnel("b").mac);
        for _ in 0..2 {
            tunnel::remove(&tunnel.link).expect("remove");
            assert!(host.link(LINK).is_none());
        }
    });
}

#[test]
fn each_setting_is_repaired() {
    host(|host| {
        let tunnel = tunnel("a");
        let first = ensure(&tunnel, &GATEWAYS).expect("create");
        for broken in [
            "link set vx-test down",
            "link set vx-test mtu 1400",
            "link set vx-test arp on",
            "link set vx-test address 02:00:00:00:00:09",
            "link set vx-test addrgenmode eui64",
            "link set vx-test alias ",
            "address delete 10.244.1.1/32 dev vx-test",
            "address delete fd00:1::1/128 dev vx-test",
            "address add 10.9.9.9/24 dev vx-test",
            "address add 10.9.9.9 peer 10.9.9.8/32 dev vx-test",
            "address add fd00:9::9/64 dev vx-test",
            "address add fe80::9/64 dev vx-test",
        ] {
            // An empty word removes the alias.
            host.command("ip").args(broken.split(' ')).run();
            assert_eq!(ensure(&tunnel, &GATEWAYS).expect(broken), first, "{broken}");
            is_correct(host, &tunnel);
        }
        for (setting, value) in [("ipv4/conf/vx-test/rp_filter", "1"), ("ipv6/conf/vx-test/disable_ipv6", "1")] {
            fs::write(format!("/proc/sys/net/{setting}"), value).expect("write");
            assert_eq!(ensure(&tunnel, &GATEWAYS).expect(setting), first, "{setting}");
            is_correct(host, &tunnel);
        }
        host.ip("link delete vx-test");
        ensure(&tunnel, &GATEWAYS).expect("create again");
        is_correct(host, &tunnel);
        // Other gateways replace the first ones.
        ensure(&tunnel, &["10.244.7.1"]).expect("change");
        assert_eq!(addresses_of_device(host), ["10.244.7.1/32"]);
        tunnel::remove(&tunnel.link).expect("remove");
    });
}

#[test]
fn device_with_other_fixed_settings_is_replaced() {
    host(|host| {
        let old = Tunnel { port: 4789, ..tunnel("a") };
        let first = ensure(&old, &GATEWAYS).expect("create");
        let tunnel = tunnel("a");
        assert_ne!(ensure(&tunnel, &GATEWAYS).expect("replace"), first);
        is_correct(host, &tunnel);
        for kind in ["vxlan id 7 dstport 8472", "vxlan external dstport 8472 nolearning", "bridge"] {
            host.ip("link delete vx-test");
            host.ip(&format!("link add vx-test type {kind}"));
            host.ip("link set vx-test alias simple-ebpf-agent");
            ensure(&tunnel, &GATEWAYS).expect(kind);
            is_correct(host, &tunnel);
        }
        tunnel::remove(&tunnel.link).expect("remove");
    });
}

#[test]
fn correct_device_is_not_changed() {
    host(|host| {
        let tunnel = tunnel("a");
        let log = host.scratch().join("events");
        let mut monitor = host.command("ip").words("monitor link address route").spawn_logged(&log);
        let events = || fs::read_to_string(&log).expect("read the log");
        // The number of events of the tunnel until now. A change of loopback marks the time.
        let mut mtu = 40_000;
        let mut count = || {
            mtu += 2;
            eventually("an event", Duration::from_secs(5), || {
                host.ip(&format!("link set lo mtu {}", mtu - 1));
                host.ip(&format!("link set lo mtu {mtu}"));
                events().contains(&format!("mtu {mtu} "))
            });
            events().matches(LINK).count()
        };
        assert_eq!(count(), 0);
        ensure(&tunnel, &GATEWAYS).expect("create");
        assert!(count() > 0);
        // The kernel reports the carrier of a new link up to a second later.
        eventually("a comparison without an event", Duration::from_secs(5), || {
            let before = count();
            ensure(&tunnel, &GATEWAYS).expect("nothing to do");
            count() == before
        });
        monitor.kill();
        host.ip("link set lo mtu 65536");
        tunnel::remove(&tunnel.link).expect("remove");
    });
}

#[test]
fn link_of_another_owner_stays() {
    host(|host| {
        let tunnel = tunnel("a");
        for (kind, alias) in [
            ("bridge", None),
            ("vxlan external dstport 8472 nolearning noudpcsum", None),
            ("vxlan external dstport 8472 nolearning noudpcsum", Some("mine")),
            ("vxlan id 1 dstport 8472", None),
        ] {
            host.ip(&format!("link add vx-test type {kind}"));
            if let Some(alias) = alias {
                host.ip(&format!("link set vx-test alias {alias}"));
            }
            let before = device(host);
            let error = ensure(&tunnel, &GATEWAYS).expect_err("a foreign link");
            assert!(matches!(&error, Error::Foreign { link, .. } if *link == tunnel.link), "{error:?}");
            assert!(error.to_string().contains("ip link delete vx-test"), "{error}");
            tunnel::remove(&tunnel.link).expect("leave it");
            assert_eq!(device(host), before);
            host.ip("link delete vx-test");
        }
    });
}

/// A kill can come between the creation and the alias.
#[test]
fn remains_of_a_killed_agent_are_taken_over() {
    host(|host| {
        let tunnel = tunnel("a");
        host.ip(&format!(
            "link add vx-test address {} type vxlan external dstport 8472 nolearning noudpcsum",
            tunnel.mac
        ));
        let index = device(host)["ifindex"].clone();
        assert_eq!(ensure(&tunnel, &GATEWAYS).expect("take over"), index);
        is_correct(host, &tunnel);
        tunnel::remove(&tunnel.link).expect("remove");
    });
}

#[test]
fn owner_of_the_port_is_named() {
    host(|host| {
        let tunnel = tunnel("a");
        for (link, kind) in [("flannel.1", "vxlan id 1 dstport 8472"), ("other", "vxlan external dstport 8472")] {
            host.ip(&format!("link add {link} type {kind}"));
            host.ip(&format!("link set {link} up"));
            let error = ensure(&tunnel, &GATEWAYS).expect_err("the port is taken");
            let Error::PortTaken { port, other, .. } = &error else { panic!("{error:?}") };
            assert_eq!((*port, other.as_ref()), (PORT, Some(&name(link))));
            for part in [link, "8472", "--vxlan-port", LINK] {
                assert!(error.to_string().contains(part), "{part}: {error}");
            }
            assert!(host.link(LINK).is_none(), "nothing is left");
            host.ip(&format!("link delete {link}"));
        }
        let program = std::net::UdpSocket::bind(("0.0.0.0", PORT)).expect("bind");
        let error = ensure(&tunnel, &GATEWAYS).expect_err("the port is taken");
        assert!(matches!(error, Error::PortTaken { other: None, .. }), "{error:?}");
        assert!(host.link(LINK).is_none(), "nothing is left");
        drop(program);
        ensure(&tunnel, &GATEWAYS).expect("the port is free");

        // A device that was there stays: its routes can work again.
        host.ip("link set vx-test down");
        let program = std::net::UdpSocket::bind(("0.0.0.0", PORT)).expect("bind");
        let error = ensure(&tunnel, &GATEWAYS).expect_err("the port is taken");
        assert!(matches!(error, Error::PortTaken { other: None, .. }), "{error:?}");
        assert!(host.link(LINK).is_some());
        drop(program);
        ensure(&tunnel, &GATEWAYS).expect("the port is free");
        is_correct(host, &tunnel);
        tunnel::remove(&tunnel.link).expect("remove");
    });
}

/// A second node with one link to the host, which has its gateways also on the bridge.
fn second_node(host: &Host) -> Pod {
    let other = host.pod();
    host.ip("link add uplink type veth peer name uplink2");
    host.ip(&format!("link set uplink2 netns {}", other.netns().display()));
    give_addresses(host, "uplink", ["192.0.2.1/24", "2001:db8::1/64"]);
    give_addresses(&other, "uplink2", ["192.0.2.2/24", "2001:db8::2/64"]);
    host.ip("link add cbr0 type bridge");
    give_addresses(host, "cbr0", ["10.244.1.1/24", "fd00:1::1/64"]);
    other
}

fn give_addresses(node: &impl Namespace, link: &str, [v4, v6]: [&str; 2]) {
    node.ip(&format!("address add {v4} dev {link}"));
    node.ip(&format!("address add {v6} dev {link} nodad"));
    node.ip(&format!("link set {link} up"));
}

/// The packets that the tunnel has sent.
fn sent(node: &impl Namespace) -> u64 {
    let seen = node.ip(&format!("-s link show dev {LINK}"));
    seen[0]["stats64"]["tx"]["packets"].as_u64().expect("a number")
}

/// Sets up a node with a route through the tunnel to `other`: the address of a node on the uplink,
/// and its gateway.
fn connect(own: &Tunnel, gateway: &str, other: (&str, &str), change: impl Fn(Route) -> Route) {
    let host = Socket::open().expect("a socket");
    let index = own.ensure(&host, MTU, &addresses(&[gateway])).expect("a tunnel");
    let [node, remote] = [other.0, other.1].map(|text| text.parse::<IpAddr>().expect("an address"));
    let source = gateway.parse().expect("an address");
    let route = Route::new(remote.into(), index).encap(own.encap(node)).src(source);
    host.replace_route(&change(route)).expect("a route");
}

#[test]
fn nodes_reach_each_other_through_the_tunnel() {
    host(|host| {
        let other = second_node(host);
        let (a, b) = (tunnel("a"), tunnel("b"));
        for ([node_a, node_b], [gateway_a, gateway_b]) in [
            (["192.0.2.1", "192.0.2.2"], ["10.244.1.1", "10.244.2.1"]),
            (["2001:db8::1", "2001:db8::2"], ["fd00:1::1", "fd00:2::1"]),
            (["2001:db8::1", "2001:db8::2"], ["10.244.1.1", "10.244.2.1"]),
        ] {
            let connect_both = |change: fn(Route) -> Route| {
                connect(&a, gateway_a, (node_b, gateway_b), change);
                other.enter(|| connect(&b, gateway_b, (node_a, gateway_a), change));
            };
            let reaches = || {
                let there = host.ping(gateway_b, 3).status.success();
                (there, other.ping(gateway_a, 3).status.success())
            };
            connect_both(|route| route);
            // The kernel sends frames to its own MAC, and the program at the tunnel's ingress
            // accepts them. Without it, these entries have the right MAC.
            host.ip(&format!("neighbor replace {gateway_b} lladdr {} dev {LINK} nud permanent", b.mac));
            other.ip(&format!("neighbor replace {gateway_a} lladdr {} dev {LINK} nud permanent", a.mac));
            let before = (sent(host), sent(&other));
            assert_eq!(reaches(), (true, true), "{gateway_b} over {node_b}");
            // Three requests and three answers of each node.
            let after = (sent(host), sent(&other));
            assert!(after.0 >= before.0 + 6 && after.1 >= before.1 + 6, "{before:?}, {after:?}");
            if node_b.contains(':') {
                // The kernel drops UDP packets over IPv6 without a checksum.
                connect_both(|route| {
                    let encap = route.encap.expect("a header").checksum(false);
                    route.encap(encap)
                });
                assert_eq!(reaches(), (false, false), "{gateway_b} over {node_b}");
            }
        }
        tunnel::remove(&a.link).expect("remove");
        host.ip("link delete uplink");
        host.ip("link delete cbr0");
    });
}
