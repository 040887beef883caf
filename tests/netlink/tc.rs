use std::os::fd::OwnedFd;

use cnikit::netlink::{BpfFilter, Error, FilterTarget, SharedBlock, SharedBlocks};
use cnikit_testbed::classifier;
use serde_json::Value;

use crate::support::{Fixture, ifindex, json, run};

const INGRESS: SharedBlock = SharedBlock::new(101).expect("not 0");
const EGRESS: SharedBlock = SharedBlock::new(102).expect("not 0");
const BOTH: SharedBlocks = SharedBlocks { ingress: Some(INGRESS), egress: Some(EGRESS) };

#[test]
fn one_filter_serves_all_links_of_a_shared_block() {
    let Some(fixture) = Fixture::new() else { return };
    let bridge = fixture.bridge();
    let ports = [fixture.veth(1, Some(bridge)).host, fixture.veth(2, Some(bridge)).host];

    fixture.on_host.create_clsact(bridge, BOTH).expect("anchor the blocks");
    let (first, id) = program();
    let target = FilterTarget::Block(INGRESS);
    let filter = BpfFilter::new(&first, "first").priority(49).handle(1);
    fixture.on_host.replace_filter(&target, &filter).expect("put the filter");
    for port in ports {
        fixture.on_host.create_clsact(port, BOTH).expect("join the blocks");
    }
    for link in ["cbr0", "veth1", "veth2"] {
        let qdisc = json(&fixture.host, &format!("tc -j qdisc show dev {link} clsact"));
        let qdisc = clsact(&qdisc);
        assert_eq!((&qdisc["ingress_block"], &qdisc["egress_block"]), (&101.into(), &102.into()));
        let filters = json(&fixture.host, &format!("tc -j filter show dev {link} ingress"));
        assert_eq!(programs(&filters), [(49, 1, id)], "{link}");
        assert_eq!(json(&fixture.host, &format!("tc -j filter show dev {link} egress")), no_filters());
    }

    let (second, other_id) = program();
    let port = FilterTarget::Ingress(ports[0]);
    let error = fixture
        .on_host
        .replace_filter(&port, &BpfFilter::new(&second, "port"))
        .expect_err("the direction is the block's");
    assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP), "{error}");

    let filter = BpfFilter::new(&second, "second").priority(49).handle(1);
    fixture.on_host.replace_filter(&target, &filter).expect("replace the filter");
    let filters = json(&fixture.host, "tc -j filter show block 101");
    assert_eq!(programs(&filters), [(49, 1, other_id)]);

    let own = fixture.on_host.filters(&target).expect("list");
    assert_eq!(own.len(), 1, "{own:?}");
    assert_eq!((own[0].kind.as_str(), own[0].name.as_deref()), ("bpf", Some("second")));
    assert_eq!((own[0].priority, own[0].handle), (49, 1));
    assert_eq!(own[0].program_id, Some(other_id));

    let error = fixture.on_host.create_filter(&target, &filter).expect_err("the place is taken");
    assert!(matches!(error, Error::Exists { .. }), "{error:?}");
    assert_eq!(programs(&json(&fixture.host, "tc -j filter show block 101")), [(49, 1, other_id)]);
    let egress = FilterTarget::Block(EGRESS);
    fixture.on_host.create_filter(&egress, &filter).expect("create the filter");
    assert_eq!(programs(&json(&fixture.host, "tc -j filter show block 102")), [(49, 1, other_id)]);

    for port in ports {
        let qdisc = fixture.on_host.ingress_qdisc(port).expect("look up").expect("clsact");
        assert_eq!((qdisc.kind.as_str(), qdisc.blocks), ("clsact", BOTH));
    }
}

#[test]
fn deleting_a_filter_twice_succeeds() {
    let Some(fixture) = Fixture::new() else { return };
    let bridge = fixture.bridge();
    let (program, _) = program();
    fixture.on_host.create_clsact(bridge, BOTH).expect("anchor the blocks");
    let target = FilterTarget::Block(EGRESS);
    let filter = BpfFilter::new(&program, "egress").priority(3).handle(9);
    fixture.on_host.replace_filter(&target, &filter).expect("put the filter");

    fixture.on_host.delete_filter(&target, 3, 8).expect("another handle is absent");
    assert_eq!(fixture.on_host.filters(&target).expect("list").len(), 1);
    for _ in 0..2 {
        fixture.on_host.delete_filter(&target, 3, 9).expect("delete");
        assert_eq!(json(&fixture.host, "tc -j filter show block 102"), no_filters());
    }
    let absent = FilterTarget::Block(SharedBlock::new(4_711).expect("not 0"));
    fixture.on_host.delete_filter(&absent, 1, 1).expect("no such block");
    fixture.on_host.delete_filter(&FilterTarget::Ingress(ifindex(4_711)), 1, 1).expect("no such link");
    let plain = FilterTarget::Ingress(fixture.veth(1, None).host);
    fixture.on_host.delete_filter(&plain, 1, 1).expect("no qdisc");
    assert_eq!(fixture.on_host.filters(&plain).expect("list"), []);
    assert_eq!(fixture.on_host.filters(&absent).expect("list"), []);
}

#[test]
fn deleting_a_clsact_qdisc_twice_succeeds() {
    let Some(fixture) = Fixture::new() else { return };
    let (bridge, veth) = (fixture.bridge(), fixture.veth(1, None).host);
    let (program, _) = program();
    for link in [bridge, veth] {
        fixture.on_host.create_clsact(link, BOTH).expect("join the blocks");
    }
    let target = FilterTarget::Block(INGRESS);
    fixture.on_host.replace_filter(&target, &BpfFilter::new(&program, "shared")).expect("put the filter");
    for _ in 0..2 {
        fixture.on_host.delete_clsact(bridge).expect("delete");
        assert_eq!(fixture.on_host.ingress_qdisc(bridge).expect("look"), None);
    }
    assert_eq!(fixture.on_host.filters(&target).expect("list").len(), 1, "the other link holds the block");
    fixture.on_host.delete_clsact(ifindex(4_711)).expect("no such link");
    // The slot was never used.
    fixture.on_host.delete_clsact(fixture.veth(2, None).host).expect("no qdisc");
}

#[test]
fn deleting_a_clsact_qdisc_leaves_an_ingress_qdisc() {
    let Some(fixture) = Fixture::new() else { return };
    let veth = fixture.veth(1, None).host;
    // The qdisc of another program, such as the plugin `bandwidth`.
    run(&fixture.host, "tc qdisc add dev veth1 ingress");
    fixture.on_host.delete_clsact(veth).expect("another kind");
    let left = fixture.on_host.ingress_qdisc(veth).expect("look up").expect("the ingress qdisc");
    assert_eq!(left.kind, "ingress");
}

#[test]
fn a_link_can_have_filters_of_its_own() {
    let Some(fixture) = Fixture::new() else { return };
    let veth = fixture.veth(1, None).host;
    let (program, id) = program();
    let filter = BpfFilter::new(&program, "own").handle(1);
    let error = fixture.on_host.replace_filter(&FilterTarget::Ingress(veth), &filter).expect_err("no qdisc");
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}");

    fixture.on_host.create_clsact(veth, SharedBlocks::default()).expect("create clsact");
    fixture.on_host.replace_filter(&FilterTarget::Ingress(veth), &filter).expect("ingress");
    fixture.on_host.replace_filter(&FilterTarget::Egress(veth), &filter.handle(2)).expect("egress");
    let seen = json(&fixture.host, "tc -j filter show dev veth1 ingress");
    assert_eq!(programs(&seen), [(1, 1, id)]);
    let seen = json(&fixture.host, "tc -j filter show dev veth1 egress");
    assert_eq!(programs(&seen), [(1, 2, id)]);
    assert_eq!(fixture.on_host.filters(&FilterTarget::Egress(veth)).expect("list")[0].handle, 2);
}

#[test]
fn filters_with_different_names_do_not_replace_each_other() {
    let Some(fixture) = Fixture::new() else { return };
    let veth = fixture.veth(1, None).host;
    let target = FilterTarget::Ingress(veth);
    fixture.on_host.create_clsact(veth, SharedBlocks::default()).expect("create clsact");
    let ids = |seen: Vec<(u64, u64, u32)>| seen.into_iter().map(|(_, _, id)| id).collect::<Vec<_>>();
    let shown = || programs(&json(&fixture.host, "tc -j filter show dev veth1 ingress"));

    let ((mine, first), (yours, second), (update, third)) = (program(), program(), program());
    fixture.on_host.replace_filter(&target, &BpfFilter::new(&mine, "mine/count")).expect("first");
    fixture.on_host.replace_filter(&target, &BpfFilter::new(&yours, "yours/count")).expect("second");
    assert_eq!(ids(shown()), [second, first], "the newest of a priority runs first");
    assert!(shown().iter().all(|(priority, handle, _)| *priority == 1 && *handle >= 1 << 30), "{:?}", shown());

    let updated = BpfFilter::new(&update, "mine/count");
    fixture.on_host.replace_filter(&target, &updated).expect("the same name");
    assert_eq!(ids(shown()), [second, third], "in the same position");
    let error = fixture.on_host.create_filter(&target, &updated).expect_err("the name is taken");
    assert!(matches!(error, Error::Exists { .. }), "{error:?}");
    fixture.on_host.delete_filter(&target, updated.priority, updated.handle).expect("delete");
    assert_eq!(ids(shown()), [second]);
}

#[test]
fn filters_of_other_programs_are_listed() {
    let Some(fixture) = Fixture::new() else { return };
    let veth = fixture.veth(1, None).host;
    fixture.on_host.create_clsact(veth, SharedBlocks::default()).expect("create clsact");
    run(&fixture.host, "tc filter add dev veth1 ingress protocol ip pref 5 u32 match u32 0 0");
    let seen = fixture.on_host.filters(&FilterTarget::Ingress(veth)).expect("list");
    assert!(seen.iter().any(|filter| filter.kind == "u32" && filter.priority == 5), "{seen:?}");
    assert!(seen.iter().all(|filter| filter.program_id.is_none()), "{seen:?}");
}

#[test]
fn the_ingress_slot_holds_one_qdisc() {
    let Some(fixture) = Fixture::new() else { return };
    let veth = fixture.veth(1, None).host;
    assert_eq!(fixture.on_host.ingress_qdisc(veth).expect("look up"), None);
    run(&fixture.host, "tc qdisc add dev veth1 ingress");
    let taken = fixture.on_host.ingress_qdisc(veth).expect("look up").expect("qdisc");
    assert_eq!((taken.kind.as_str(), taken.blocks), ("ingress", SharedBlocks::default()));
    let error = fixture.on_host.create_clsact(veth, BOTH).expect_err("the slot is taken");
    assert!(matches!(error, Error::Exists { .. }), "{error:?}");

    run(&fixture.host, "tc qdisc del dev veth1 ingress");
    assert_eq!(fixture.on_host.ingress_qdisc(veth).expect("look up"), None);
    fixture.on_host.create_clsact(veth, BOTH).expect("create clsact");
    let error = fixture.on_host.create_clsact(veth, BOTH).expect_err("already exists");
    assert!(matches!(error, Error::Exists { .. }), "{error:?}");
    let error = fixture.on_host.ingress_qdisc(ifindex(4_711)).expect_err("no such link");
    assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
}

#[test]
fn clsact_qdisc_is_created_or_reused_but_never_replaced() {
    let Some(fixture) = Fixture::new() else { return };
    let bridge = fixture.bridge();
    let veth = fixture.veth(1, None).host;
    for _ in 0..2 {
        fixture.on_host.ensure_clsact(bridge, BOTH).expect("ensure");
        fixture.on_host.ensure_clsact(veth, SharedBlocks::default()).expect("ensure");
    }
    let qdisc = json(&fixture.host, "tc -j qdisc show dev cbr0 clsact");
    assert_eq!((&clsact(&qdisc)["ingress_block"], &clsact(&qdisc)["egress_block"]), (&101.into(), &102.into()));

    // The filter of another tool remains.
    run(&fixture.host, "tc filter add dev veth1 ingress protocol ip pref 5 u32 match u32 0 0");
    fixture.on_host.ensure_clsact(veth, SharedBlocks::default()).expect("ensure");
    assert!(!fixture.on_host.filters(&FilterTarget::Ingress(veth)).expect("list").is_empty());

    let other = fixture.veth(2, None).host;
    run(&fixture.host, "tc qdisc add dev veth2 ingress");
    let taken = [
        (fixture.on_host.ensure_clsact(veth, BOTH), "clsact"),
        (fixture.on_host.ensure_clsact(bridge, SharedBlocks::default()), "clsact"),
        (fixture.on_host.ensure_clsact(other, SharedBlocks::default()), "ingress"),
    ];
    for (refused, holder) in taken {
        let error = refused.expect_err("the slot is taken");
        assert!(matches!(&error, Error::QdiscConflict { kind, .. } if kind == holder), "{error:?}");
    }
    let error = fixture.on_host.ensure_clsact(ifindex(4_711), BOTH).expect_err("no such link");
    assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
}

/// A program that passes every packet to the next filter, and its id.
fn program() -> (OwnedFd, u32) {
    const TC_ACT_UNSPEC: i32 = -1;
    classifier(TC_ACT_UNSPEC)
}

/// Priority, handle and program id of each filter.
fn programs(filters: &Value) -> Vec<(u64, u64, u32)> {
    let filters = filters.as_array().expect("filters").iter();
    filters
        .filter(|filter| filter["options"]["handle"].is_string())
        .map(|filter| {
            let options = &filter["options"];
            assert_eq!(options["direct-action"], true, "{filter}");
            let handle = options["handle"].as_str().expect("handle").trim_start_matches("0x");
            let handle = u64::from_str_radix(handle, 16).expect("a number");
            let id = options["prog"]["id"].as_u64().expect("id") as u32;
            (filter["pref"].as_u64().expect("pref"), handle, id)
        })
        .collect()
}

fn clsact(qdiscs: &Value) -> &Value {
    let qdiscs = qdiscs.as_array().expect("qdiscs");
    qdiscs.iter().find(|qdisc| qdisc["kind"] == "clsact").expect("clsact")
}

fn no_filters() -> Value {
    Value::Array(Vec::new())
}
