//! Rules of policy routing, checked with `ip rule`.

use cnikit::{
    netlink::{Error, IfIndex, Netns, Route, RoutingRule, RuleAction},
    spec::{ErrorCode, HasErrorCode as _},
};
use ipnetwork::IpNetwork;
use serde_json::{Value, json};

use crate::support::{Fixture, json as ip, name, run};

/// What `ip` lists, without the rules that the kernel creates.
fn seen(netns: &Netns, family: &str) -> Vec<Value> {
    let listed = ip(netns, &format!("ip -N -d -j {family} rule"));
    let rules = listed.as_array().expect("rules").iter();
    rules.filter(|rule| rule["protocol"] != "2").cloned().collect()
}

/// The listed rules, without those that the kernel creates.
fn listed(fixture: &Fixture) -> Vec<RoutingRule> {
    let mut rules = fixture.on_host.rules().expect("list");
    rules.retain(|rule| rule.protocol != Some(2));
    rules
}

fn net(text: &str) -> IpNetwork {
    text.parse().expect("a network")
}

fn full(rule: RoutingRule) -> RoutingRule {
    rule.priority(55)
        .iif(name("lo"))
        .oif(name("absent0"))
        .fwmark(0x10)
        .fwmask(0xff)
        .ip_proto(6)
        .sport(80..=80)
        .dport(100..=200)
        .uid(0..=10)
        .protocol(99)
        .invert()
}

#[test]
fn rule_has_all_fields() {
    let Some(fixture) = Fixture::new() else { return };
    let v4 = full(RoutingRule::lookup(70_000).from(net("10.22.0.0/16")).to(net("10.96.0.0/12")));
    let v6 = full(RoutingRule::lookup(70_000).from(net("fd00:22::/64")).to(net("fd00:96::/48")));
    for (rule, family) in [(&v4, "-4"), (&v6, "-6")] {
        fixture.on_host.add_rule(rule).unwrap_or_else(|error| panic!("{error}"));
        let (from, to) = (rule.from.expect("set"), rule.to.expect("set"));
        let expected = json!({
            "priority": 55, "not": null, "src": from.ip().to_string(), "srclen": from.prefix(),
            "dst": to.ip().to_string(), "dstlen": to.prefix(), "fwmark": "0x10", "fwmask": "0xff",
            "iif": "lo", "oif": "absent0", "oif_detached": null, "uid_start": 0, "uid_end": 10,
            "sport": 80, "dport_start": 100, "dport_end": 200, "table": "70000", "protocol": "99",
        });
        let mut seen = seen(&fixture.host, family);
        let seen = seen.remove(0);
        // `tcp`, `6` or `ipproto-6`, depending on the version.
        let protocol = seen["ipproto"].as_str().expect("a protocol");
        assert!(protocol == "tcp" || protocol.ends_with('6'), "{protocol}");
        for (key, value) in expected.as_object().expect("an object") {
            assert_eq!(&seen[key], value, "{key} of {seen}");
        }
    }
    assert_eq!(listed(&fixture), [v4.clone(), v6.clone()]);
    for rule in [&v4, &v6] {
        let error = fixture.on_host.add_rule(rule).expect_err("it exists");
        assert!(matches!(error, Error::Exists { .. }), "{error:?}");
        fixture.on_host.ensure_rule(rule).expect("it exists");
        fixture.on_host.delete_rule(rule).expect("delete");
        fixture.on_host.delete_rule(rule).expect("it is absent");
    }
    assert_eq!(listed(&fixture), []);
}

#[test]
fn every_action_is_added_and_read_back() {
    let Some(fixture) = Fixture::new() else { return };
    let actions = [
        (RuleAction::Lookup(100), "table", json!("100")),
        (RuleAction::Blackhole, "action", json!("6")),
        (RuleAction::Unreachable, "action", json!("7")),
        (RuleAction::Prohibit, "action", json!("8")),
        (RuleAction::Nop, "action", json!("3")),
        (RuleAction::Goto(32_766), "goto", json!(32_766)),
    ];
    for (action, key, value) in actions {
        for family in ["-4", "-6"] {
            let mut rule = RoutingRule::new(action).priority(1000);
            rule.ipv6 = family == "-6";
            fixture.on_host.add_rule(&rule).unwrap_or_else(|error| panic!("{error}"));
            let seen = seen(&fixture.host, family);
            let names = run(&fixture.host, &format!("ip {family} rule"));
            let shown = match action {
                RuleAction::Blackhole => names.contains("blackhole"),
                RuleAction::Unreachable => names.contains("unreachable"),
                RuleAction::Prohibit => names.contains("prohibit"),
                RuleAction::Nop => names.contains("nop"),
                _ => seen[0][key] == value,
            };
            assert!(shown, "{action:?}: {names} {seen:?}");
            assert_eq!((seen.len(), seen[0]["protocol"].as_str()), (1, Some("4")), "static");
            let listed = listed(&fixture);
            assert!(listed.len() == 1 && listed[0].is_same_as(&rule), "{listed:?}");
            fixture.on_host.delete_rule(&rule).expect("delete");
        }
    }
    assert_eq!(listed(&fixture), []);
}

#[test]
fn kernel_rules_are_listed_for_both_families() {
    let Some(fixture) = Fixture::new() else { return };
    let rules = fixture.on_host.rules().expect("list");
    let listed: Vec<_> = rules.iter().map(|rule| (rule.ipv6, rule.priority, rule.action)).collect();
    let mut expected = Vec::new();
    for (is_ipv6, family) in [(false, "-4"), (true, "-6")] {
        for rule in ip(&fixture.host, &format!("ip -N -j {family} rule")).as_array().expect("rules") {
            let table = rule["table"].as_str().expect("a table").parse().expect("a number");
            let priority = u32::try_from(rule["priority"].as_u64().expect("a number")).expect("32 bits");
            expected.push((is_ipv6, Some(priority), RuleAction::Lookup(table)));
        }
    }
    assert!(expected.len() >= 5, "{expected:?}");
    assert_eq!(listed, expected);
}

/// The kernel takes a rule without a condition for one with any, and does not compare `not`.
#[test]
fn similar_rules_are_different() {
    let Some(fixture) = Fixture::new() else { return };
    let by_source = || RoutingRule::lookup(5).priority(60).from(net("10.22.0.0/16"));
    let rules = [
        by_source(),
        RoutingRule::lookup(5).priority(60),
        by_source().invert(),
        by_source().to(net("10.96.0.0/12")),
        by_source().fwmark(1),
        by_source().ip_proto(17),
        by_source().priority(61),
    ];
    for rule in &rules {
        fixture.on_host.add_rule(rule).unwrap_or_else(|error| panic!("{error}"));
    }
    assert_eq!(seen(&fixture.host, "-4").len(), rules.len());
    for rule in &rules {
        let error = fixture.on_host.add_rule(rule).expect_err("it exists");
        assert!(matches!(error, Error::Exists { .. }), "{error:?}");
    }
    assert_eq!(seen(&fixture.host, "-4").len(), rules.len());
    assert_eq!(rules.iter().filter(|rule| rule.is_same_as(&rules[0])).count(), 1);
}

#[test]
fn deletion_removes_exactly_one_rule() {
    let Some(fixture) = Fixture::new() else { return };
    let host = &fixture.host;
    // Without a priority in the request, the kernel would take the first rule with the table.
    run(host, "ip rule add from 10.22.0.0/16 iif lo table 5 pref 50");
    run(host, "ip rule add from 10.22.0.0/16 table 5 pref 60");
    run(host, "ip rule add from 10.22.0.0/16 fwmark 1 table 5 pref 60");
    run(host, "ip rule add table 5 pref 70 suppress_prefixlength 0");
    run(host, "ip rule add table 5 pref 80");
    let by_source = RoutingRule::lookup(5).from(net("10.22.0.0/16"));
    fixture.on_host.delete_rule(&by_source).expect("delete");
    let left: Vec<_> = seen(host, "-4").iter().map(|rule| rule["priority"].clone()).collect();
    assert_eq!(left, [50, 60, 70, 80]);
    assert_eq!(seen(host, "-4")[1]["fwmark"], "0x1");
    fixture.on_host.delete_rule(&RoutingRule::lookup(5)).expect("the one without conditions");
    let left: Vec<_> = seen(host, "-4").iter().map(|rule| rule["priority"].clone()).collect();
    assert_eq!(left, [50, 60, 70]);
    fixture.on_host.delete_rule(&RoutingRule::lookup(5)).expect("absent");
    fixture.on_host.delete_rule(&RoutingRule::lookup(5).ipv6()).expect("absent");
    assert_eq!(seen(host, "-4").len(), 3);

    // A listed rule has all its values, also those without a field.
    let suppressing = listed(&fixture).into_iter().find(|rule| rule.priority == Some(70)).expect("the rule");
    fixture.on_host.delete_rule(&suppressing).expect("delete");
    assert_eq!(seen(host, "-4").len(), 2);
    for rule in listed(&fixture) {
        fixture.on_host.delete_rule(&rule).expect("delete");
    }
    assert_eq!(seen(host, "-4"), [] as [Value; 0]);
}

#[test]
fn deletion_refuses_if_the_kernel_would_take_another_rule() {
    let Some(fixture) = Fixture::new() else { return };
    run(&fixture.host, "ip rule add from 10.22.0.0/16 iif lo table 5 pref 60 proto static");
    let second = RoutingRule::lookup(5).priority(60).from(net("10.22.0.0/16"));
    fixture.on_host.add_rule(&second).expect("add");
    let error = fixture.on_host.delete_rule(&second).expect_err("the first would be deleted");
    assert!(matches!(error, Error::AmbiguousRule { .. }), "{error:?}");
    assert!(error.to_string().contains("60: from 10.22.0.0/16 iif lo lookup 5"), "{error}");
    assert_eq!(seen(&fixture.host, "-4").len(), 2);
    run(&fixture.host, "ip rule del from 10.22.0.0/16 iif lo table 5 pref 60");
    fixture.on_host.delete_rule(&second).expect("delete");
    assert_eq!(seen(&fixture.host, "-4").len(), 0);
}

#[test]
fn rule_without_a_priority_is_added_once() {
    let Some(fixture) = Fixture::new() else { return };
    for rule in [RoutingRule::lookup(9), RoutingRule::lookup(9).ipv6()] {
        fixture.on_host.ensure_rule(&rule).expect("add");
        fixture.on_host.ensure_rule(&rule).expect("it exists");
        fixture.on_host.add_rule(&rule).expect_err("it exists");
    }
    run(&fixture.host, "ip rule add from 10.22.0.0/16 table 10 proto boot");
    fixture.on_host.ensure_rule(&RoutingRule::lookup(10).from(net("10.22.0.0/16"))).expect("it exists");
    assert_eq!((seen(&fixture.host, "-4").len(), seen(&fixture.host, "-6").len()), (2, 1));
}

#[test]
fn invalid_rule_is_refused() {
    let Some(fixture) = Fixture::new() else { return };
    let mixed = RoutingRule::lookup(5).from(net("10.22.0.0/16")).to(net("fd00::/64"));
    let error = fixture.on_host.add_rule(&mixed).expect_err("two families");
    assert!(matches!(error, Error::Message { .. }), "{error:?}");
    assert!(error.to_string().ends_with(": 10.22.0.0/16 is of another address family than the rule"), "{error}");
    #[expect(clippy::reversed_empty_ranges, reason = "the invalid value")]
    let error = fixture.on_host.add_rule(&RoutingRule::lookup(5).dport(9..=3)).expect_err("no such ports");
    assert_eq!((error.raw_os_error(), error.code()), (Some(libc::EINVAL), ErrorCode::IO), "{error}");
    let rule = || RoutingRule::lookup(5);
    for refused in [rule().sport(0..=9), rule().dport(1024..=u16::MAX), rule().uid(0..=u32::MAX)] {
        let error = fixture.on_host.add_rule(&refused).expect_err("a limit of the kernel");
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}");
    }
    assert_eq!(listed(&fixture), []);
    fixture.on_host.add_rule(&rule().dport(1..=u16::MAX - 1).uid(0..=u32::MAX - 1)).expect("the limits");
}

#[test]
fn free_table_has_neither_routes_nor_rules() {
    let Some(fixture) = Fixture::new() else { return };
    let socket = &fixture.on_host;
    assert_eq!(socket.free_table(100..=103).expect("look"), Some(100));
    run(&fixture.host, "ip link set lo up");
    socket.add_route(&Route::new(net("10.96.0.0/12"), IfIndex::LOOPBACK).table(100)).expect("add");
    run(&fixture.host, "ip -6 route add blackhole fd00::/64 table 101");
    socket.add_rule(&RoutingRule::lookup(102).ipv6()).expect("add");
    assert_eq!(socket.free_table(100..=103).expect("look"), Some(103));
    assert_eq!(socket.free_table(100..=102).expect("look"), None);
    assert_eq!(socket.free_table(253..=u32::MAX).expect("look"), Some(256), "the kernel's tables are never free");
}
