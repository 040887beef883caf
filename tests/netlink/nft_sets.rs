//! Sets and maps as nft(8) reads them.

use std::net::IpAddr;

use cnikit::{
    netlink::{
        Error, Netns,
        nftables::{
            Action, Batch, ChainType, DataType, Element, Family, Hook, Match, PacketField, Priority, Protocol, Rule,
            Set, Table, Value, Verdict,
        },
    },
    spec::MacAddr,
};
use cnikit_testbed::{kernel, skipped};
use serde_json::Value as Json;

use crate::{
    nftables::{listed, rules, socket, table, with_chain},
    support::{Fixture, name, run},
};

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn ip(text: &str) -> Value {
    Value::Address(address(text))
}

fn prefix(text: &str) -> Value {
    Value::Prefix(text.parse().expect("a prefix"))
}

fn key<const N: usize>(values: [Value; N]) -> Element {
    Element::new(values)
}

fn with_set(set: &Set) -> Batch {
    Batch::new().ensure_table(&set.table()).ensure_set(set)
}

/// What nft reads about a set of this name in a table.
fn read(netns: &Netns, kind: &str, table: &str) -> Json {
    let found = listed(netns, kind).into_iter().filter(|set| set["table"] == table);
    let [mut set]: [Json; 1] = found.collect::<Vec<_>>().try_into().expect("one set");
    let fields = set.as_object_mut().expect("an object");
    fields.remove("table");
    fields.remove("handle");
    if let Some(elements) = fields.get_mut("elem").and_then(Json::as_array_mut) {
        elements.sort_by_key(Json::to_string);
    }
    set
}

/// A set of this library reads like a set that nft creates from its own language, and the elements
/// are listed as they were added.
#[track_caller]
fn assert_reads(family: Family, set: impl Fn(&Table) -> Set, words: &str, elements: Vec<Element>, element_words: &str) {
    let Some(fixture) = Fixture::new() else { return };
    let set = set(&table(family));
    let kind = words.split_whitespace().next().expect("set or map");
    run(&fixture.host, &format!("nft add table {family} theirs"));
    run(&fixture.host, &format!("nft add {}", words.replacen(kind, &format!("{kind} {family} theirs"), 1)));
    let name = words.split_whitespace().nth(1).expect("a name");
    run(&fixture.host, &format!("nft add element {family} theirs {name} {{ {element_words} }}"));
    let nftables = socket(&fixture.host);
    assert_eq!(nftables.elements(&set).expect("no set"), []);
    let add = with_set(&set).add_elements(&set, elements.clone());
    for _ in 0..2 {
        nftables.commit(&add).expect("commit");
        assert_eq!(read(&fixture.host, kind, "mine"), read(&fixture.host, kind, "theirs"));
        let found = nftables.elements(&set).expect("elements");
        assert_eq!(found.len(), elements.len(), "{found:?}");
        assert!(elements.iter().all(|element| found.contains(element)), "{found:?}");
    }

    let (first, others) = elements.split_first().expect("elements");
    for _ in 0..2 {
        nftables.delete_elements(&set, std::slice::from_ref(first)).expect("delete");
        let found = nftables.elements(&set).expect("elements");
        assert_eq!(found.len(), others.len(), "{found:?}");
        assert!(others.iter().all(|element| found.contains(element)), "{found:?}");
    }
    nftables.commit(&Batch::new().flush_set(&set)).expect("flush");
    assert_eq!(nftables.elements(&set).expect("elements"), []);
    for _ in 0..2 {
        nftables.delete_set(&set).expect("delete");
        assert_eq!(listed(&fixture.host, kind).len(), 1, "the set of nft");
    }
}

#[test]
fn sets_read_as_in_nft() {
    let v4 = vec![key([ip("10.0.0.1")]).comment("a pod"), key([ip("10.0.0.9")])];
    assert_reads(
        Family::Inet,
        |table| table.set("s", [DataType::Ipv4]),
        "set s { type ipv4_addr ; }",
        v4,
        "10.0.0.1 comment \"a pod\", 10.0.0.9",
    );
    assert_reads(
        Family::Ip6,
        |table| table.set("s", [DataType::Ipv6]),
        "set s { type ipv6_addr ; }",
        vec![key([ip("fd00::1")]), key([ip("fd00::9")])],
        "fd00::1, fd00::9",
    );
    assert_reads(
        Family::Inet,
        |table| table.set("s", [DataType::Port]),
        "set s { type inet_service ; }",
        vec![key([Value::Port(80)]), key([Value::Port(8080)])],
        "80, 8080",
    );
    assert_reads(
        Family::Inet,
        |table| table.set("s", [DataType::Mark]),
        "set s { type mark ; }",
        vec![key([Value::Mark(1)]), key([Value::Mark(0x2000)])],
        "1, 0x2000",
    );
    assert_reads(
        Family::Bridge,
        |table| table.set("s", [DataType::Link, DataType::Mac]),
        "set s { type ifname . ether_addr ; }",
        vec![
            key([Value::Link(name("veth0")), Value::Mac(MacAddr::new([2, 0, 0, 0, 0, 1]))]),
            key([Value::Link(name("fifteen-letters")), Value::Mac(MacAddr::new([2, 0, 0, 0, 0, 2]))]),
        ],
        "\"veth0\" . 02:00:00:00:00:01, \"fifteen-letters\" . 02:00:00:00:00:02",
    );
    assert_reads(
        Family::Inet,
        |table| table.set("s", [DataType::Ipv4, DataType::Protocol, DataType::Port]),
        "set s { type ipv4_addr . inet_proto . inet_service ; }",
        vec![
            key([ip("10.0.0.1"), Value::Protocol(Protocol::TCP), Value::Port(80)]),
            key([ip("10.0.0.1"), Value::Protocol(Protocol::UDP), Value::Port(53)]).comment("dns"),
        ],
        "10.0.0.1 . tcp . 80, 10.0.0.1 . udp . 53 comment \"dns\"",
    );
}

#[test]
fn intervals_read_as_in_nft() {
    assert_reads(
        Family::Inet,
        |table| table.set("s", [DataType::Ipv4]).intervals(),
        "set s { type ipv4_addr ; flags interval ; }",
        vec![
            key([prefix("10.0.0.0/24")]),
            key([prefix("10.0.2.0/24")]),
            key([ip("10.0.4.1")]),
            key([Value::Addresses(address("10.0.5.3")..=address("10.0.5.9"))]),
            key([prefix("224.0.0.0/3")]),
        ],
        "10.0.0.0/24, 10.0.2.0/24, 10.0.4.1, 10.0.5.3-10.0.5.9, 224.0.0.0/3",
    );
    assert_reads(
        Family::Inet,
        |table| table.set("s", [DataType::Port]).intervals(),
        "set s { type inet_service ; flags interval ; }",
        vec![key([Value::Ports(1024..=2047)]), key([Value::Port(80)]), key([Value::Ports(0..=9)])],
        "1024-2047, 80, 0-9",
    );
    if kernel() < (5, 6) {
        return skipped("needs Linux 5.6, for intervals of concatenations");
    }
    assert_reads(
        Family::Inet,
        |table| table.set("s", [DataType::Ipv6, DataType::Protocol, DataType::Port]).intervals(),
        "set s { type ipv6_addr . inet_proto . inet_service ; flags interval ; }",
        vec![
            key([prefix("fd00::/64"), Value::Protocol(Protocol::TCP), Value::Ports(80..=90)]),
            key([ip("fd01::1"), Value::Protocol(Protocol::UDP), Value::Port(53)]),
        ],
        "fd00::/64 . tcp . 80-90, fd01::1 . udp . 53",
    );
}

#[test]
fn maps_read_as_in_nft() {
    assert_reads(
        Family::Inet,
        |table| table.map("m", [DataType::Protocol, DataType::Port], [DataType::Ipv4, DataType::Port]),
        "map m { type inet_proto . inet_service : ipv4_addr . inet_service ; }",
        vec![
            key([Value::Protocol(Protocol::TCP), Value::Port(8080)]).data([ip("10.0.0.1"), Value::Port(80)]),
            key([Value::Protocol(Protocol::UDP), Value::Port(53)]).data([ip("10.0.0.2"), Value::Port(5353)]),
        ],
        "tcp . 8080 : 10.0.0.1 . 80, udp . 53 : 10.0.0.2 . 5353",
    );
    assert_reads(
        Family::Inet,
        |table| table.map("m", [DataType::Port], [DataType::Ipv6]),
        "map m { type inet_service : ipv6_addr ; }",
        vec![key([Value::Port(80)]).data([ip("fd00::1")]).comment("one"), key([Value::Port(81)]).data([ip("fd00::2")])],
        "80 comment \"one\" : fd00::1, 81 : fd00::2",
    );
}

#[test]
fn verdict_maps_read_as_in_nft() {
    let Some(fixture) = Fixture::new() else { return };
    let mine = table(Family::Inet);
    let (map, pod) = (mine.verdict_map("m", [DataType::Link]), mine.chain("pod"));
    let element = |link: &str, verdict| key([Value::Link(name(link))]).verdict(verdict);
    let elements = vec![
        element("veth0", Verdict::Accept),
        element("veth1", Verdict::Drop),
        element("veth2", Verdict::Return),
        element("veth3", Verdict::Continue),
        element("veth4", Verdict::Jump(pod.clone())),
        element("veth5", Verdict::Goto(pod.clone())),
    ];
    let batch = with_chain(&pod).ensure_set(&map).add_elements(&map, elements.clone());
    let nftables = socket(&fixture.host);
    nftables.commit(&batch).expect("commit");
    run(&fixture.host, "nft add table inet theirs");
    run(&fixture.host, "nft add chain inet theirs pod");
    run(&fixture.host, "nft add map inet theirs m { type ifname : verdict ; }");
    run(
        &fixture.host,
        "nft add element inet theirs m { veth0 : accept, veth1 : drop, veth2 : return, veth3 : continue, \
         veth4 : jump pod, veth5 : goto pod }",
    );
    assert_eq!(read(&fixture.host, "map", "mine"), read(&fixture.host, "map", "theirs"));
    let found = nftables.elements(&map).expect("elements");
    assert!(found.len() == elements.len() && elements.iter().all(|element| found.contains(element)), "{found:?}");
}

#[test]
fn lookups_read_as_in_nft() {
    let Some(fixture) = Fixture::new() else { return };
    let mine = table(Family::Inet);
    let chain = mine.chain("pre").hook(ChainType::Nat, Hook::Prerouting, Priority::DSTNAT);
    let hostports = mine.map("hostports", [DataType::Protocol, DataType::Port], [DataType::Ipv4, DataType::Port]);
    let hostports6 = mine.map("hostports6", [DataType::Protocol, DataType::Port], [DataType::Ipv6, DataType::Port]);
    let addresses = mine.map("addresses", [DataType::Port], [DataType::Ipv4]);
    let links = mine.verdict_map("links", [DataType::Link]);
    let pairs = mine.set("pairs", [DataType::Ipv4, DataType::Port]);
    let hosts = mine.set("hosts", [DataType::Ipv6]);
    let by_port = [PacketField::Protocol, PacketField::DestinationPort];
    let tcp = || Match::protocol(Protocol::TCP);
    let rules_and_words = [
        (
            Rule::new(Action::DnatMap(hostports.lookup(by_port))).with_match(Match::destination_is_local()),
            "fib daddr type local dnat ip to meta l4proto . th dport map @hostports",
        ),
        (Rule::new(Action::DnatMap(hostports6.lookup(by_port))), "dnat ip6 to meta l4proto . th dport map @hostports6"),
        (
            Rule::new(Action::DnatMap(addresses.lookup([PacketField::DestinationPort]))).with_match(tcp()),
            "dnat ip to tcp dport map @addresses",
        ),
        (Rule::new(Action::VerdictMap(links.lookup([PacketField::InputLink]))), "iifname vmap @links"),
        (
            Rule::new(Action::Accept)
                .with_match(tcp())
                .with_match(Match::in_set(pairs.lookup([PacketField::Source, PacketField::SourcePort]))),
            "ip saddr . tcp sport @pairs accept",
        ),
        (
            Rule::new(Action::Accept).with_match(!Match::in_set(hosts.lookup([PacketField::Destination]))),
            "ip6 daddr != @hosts accept",
        ),
    ];
    run(&fixture.host, "nft add table inet theirs");
    for words in [
        "map inet theirs hostports { type inet_proto . inet_service : ipv4_addr . inet_service ; }",
        "map inet theirs hostports6 { type inet_proto . inet_service : ipv6_addr . inet_service ; }",
        "map inet theirs addresses { type inet_service : ipv4_addr ; }",
        "map inet theirs links { type ifname : verdict ; }",
        "set inet theirs pairs { type ipv4_addr . inet_service ; }",
        "set inet theirs hosts { type ipv6_addr ; }",
        "chain inet theirs pre { type nat hook prerouting priority dstnat ; }",
    ] {
        run(&fixture.host, &format!("nft add {words}"));
    }
    let sets = [&hostports, &hostports6, &addresses, &links, &pairs, &hosts];
    let mut batch = sets.into_iter().fold(with_chain(&chain), Batch::ensure_set);
    for (rule, words) in rules_and_words {
        run(&fixture.host, &format!("nft add rule inet theirs pre {words}"));
        batch = batch.append_rule(&chain, rule);
    }
    let nftables = socket(&fixture.host);
    nftables.commit(&batch).expect("commit");
    assert_eq!(rules(&fixture.host, "mine"), rules(&fixture.host, "theirs"));
    let error = nftables.delete_set(&hostports).expect_err("a rule refers to it");
    assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
}

#[test]
fn conflicts_of_sets_are_reported() {
    let Some(fixture) = Fixture::new() else { return };
    let nftables = socket(&fixture.host);
    let mine = table(Family::Inet);
    let map = mine.map("m", [DataType::Port], [DataType::Ipv4]);
    let to = |pod: &str| key([Value::Port(80)]).data([ip(pod)]);
    nftables.commit(&with_set(&map).add_elements(&map, [to("10.0.0.1")])).expect("commit");
    let error = nftables.commit(&Batch::new().add_elements(&map, [to("10.0.0.2")])).expect_err("another value");
    assert!(matches!(error, Error::Exists { .. }), "{error:?}");
    assert_eq!(nftables.elements(&map).expect("elements"), [to("10.0.0.1")]);

    // Older kernels ignore the difference.
    if kernel() >= (6, 2) {
        let other = mine.map("m", [DataType::Port], [DataType::Ipv6]);
        let error = nftables.commit(&Batch::new().ensure_set(&other)).expect_err("other types");
        assert!(matches!(error, Error::Exists { .. }), "{error:?}");
    }

    let subnets = mine.set("subnets", [DataType::Ipv4]).intervals();
    nftables.commit(&with_set(&subnets).add_elements(&subnets, [key([prefix("10.0.0.0/24")])])).expect("commit");
    let overlap = key([Value::Addresses(address("10.0.0.9")..=address("10.0.1.9"))]);
    let error = nftables.commit(&Batch::new().add_elements(&subnets, [overlap])).expect_err("an overlap");
    assert!(matches!(error, Error::Exists { .. }), "{error:?}");

    // The same interval in another form.
    nftables.delete_elements(&subnets, &[key([prefix("10.0.0.7/24")])]).expect("delete");
    assert_eq!(nftables.elements(&subnets).expect("elements"), []);

    let error = nftables.commit(&Batch::new().delete_elements(&map, [key([Value::Port(81)])]));
    assert_eq!(error.expect_err("no such element").raw_os_error(), Some(libc::ENOENT));
    // The element is in the batch before the failure.
    let batch = Batch::new().add_elements(&map, [key([Value::Port(81)]).data([ip("10.0.0.3")])]);
    nftables.commit(&batch.ensure_chain(&Table::new(Family::Inet, "lost").chain("x"))).expect_err("no such table");
    assert_eq!(nftables.elements(&map).expect("elements").len(), 1);
}

#[test]
fn elements_that_do_not_fit_are_refused() {
    let Some(fixture) = Fixture::new() else { return };
    let nftables = socket(&fixture.host);
    let mine = table(Family::Inet);
    let (set, map) = (mine.set("s", [DataType::Ipv4]), mine.map("m", [DataType::Port], [DataType::Ipv4]));
    let verdicts = mine.verdict_map("v", [DataType::Port]);
    let port = || key([Value::Port(80)]);
    let foreign = Table::new(Family::Inet, "theirs").chain("x");
    for (set, element) in [
        (&set, key([ip("fd00::1")])),
        (&set, key([prefix("10.0.0.0/8")])),
        (&set, key([ip("10.0.0.1"), Value::Port(1)])),
        (&set, key([ip("10.0.0.1")]).data([ip("10.0.0.1")])),
        (&map, port()),
        (&map, port().verdict(Verdict::Accept)),
        (&map, port().data([ip("fd00::1")])),
        (&verdicts, port()),
        (&verdicts, port().verdict(Verdict::Jump(foreign))),
    ] {
        let error = nftables.commit(&with_set(set).add_elements(set, [element.clone()]));
        assert!(matches!(error, Err(Error::Message { .. })), "{element:?}: {error:?}");
    }
    let marks = mine.set("marks", [DataType::Mark]).intervals();
    let error = nftables.commit(&with_set(&marks));
    assert!(matches!(error, Err(Error::Message { .. })), "{error:?}");
    assert_eq!(listed(&fixture.host, "table").len(), 0);
}

#[test]
fn many_elements_are_added_and_listed() {
    const ELEMENTS: u16 = 5000;
    let Some(fixture) = Fixture::new() else { return };
    let nftables = socket(&fixture.host);
    let set = table(Family::Inet).set("ports", [DataType::Protocol, DataType::Port]);
    let element = |port| key([Value::Protocol(Protocol::TCP), Value::Port(port)]).comment("x".repeat(127));
    nftables.commit(&with_set(&set).add_elements(&set, (0..ELEMENTS).map(element))).expect("commit");
    let mut ports: Vec<_> = nftables
        .elements(&set)
        .expect("elements")
        .iter()
        .map(|element| match element.key[..] {
            [Value::Protocol(Protocol::TCP), Value::Port(port)] => port,
            _ => panic!("{element:?}"),
        })
        .collect();
    ports.sort_unstable();
    assert_eq!(ports, (0..ELEMENTS).collect::<Vec<_>>());
}

#[test]
fn longest_elements_fit_into_messages() {
    const ELEMENTS: u32 = 130;
    let Some(fixture) = Fixture::new() else { return };
    let nftables = socket(&fixture.host);
    let mine = table(Family::Inet);
    let chain = mine.chain("c".repeat(250));
    let map = mine.verdict_map("m", [DataType::Ipv6, DataType::Ipv6, DataType::Ipv6, DataType::Link]).intervals();
    let element = |number: u32| {
        let address = || Value::Address(std::net::Ipv6Addr::from(u128::from(number)).into());
        let key = key([address(), address(), address(), Value::Link(name("eth0"))]);
        key.verdict(Verdict::Jump(chain.clone())).comment("x".repeat(127))
    };
    let batch = with_set(&map).ensure_chain(&chain).add_elements(&map, (0..ELEMENTS).map(element));
    nftables.commit(&batch).expect("commit");
    assert_eq!(nftables.elements(&map).expect("elements").len(), ELEMENTS as usize);
}
