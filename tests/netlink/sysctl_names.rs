//! Settings of any name, as text.

use cnikit::netlink::{Error, Ipv4Conf, Ipv6Conf, Netns, Result, Sysctl, SysctlName};

use crate::support::{Fixture, name, run};

#[test]
fn setting_of_any_name_is_read_and_written() {
    let Some(fixture) = Fixture::new() else { return };
    for text in ["net.core.somaxconn", "net/core/somaxconn"] {
        let somaxconn = named(text);
        let setting = Sysctl::Named(&somaxconn);
        assert_eq!(inside(&fixture.pod, || setting.read_text()).expect("read"), shown(&fixture.pod, "core/somaxconn"));
        inside(&fixture.pod, || setting.write_text("500")).expect("write");
        assert_eq!(shown(&fixture.pod, "core/somaxconn"), "500");
        assert_eq!(inside(&fixture.pod, || setting.read()).expect("read"), 500);
        inside(&fixture.pod, || setting.write(600)).expect("write");
        assert_eq!(shown(&fixture.pod, "core/somaxconn"), "600");
    }
    assert_ne!(shown(&fixture.host, "core/somaxconn"), "600");
}

#[test]
fn several_numbers_are_compared_without_their_white_space() {
    let Some(fixture) = Fixture::new() else { return };
    let range = named("net.ipv4.ip_local_port_range");
    let setting = Sysctl::Named(&range);
    assert!(inside(&fixture.pod, || setting.ensure_text("20000 30000")).expect("ensure"));
    assert_eq!(shown(&fixture.pod, "ipv4/ip_local_port_range"), "20000\t30000");
    assert_eq!(inside(&fixture.pod, || setting.read_text()).expect("read"), "20000\t30000");
    assert!(!inside(&fixture.pod, || setting.ensure_text(" 20000   30000\n")).expect("ensure"));
    let error = inside(&fixture.pod, || setting.write_text("30000 20000")).expect_err("the wrong order");
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}");
    let error = inside(&fixture.pod, || setting.read()).expect_err("two numbers");
    assert!(matches!(error, Error::Sysctl { operation: "read", .. }), "{error:?}");
}

#[test]
fn link_with_a_dot_has_both_forms_of_a_name() {
    let Some(fixture) = Fixture::new() else { return };
    run(&fixture.pod, "ip link add eth0.5 type bridge");
    for (text, value) in [("net.ipv4.conf.eth0/5.rp_filter", "2"), ("net/ipv4/conf/eth0.5/rp_filter", "1")] {
        let rp_filter = named(text);
        inside(&fixture.pod, || Sysctl::Named(&rp_filter).write_text(value)).expect("write");
        assert_eq!(shown(&fixture.pod, "ipv4/conf/eth0.5/rp_filter"), value);
        // sysctl(8) reads the same form.
        assert_eq!(run(&fixture.pod, &format!("sysctl -n {text}")).trim_end(), value);
    }
}

#[test]
fn settings_of_all_links_and_of_new_links() {
    let Some(fixture) = Fixture::new() else { return };
    let settings = [
        (Sysctl::Ipv4All(Ipv4Conf::ProxyArp), "ipv4/conf/all/proxy_arp"),
        (Sysctl::Ipv4Default(Ipv4Conf::ProxyArp), "ipv4/conf/default/proxy_arp"),
        (Sysctl::Ipv6All(Ipv6Conf::AcceptRedirects), "ipv6/conf/all/accept_redirects"),
    ];
    for (setting, path) in settings {
        for value in [1, 0, 1] {
            inside(&fixture.pod, || setting.write(value)).expect("write");
            assert_eq!(shown(&fixture.pod, path), value.to_string(), "{path}");
        }
        assert_eq!(setting.to_string(), format!("/proc/sys/net/{path}"));
    }
    run(&fixture.pod, "ip link add br0 type bridge");
    let br0 = name("br0");
    assert_eq!(inside(&fixture.pod, || Sysctl::Ipv4Conf(&br0, Ipv4Conf::ProxyArp).read()).expect("read"), 1);
}

#[test]
fn missing_settings_and_directories_are_reported() {
    let Some(fixture) = Fixture::new() else { return };
    let (gone, folder) = (named("net.ipv4.gone"), named("net.ipv4"));
    for error in [
        inside(&fixture.pod, || Sysctl::Named(&gone).read_text().map(drop)).expect_err("no such setting"),
        inside(&fixture.pod, || Sysctl::Named(&gone).write_text("1")).expect_err("no such setting"),
        inside(&fixture.pod, || Sysctl::Named(&gone).ensure_text("1").map(drop)).expect_err("no such setting"),
    ] {
        assert!(matches!(&error, Error::SysctlMissing { path } if path.ends_with("ipv4/gone")), "{error:?}");
    }
    let error = inside(&fixture.pod, || Sysctl::Named(&folder).read_text()).expect_err("a directory");
    assert_eq!(error.raw_os_error(), Some(libc::EISDIR), "{error}");
    let error = inside(&fixture.pod, || Sysctl::Named(&folder).write_text("1")).expect_err("a directory");
    assert_eq!(error.raw_os_error(), Some(libc::EISDIR), "{error}");
}

fn named(text: &str) -> SysctlName {
    text.parse().expect("a name")
}

fn inside<T: Send>(netns: &Netns, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    netns.run(work).expect("enter")
}

/// The value that a process inside reads below `/proc/sys/net`.
fn shown(netns: &Netns, path: &str) -> String {
    run(netns, &format!("cat /proc/sys/net/{path}")).trim_end().to_owned()
}
