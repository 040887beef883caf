//! Links of each kind, compared with what `ip` shows.

use cnikit::{
    netlink::{
        Error, Ipvlan, IpvlanFlag, IpvlanMode, Link, LinkKind, LinkSpec, Macvlan, MacvlanMode, OtherKind, Socket, Tap,
        Vlan, VlanProtocol, Vrf, Vxlan,
    },
    spec::{ErrorCode, HasErrorCode as _, IfIndex, MacAddr, VlanId},
};
use cnikit_testbed::skipped;
use serde_json::{Value, json as value};

use crate::support::{Fixture, json, link, name, run};

const MAC: MacAddr = MacAddr::new([0x02, 0, 0, 0, 3, 1]);

#[test]
fn macvlan_appears_in_the_pod_under_its_name() {
    let Some(fixture) = Fixture::new() else { return };
    let parent = parent(&fixture);
    // The host has a link of the same name.
    run(&fixture.host, "ip link add eth0 type bridge");
    let before = names(&json(&fixture.host, "ip -j link"));

    let macvlan = Macvlan::new(parent, MacvlanMode::Bridge).bc_queue_len(2_000);
    let spec = LinkSpec::new(name("eth0"), macvlan).netns(&fixture.pod).mac(MAC).mtu(1300).txqlen(77).group(5).up();
    let index = fixture.on_host.create_link(&spec).expect("create");

    if cnikit_testbed::kernel() < (6, 15) {
        assert!(index.get() >= 1 << 30, "the kernel looks up the name on the host: {index}");
    }
    let seen = link(&fixture.pod, "eth0");
    assert_eq!(seen["ifindex"], index.get());
    assert_eq!(seen["link_index"], parent.get());
    assert_eq!(seen["linkinfo"]["info_kind"], "macvlan");
    assert_eq!(seen["linkinfo"]["info_data"]["mode"], "bridge");
    if let Some(length) = seen["linkinfo"]["info_data"]["bcqueuelen"].as_u64() {
        assert_eq!(length, 2_000);
    }
    assert_eq!(seen["address"], "02:00:00:00:03:01");
    assert_eq!((&seen["mtu"], &seen["txqlen"], &seen["group"]), (&value!(1300), &value!(77), &value!("5")));
    assert!(flags(&seen).contains(&value!("UP")));
    assert_eq!(names(&json(&fixture.host, "ip -j link")), before);

    let own = fixture.in_pod.link_by_index(index).expect("look up").expect("link");
    assert_eq!((own.name.as_str(), own.mac, own.txqlen), ("eth0", Some(MAC), 77));
    assert!(own.link_netnsid.is_some());
    let Some(LinkKind::Macvlan(read)) = own.details() else { panic!("{own:?}") };
    assert_eq!((read.parent, read.mode), (parent, MacvlanMode::Bridge));
    assert_eq!(read.bc_queue_len.map(u64::from), seen["linkinfo"]["info_data"]["bcqueuelen"].as_u64());
}

#[test]
fn macvlan_has_each_mode() {
    let Some(fixture) = Fixture::new() else { return };
    let parent = parent(&fixture);
    let modes = [
        (MacvlanMode::Private, "private"),
        (MacvlanMode::Vepa, "vepa"),
        (MacvlanMode::Bridge, "bridge"),
        (MacvlanMode::Passthru, "passthru"),
        (MacvlanMode::Source, "source"),
    ];
    for (mode, shown) in modes {
        let macvlan = match mode {
            MacvlanMode::Source => Macvlan::new(parent, mode).with_source(MAC),
            _ => Macvlan::new(parent, mode),
        };
        let index = create(&fixture.on_host, "m0", macvlan.clone());
        let seen = link(&fixture.host, "m0");
        assert_eq!(seen["linkinfo"]["info_data"]["mode"], shown);
        if mode == MacvlanMode::Source {
            assert_eq!(seen["linkinfo"]["info_data"]["macaddr_data"], value!(["02:00:00:00:03:01"]));
        }
        let Some(LinkKind::Macvlan(mut read)) = details(&fixture.on_host, index) else { panic!("{mode:?}") };
        read.bc_queue_len = None;
        assert_eq!(read, macvlan);
        // A link in passthru mode does not share its parent.
        fixture.on_host.delete_link(index).expect("delete");
    }
}

#[test]
fn ipvlan_has_each_mode_and_flag() {
    let Some(fixture) = Fixture::new() else { return };
    let parent = parent(&fixture);
    if lacks(&fixture, "ipvlan", "link veth1") {
        return;
    }
    for (mode, mode_shown) in [(IpvlanMode::L2, "l2"), (IpvlanMode::L3, "l3"), (IpvlanMode::L3s, "l3s")] {
        for (flag, flag_shown) in
            [(IpvlanFlag::Private, "private"), (IpvlanFlag::Bridge, "bridge"), (IpvlanFlag::Vepa, "vepa")]
        {
            let ipvlan = Ipvlan::new(parent, mode).flag(flag);
            let spec = LinkSpec::new(name("eth0"), ipvlan).netns(&fixture.pod).up();
            let index = fixture.on_host.create_link(&spec).expect("create");
            let seen = link(&fixture.pod, "eth0");
            assert_eq!(seen["linkinfo"]["info_kind"], "ipvlan");
            let data = &seen["linkinfo"]["info_data"];
            assert_eq!((&data["mode"], &data[flag_shown]), (&value!(mode_shown), &value!(true)), "{seen}");
            assert_eq!(details(&fixture.in_pod, index), Some(ipvlan.into()));
            fixture.in_pod.delete_link(index).expect("delete");
        }
    }
}

#[test]
fn vlan_has_each_protocol() {
    let Some(fixture) = Fixture::new() else { return };
    let parent = parent(&fixture);
    if lacks(&fixture, "vlan id 1", "link veth1") {
        return;
    }
    for (protocol, shown) in [(VlanProtocol::Dot1q, "802.1Q"), (VlanProtocol::Dot1ad, "802.1ad")] {
        let vlan = Vlan::new(parent, VlanId::new(77).expect("a VLAN")).protocol(protocol);
        let index = create(&fixture.on_host, "veth1.77", vlan);
        let seen = link(&fixture.host, "veth1.77");
        assert_eq!(seen["link"], "veth1");
        let data = &seen["linkinfo"]["info_data"];
        assert_eq!((&data["protocol"], &data["id"]), (&value!(shown), &value!(77)));
        assert_eq!(details(&fixture.on_host, index), Some(vlan.into()));

        let again = LinkSpec::new(name("again"), vlan).netns(&fixture.pod);
        let error = fixture.on_host.create_link(&again).expect_err("the same id on the same parent");
        assert!(matches!(error, Error::Exists { .. }), "{error:?}");
        fixture.on_host.delete_link(index).expect("delete");
    }
}

#[test]
fn vxlan_has_its_settings() {
    let Some(fixture) = Fixture::new() else { return };
    let parent = parent(&fixture);
    if lacks(&fixture, "vxlan id 1 dstport 4789", "") {
        return;
    }
    let address = |text: &str| text.parse().expect("an address");
    let unicast = Vxlan::new(7).parent(parent).local(address("192.0.2.1")).remote(address("192.0.2.2"));
    let unicast = unicast.port(4790).learning(false).ageing(100).ttl(9).tos(1);
    let v6 = Vxlan::new(8).parent(parent).local(address("2001:db8::1")).remote(address("ff05::100"));
    let multicast = Vxlan::new(9).parent(parent).remote(address("239.1.1.1"));
    for (vxlan, shown) in [
        (
            unicast,
            value!({
                "id": 7, "remote": "192.0.2.2", "local": "192.0.2.1", "link": "veth1", "port": 4790,
                "learning": false, "ttl": 9, "tos": "0x1", "ageing": 100,
            }),
        ),
        (
            v6,
            value!({
                "id": 8, "group6": "ff05::100", "local6": "2001:db8::1", "link": "veth1", "port": 4789,
                "learning": true, "ageing": 300, "ttl": 0,
            }),
        ),
        (multicast, value!({ "id": 9, "group": "239.1.1.1", "link": "veth1", "port": 4789, "learning": true })),
        (
            Vxlan::external().port(4791).udp_checksum(false),
            value!({ "external": true, "port": 4791, "learning": false, "udp_csum": false }),
        ),
        (Vxlan::new(7).udp_checksum(true), value!({ "id": 7, "udp_csum": true })),
    ] {
        let index = create(&fixture.on_host, "vx0", vxlan);
        let seen = &link(&fixture.host, "vx0")["linkinfo"]["info_data"];
        for (key, value) in shown.as_object().expect("an object") {
            assert_eq!(&seen[key], value, "{key} of {seen}");
        }
        let Some(LinkKind::Vxlan(read)) = details(&fixture.on_host, index) else { panic!("{vxlan:?}") };
        let mut expected = vxlan.learning(vxlan.learning.unwrap_or(true)).ageing(vxlan.ageing.unwrap_or(300));
        expected = expected.ttl(vxlan.ttl.unwrap_or(0)).tos(vxlan.tos.unwrap_or(0));
        expected = expected.udp_checksum(vxlan.udp_checksum.unwrap_or(true));
        assert_eq!(read, expected);
        fixture.on_host.delete_link(index).expect("delete");
    }

    // The link in the pod keeps its parent on the host.
    let spec = LinkSpec::new(name("vx0"), Vxlan::new(10).parent(parent)).netns(&fixture.pod);
    let index = fixture.on_host.create_link(&spec).expect("create");
    assert_eq!(link(&fixture.pod, "vx0")["ifindex"], index.get());
    assert_eq!(details(&fixture.in_pod, index).and_then(|kind| kind.parent()), Some(parent));

    let error = fixture.on_host.create_link(&LinkSpec::new(name("vx1"), Vxlan::new(1 << 24))).expect_err("25 bits");
    assert_eq!(error.raw_os_error(), Some(libc::ERANGE), "{error}");
}

#[test]
fn vrf_has_its_table_and_takes_ports() {
    let Some(fixture) = Fixture::new() else { return };
    if lacks(&fixture, "vrf table 77", "") {
        return;
    }
    let spec = LinkSpec::new(name("red"), Vrf::new(1_001)).netns(&fixture.pod).up();
    let index = fixture.on_host.create_link(&spec).expect("create");
    let seen = link(&fixture.pod, "red");
    assert_eq!(seen["linkinfo"]["info_data"]["table"], 1_001);
    assert_eq!(details(&fixture.in_pod, index), Some(Vrf::new(1_001).into()));

    let port = LinkSpec::new(name("m0"), Macvlan::new(parent(&fixture), MacvlanMode::Vepa));
    let port = port.netns(&fixture.pod).master(index);
    let port = fixture.on_host.create_link(&port).expect("create a port");
    assert_eq!(link(&fixture.pod, "m0")["master"], "red");
    fixture.in_pod.clear_master(port).expect("clear");
    assert_eq!(link(&fixture.pod, "m0")["master"], Value::Null);
}

#[test]
fn kinds_without_settings_are_created() {
    let Some(fixture) = Fixture::new() else { return };
    for (kind, shown) in [(LinkKind::Dummy, "dummy"), (LinkKind::Ifb, "ifb")] {
        if lacks(&fixture, shown, "") {
            continue;
        }
        let bridge = fixture.on_host.create_bridge(&bridge_spec()).expect("create br0");
        let spec = LinkSpec::new(name("x0"), kind.clone()).mac(MAC).mtu(1234).master(bridge).up();
        let index = fixture.on_host.create_link(&spec).expect("create");
        let seen = link(&fixture.host, "x0");
        assert_eq!((&seen["ifindex"], &seen["mtu"]), (&value!(index.get()), &value!(1234)));
        assert_eq!((&seen["linkinfo"]["info_kind"], &seen["master"]), (&value!(shown), &value!("br0")));
        assert_eq!(seen["address"], "02:00:00:00:03:01");
        assert!(flags(&seen).contains(&value!("UP")));
        assert_eq!(details(&fixture.on_host, index), Some(kind));
        fixture.on_host.delete_link(index).expect("delete");
        fixture.on_host.delete_link(bridge).expect("delete br0");
    }
}

#[test]
fn other_kind_is_created_from_its_data() {
    let Some(fixture) = Fixture::new() else { return };
    // IFLA_BR_PRIORITY: an attribute of 6 bytes, and padding.
    let data = [6_u16, 6, 4_711, 0].map(u16::to_ne_bytes).concat();
    let index = create(&fixture.on_host, "br0", OtherKind::new("bridge").data(data));
    assert_eq!(link(&fixture.host, "br0")["linkinfo"]["info_data"]["priority"], 4_711);
    let Some(LinkKind::Other(read)) = details(&fixture.on_host, index) else { panic!("not a bridge") };
    assert_eq!((read.kind.as_str(), read.parent), ("bridge", None));
    assert_eq!(fixture.on_host.link_by_index(index).expect("look up").expect("link").kind_data, Some(read.data));
    // Loopback has no kind.
    assert_eq!(details(&fixture.on_host, IfIndex::LOOPBACK), None);

    let parent = parent(&fixture);
    // IFLA_MACVLAN_MODE, in bridge mode.
    let data = [&8_u16.to_ne_bytes()[..], &1_u16.to_ne_bytes(), &4_u32.to_ne_bytes()].concat();
    if lacks(&fixture, "macvtap", "link veth1") {
        return;
    }
    let macvtap = OtherKind::new("macvtap").parent(parent).data(data);
    let spec = LinkSpec::new(name("tap0"), macvtap).netns(&fixture.pod);
    let index = fixture.on_host.create_link(&spec).expect("create a macvtap");
    let seen = link(&fixture.pod, "tap0");
    assert_eq!(
        (&seen["linkinfo"]["info_data"]["mode"], &seen["link_index"]),
        (&value!("bridge"), &value!(parent.get()))
    );
    assert_eq!(details(&fixture.in_pod, index).and_then(|kind| kind.parent()), Some(parent));
}

#[test]
fn tap_is_persistent_and_has_its_owner() {
    let Some(fixture) = Fixture::new() else { return };
    if !std::path::Path::new("/dev/net/tun").exists() {
        return skipped("needs /dev/net/tun");
    }
    let tap = Tap::new().owner(60_107).group(60_108).multi_queue();
    let spec = LinkSpec::new(name("tap0"), tap).netns(&fixture.pod).mac(MAC).mtu(1300).txqlen(77).group(5).up();
    let index = fixture.on_host.create_link(&spec).expect("create in the pod");
    let seen = link(&fixture.pod, "tap0");
    assert_eq!((&seen["ifindex"], &seen["mtu"]), (&value!(index.get()), &value!(1300)));
    assert_eq!(
        (&seen["txqlen"], &seen["group"], &seen["address"]),
        (&value!(77), &value!("5"), &value!("02:00:00:00:03:01"))
    );
    assert!(flags(&seen).contains(&value!("UP")));
    assert_eq!(seen["linkinfo"]["info_kind"], "tun");
    let data = &seen["linkinfo"]["info_data"];
    for (key, value) in [("type", value!("tap")), ("persist", value!(true)), ("pi", value!(false))] {
        assert_eq!(data[key], value, "{key}");
    }
    assert_eq!((&data["multi_queue"], &data["vnet_hdr"]), (&value!(true), &value!(false)));
    assert_eq!((&data["user"], &data["group"]), (&value!(60_107), &value!(60_108)));
    assert_eq!(details(&fixture.in_pod, index), Some(tap.into()));
    assert_eq!(names(&json(&fixture.host, "ip -j link")), ["lo"]);

    // In the namespace of the socket, which is not the namespace of the thread.
    let chosen = IfIndex::new(4_711).expect("not zero");
    let spec = LinkSpec::new(name("tap1"), Tap::new()).index(chosen);
    assert_eq!(fixture.in_pod.create_link(&spec).expect("create"), chosen);
    let seen = link(&fixture.pod, "tap1");
    assert_eq!((&seen["ifindex"], &seen["linkinfo"]["info_data"]["multi_queue"]), (&value!(4_711), &value!(false)));
    assert_eq!(details(&fixture.in_pod, chosen), Some(Tap::new().into()));
    // A tun link is not a tap.
    run(&fixture.pod, "ip tuntap add dev tun0 mode tun");
    let tun = fixture.in_pod.link_by_name(&name("tun0")).expect("look up").expect("tun0");
    assert!(matches!(tun.details(), Some(LinkKind::Other(other)) if other.kind == "tun"));

    let error = fixture.in_pod.create_link(&LinkSpec::new(name("tap1"), Tap::new())).expect_err("taken");
    assert!(matches!(error, Error::Exists { .. }), "{error:?}");
    let error = fixture.in_pod.create_link(&LinkSpec::new(name("lo"), Tap::new())).expect_err("taken");
    assert!(matches!(error, Error::Exists { .. }), "{error:?}");
    let error = fixture.in_pod.create_link(&LinkSpec::new(name("tap2"), Tap::new()).index(chosen)).expect_err("taken");
    assert!(matches!(error, Error::IndexTaken { ifindex, .. } if ifindex.get() == 4_711), "{error:?}");
    // A setting that the kernel refuses leaves no link.
    let error = fixture.in_pod.create_link(&LinkSpec::new(name("tap2"), Tap::new()).mtu(1)).expect_err("too small");
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}");
    let mut left = names(&json(&fixture.pod, "ip -j link"));
    left.retain(|name| name == "tap2");
    assert!(left.is_empty());
}

#[test]
fn taken_names_and_indexes_are_distinguished() {
    let Some(fixture) = Fixture::new() else { return };
    let parent = parent(&fixture);
    let macvlan = Macvlan::new(parent, MacvlanMode::Bridge);
    let spec = |link: &str| LinkSpec::new(name(link), macvlan.clone());
    let [free, high] = [4_711, 4_712].map(|index| IfIndex::new(index).expect("not zero"));

    assert_eq!(fixture.on_host.create_link(&spec("m0").index(free)).expect("create"), free);
    let error = fixture.on_host.create_link(&spec("m0")).expect_err("the name is taken");
    assert!(matches!(&error, Error::Exists { .. }), "{error:?}");
    assert_eq!(error.to_string(), "create macvlan link m0: it already exists");
    let error = fixture.on_host.create_link(&spec("m1").index(free)).expect_err("the index is taken");
    assert!(matches!(error, Error::IndexTaken { ifindex, .. } if ifindex.get() == 4_711), "{error:?}");

    // In the pod, with names and indexes of its own.
    assert_eq!(fixture.on_host.create_link(&spec("m0").netns(&fixture.pod).index(high)).expect("create"), high);
    let error = fixture.on_host.create_link(&spec("m0").netns(&fixture.pod)).expect_err("taken in the pod");
    assert!(matches!(error, Error::Exists { .. }), "{error:?}");
    let error = fixture.on_host.create_link(&spec("m2").netns(&fixture.pod).index(high)).expect_err("index taken");
    assert!(matches!(error, Error::IndexTaken { ifindex, .. } if ifindex.get() == 4_712), "{error:?}");
    assert_eq!(names(&json(&fixture.pod, "ip -j link")), ["eth1", "lo", "m0"]);
    // The socket works after the errors.
    let index = fixture.on_host.create_link(&spec("m3").netns(&fixture.pod)).expect("create");
    assert_eq!(link(&fixture.pod, "m3")["ifindex"], index.get());
}

#[test]
fn refusals_have_their_reason() {
    let Some(fixture) = Fixture::new() else { return };
    let parent = parent(&fixture);
    for spec in [
        LinkSpec::new(name("x0"), OtherKind::new("nokind")),
        LinkSpec::new(name("x0"), OtherKind::new("nokind")).netns(&fixture.pod),
    ] {
        let error = fixture.on_host.create_link(&spec).expect_err("no such kind");
        assert!(matches!(&error, Error::Unsupported { module, .. } if module == "rtnl-link-nokind"), "{error:?}");
        assert_eq!(error.code(), ErrorCode::PLUGIN_NOT_AVAILABLE);
    }

    let gone = LinkSpec::new(name("m0"), Macvlan::new(IfIndex::new(4_711).expect("not zero"), MacvlanMode::Bridge));
    let error = fixture.on_host.create_link(&gone).expect_err("no parent");
    assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{error}");

    let bridge = fixture.on_host.create_bridge(&bridge_spec()).expect("create br0");
    fixture.on_host.set_master(parent, bridge).expect("make the parent a port");
    let busy = LinkSpec::new(name("m0"), Macvlan::new(parent, MacvlanMode::Bridge)).netns(&fixture.pod);
    let error = fixture.on_host.create_link(&busy).expect_err("the parent is a port");
    assert_eq!((error.raw_os_error(), error.code()), (Some(libc::EBUSY), ErrorCode::TRY_AGAIN), "{error}");
    fixture.on_host.clear_master(parent).expect("take the parent out");
    fixture.on_host.create_link(&busy).expect("create");

    for kind in [
        LinkKind::Dummy,
        Vrf::new(1).into(),
        Ipvlan::new(parent, IpvlanMode::L2).into(),
        Vlan::new(parent, VlanId::MIN).into(),
    ] {
        if let Err(error) = fixture.on_host.create_link(&LinkSpec::new(name("x0"), kind.clone()))
            && error.raw_os_error() != Some(libc::EBUSY)
        {
            let Error::Unsupported { module, .. } = &error else { panic!("{error:?}") };
            assert_eq!(module, if kind.name() == "vlan" { "8021q" } else { kind.name() });
        }
        fixture.on_host.delete_link_by_name(&name("x0")).expect("delete");
    }
}

/// A link of the host that can be a parent. Its index differs from those in the pod.
fn parent(fixture: &Fixture) -> IfIndex {
    run(&fixture.host, "ip link add other type bridge");
    fixture.veth(1, None).host
}

fn bridge_spec() -> cnikit::netlink::BridgeSpec {
    cnikit::netlink::BridgeSpec::new(name("br0"))
}

fn create(socket: &Socket, link: &str, kind: impl Into<LinkKind>) -> IfIndex {
    let spec = LinkSpec::new(name(link), kind);
    socket.create_link(&spec).unwrap_or_else(|error| panic!("{error}"))
}

fn details(socket: &Socket, index: IfIndex) -> Option<LinkKind> {
    let link: Link = socket.link_by_index(index).expect("look up").expect("the link");
    link.details()
}

/// Whether the kernel lacks a kind of link, according to `ip`. Then the test is skipped.
pub(crate) fn lacks(fixture: &Fixture, kind: &str, parent: &str) -> bool {
    let command = format!("ip link add probe {parent} type {kind} 2>&1 && ip link delete probe");
    let output = fixture.host.run(|| std::process::Command::new("sh").args(["-c", &command]).output());
    let output = output.expect("enter").expect("run ip");
    if output.status.success() {
        return false;
    }
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("Unknown device type") || text.contains("not supported"), "{command}: {text}");
    skipped(&format!("the kernel has no links of kind {kind}"));
    true
}

fn flags(link: &Value) -> &[Value] {
    link["flags"].as_array().expect("flags")
}

fn names(links: &Value) -> Vec<String> {
    let links = links.as_array().expect("links");
    let mut names: Vec<_> = links.iter().map(|link| link["ifname"].as_str().expect("name").to_owned()).collect();
    names.sort();
    names
}
