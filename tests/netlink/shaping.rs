//! Rate limits: `tbf` qdiscs, and the redirection of arriving packets to an `ifb` link.

use std::fmt::Debug;
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use cnikit::netlink::{Error, FilterTarget, Netns, Qdisc, QdiscParent, QdiscStats, Redirect, SharedBlocks, Tbf};
use cnikit::spec::IfIndex;
use cnikit_testbed::{eventually, skipped};
use serde_json::Value;

use crate::support::{Fixture, json, name, run};

const RATE: u64 = 1_000_000;
const BURST: u32 = 20_000;

#[test]
fn shaper_is_created_changed_and_deleted() {
    let Some((fixture, veth)) = shaped() else { return };
    let handle = root(&fixture)["handle"].clone();
    let (rate, burst, latency) = parameters(&fixture);
    assert_eq!((rate, latency), (RATE, 25_000));
    assert!(burst.abs_diff(BURST.into()) <= 1, "{burst}");
    let error = fixture.on_host.create_tbf(veth, &Tbf::new(1, 1)).expect_err("the root is taken");
    assert!(matches!(error, Error::Exists { .. }), "{error:?}");

    // More than 32 bits of bytes per second.
    let fast = Tbf::new(5_000_000_000, 4_000_000).latency(Duration::from_millis(10));
    let slow = Tbf::new(125_000, 3_000).latency(Duration::from_millis(400));
    for (tbf, latency) in [(fast, 10_000), (slow, 400_000)] {
        fixture.on_host.ensure_tbf(veth, &tbf).expect("change");
        let (rate, burst, seen) = parameters(&fixture);
        assert_eq!((rate, seen), (tbf.rate, latency));
        // `tc` shows the burst of whole microseconds.
        assert!(burst.abs_diff(tbf.burst.into()) <= tbf.rate / 1_000_000 + 1, "{burst} {tbf:?}");
        let own = qdiscs(&fixture, veth).remove(0);
        let own = own.tbf.expect("parameters");
        assert_eq!((own.rate, own.limit), (tbf.rate, tbf.limit));
        // A unit of 64 ns has 320 bytes at the high rate.
        assert!(own.burst.abs_diff(tbf.burst) <= 320, "{own:?} {tbf:?}");
        assert_eq!(root(&fixture)["handle"], handle, "changed in place");
    }
    let own = qdiscs(&fixture, veth);
    assert_eq!(own[0].tbf, Some(slow), "the burst is exact at a low rate");
    // 2 ^ 31 bits, the default of some runtimes, need 2,147 s. The kernel returns 32 bits of the
    // time.
    let long = Tbf::new(125_000, (1 << 28) - 1);
    fixture.on_host.ensure_tbf(veth, &long).expect("change");
    let period = 125_000 * ((1 << 32) * 64) / 1_000_000_000;
    let returned = qdiscs(&fixture, veth)[0].tbf.expect("parameters").burst;
    assert!(u64::from(long.burst - returned) % period <= 7, "{returned}");
    fixture.on_host.ensure_tbf(veth, &slow).expect("change");

    let refused = [
        fixture.on_host.ensure_tbf(veth, &Tbf::new(0, 3_000)).expect_err("no rate").raw_os_error(),
        fixture.on_host.ensure_tbf(veth, &Tbf::new(1_000, 0)).expect_err("no burst").raw_os_error(),
        fixture.on_host.create_tbf(absent(), &slow).expect_err("no link").raw_os_error(),
    ];
    assert_eq!(refused, [None, Some(libc::EINVAL), Some(libc::ENODEV)]);
    assert_eq!(parameters(&fixture).0, slow.rate);

    for _ in 0..2 {
        fixture.on_host.delete_tbf(veth).expect("delete");
        assert_eq!(root(&fixture)["kind"], "noqueue");
    }
    fixture.on_host.delete_tbf(absent()).expect("no link");
    assert_eq!(qdiscs(&fixture, absent()), []);
}

#[test]
fn qdisc_of_another_program_stays() {
    let Some((fixture, veth)) = shaped() else { return };
    let tbf = qdiscs(&fixture, veth).remove(0);
    // `1:` is also the handle of the `tbf` qdisc.
    for handle in ["1:", "5:"] {
        run(&fixture.host, "tc qdisc delete dev veth1 root");
        run(&fixture.host, &format!("tc qdisc add dev veth1 root handle {handle} htb"));
        let error = fixture.on_host.ensure_tbf(veth, &Tbf::new(RATE, BURST)).expect_err("another kind");
        assert!(matches!(&error, Error::QdiscConflict { kind, .. } if kind == "htb"), "{error:?}");
        fixture.on_host.delete_tbf(veth).expect("no tbf");
        fixture.on_host.delete_qdisc(veth, &tbf).expect("no tbf");
        fixture.on_host.delete_ingress(veth).expect("no ingress qdisc");
        assert_eq!(root(&fixture)["kind"], "htb");
    }
    let own = qdiscs(&fixture, veth);
    assert_eq!(own.len(), 1, "{own:?}");
    assert_eq!((own[0].kind.as_str(), own[0].handle, own[0].parent), ("htb", 5 << 16, QdiscParent::Root));
    assert_eq!(own[0].tbf, None);
    for _ in 0..2 {
        fixture.on_host.delete_qdisc(veth, &own[0]).expect("delete");
        assert_eq!(root(&fixture)["kind"], "noqueue");
    }
    let default = qdiscs(&fixture, veth).remove(0);
    assert_eq!((default.kind.as_str(), default.handle), ("noqueue", 0));
    fixture.on_host.delete_qdisc(veth, &default).expect("the default stays");
    assert_eq!(root(&fixture)["kind"], "noqueue");
}

#[test]
fn ingress_slot_has_one_qdisc_of_either_kind() {
    let Some(fixture) = Fixture::new() else { return };
    let host = fixture.veth(1, None).host;
    let veth = index(host);
    fixture.on_host.create_ingress(veth).expect("create");
    let seen = json(&fixture.host, "tc -j qdisc show dev veth1");
    assert!(seen.to_string().contains(r#""kind":"ingress""#), "{seen}");
    let own = qdiscs(&fixture, veth);
    assert!(own.iter().any(|qdisc| qdisc.kind == "ingress" && qdisc.parent == QdiscParent::Ingress), "{own:?}");
    let error = fixture.on_host.create_ingress(veth).expect_err("the slot is taken");
    assert!(matches!(error, Error::Exists { .. }), "{error:?}");
    for _ in 0..2 {
        fixture.on_host.delete_ingress(veth).expect("delete");
        assert_eq!(fixture.on_host.ingress_qdisc(host).expect("look up"), None);
    }
    fixture.on_host.create_clsact(host, SharedBlocks::default()).expect("create clsact");
    let error = fixture.on_host.create_ingress(veth).expect_err("the slot is taken");
    assert!(matches!(error, Error::Exists { .. }), "{error:?}");
    fixture.on_host.delete_ingress(veth).expect("another kind");
    let left = fixture.on_host.ingress_qdisc(host).expect("look up").expect("clsact");
    assert_eq!(left.kind, "clsact");
    let error = fixture.on_host.create_ingress(absent()).expect_err("no link");
    assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
}

#[test]
fn redirection_is_created_reused_and_deleted() {
    let Some(fixture) = Fixture::new() else { return };
    let host = fixture.veth(1, None).host;
    let (first, second) = (ifb(&fixture, "ifb1"), ifb(&fixture, "ifb2"));
    let target = FilterTarget::Ingress(host);
    let redirect = Redirect::new(first);
    let error = fixture.on_host.create_redirect(&target, &redirect).expect_err("no qdisc");
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}");
    fixture.on_host.delete_redirect(&target, &redirect).expect("no qdisc");

    fixture.on_host.create_clsact(host, SharedBlocks::default()).expect("create clsact");
    match fixture.on_host.create_redirect(&target, &redirect) {
        Err(error @ Error::Unsupported { .. }) => return skipped(&error.to_string()),
        created => created.expect("create"),
    }
    fixture.on_host.ensure_redirect(&target, &redirect).expect("it exists");
    assert_eq!(redirections(&fixture, "ingress"), [(1_000, "ifb1".to_owned())]);
    for other in [redirect, Redirect::new(second)] {
        let error = fixture.on_host.create_redirect(&target, &other).expect_err("the priority is taken");
        assert!(matches!(error, Error::Exists { .. }), "{error:?}");
    }
    let error = fixture.on_host.ensure_redirect(&target, &Redirect::new(second)).expect_err("another link");
    assert!(matches!(error, Error::Exists { .. }), "{error:?}");

    let later = Redirect::new(second).priority(2_000);
    fixture.on_host.ensure_redirect(&target, &later).expect("another priority");
    // The kernel lists the `u32` filters of one priority for both hooks, so this priority is
    // another.
    let egress = FilterTarget::Egress(host);
    fixture.on_host.create_redirect(&egress, &Redirect::new(second).priority(3_000)).expect("another hook");
    let both = [(1_000, "ifb1".to_owned()), (2_000, "ifb2".to_owned())];
    assert_eq!(redirections(&fixture, "ingress"), both);
    assert_eq!(redirections(&fixture, "egress"), [(3_000, "ifb2".to_owned())]);
    let own = fixture.on_host.filters(&target).expect("list");
    let own: Vec<_> = own.iter().filter_map(|filter| Some((filter.priority, filter.redirect?))).collect();
    assert_eq!(own, [(1_000, first), (2_000, second)]);

    fixture.on_host.delete_redirect(&target, &Redirect::new(second)).expect("the priority has another target");
    assert_eq!(redirections(&fixture, "ingress"), both);
    for _ in 0..2 {
        fixture.on_host.delete_redirect(&target, &redirect).expect("delete");
        assert_eq!(redirections(&fixture, "ingress"), both[1..]);
    }
    fixture.on_host.create_redirect(&target, &redirect).expect("the priority is free again");
    let error = fixture.on_host.create_redirect(&target, &Redirect::new(absent()).priority(7)).expect_err("no link");
    assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{error}");
}

#[test]
fn redirection_of_a_part_of_the_packets_is_not_the_same() {
    let Some(fixture) = Fixture::new() else { return };
    let host = fixture.veth(1, None).host;
    let ifb = ifb(&fixture, "ifb1");
    fixture.on_host.create_ingress(host).expect("create");
    let target = FilterTarget::Ingress(host);
    let action = "action mirred egress redirect dev ifb1";
    let parts = [(1, "protocol ip u32 match u32 0 0"), (2, "protocol all u32 match ip dport 80 0xffff")];
    for (priority, part) in parts {
        run(&fixture.host, &format!("tc filter add dev veth1 parent ffff: pref {priority} {part} {action}"));
        let redirect = Redirect::new(ifb).priority(priority);
        let count = || {
            let listed = fixture.on_host.filters(&target).expect("list");
            listed.iter().filter(|filter| filter.priority == priority && filter.redirect == Some(ifb)).count()
        };
        let before = count();
        match fixture.on_host.ensure_redirect(&target, &redirect) {
            Err(Error::Exists { .. }) => assert_eq!(count(), before),
            // Without `cls_matchall`, the priority takes a second `u32` filter.
            Ok(()) => assert_eq!(count(), before + 1, "{part}: other packets pass"),
            Err(error) => panic!("{part}: {error}"),
        }
    }
    run(&fixture.host, &format!("tc filter add dev veth1 parent ffff: pref 3 protocol all u32 match u32 0 0 {action}"));
    fixture.on_host.ensure_redirect(&target, &Redirect::new(ifb).priority(3)).expect("all packets");
}

#[test]
fn foreign_redirections_are_listed() {
    let Some(fixture) = Fixture::new() else { return };
    let host = fixture.veth(1, None).host;
    let ifb = ifb(&fixture, "ifb1");
    fixture.on_host.create_ingress(index(host)).expect("create");
    let action = "action mirred egress redirect dev ifb1";
    run(&fixture.host, &format!("tc filter add dev veth1 parent ffff: pref 3 u32 match ip src 10.0.0.0/8 {action}"));
    run(&fixture.host, "tc filter add dev veth1 parent ffff: pref 4 u32 match u32 0 0 flowid 1:1");
    let own = fixture.on_host.filters(&FilterTarget::Ingress(host)).expect("list");
    let own: Vec<_> = own.iter().filter_map(|filter| Some((filter.priority, filter.redirect?))).collect();
    assert_eq!(own, [(3, ifb)]);
}

#[test]
fn egress_rate_is_limited() {
    let Some((fixture, veth)) = shaped() else { return };
    let ends = addresses(&fixture);
    let transfer = transfer(&fixture.host, &fixture.pod, ends);
    transfer.check(&qdiscs(&fixture, veth).remove(0).stats);
    let counts = || {
        let stats = qdiscs(&fixture, veth).remove(0).stats;
        let gauges = [stats.drops, stats.overlimits, stats.backlog, stats.queue_length];
        [stats.bytes, stats.packets].into_iter().chain(gauges.map(u64::from)).map(Some).collect::<Vec<_>>()
    };
    let shown = || {
        let seen = json(&fixture.host, "tc -j -s qdisc show dev veth1");
        ["bytes", "packets", "drops", "overlimits", "backlog", "qlen"].map(|key| seen[0][key].as_u64())
    };
    // Packets leave the queue between two reads.
    eventually("the counters of tc", Duration::from_secs(5), || counts() == shown());
    assert_ne!(counts()[0], Some(0));
}

#[test]
fn ingress_rate_is_limited_by_redirection() {
    let Some((fixture, veth)) = shaped() else { return };
    fixture.on_host.delete_tbf(veth).expect("delete");
    let ifb = ifb(&fixture, "ifb1");
    fixture.on_host.create_tbf(ifb, &Tbf::new(RATE, BURST)).expect("create");
    let host = fixture.on_host.link_by_name(&name("veth1")).expect("look up").expect("veth1").index;
    fixture.on_host.create_ingress(veth).expect("create");
    match fixture.on_host.create_redirect(&FilterTarget::Ingress(host), &Redirect::new(ifb)) {
        Err(error @ Error::Unsupported { .. }) => return skipped(&error.to_string()),
        created => created.expect("create"),
    }
    let (on_host, in_pod) = addresses(&fixture);
    let transfer = transfer(&fixture.pod, &fixture.host, (in_pod, on_host));
    let stats = qdiscs(&fixture, ifb).into_iter().find(|qdisc| qdisc.tbf.is_some()).expect("tbf").stats;
    transfer.check(&stats);
}

/// A pair with a `tbf` qdisc at the host end. `None` if the kernel has no `sch_tbf`.
fn shaped() -> Option<(Fixture, IfIndex)> {
    let fixture = Fixture::new()?;
    let veth = index(fixture.veth(1, None).host);
    match fixture.on_host.ensure_tbf(veth, &Tbf::new(RATE, BURST)) {
        Err(error @ Error::Unsupported { .. }) => {
            skipped(&error.to_string());
            return None;
        }
        created => created.expect("create"),
    }
    Some((fixture, veth))
}

/// Gives both ends an address, which it returns, and waits for the carrier.
fn addresses(fixture: &Fixture) -> (&'static str, &'static str) {
    let ends = ("10.22.0.1", "10.22.0.2");
    run(&fixture.host, &format!("ip addr add {}/24 dev veth1", ends.0));
    run(&fixture.pod, &format!("ip addr add {}/24 dev eth1", ends.1));
    run(&fixture.pod, "ip link set eth1 up");
    let host = fixture.on_host.link_by_name(&name("veth1")).expect("look up").expect("veth1").index;
    assert!(fixture.on_host.wait_running(host, Duration::from_secs(5)).expect("wait"));
    ends
}

/// Sends at four times the rate for half a second.
fn transfer(from: &Netns, to: &Netns, (source, destination): (&str, &str)) -> Transfer {
    let bind = |netns: &Netns, address: &str| {
        netns.run(|| UdpSocket::bind((address, 7_000)).expect("bind")).expect("enter the namespace")
    };
    let (sender, receiver) = (bind(from, source), bind(to, destination));
    receiver.set_nonblocking(true).expect("set");
    let mut received = 0;
    let mut buffer = [0; 2_000];
    // The kernel drops what an end sends before it updates its carrier. Then it repeats the
    // request for the MAC only after a second. Empty datagrams do not count as received.
    eventually("the first datagram", Duration::from_secs(5), || {
        sender.send_to(&[], (destination, 7_000)).is_ok() && receiver.recv(&mut buffer).is_ok()
    });
    let mut drain = || {
        while let Ok(length) = receiver.recv(&mut buffer) {
            received += length as u64;
        }
    };
    let payload = [0; 1_000];
    let start = Instant::now();
    let mut offered = 0;
    while start.elapsed() < Duration::from_millis(500) {
        // Also after a pause of this thread, the load is four times the rate.
        while offered < start.elapsed().as_micros() as u64 * 4 {
            sender.send_to(&payload, (destination, 7_000)).expect("send");
            offered += payload.len() as u64;
            drain();
        }
        drain();
        thread::sleep(Duration::from_millis(1));
    }
    drain();
    Transfer { offered, received, elapsed: start.elapsed() }
}

#[derive(Debug)]
struct Transfer {
    offered: u64,
    received: u64,
    elapsed: Duration,
}

impl Transfer {
    fn check(&self, stats: &QdiscStats) {
        let allowed = self.elapsed.as_micros() as u64 * RATE / 1_000_000 + u64::from(BURST);
        assert!(self.received <= allowed, "at most {allowed} bytes: {self:?} {stats:?}");
        assert!(self.received >= allowed / 4, "some {allowed} bytes: {self:?} {stats:?}");
        assert!(self.offered > 3 * self.received, "{self:?}");
        // The headers of Ethernet, IPv4 and UDP have 42 bytes.
        let packets = self.received / 1_000;
        assert!(stats.packets >= packets && stats.bytes >= packets * 1_042, "{self:?} {stats:?}");
        let lost = self.offered / 1_000 - packets;
        assert!(u64::from(stats.drops) > lost / 2, "{lost} lost: {self:?} {stats:?}");
        assert!(stats.overlimits > 0, "{stats:?}");
    }
}

fn ifb(fixture: &Fixture, link: &str) -> IfIndex {
    run(&fixture.host, &format!("ip link add name {link} type ifb"));
    run(&fixture.host, &format!("ip link set {link} up"));
    index(fixture.on_host.link_by_name(&name(link)).expect("look up").expect("ifb").index)
}

fn qdiscs(fixture: &Fixture, link: IfIndex) -> Vec<Qdisc> {
    fixture.on_host.qdiscs(link).expect("list")
}

/// The root qdisc of the host end.
fn root(fixture: &Fixture) -> Value {
    let qdiscs = json(&fixture.host, "tc -j qdisc show dev veth1");
    let root = qdiscs.as_array().expect("qdiscs").iter().find(|qdisc| qdisc["root"] == true);
    root.expect("a root").clone()
}

/// Rate in bytes per second, burst in bytes and latency in microseconds.
fn parameters(fixture: &Fixture) -> (u64, u64, u64) {
    let root = root(fixture);
    assert_eq!(root["kind"], "tbf", "{root}");
    let number = |key: &str| root["options"][key].as_u64().unwrap_or_else(|| panic!("{key}: {root}"));
    (number("rate"), number("burst"), (number("lat") + 50) / 100 * 100)
}

/// Priority and target of each redirection at a hook of the host end.
fn redirections(fixture: &Fixture, hook: &str) -> Vec<(u64, String)> {
    let filters = json(&fixture.host, &format!("tc -j filter show dev veth1 {hook}"));
    let with_action = filters.as_array().expect("filters").iter().filter(|filter| action(filter).is_object());
    let describe = |filter: &Value| {
        let action = action(filter);
        assert_eq!(filter["protocol"], "all", "{filter}");
        assert_eq!((&action["kind"], &action["mirred_action"]), (&"mirred".into(), &"redirect".into()), "{filter}");
        assert_eq!(action["direction"], "egress", "{filter}");
        let to = action["to_dev"].as_str().expect("a link").to_owned();
        (filter["pref"].as_u64().expect("a priority"), to)
    };
    with_action.map(describe).collect()
}

fn action(filter: &Value) -> &Value {
    &filter["options"]["actions"][0]
}

fn absent() -> IfIndex {
    IfIndex::new(4_711).expect("not 0")
}

fn index<T: TryInto<IfIndex, Error: Debug>>(index: T) -> IfIndex {
    index.try_into().expect("an index")
}
