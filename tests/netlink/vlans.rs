//! VLAN filtering of bridge ports.

use std::fmt::Debug;
use std::process::Command;
use std::time::Duration;

use cnikit::netlink::{BridgeSpec, BridgeVlan, Error, Netns, Socket};
use cnikit::spec::{IfIndex, VlanId};
use cnikit_testbed::skipped;
use serde_json::Value;

use crate::support::{Fixture, json, link, name, pair, run};

#[test]
fn members_are_added_changed_and_deleted() {
    let Some((fixture, bridge)) = filtering(0) else { return };
    let veth = index(port(&fixture, 1, &fixture.pod));
    assert_eq!((members(&fixture, "veth1"), vlans(&fixture, veth)), (vec![], vec![]));

    let (access, trunk) = (BridgeVlan::new(id(100)).pvid().untagged(), BridgeVlan::range(id(299), id(200)));
    for vlan in [trunk, access, trunk] {
        fixture.on_host.add_bridge_vlan(veth, vlan).expect("add");
    }
    let shown = [(100, 100, "PVID,Egress Untagged"), (200, 299, "")];
    assert_eq!(members(&fixture, "veth1"), shown);
    assert_eq!(vlans(&fixture, veth), [access, trunk]);
    assert_eq!(members(&fixture, "cbr0"), []);

    // A new PVID takes the flag from the old one.
    fixture.on_host.add_bridge_vlan(veth, BridgeVlan::new(id(250)).pvid()).expect("add");
    let shown = [(100, 100, "Egress Untagged"), (200, 249, ""), (250, 250, "PVID"), (251, 299, "")];
    assert_eq!(members(&fixture, "veth1"), shown);
    let range = |first, last| BridgeVlan::range(id(first), id(last));
    let expected = [range(100, 100).untagged(), range(200, 249), range(250, 250).pvid(), range(251, 299)];
    assert_eq!(vlans(&fixture, veth), expected);

    for _ in 0..2 {
        fixture.on_host.delete_bridge_vlan(veth, BridgeVlan::range(id(200), VlanId::MAX)).expect("delete");
        assert_eq!(members(&fixture, "veth1"), [(100, 100, "Egress Untagged")]);
    }
    let own = BridgeVlan::range(id(5), id(6)).on_bridge();
    fixture.on_host.add_bridge_vlan(bridge, own).expect("add");
    assert_eq!(members(&fixture, "cbr0"), [(5, 6, "")]);
    assert_eq!(vlans(&fixture, bridge), [own]);
    fixture.on_host.delete_bridge_vlan(bridge, own).expect("delete");
    assert_eq!(members(&fixture, "cbr0"), []);
}

#[test]
fn refused_members() {
    let Some((fixture, bridge)) = filtering(7) else { return };
    let veth = index(port(&fixture, 1, &fixture.pod));
    let default = [(7, 7, "PVID,Egress Untagged")];
    assert_eq!((members(&fixture, "veth1"), members(&fixture, "cbr0")), (default.to_vec(), default.to_vec()));

    let alone = index(fixture.veth(2, None).host);
    let absent = IfIndex::new(4_711).expect("not 0");
    let vlan = BridgeVlan::new(id(9));
    let refused = [
        (veth, BridgeVlan::range(id(8), id(9)).pvid(), libc::EINVAL),
        (veth, vlan.on_bridge(), libc::EOPNOTSUPP),
        (bridge, vlan, libc::EOPNOTSUPP),
        (alone, vlan, libc::EOPNOTSUPP),
        (absent, vlan, libc::ENODEV),
    ];
    for (link, vlan, errno) in refused {
        let error = fixture.on_host.add_bridge_vlan(link, vlan).expect_err("refused");
        assert_eq!(error.raw_os_error(), Some(errno), "{error} {vlan:?}");
    }
    fixture.on_host.delete_bridge_vlan(alone, vlan).expect("no port");
    fixture.on_host.delete_bridge_vlan(absent, vlan).expect("no link");
    assert_eq!((vlans(&fixture, alone), vlans(&fixture, absent)), (vec![], vec![]));
    assert_eq!(members(&fixture, "veth1"), default);
}

#[test]
fn ports_of_different_vlans_are_separated() {
    let Some((fixture, bridge)) = filtering(0) else { return };
    let other = Netns::create().expect("create a namespace");
    let in_other = other.socket().expect("open a socket");
    let ends = [(1, &fixture.pod, &fixture.in_pod), (2, &other, &in_other)];
    let [first, second] = ends.map(|(number, pod, socket)| pod_port(&fixture, number, pod, socket));
    run(&fixture.host, "ip addr add 10.22.0.9/24 dev cbr0");
    let (red, blue) = (BridgeVlan::new(id(100)).pvid().untagged(), BridgeVlan::new(id(101)).pvid().untagged());

    fixture.on_host.add_bridge_vlan(first, red).expect("add");
    fixture.on_host.add_bridge_vlan(second, blue).expect("add");
    assert!(!reaches(&fixture.pod, "10.22.0.2"), "the VLANs differ");
    fixture.on_host.delete_bridge_vlan(second, blue).expect("delete");
    fixture.on_host.add_bridge_vlan(second, red).expect("add");
    assert!(reaches(&fixture.pod, "10.22.0.2"), "the VLAN is the same");

    assert!(!reaches(&fixture.pod, "10.22.0.9"), "the bridge itself is no member");
    fixture.on_host.add_bridge_vlan(bridge, red.on_bridge()).expect("add");
    assert!(reaches(&fixture.pod, "10.22.0.9"), "the bridge itself is a member");
}

/// A bridge with VLAN filtering, up. `None` if the kernel does not support it.
fn filtering(default: u16) -> Option<(Fixture, IfIndex)> {
    let fixture = Fixture::new()?;
    let spec = BridgeSpec::new(name("cbr0")).vlan_filtering(true).vlan_default_pvid(default).up();
    let bridge = match fixture.on_host.create_bridge(&spec) {
        Err(error @ Error::Unsupported { .. }) => {
            assert_eq!(fixture.on_host.link_by_name(&name("cbr0")).expect("look up"), None);
            skipped(&error.to_string());
            return None;
        }
        created => created.expect("create"),
    };
    let seen = &link(&fixture.host, "cbr0")["linkinfo"]["info_data"];
    assert_eq!((&seen["vlan_filtering"], &seen["vlan_default_pvid"]), (&1.into(), &default.into()));
    Some((fixture, index(bridge)))
}

fn port(fixture: &Fixture, number: u8, pod: &Netns) -> IfIndex {
    let bridge = fixture.on_host.link_by_name(&name("cbr0")).expect("look up").expect("cbr0").index;
    let pair = pair(number, pod).master(bridge).host_up();
    index(fixture.on_host.create_veth(&pair).expect("create a veth pair").host)
}

/// A port with a pod end that is up and has the address `10.22.0.<number>`.
fn pod_port(fixture: &Fixture, number: u8, pod: &Netns, socket: &Socket) -> IfIndex {
    let host = port(fixture, number, pod);
    run(pod, &format!("ip addr add 10.22.0.{number}/24 dev eth{number}"));
    let end = socket.link_by_name(&name(&format!("eth{number}"))).expect("look up").expect("eth").index;
    socket.set_up(end).expect("bring up");
    assert!(socket.wait_running(end, Duration::from_secs(5)).expect("wait"));
    host
}

fn reaches(from: &Netns, address: &str) -> bool {
    let ping = || Command::new("ping").args(["-q", "-c", "1", "-W", "1", address]).output();
    from.run(ping).expect("enter the namespace").expect("start ping").status.success()
}

fn vlans(fixture: &Fixture, link: IfIndex) -> Vec<BridgeVlan> {
    fixture.on_host.bridge_vlans(link).expect("list")
}

/// The output of `bridge vlan`: first and last VLAN of each range, and its flags.
fn members(fixture: &Fixture, link: &str) -> Vec<(u64, u64, &'static str)> {
    let seen = json(&fixture.host, &format!("bridge -compressvlans -j vlan show dev {link}"));
    let ranges = seen[0]["vlans"].as_array().cloned().unwrap_or_default();
    let describe = |range: &Value| {
        let first = range["vlan"].as_u64().expect("a VLAN");
        let flags = range["flags"].as_array().cloned().unwrap_or_default();
        let flags: Vec<_> = flags.iter().filter_map(Value::as_str).collect();
        let known = ["", "PVID", "Egress Untagged", "PVID,Egress Untagged"];
        let flags = known.into_iter().find(|known| *known == flags.join(",")).expect("known flags");
        (first, range["vlanEnd"].as_u64().unwrap_or(first), flags)
    };
    ranges.iter().map(describe).collect()
}

fn id(id: u16) -> VlanId {
    VlanId::new(id).expect("a VLAN")
}

fn index<T: TryInto<IfIndex, Error: Debug>>(index: T) -> IfIndex {
    index.try_into().expect("an index")
}
