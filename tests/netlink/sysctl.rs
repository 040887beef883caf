use std::time::Duration;

use cnikit::{
    netlink::{AddrGenMode, Error, Ipv4Conf, Ipv6Conf, Netns, Result, Sysctl},
    spec::{ErrorCode, HasErrorCode, IfName},
};

use cnikit_testbed::eventually;

use crate::support::{Fixture, name, run};

const IPV6: [Ipv6Conf; 9] = [
    Ipv6Conf::AcceptDad,
    Ipv6Conf::AcceptRa,
    Ipv6Conf::AcceptRedirects,
    Ipv6Conf::AddrGenMode,
    Ipv6Conf::Autoconf,
    Ipv6Conf::DisableIpv6,
    Ipv6Conf::Forwarding,
    Ipv6Conf::NdiscNotify,
    Ipv6Conf::ProxyNdp,
];

#[test]
fn a_setting_is_written_in_the_namespace_of_the_thread() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.veth(1, None);
    let eth1 = name("eth1");
    let accept_ra = Sysctl::Ipv6Conf(&eth1, Ipv6Conf::AcceptRa);
    inside(&fixture.pod, || accept_ra.write(0)).expect("write");
    assert_eq!(shown(&fixture.pod, "ipv6/conf/eth1/accept_ra"), "0");
    assert_eq!(inside(&fixture.pod, || accept_ra.read()).expect("read"), 0);

    for forward in [Sysctl::Ipv4Forward, Sysctl::Ipv6Forward] {
        inside(&fixture.pod, || forward.write(0)).expect("write");
        assert!(inside(&fixture.host, || forward.ensure(1)).unwrap_or_else(|error| panic!("{error}")));
        assert!(!inside(&fixture.host, || forward.ensure(1)).expect("it is 1 already"));
    }
    for path in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        assert_eq!((shown(&fixture.host, path), shown(&fixture.pod, path)), ("1".into(), "0".into()), "{path}");
    }
}

#[test]
fn every_setting_exists() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.veth(1, None);
    let eth1 = name("eth1");
    let v4 = [
        Ipv4Conf::AcceptRedirects,
        Ipv4Conf::ArpAnnounce,
        Ipv4Conf::ArpIgnore,
        Ipv4Conf::ArpNotify,
        Ipv4Conf::Forwarding,
        Ipv4Conf::ProxyArp,
        Ipv4Conf::RouteLocalnet,
        Ipv4Conf::RpFilter,
        Ipv4Conf::SendRedirects,
    ];
    let v4 = v4.map(|setting| Sysctl::Ipv4Conf(&eth1, setting));
    let v6 = IPV6.map(|setting| Sysctl::Ipv6Conf(&eth1, setting));
    for setting in v4.into_iter().chain(v6) {
        inside(&fixture.pod, || setting.read().and_then(|value| setting.write(value)))
            .unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn link_has_its_ipv6_settings() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.veth(1, None);
    let eth1 = name("eth1");
    let value_of = |setting| fixture.in_pod.link_by_name(&eth1).expect("look up").expect("there").ipv6_conf(setting);
    for setting in IPV6 {
        for value in [1, 0] {
            inside(&fixture.pod, || Sysctl::Ipv6Conf(&eth1, setting).write(value)).expect("write");
            assert_eq!(value_of(setting), Some(value), "{setting:?}");
        }
    }
    // The least MTU of IPv6 is 1280 bytes.
    run(&fixture.pod, "ip link set eth1 mtu 1200");
    assert_eq!(value_of(Ipv6Conf::AcceptRa), None);
}

#[test]
fn dot_is_part_of_an_interface_name() {
    let Some(fixture) = Fixture::new() else { return };
    run(&fixture.pod, "ip link add eth0.5 type bridge");
    let link = name("eth0.5");
    inside(&fixture.pod, || Sysctl::Ipv6Conf(&link, Ipv6Conf::AcceptRa).write(2)).expect("write");
    inside(&fixture.pod, || Sysctl::Ipv4Conf(&link, Ipv4Conf::ArpNotify).write(1)).expect("write");
    assert_eq!(shown(&fixture.pod, "ipv6/conf/eth0.5/accept_ra"), "2");
    assert_eq!(shown(&fixture.pod, "ipv4/conf/eth0.5/arp_notify"), "1");
}

#[test]
fn no_link_local_address_in_mode_none() {
    let Some(fixture) = Fixture::new() else { return };
    let ends = [fixture.veth(1, None).peer, fixture.veth(2, None).peer, fixture.veth(3, None).peer];
    let eth2 = name("eth2");
    inside(&fixture.pod, || Sysctl::Ipv6Conf(&eth2, Ipv6Conf::AddrGenMode).write(1)).expect("write");
    fixture.in_pod.set_addr_gen_mode(ends[2], AddrGenMode::None).expect("set");
    for end in ends {
        fixture.in_pod.set_up(end).expect("bring it up");
    }
    let link_local = |link: &str| run(&fixture.pod, &format!("ip -6 -o addr show dev {link} scope link"));
    // The kernel adds the address when the link has its carrier, which it reports asynchronously.
    eventually("the address of the default mode", Duration::from_secs(5), || link_local("eth1").contains("fe80::"));
    assert_eq!((link_local("eth2"), link_local("eth3")), Default::default());
}

#[test]
fn link_without_ipv6_has_no_address_in_any_mode() {
    let Some(fixture) = Fixture::new() else { return };
    let end = fixture.veth(1, None).peer;
    run(&fixture.pod, "ip link set eth1 mtu 1200");
    fixture.in_pod.set_addr_gen_mode(end, AddrGenMode::None).expect("it is so");
    let error = fixture.in_pod.set_addr_gen_mode(end, AddrGenMode::Eui64).expect_err("it cannot");
    assert_eq!(error.raw_os_error(), Some(libc::EAFNOSUPPORT), "{error}");
}

#[test]
fn missing_setting_is_distinguished_from_a_failure() {
    let Some(fixture) = Fixture::new() else { return };
    let gone: IfName = name("gone");
    let missing = Sysctl::Ipv6Conf(&gone, Ipv6Conf::AcceptRa);
    for error in [
        inside(&fixture.pod, || missing.read().map(drop)).expect_err("no such link"),
        inside(&fixture.pod, || missing.write(0)).expect_err("no such link"),
        inside(&fixture.pod, || missing.ensure(0).map(drop)).expect_err("no such link"),
    ] {
        assert!(matches!(&error, Error::SysctlMissing { path } if path.ends_with("gone/accept_ra")), "{error:?}");
    }

    let lo = name("lo");
    let refused = Sysctl::Ipv6Conf(&lo, Ipv6Conf::AddrGenMode);
    let error = inside(&fixture.pod, || refused.write(99)).expect_err("no such mode");
    assert!(matches!(error, Error::Sysctl { .. }), "{error:?}");
    assert_eq!((error.raw_os_error(), error.code()), (Some(libc::EINVAL), ErrorCode::IO));
    assert_eq!(
        error.to_string(),
        "cannot write /proc/sys/net/ipv6/conf/lo/addr_gen_mode: Invalid argument (os error 22)"
    );
}

#[test]
fn is_writable_check_writes_nothing() {
    let Some(fixture) = Fixture::new() else { return };
    inside(&fixture.host, || Sysctl::Ipv4Forward.write(0)).expect("write");
    let is_writable = |setting: Sysctl<'_>| fixture.host.run(|| setting.is_writable()).expect("enter");
    assert!(is_writable(Sysctl::Ipv4Forward));
    assert_eq!(shown(&fixture.host, "ipv4/ip_forward"), "0");
    assert!(!is_writable(Sysctl::Ipv4Conf(&name("nolink"), Ipv4Conf::Forwarding)));
}

fn inside<T: Send>(netns: &Netns, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    netns.run(work).expect("enter")
}

/// The value that a process inside reads below `/proc/sys/net`.
fn shown(netns: &Netns, path: &str) -> String {
    run(netns, &format!("cat /proc/sys/net/{path}")).trim_end().to_owned()
}
