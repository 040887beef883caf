//! `GC`.

use serde_json::Value;

use super::add::{none_is_given_away, second_interface};

use crate::conformance::bench::{Attached, Bench, Look};
use crate::conformance::call::Call;
use crate::conformance::footprint::Footprint;
use crate::conformance::rule::{Rule, Section};
use crate::conformance::verdict::{Verdict, ensure, not_tried, unexpected};
use crate::spec::Command::Gc as GC;

pub(super) const RULES: &[Rule] = &[
    Rule::must(GC, "gc.succeeds", Section::Gc, "GC succeeds when every attachment is valid", |bench| {
        let attached = bench.attach()?;
        call(bench, &[&attached]).run()?.success()
    }),
    Rule::must(GC, "gc.silent", Section::Gc, "GC prints nothing when it succeeds", |bench| {
        let reply = call(bench, &[&bench.attach()?]).run()?;
        bench.demand("GC", &reply)?;
        reply.silence()
    }),
    Rule::must(
        GC,
        "gc.no-attachments",
        Section::Gc,
        "GC succeeds on a network that nobody was ever attached to",
        |bench| call(bench, &[]).run()?.success(),
    ),
    Rule::must(GC, "gc.keeps-valid", Section::Gc, "GC leaves the attachments that are listed as they are", keeps_valid),
    Rule::must(
        GC,
        "gc.keeps-addresses",
        Section::Gc,
        "the address of an attachment that GC was told is valid is given to nobody else",
        keeps_addresses,
    ),
    Rule::should(
        GC,
        "gc.frees-others",
        Section::Gc,
        "GC removes what belongs to an attachment that is not listed, and whose namespace has ended",
        |bench| frees(bench, true),
    ),
    Rule::should(
        GC,
        "gc.frees-all",
        Section::Gc,
        "GC with an empty list removes what belongs to any attachment whose namespace has ended",
        |bench| frees(bench, false),
    ),
    Rule::should(
        GC,
        "gc.frees-address",
        Section::Gc,
        "when the pool is exhausted by attachments that are not listed, GC makes room for one ADD",
        frees_address,
    ),
    Rule::should(
        GC,
        "gc.absent-list",
        Section::Gc,
        "GC without cni.dev/valid-attachments, which a runtime has to send, removes nothing",
        |bench| keeps_without_list(bench, None),
    ),
    Rule::should(
        GC,
        "gc.null-list",
        Section::Gc,
        "GC with null for cni.dev/valid-attachments, which is no list, removes nothing",
        |bench| keeps_without_list(bench, Some(Value::Null)),
    ),
    Rule::must(
        GC,
        "gc.second-interface",
        Section::Gc,
        "GC leaves both interfaces of a container as they are when both are listed",
        second_interface_kept,
    ),
];

const LIST: &str = "cni.dev/valid-attachments";

fn call(bench: &Bench<'_>, valid: &[&Attached]) -> Call {
    bench.call("GC").key(LIST, valid.iter().map(|attached| attached.key()).collect::<Vec<_>>())
}

fn keeps_valid(bench: &Bench<'_>) -> Verdict {
    let (first, second) = (bench.attach()?, bench.attach()?);
    let look = || -> Verdict<Footprint> {
        Ok(first.target.identity()?.and(second.target.identity()?).and(bench.look(Look::Everything)?))
    };
    let before = look()?;
    call(bench, &[&first, &second]).run()?;
    let gone = before.beyond(&look()?);
    ensure(gone.is_empty(), || format!("gone: {gone}"))?;
    for attached in [&first, &second] {
        let reply = bench.check(attached).run()?;
        ensure(reply.succeeded(), || format!("CHECK of {}: {reply}", attached.target.container))?;
    }
    Ok(())
}

fn keeps_addresses(bench: &Bench<'_>) -> Verdict {
    let attached = bench.attach()?;
    let held = attached.addresses(bench)?;
    call(bench, &[&attached]).run()?;
    none_is_given_away(bench, &attached, &held)
}

fn frees(bench: &Bench<'_>, keep_one: bool) -> Verdict {
    bench.warm_up()?;
    let kept = if keep_one { Some(bench.attach()?) } else { None };
    let before = bench.look(Look::Everything)?;
    let stale = bench.attach()?;
    stale.target.pod.end()?;
    let reply = call(bench, &kept.iter().collect::<Vec<_>>()).run()?;
    bench.demand("GC", &reply)?;
    let left = bench.left(Look::Everything, &before)?;
    ensure(left.is_empty(), || format!("left behind: {left}"))
}

fn frees_address(bench: &Bench<'_>) -> Verdict {
    let mut attached = bench.exhaust()?;
    let Some(stale) = attached.pop() else {
        return unexpected("an ADD that the rule begins with succeeds", "none did");
    };
    stale.target.pod.end()?;
    let reply = call(bench, &attached.iter().collect::<Vec<_>>()).run()?;
    bench.demand("GC", &reply)?;
    let reply = bench.on("ADD", &bench.target()?).run()?;
    ensure(reply.succeeded(), || format!("after {} ADDs and GC: {reply}", attached.len() + 1))
}

/// Whether such a call may fail is left open; what it may not do is take the missing list for an empty one.
fn keeps_without_list(bench: &Bench<'_>, list: Option<Value>) -> Verdict {
    let attached = bench.attach()?;
    let before = attached.target.identity()?.and(bench.look(Look::Everything)?);
    let call = bench.call("GC");
    match list {
        Some(list) => call.key(LIST, list).run()?,
        None => call.run()?,
    };
    let gone = before.beyond(&attached.target.identity()?.and(bench.look(Look::Everything)?));
    ensure(gone.is_empty(), || format!("gone: {gone}"))?;
    let reply = bench.check(&attached).run()?;
    ensure(reply.succeeded(), || format!("CHECK says: {reply}"))
}

fn second_interface_kept(bench: &Bench<'_>) -> Verdict {
    let first = bench.attach()?;
    let Ok(second) = second_interface(bench, &first) else {
        return not_tried("the plugin does not attach a container twice");
    };
    let before = first.target.identity()?;
    let reply = call(bench, &[&first, &second]).run()?;
    bench.demand("GC", &reply)?;
    let gone = before.beyond(&first.target.identity()?);
    ensure(gone.is_empty(), || format!("gone: {gone}"))?;
    let reply = bench.check(&first).run()?;
    ensure(reply.succeeded(), || format!("CHECK says: {reply}"))
}
