//! Machines that use an address, detected through the kernel of another machine.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use cnikit::netlink::{AddressAnswer, AddressProbe, Error, Result};

use crate::support::{Fixture, host_mac, name, peer_mac, run};

const V4: &str = "192.0.2.1";
const V6: &str = "2001:db8::1";

/// A pair between host and pod, both ends up. The host's end is `veth1`.
fn wired() -> Option<Fixture> {
    let fixture = Fixture::new()?;
    fixture.veth(1, None);
    run(&fixture.pod, "ip link set eth1 up");
    Some(fixture)
}

/// All answers that arrive at the host's end.
fn answers(fixture: &Fixture, addresses: &[&str], ignored: &[cnikit::spec::MacAddr]) -> Result<Vec<AddressAnswer>> {
    let link = fixture.on_host.link_by_name(&name("veth1")).expect("look up").expect("veth1");
    let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().expect("an address")).collect();
    let ask = || {
        let mut probe = AddressProbe::start(&link, &addresses)?.with_ignored(ignored.iter().copied());
        std::iter::from_fn(|| probe.next_answer().transpose()).collect()
    };
    fixture.host.run(ask).expect("enter the namespace")
}

#[test]
fn machine_answers_for_its_addresses_at_once() {
    let Some(fixture) = wired() else { return };
    run(&fixture.pod, &format!("ip addr add {V4}/24 dev eth1"));
    run(&fixture.pod, &format!("ip addr add {V6}/64 dev eth1 nodad"));
    let start = Instant::now();
    let mut found = answers(&fixture, &[V4, V6], &[]).expect("ask");
    assert!(start.elapsed() < Duration::from_millis(800), "{:?}", start.elapsed());
    found.sort_by_key(|answer| answer.address);
    assert_eq!(found.iter().map(|answer| answer.address.to_string()).collect::<Vec<_>>(), [V4, V6]);
    assert!(found.iter().all(|answer| answer.mac == peer_mac(1)), "{found:?}");
}

/// A probe changes no neighbor table: RFC 5227, section 1.1.
#[test]
fn probe_changes_no_neighbor_table() {
    let Some(fixture) = wired() else { return };
    run(&fixture.pod, &format!("ip addr add {V4}/24 dev eth1"));
    answers(&fixture, &[V4], &[]).expect("ask");
    assert_eq!(run(&fixture.pod, "ip -4 neigh show dev eth1"), "");
}

#[test]
fn probe_for_a_free_address_ends_within_a_second() {
    let Some(fixture) = wired() else { return };
    run(&fixture.pod, "ip addr add 192.0.2.9/24 dev eth1");
    let start = Instant::now();
    assert_eq!(answers(&fixture, &[V4, V6], &[]).expect("ask"), []);
    assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn ignored_machines_are_not_reported() {
    let Some(fixture) = wired() else { return };
    run(&fixture.pod, &format!("ip addr add {V4}/24 dev eth1"));
    assert_eq!(answers(&fixture, &[V4], &[peer_mac(1)]).expect("ask"), []);
    assert_eq!(answers(&fixture, &[V4], &[host_mac(9)]).expect("ask").len(), 1);
}

#[test]
fn link_that_cannot_be_probed_is_named() {
    let Some(fixture) = Fixture::new() else { return };
    fixture.veth(1, None);
    run(&fixture.host, "ip link set veth1 down");
    let error = answers(&fixture, &[V4], &[]).expect_err("the link is down");
    assert!(matches!(error, Error::Probe { .. }), "{error:?}");
    assert!(error.to_string().contains("veth1"), "{error}");
    assert_eq!(error.raw_os_error(), Some(libc::ENETDOWN));
}
