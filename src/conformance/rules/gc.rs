//! `GC`.

use serde_json::Value;

use super::add::{addresses_stay_reserved, second_interface};

use crate::conformance::call::Call;
use crate::conformance::fixture::{Attached, Fixture, Scope};
use crate::conformance::rule::{Applies, Rule, Section};
use crate::conformance::snapshot::Snapshot;
use crate::conformance::verdict::{Verdict, ensure, not_tried, unexpected};
use crate::spec::Command::Gc as GC;

pub(super) const RULES: &[Rule] = &[
    Rule::must(GC, "gc.succeeds", Section::Gc, "GC succeeds when every attachment is valid", |fixture| {
        let attached = fixture.attach()?;
        call(fixture, &[&attached]).run()?.success()
    }),
    Rule::must(GC, "gc.silent", Section::Gc, "GC prints nothing when it succeeds", |fixture| {
        let reply = call(fixture, &[&fixture.attach()?]).run()?;
        fixture.require_success("GC", &reply)?;
        reply.silence()
    }),
    Rule::must(GC, "gc.no-attachments", Section::Gc, "GC succeeds on a network without attachments", |fixture| {
        call(fixture, &[]).run()?.success()
    }),
    Rule::must(GC, "gc.keeps-valid", Section::Gc, "GC does not change listed attachments", keeps_valid),
    Rule::must(
        GC,
        "gc.keeps-addresses",
        Section::Gc,
        "after GC the address of a listed attachment stays reserved",
        keeps_addresses,
    )
    .only(Applies::Owning),
    Rule::should(
        GC,
        "gc.frees-others",
        Section::Gc,
        "GC removes the state of an unlisted attachment after the end of its namespace",
        |fixture| frees(fixture, true),
    ),
    Rule::should(
        GC,
        "gc.frees-all",
        Section::Gc,
        "GC with an empty list removes the state of every attachment after the end of its namespace",
        |fixture| frees(fixture, false),
    ),
    Rule::should(
        GC,
        "gc.frees-address",
        Section::Gc,
        "if unlisted attachments exhaust the pool, GC frees an address for one ADD",
        frees_address,
    )
    .only(Applies::Owning),
    Rule::should(
        GC,
        "gc.absent-list",
        Section::Gc,
        "GC without cni.dev/valid-attachments, which a runtime must send, removes nothing",
        |fixture| keeps_without_list(fixture, None),
    ),
    Rule::should(
        GC,
        "gc.null-list",
        Section::Gc,
        "GC with null as cni.dev/valid-attachments, which is not a list, removes nothing",
        |fixture| keeps_without_list(fixture, Some(Value::Null)),
    ),
    Rule::must(
        GC,
        "gc.second-interface",
        Section::Gc,
        "GC does not change the two interfaces of a container if both are listed",
        second_interface_kept,
    ),
];

const LIST: &str = "cni.dev/valid-attachments";

fn call(fixture: &Fixture<'_>, valid: &[&Attached]) -> Call {
    fixture.call("GC").key(LIST, valid.iter().map(|attached| attached.key()).collect::<Vec<_>>())
}

fn keeps_valid(fixture: &Fixture<'_>) -> Verdict {
    let (first, second) = (fixture.attach()?, fixture.attach()?);
    let snapshot = || -> Verdict<Snapshot> {
        Ok(first.target.identity()?.and(second.target.identity()?).and(fixture.snapshot(Scope::Everything)?))
    };
    let before = snapshot()?;
    call(fixture, &[&first, &second]).run()?;
    let removed = before.minus(&snapshot()?);
    ensure(removed.is_empty(), || format!("removed: {removed}"))?;
    for attached in [&first, &second] {
        let reply = fixture.check(attached).run()?;
        ensure(reply.succeeded(), || format!("CHECK of {}: {reply}", attached.target.container))?;
    }
    Ok(())
}

fn keeps_addresses(fixture: &Fixture<'_>) -> Verdict {
    let attached = fixture.attach()?;
    let held = attached.addresses(fixture)?;
    call(fixture, &[&attached]).run()?;
    addresses_stay_reserved(fixture, &attached, &held)
}

fn frees(fixture: &Fixture<'_>, keep_one: bool) -> Verdict {
    fixture.warm_up()?;
    let kept = if keep_one { Some(fixture.attach()?) } else { None };
    let before = fixture.snapshot(Scope::Everything)?;
    let stale = fixture.attach()?;
    stale.target.pod.end()?;
    let reply = call(fixture, &kept.iter().collect::<Vec<_>>()).run()?;
    fixture.require_success("GC", &reply)?;
    let leaked = fixture.leaked(Scope::Everything, &before)?;
    ensure(leaked.is_empty(), || format!("left behind: {leaked}"))
}

fn frees_address(fixture: &Fixture<'_>) -> Verdict {
    let mut attached = fixture.exhaust()?;
    let Some(stale) = attached.pop() else {
        return unexpected("the ADD at the start of the rule succeeds", "every ADD failed");
    };
    stale.target.pod.end()?;
    let reply = call(fixture, &attached.iter().collect::<Vec<_>>()).run()?;
    fixture.require_success("GC", &reply)?;
    let reply = fixture.call_for("ADD", &fixture.target()?).run()?;
    ensure(reply.succeeded(), || format!("after {} ADDs and GC: {reply}", attached.len() + 1))
}

/// The specification does not define whether such a call fails. It must not treat a missing list as
/// an empty one.
fn keeps_without_list(fixture: &Fixture<'_>, list: Option<Value>) -> Verdict {
    let attached = fixture.attach()?;
    let before = attached.target.identity()?.and(fixture.snapshot(Scope::Everything)?);
    let call = fixture.call("GC");
    match list {
        Some(list) => call.key(LIST, list).run()?,
        None => call.run()?,
    };
    let removed = before.minus(&attached.target.identity()?.and(fixture.snapshot(Scope::Everything)?));
    ensure(removed.is_empty(), || format!("removed: {removed}"))?;
    let reply = fixture.check(&attached).run()?;
    ensure(reply.succeeded(), || format!("CHECK: {reply}"))
}

fn second_interface_kept(fixture: &Fixture<'_>) -> Verdict {
    let first = fixture.attach()?;
    let Ok(second) = second_interface(fixture, &first) else {
        return not_tried("the plugin does not attach a container twice");
    };
    let before = first.target.identity()?;
    let reply = call(fixture, &[&first, &second]).run()?;
    fixture.require_success("GC", &reply)?;
    let removed = before.minus(&first.target.identity()?);
    ensure(removed.is_empty(), || format!("removed: {removed}"))?;
    let reply = fixture.check(&first).run()?;
    ensure(reply.succeeded(), || format!("CHECK: {reply}"))
}
