//! Tables, chains and rules as nft(8) reads them.

use std::{process::Command, time::Instant};

use cnikit::{
    netlink::{
        Error, Netns,
        nftables::{
            Action, Batch, Chain, ChainType, Family, Hook, Match, PortRandomization, Priority, Rule, Socket, Table,
        },
    },
    spec::{ErrorCode, HasErrorCode as _},
};
use serde_json::Value;

use crate::support::{Fixture, json, name, run};

pub(crate) fn socket(netns: &Netns) -> Socket {
    netns.run(Socket::open).expect("enter the namespace").expect("open a socket")
}

pub(crate) fn table(family: Family) -> Table {
    Table::new(family, "mine")
}

pub(crate) fn nat(table: &Table) -> Chain {
    table.chain("nat").hook(ChainType::Nat, Hook::Postrouting, Priority::SRCNAT)
}

pub(crate) fn with_chain(chain: &Chain) -> Batch {
    Batch::new().ensure_table(&chain.table()).ensure_chain(chain)
}

/// All objects of one kind that nft lists, such as `rule`.
pub(crate) fn listed(netns: &Netns, kind: &str) -> Vec<Value> {
    let ruleset = json(netns, "nft -j list ruleset");
    let all = ruleset["nftables"].as_array().expect("a list");
    all.iter().filter_map(|object| object.get(kind).cloned()).collect()
}

/// The rules of a table as nft lists them: expressions and comments.
pub(crate) fn rules(netns: &Netns, table: &str) -> Vec<[Value; 2]> {
    let rules = listed(netns, "rule").into_iter().filter(|rule| rule["table"] == table);
    rules.map(|rule| ["expr", "comment"].map(|key| rule[key].clone())).collect()
}

/// Rules of this library read like rules that nft creates from its own language.
#[track_caller]
pub(crate) fn assert_reads(family: Family, chain: fn(&Table) -> Chain, hook: &str, rules_and_words: Vec<(Rule, &str)>) {
    let Some(fixture) = Fixture::new() else { return };
    let chain = chain(&table(family));
    run(&fixture.host, &format!("nft add table {family} theirs"));
    run(&fixture.host, &format!("nft add chain {family} theirs rules {{ {hook} ; }}"));
    let mut batch = with_chain(&chain);
    for (rule, words) in rules_and_words {
        run(&fixture.host, &format!("nft add rule {family} theirs rules {words}"));
        batch = batch.append_rule(&chain, rule);
    }
    socket(&fixture.host).commit(&batch).expect("commit");
    let (mine, theirs) = (rules(&fixture.host, "mine"), rules(&fixture.host, "theirs"));
    assert!(!theirs.is_empty());
    assert_eq!(mine, theirs);
    let chains = listed(&fixture.host, "chain");
    for key in ["type", "hook", "prio", "policy", "family"] {
        assert_eq!(chains[0][key], chains[1][key], "{key}: {chains:?}");
    }
}

#[test]
fn masquerading_reads_as_in_nft() {
    let prefix = |text: &str| text.parse().expect("a prefix");
    let masquerade = |ports| Rule::new(Action::Masquerade(ports));
    let rules = vec![
        (
            masquerade(PortRandomization::FullyRandom)
                .with_match(Match::source(prefix("10.99.0.0/24")))
                .with_match(!Match::destination(prefix("10.99.0.0/24")))
                .with_match(!Match::destination(prefix("224.0.0.0/4")))
                .with_match(!Match::output_link(name("cbr0")))
                .comment("pods"),
            "ip saddr 10.99.0.0/24 ip daddr != 10.99.0.0/24 ip daddr != 224.0.0.0/4 oifname != \"cbr0\" \
             masquerade fully-random comment \"pods\"",
        ),
        (
            masquerade(PortRandomization::Random)
                .with_match(Match::source(prefix("fd00:99::/61")))
                .with_match(!Match::destination(prefix("ff00::/8"))),
            "ip6 saddr fd00:99::/61 ip6 daddr != ff00::/8 masquerade random",
        ),
        (
            masquerade(PortRandomization::Kept).with_match(Match::source(prefix("10.99.0.7/32"))),
            "ip saddr 10.99.0.7 masquerade",
        ),
        (
            masquerade(PortRandomization::Kept).with_match(Match::source(prefix("fd00::7/128"))),
            "ip6 saddr fd00::7 masquerade",
        ),
        // Bits beyond the prefix are ignored.
        (
            masquerade(PortRandomization::Kept).with_match(Match::source(prefix("10.99.3.4/17"))),
            "ip saddr 10.99.0.0/17 masquerade",
        ),
    ];
    assert_reads(Family::Inet, nat, "type nat hook postrouting priority srcnat", rules);
}

#[test]
fn filters_read_as_in_nft() {
    let forward = |table: &Table| table.chain("forward").hook(ChainType::Filter, Hook::Forward, Priority(-7));
    let subnet = Match::destination("10.99.0.0/23".parse().expect("a prefix"));
    let rules = vec![
        (Rule::new(Action::Accept).with_match(Match::input_link(name("cbr0"))), "iifname \"cbr0\" accept"),
        (Rule::new(Action::Drop).with_match(subnet.clone()), "ip daddr 10.99.0.0/23 drop"),
        (
            Rule::new(Action::Return).with_match(!Match::output_link(name("fifteen-letters"))),
            "oifname != \"fifteen-letters\" return",
        ),
        (Rule::new(Action::Drop), "drop"),
    ];
    assert_reads(Family::Ip, forward, "type filter hook forward priority -7", rules.clone());
    assert_reads(Family::Inet, forward, "type filter hook forward priority -7", rules);
}

/// In an IPv4 table, a condition on an IPv6 address matches no packet. It must not match other
/// bytes of the packet.
#[test]
fn addresses_of_the_other_family_match_nothing() {
    let Some(fixture) = Fixture::new() else { return };
    run(&fixture.host, "ip link set lo up");
    let output = table(Family::Ip).chain("output").hook(ChainType::Filter, Hook::Output, Priority::FILTER);
    let nftables = socket(&fixture.host);
    let dropped = |text: &str| {
        let rule = Rule::new(Action::Drop).with_match(!Match::source(text.parse().expect("a prefix")));
        let batch = with_chain(&output).flush_chain(&output).append_rule(&output, rule);
        nftables.commit(&batch).expect("commit");
        let ping = || Command::new("ping").args(["-n", "-q", "-c1", "-W1", "127.0.0.1"]).output();
        let output = fixture.host.run(ping).expect("enter the namespace").expect("start ping");
        !output.status.success()
    };
    assert!(!dropped("fd00::/8"), "an IPv4 packet has no IPv6 address");
    assert!(dropped("10.0.0.0/8"));
}

#[test]
fn batch_is_atomic() {
    let Some(fixture) = Fixture::new() else { return };
    let nftables = socket(&fixture.host);
    let chain = nat(&table(Family::Inet));
    let lost = table(Family::Inet).chain("lost");
    let batch = with_chain(&chain).append_rule(&lost, Rule::new(Action::Drop));
    let error = nftables.commit(&batch).expect_err("no such chain");
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    assert!(error.to_string().starts_with("append a rule to the nftables chain inet mine lost"), "{error}");
    assert_eq!(listed(&fixture.host, "table"), [Value::Null; 0]);

    // The socket works after a failure.
    nftables.commit(&with_chain(&chain)).expect("commit");
    nftables.commit(&Batch::new()).expect("nothing to do");
    assert_eq!(listed(&fixture.host, "chain").len(), 1);
}

#[test]
fn a_check_changes_nothing() {
    let Some(fixture) = Fixture::new() else { return };
    let nftables = socket(&fixture.host);
    let chain = nat(&table(Family::Inet));
    let masquerade = Rule::new(Action::Masquerade(PortRandomization::Kept));
    nftables.check(&with_chain(&chain).append_rule(&chain, masquerade.clone())).expect("a host that can do this");
    assert_eq!(listed(&fixture.host, "table"), [Value::Null; 0]);

    let lost = with_chain(&chain).append_rule(&table(Family::Inet).chain("lost"), Rule::new(Action::Drop));
    let error = nftables.check(&lost).expect_err("no such chain");
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    assert_eq!(listed(&fixture.host, "table"), [Value::Null; 0]);
}

#[test]
fn masquerading_is_invalid_at_ingress_hooks() {
    let Some(fixture) = Fixture::new() else { return };
    let input = table(Family::Inet).chain("input").hook(ChainType::Filter, Hook::Input, Priority::FILTER);
    let masquerade = Rule::new(Action::Masquerade(PortRandomization::Kept));
    let error = socket(&fixture.host).commit(&with_chain(&input).append_rule(&input, masquerade));
    assert_eq!(error.expect_err("no place for it").raw_os_error(), Some(libc::EOPNOTSUPP));
    assert_eq!(listed(&fixture.host, "table"), [Value::Null; 0]);
}

#[test]
fn rules_are_listed_with_their_comments() {
    let Some(fixture) = Fixture::new() else { return };
    let nftables = socket(&fixture.host);
    let chain = nat(&table(Family::Inet));
    assert_eq!(nftables.rules(&chain).expect("rules"), []);
    let rule = Rule::new(Action::Accept);
    nftables.commit(&with_chain(&chain).append_rule(&chain, rule.clone().comment("ours"))).expect("commit");
    run(&fixture.host, "nft add rule inet mine nat oifname \"cbr0\" drop comment \"theirs\"");
    nftables.commit(&Batch::new().append_rule(&chain, rule)).expect("commit");
    run(&fixture.host, "nft add chain inet mine other");
    run(&fixture.host, "nft add rule inet mine other drop");

    let found = nftables.rules(&chain).expect("rules");
    let comments: Vec<_> = found.iter().map(|rule| rule.comment.as_deref()).collect();
    assert_eq!(comments, [Some("ours"), Some("theirs"), None]);
    let handles: Vec<_> = found.iter().map(|rule| rule.handle).collect();
    let listed = listed(&fixture.host, "rule");
    let listed: Vec<_> = listed.iter().filter(|rule| rule["chain"] == "nat").map(|rule| &rule["handle"]).collect();
    assert_eq!(handles.iter().copied().map(Value::from).collect::<Vec<_>>().iter().collect::<Vec<_>>(), listed);
}

#[test]
fn many_rules_are_listed() {
    const RULES: usize = 500;
    let Some(fixture) = Fixture::new() else { return };
    let nftables = socket(&fixture.host);
    let chain = nat(&table(Family::Inet));
    let rule = |number| Rule::new(Action::Accept).comment(format!("number {number}"));
    let batch = (0..RULES).fold(with_chain(&chain), |batch, number| batch.append_rule(&chain, rule(number)));
    nftables.commit(&batch).expect("commit");
    let found = nftables.rules(&chain).expect("rules");
    assert_eq!(found.len(), RULES);
    assert_eq!(found[RULES - 1].comment.as_deref(), Some("number 499"));
}

#[test]
fn existing_objects_are_kept_and_different_ones_are_refused() {
    let Some(fixture) = Fixture::new() else { return };
    let nftables = socket(&fixture.host);
    let chain = nat(&table(Family::Inet));
    let rule = Rule::new(Action::Accept);
    nftables.commit(&with_chain(&chain).append_rule(&chain, rule.clone())).expect("commit");
    let before = listed(&fixture.host, "rule");
    nftables.commit(&with_chain(&chain)).expect("commit");
    assert_eq!(listed(&fixture.host, "rule"), before);

    let other = table(Family::Inet).chain("nat").hook(ChainType::Nat, Hook::Postrouting, Priority(7));
    let error = nftables.commit(&with_chain(&other)).expect_err("the priority differs");
    assert!(matches!(error, Error::Exists { .. }), "{error:?}");

    nftables.commit(&Batch::new().flush_chain(&chain).append_rule(&chain, rule.comment("new"))).expect("commit");
    let found = nftables.rules(&chain).expect("rules");
    assert_eq!(found.iter().map(|rule| rule.comment.as_deref()).collect::<Vec<_>>(), [Some("new")]);
}

#[test]
fn deleting_absent_objects_succeeds() {
    let Some(fixture) = Fixture::new() else { return };
    let nftables = socket(&fixture.host);
    let (mine, chain) = (table(Family::Inet), nat(&table(Family::Inet)));
    for _ in 0..2 {
        nftables.delete_chain(&chain).expect("delete what is absent");
        nftables.delete_table(&mine).expect("delete what is absent");
        let busy = with_chain(&chain).append_rule(&chain, Rule::new(Action::Accept));
        nftables.commit(&busy).expect("commit");
        nftables.delete_chain(&chain).expect("delete a chain with a rule");
        assert_eq!((listed(&fixture.host, "chain").len(), listed(&fixture.host, "table").len()), (0, 1));
        nftables.commit(&busy).expect("commit");
        nftables.delete_table(&mine).expect("delete a table with a chain");
        assert_eq!(listed(&fixture.host, "table").len(), 0);
    }
}

#[test]
fn too_long_names_are_refused() {
    let Some(fixture) = Fixture::new() else { return };
    let nftables = socket(&fixture.host);
    let table = Table::new(Family::Inet, "x".repeat(256));
    let error = nftables.commit(&Batch::new().ensure_table(&table)).expect_err("a name of 256 bytes");
    assert_eq!((error.raw_os_error(), error.code()), (Some(libc::ERANGE), ErrorCode::IO));
}

/// The steps of a plugin at each ADD: open a socket and list the rules of a network.
#[test]
#[ignore = "a measurement: --ignored --nocapture, in release mode, on a machine that is idle"]
fn cost_of_listing_rules() {
    const ROUNDS: usize = 1000;
    let Some(fixture) = Fixture::new() else { return };
    let chain = nat(&table(Family::Inet));
    let rule =
        |number: i32| Rule::new(Action::Masquerade(PortRandomization::FullyRandom)).comment(format!("number {number}"));
    let batch = with_chain(&chain).append_rule(&chain, rule(4)).append_rule(&chain, rule(6));
    socket(&fixture.host).commit(&batch).expect("commit");
    let look = || {
        let start = Instant::now();
        let rules = Socket::open().and_then(|nftables| nftables.rules(&chain)).expect("rules");
        assert_eq!(rules.len(), 2);
        start.elapsed()
    };
    let mut times = fixture.host.run(|| (0..ROUNDS).map(|_| look()).collect::<Vec<_>>()).expect("enter the namespace");
    times.sort_unstable();
    eprintln!("{:?} at the median of {ROUNDS}", times[ROUNDS / 2]);
}
