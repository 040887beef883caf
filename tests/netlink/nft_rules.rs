//! Conditions and actions as nft(8) reads them, and changes of single rules.

use std::net::IpAddr;

use cnikit::{
    netlink::{
        Error,
        nftables::{
            Action, Batch, Chain, ChainType, CtState, CtStatus, DataType, Expression, Family, Hook, Match, PacketField,
            Policy, Priority, Protocol, Rule, RuleInfo, Table,
        },
    },
    spec::MacAddr,
};
use serde_json::json;

use crate::{
    nftables::{assert_reads, listed, nat, rules, socket, table, with_chain},
    support::{Fixture, name, run},
};

const MAC: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 7]);

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn forward(table: &Table) -> Chain {
    table.chain("forward").hook(ChainType::Filter, Hook::Forward, Priority::FILTER).policy(Policy::Drop)
}

fn prerouting(table: &Table) -> Chain {
    table.chain("prerouting").hook(ChainType::Nat, Hook::Prerouting, Priority::DSTNAT)
}

fn accept(conditions: impl IntoIterator<Item = Match>) -> Rule {
    conditions.into_iter().fold(Rule::new(Action::Accept), Rule::with_match)
}

fn comments(rules: &[RuleInfo]) -> Vec<&str> {
    rules.iter().map(|rule| rule.comment.as_deref().expect("a comment")).collect()
}

#[test]
fn conditions_read_as_in_nft() {
    let replies = CtState::ESTABLISHED | CtState::RELATED;
    let rules = vec![
        (accept([Match::protocol(Protocol::TCP)]), "meta l4proto tcp accept"),
        (accept([!Match::protocol(Protocol::UDP)]), "meta l4proto != udp accept"),
        (accept([Match::protocol(Protocol(47))]), "meta l4proto 47 accept"),
        (accept([Match::destination_port(Protocol::TCP, 80)]), "tcp dport 80 accept"),
        (accept([!Match::destination_port(Protocol::UDP, 53)]), "udp dport != 53 accept"),
        (accept([Match::source_ports(Protocol::SCTP, 1024..=2047)]), "sctp sport 1024-2047 accept"),
        (accept([!Match::destination_ports(Protocol::TCP, 1..=9)]), "tcp dport != 1-9 accept"),
        (
            accept([Match::source_port(Protocol::TCP, 1), Match::destination_port(Protocol::TCP, 2)]),
            "tcp sport 1 tcp dport 2 accept",
        ),
        (accept([Match::ct_state(replies)]), "ct state established,related accept"),
        (accept([Match::ct_state(CtState::NEW)]), "ct state new accept"),
        (accept([Match::ct_state(CtState::INVALID | CtState::UNTRACKED)]), "ct state invalid,untracked accept"),
        (accept([Match::ct_status(CtStatus::DNAT)]), "ct status dnat accept"),
        (accept([Match::ct_status(CtStatus::SNAT | CtStatus::DNAT)]), "ct status snat,dnat accept"),
        (accept([Match::mark(0x2000, 0x2000)]), "meta mark and 0x2000 == 0x2000 accept"),
        (accept([!Match::mark(7, u32::MAX)]), "meta mark != 7 accept"),
        (accept([Match::destination_is_local()]), "fib daddr type local accept"),
        (accept([!Match::source_is_local()]), "fib saddr type != local accept"),
        (accept([Match::source_mac(MAC)]), "ether saddr 02:00:00:00:00:07 accept"),
        (accept([!Match::destination_mac(MAC)]), "ether daddr != 02:00:00:00:00:07 accept"),
        (
            accept([Match::source("10.9.0.0/16".parse().expect("a prefix")), Match::source_port(Protocol::TCP, 1)]),
            "ip saddr 10.9.0.0/16 tcp sport 1 accept",
        ),
    ];
    let hook = "type filter hook forward priority 0 ; policy drop";
    assert_reads(Family::Inet, forward, hook, rules.clone());
    assert_reads(Family::Ip6, forward, hook, rules[..rules.len() - 1].to_vec());
}

#[test]
fn actions_read_as_in_nft() {
    let mark = |value, mask| Rule::new(Action::SetMark { value, mask });
    let rules = vec![
        (mark(7, u32::MAX), "meta mark set 7"),
        (mark(0x2000, 0x2000), "meta mark set mark or 0x2000"),
        (mark(0, 0x2000), "meta mark set mark and 0xffffdfff"),
        (Rule::new(Action::Reject), "reject"),
        (Rule::new(Action::Continue).with_expression(limit()), "limit rate 10/second"),
        (Rule::new(Action::Accept), "accept"),
    ];
    let hook = "type filter hook forward priority 0 ; policy drop";
    assert_reads(Family::Inet, forward, hook, rules.clone());
    assert_reads(Family::Ip, forward, hook, rules);
}

/// `limit rate 10/second`, an expression without a method of its own.
fn limit() -> Expression {
    Expression::new("limit")
        .with_attribute(1, &10_u64.to_be_bytes())
        .with_attribute(2, &1_u64.to_be_bytes())
        .with_number(3, 5)
}

#[test]
fn translation_reads_as_in_nft() {
    let to = |action, protocol, port| Rule::new(action).with_match(Match::destination_port(protocol, port));
    let dnat = |to: &str, port| Action::Dnat { to: address(to), port };
    let rules = vec![
        (to(dnat("10.244.0.7", Some(80)), Protocol::TCP, 8080), "tcp dport 8080 dnat ip to 10.244.0.7:80"),
        (to(dnat("10.244.0.7", None), Protocol::UDP, 53), "udp dport 53 dnat ip to 10.244.0.7"),
        (to(dnat("fd00::7", Some(80)), Protocol::TCP, 8080), "tcp dport 8080 dnat ip6 to [fd00::7]:80"),
        (to(Action::Redirect { port: Some(81) }, Protocol::TCP, 8081), "tcp dport 8081 redirect to :81"),
        (to(Action::Redirect { port: None }, Protocol::TCP, 8082), "tcp dport 8082 redirect"),
    ];
    assert_reads(Family::Inet, prerouting, "type nat hook prerouting priority dstnat", rules);
    let rules = vec![
        (to(Action::Snat { to: address("10.0.0.9"), port: None }, Protocol::UDP, 53), "udp dport 53 snat to 10.0.0.9"),
        (
            to(Action::Snat { to: address("10.0.0.9"), port: Some(9) }, Protocol::UDP, 53),
            "udp dport 53 snat to 10.0.0.9:9",
        ),
    ];
    assert_reads(Family::Ip, nat, "type nat hook postrouting priority srcnat", rules);
}

#[test]
fn bridge_rules_read_as_in_nft() {
    let chain = |table: &Table| table.chain("mac").hook(ChainType::Filter, Hook::Prerouting, Priority::BRIDGE_DSTNAT);
    let from = Match::input_link(name("veth0"));
    let rules = vec![
        (
            Rule::new(Action::Drop).with_match(from.clone()).with_match(!Match::source_mac(MAC)),
            "iifname \"veth0\" ether saddr != 02:00:00:00:00:07 drop",
        ),
        (
            Rule::new(Action::Drop)
                .with_match(from)
                .with_match(!Match::source("10.0.0.7/32".parse().expect("a prefix"))),
            "iifname \"veth0\" ip saddr != 10.0.0.7 drop",
        ),
        (accept([Match::destination_port(Protocol::UDP, 67)]), "udp dport 67 accept"),
    ];
    assert_reads(Family::Bridge, chain, "type filter hook prerouting priority dstnat", rules);
}

#[test]
fn chains_are_entered() {
    let Some(fixture) = Fixture::new() else { return };
    let mine = table(Family::Inet);
    let (base, other) = (forward(&mine), mine.chain("other"));
    let batch = with_chain(&base).ensure_chain(&other);
    let batch = batch.append_rule(&base, Rule::new(Action::Jump(other.clone())));
    let nftables = socket(&fixture.host);
    nftables.commit(&batch.append_rule(&base, Rule::new(Action::Goto(other.clone())))).expect("commit");
    let expressions: Vec<_> = rules(&fixture.host, "mine").into_iter().map(|[expression, _]| expression).collect();
    assert_eq!(expressions, [json!([{"jump": {"target": "other"}}]), json!([{"goto": {"target": "other"}}])]);
    nftables.delete_chain(&other).expect_err("rules refer to it");

    // The kernel would look for a chain with this name in the table of the rule.
    let foreign = Table::new(Family::Inet, "theirs").chain("other");
    let error = nftables.commit(&Batch::new().append_rule(&base, Rule::new(Action::Jump(foreign))));
    assert!(matches!(error, Err(Error::Message { .. })), "{error:?}");
    let error = nftables.commit(&Batch::new().append_rule(&base, Rule::new(Action::Jump(mine.chain("lost")))));
    assert_eq!(error.expect_err("no such chain").raw_os_error(), Some(libc::ENOENT));
    assert_eq!(rules(&fixture.host, "mine").len(), 2);
}

#[test]
fn chains_of_one_table_are_listed() {
    let Some(fixture) = Fixture::new() else { return };
    let nftables = socket(&fixture.host);
    let mine = table(Family::Inet);
    assert_eq!(nftables.chains(&mine).expect("no table"), [""; 0]);
    nftables.commit(&with_chain(&forward(&mine)).ensure_chain(&mine.chain("pod-1"))).expect("commit");
    for family in ["inet", "ip"] {
        let table = if family == "ip" { "mine" } else { "theirs" };
        run(&fixture.host, &format!("nft add table {family} {table}"));
        run(&fixture.host, &format!("nft add chain {family} {table} other"));
    }
    assert_eq!(nftables.chains(&mine).expect("chains"), ["forward", "pod-1"]);
    assert_eq!(nftables.chains(&table(Family::Ip)).expect("chains"), ["other"]);
}

#[test]
fn the_policy_changes_only_if_set() {
    let Some(fixture) = Fixture::new() else { return };
    let chain = table(Family::Inet).chain("input").hook(ChainType::Filter, Hook::Input, Priority::FILTER);
    let nftables = socket(&fixture.host);
    let policy_after = |chain: &Chain| {
        nftables.commit(&with_chain(chain)).expect("commit");
        listed(&fixture.host, "chain")[0]["policy"].clone()
    };
    assert_eq!(policy_after(&chain), "accept");
    assert_eq!(policy_after(&chain.clone().policy(Policy::Drop)), "drop");
    assert_eq!(policy_after(&chain), "drop");
    assert_eq!(policy_after(&chain.policy(Policy::Accept)), "accept");
}

#[test]
fn a_route_chain_is_created() {
    let Some(fixture) = Fixture::new() else { return };
    let chain = table(Family::Inet).chain("output").hook(ChainType::Route, Hook::Output, Priority::MANGLE);
    socket(&fixture.host).commit(&with_chain(&chain)).expect("commit");
    let chain = listed(&fixture.host, "chain").remove(0);
    assert_eq!([&chain["type"], &chain["hook"], &chain["prio"]], [&json!("route"), &json!("output"), &json!(-150)]);
}

#[test]
fn one_rule_is_inserted_replaced_and_deleted() {
    let Some(fixture) = Fixture::new() else { return };
    let nftables = socket(&fixture.host);
    let chain = nat(&table(Family::Inet));
    let rule = |comment: &str| Rule::new(Action::Accept).comment(comment);
    nftables.commit(&with_chain(&chain).append_rule(&chain, rule("b")).append_rule(&chain, rule("d"))).expect("commit");
    let handle = |comment: &str| {
        let rules = nftables.rules(&chain).expect("rules");
        rules.iter().find(|rule| rule.comment.as_deref() == Some(comment)).expect("a rule").handle
    };
    let batch = Batch::new().insert_rule(&chain, rule("a")).insert_rule_before(&chain, handle("d"), rule("c"));
    nftables.commit(&batch).expect("commit");
    assert_eq!(comments(&nftables.rules(&chain).expect("rules")), ["a", "b", "c", "d"]);

    nftables.commit(&Batch::new().replace_rule(&chain, handle("b"), rule("new"))).expect("commit");
    let gone = handle("c");
    nftables.commit(&Batch::new().delete_rule(&chain, gone)).expect("commit");
    assert_eq!(comments(&nftables.rules(&chain).expect("rules")), ["a", "new", "d"]);

    // A missing rule fails the batch, but it is no error of a deletion alone.
    let batch = Batch::new().append_rule(&chain, rule("e")).delete_rule(&chain, gone);
    let error = nftables.commit(&batch).expect_err("no such rule");
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    nftables.delete_rule(&chain, gone).expect("delete what is absent");
    nftables.delete_rule(&chain, handle("a")).expect("delete");
    assert_eq!(comments(&nftables.rules(&chain).expect("rules")), ["new", "d"]);
}

#[test]
fn rules_are_deleted_by_their_comment() {
    let Some(fixture) = Fixture::new() else { return };
    let nftables = socket(&fixture.host);
    let chain = nat(&table(Family::Inet));
    nftables.delete_rules_with(&chain, "pod 1").expect("there is no chain");
    let rule = |comment: &str| Rule::new(Action::Accept).comment(comment);
    let batch = ["pod 1", "pod 2", "pod 1", "pod 10"].into_iter();
    let batch = batch.fold(with_chain(&chain), |batch, comment| batch.append_rule(&chain, rule(comment)));
    nftables.commit(&batch).expect("commit");
    for _ in 0..2 {
        nftables.delete_rules_with(&chain, "pod 1").expect("delete");
        assert_eq!(comments(&nftables.rules(&chain).expect("rules")), ["pod 2", "pod 10"]);
    }
}

#[test]
fn a_missing_expression_is_refused() {
    let Some(fixture) = Fixture::new() else { return };
    let chain = forward(&table(Family::Inet));
    let rule = Rule::new(Action::Accept).with_expression(Expression::raw("no-such-expression", []));
    let error = socket(&fixture.host).commit(&with_chain(&chain).append_rule(&chain, rule));
    assert_eq!(error.expect_err("no such expression").raw_os_error(), Some(libc::ENOENT));
    assert_eq!(listed(&fixture.host, "table").len(), 0);
}

#[test]
fn lookups_that_do_not_fit_are_refused() {
    let mine = table(Family::Inet);
    let ports = mine.set("ports", [DataType::Port]);
    let error = |rule: Rule| rule.digest().expect_err("a lookup that does not fit").to_string();
    let lookup = ports.lookup([PacketField::DestinationPort]);
    assert!(error(accept([Match::in_set(lookup.clone())])).contains("Match::protocol"));
    accept([Match::protocol(Protocol::TCP), Match::in_set(lookup.clone())]).digest().expect("a known protocol");
    assert!(error(accept([Match::in_set(ports.lookup([PacketField::Mark]))])).contains("Mark"));
    assert!(error(accept([Match::in_set(ports.lookup([]))])).contains("0 parts"));
    let tcp = || Match::protocol(Protocol::TCP);
    assert!(error(Rule::new(Action::DnatMap(lookup.clone())).with_match(tcp())).contains("addresses"));
    assert!(error(Rule::new(Action::VerdictMap(lookup)).with_match(tcp())).contains("verdict"));
}

#[test]
fn rules_are_deleted_by_a_comment_that_was_truncated() {
    let Some(fixture) = Fixture::new() else { return };
    let nftables = socket(&fixture.host);
    let chain = table(Family::Inet).chain("mine");
    let comment = format!("{}/{}/eth0", "n".repeat(80), "c".repeat(64));
    let batch = with_chain(&chain).append_rule(&chain, Rule::new(Action::Accept).comment(&comment));
    nftables.commit(&batch).expect("commit");
    nftables.delete_rules_with(&chain, &comment).expect("delete");
    assert_eq!(nftables.rules(&chain).expect("rules"), []);
}

#[test]
fn rule_that_exceeds_an_attribute_is_refused() {
    let Some(fixture) = Fixture::new() else { return };
    let nftables = socket(&fixture.host);
    let chain = table(Family::Inet).chain("mine");
    let rule = (0..3_000).fold(Rule::new(Action::Drop), |rule, _| rule.with_match(Match::protocol(Protocol::TCP)));
    let rule = (0..3_000).fold(rule, |rule, mark| rule.with_match(Match::mark(mark, 1)));
    let error = nftables.commit(&with_chain(&chain).append_rule(&chain, rule)).expect_err("too long");
    assert!(matches!(error, Error::Message { .. }), "{error:?}");
}

#[test]
fn chain_at_an_invalid_hook_does_not_exist() {
    let Some(fixture) = Fixture::new() else { return };
    let nftables = socket(&fixture.host);
    let mine = table(Family::Inet);
    for (kind, hook, priority) in [
        (ChainType::Nat, Hook::Forward, Priority::DSTNAT),
        (ChainType::Nat, Hook::Prerouting, Priority::RAW),
        (ChainType::Route, Hook::Prerouting, Priority::MANGLE),
    ] {
        let chain = mine.chain("mine").hook(kind, hook, priority);
        let error = nftables.commit(&with_chain(&chain)).expect_err("an invalid place");
        assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP), "{error:?}");
    }
    assert_eq!(nftables.chains(&mine).expect("list"), [""; 0]);
}
