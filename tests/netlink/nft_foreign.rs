//! Chains and rules that other programs have created.

use cnikit::netlink::nftables::{Action, Batch, Family, Hook, Match, Policy, Priority, Rule};

use crate::{
    nftables::{rules, socket},
    support::{Fixture, run},
};

#[test]
fn base_chains_of_all_programs_are_listed() {
    let Some(fixture) = Fixture::new() else { return };
    let nftables = socket(&fixture.host);
    assert_eq!(nftables.base_chains().expect("chains"), []);
    for line in [
        "iptables-nft -P FORWARD DROP",
        "nft add table inet theirs",
        "nft add chain inet theirs called",
        "nft add chain inet theirs last { type filter hook postrouting priority -7 ; }",
        "nft add table ip6 theirs",
        "nft add chain ip6 theirs nat { type nat hook prerouting priority dstnat ; policy accept ; }",
        "nft add table bridge theirs",
        "nft add chain bridge theirs in { type filter hook input priority 3 ; policy drop ; }",
        "nft add table arp theirs",
        "nft add chain arp theirs in { type filter hook input priority 3 ; policy drop ; }",
        "nft add table netdev theirs",
        "nft add chain netdev theirs in { type filter hook ingress device lo priority 3 ; }",
    ] {
        run(&fixture.host, line);
    }
    let found = nftables.base_chains().expect("chains");
    let mut found: Vec<_> = found
        .into_iter()
        .map(|base| (base.chain.to_string(), base.family, base.hook, base.priority, base.policy))
        .collect();
    found.sort_by(|one, other| one.0.cmp(&other.0));
    let expected = [
        ("bridge theirs in", Family::Bridge, Hook::Input, Priority(3), Policy::Drop),
        ("inet theirs last", Family::Inet, Hook::Postrouting, Priority(-7), Policy::Accept),
        ("ip filter FORWARD", Family::Ip, Hook::Forward, Priority::FILTER, Policy::Drop),
        ("ip6 theirs nat", Family::Ip6, Hook::Prerouting, Priority::DSTNAT, Policy::Accept),
    ];
    assert_eq!(
        found,
        expected.map(|(name, family, hook, priority, policy)| (name.to_owned(), family, hook, priority, policy))
    );
}

#[test]
fn rules_in_a_chain_of_iptables_are_inserted_and_deleted() {
    let Some(fixture) = Fixture::new() else { return };
    let nftables = socket(&fixture.host);
    run(&fixture.host, "iptables-nft -P FORWARD DROP");
    run(&fixture.host, "iptables-nft -A FORWARD -i lo -j ACCEPT");
    let before = rules(&fixture.host, "filter");
    let forward = nftables.base_chains().expect("chains").remove(0).chain;
    let pods = "10.99.0.0/20".parse().expect("a prefix");
    let accept = Rule::new(Action::Accept).with_match(Match::source(pods)).comment("ours");
    nftables.commit(&Batch::new().insert_rule(&forward, accept)).expect("commit");
    let listed = run(&fixture.host, "iptables-nft -S FORWARD");
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(
        lines,
        [
            "-P FORWARD DROP",
            "-A FORWARD -s 10.99.0.0/20 -m comment --comment ours -j ACCEPT",
            "-A FORWARD -i lo -j ACCEPT"
        ]
    );
    let found = nftables.rules(&forward).expect("rules");
    assert_eq!(found[0].comment.as_deref(), Some("ours"));
    nftables.delete_rule(&forward, found[0].handle).expect("delete");
    assert_eq!(rules(&fixture.host, "filter"), before);
    run(&fixture.host, "iptables-nft -I FORWARD -m comment --comment theirs -j ACCEPT");
    assert_eq!(nftables.rules(&forward).expect("rules")[0].comment.as_deref(), Some("theirs"));
}

#[test]
fn rules_that_drop_all_packets_are_marked() {
    let Some(fixture) = Fixture::new() else { return };
    let nftables = socket(&fixture.host);
    for line in
        ["nft add table inet theirs", "nft add chain inet theirs chain1 { type filter hook forward priority 0 ; }"]
    {
        run(&fixture.host, line);
    }
    let cases = [
        ("drop", true),
        ("counter drop", true),
        ("log counter drop", true),
        ("reject", true),
        ("reject with icmpx admin-prohibited", true),
        ("accept", false),
        ("counter", false),
        ("iifname \"lo\" drop", false),
        ("ip saddr 10.0.0.0/8 drop", false),
        ("meta nfproto ipv4 reject", false),
        ("limit rate 1/second drop", false),
        ("return", false),
    ];
    for (words, _) in cases {
        run(&fixture.host, &format!("nft add rule inet theirs chain1 {words}"));
    }
    let chain = nftables.base_chains().expect("chains").remove(0).chain;
    let found: Vec<bool> = nftables.rules(&chain).expect("rules").iter().map(|rule| rule.drops_all).collect();
    assert_eq!(found, cases.map(|(_, drops_all)| drops_all));

    run(&fixture.host, "nft flush ruleset");
    let cases =
        [("-j DROP", true), ("-m comment --comment x -j REJECT", true), ("-i lo -j DROP", false), ("-j RETURN", false)];
    for (words, _) in cases {
        run(&fixture.host, &format!("iptables-nft -A FORWARD {words}"));
    }
    let chain = nftables.base_chains().expect("chains").into_iter().find(|base| base.hook == Hook::Forward);
    let chain = chain.expect("a chain").chain;
    let found: Vec<bool> = nftables.rules(&chain).expect("rules").iter().map(|rule| rule.drops_all).collect();
    assert_eq!(found, cases.map(|(_, drops_all)| drops_all));
}
