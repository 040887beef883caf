//! Plugins that run after another plugin in a chain.

use crate::conformance::fixture::{Attached, Fixture, Target};
use crate::conformance::rule::{Applies, Rule, Section};
use crate::conformance::snapshot::Snapshot;
use crate::conformance::verdict::{Verdict, ensure};
use crate::spec::{AddResult, Command::Add as ADD, Command::Del as DEL, Version};

pub(super) const RULES: &[Rule] = &[
    Rule::must(
        ADD,
        "chain.result-kept",
        Section::Result,
        "the result of ADD contains the interfaces and addresses of prevResult, at their positions",
        result_kept,
    )
    .each_version()
    .only(Applies::Chained),
    Rule::should(
        ADD,
        "chain.needs-prev-result",
        Section::Add,
        "ADD without prevResult fails, because the plugin changes the attachment of another one",
        |fixture| fixture.call_for("ADD", &fixture.target()?).without_key("prevResult").run()?.failure(),
    )
    .only(Applies::Chained),
    Rule::must(
        DEL,
        "chain.interface-kept",
        Section::Del,
        "DEL does not delete the interface, which belongs to the previous plugin",
        |fixture| {
            let attached = fixture.attach()?;
            fixture.detach(&attached)?;
            attached.target.required_link().map(drop)
        },
    )
    .only(Applies::Chained),
    Rule::should(
        DEL,
        "chain.del-undoes",
        Section::Del,
        "DEL undoes the changes to the MTU, addresses, routes and hardware addresses of the pod's interfaces",
        del_undoes,
    )
    .only(Applies::Chained),
];

fn result_kept(fixture: &Fixture<'_>) -> Verdict {
    let attached = fixture.attach()?;
    let result = attached.parsed(fixture)?;
    let Attached { target, .. } = &attached;
    let prev_result = target.prev_result.clone().unwrap_or_default();
    // Before 0.3.0 a result lists no interfaces.
    if fixture.version >= Version::V0_3_0 {
        let names = |result: &AddResult| -> Vec<String> {
            result.interfaces.iter().map(|interface| interface.name.clone()).collect()
        };
        let (before, after) = (names(&prev_result), names(&result));
        ensure(after.starts_with(&before), || format!("prevResult has {before:?}, the result {after:?}"))?;
    }
    let addresses = |result: &AddResult| result.ips.iter().map(|ip| ip.address.to_string()).collect::<Vec<_>>();
    let (before, after) = (addresses(&prev_result), addresses(&result));
    ensure(after.starts_with(&before), || format!("prevResult has {before:?}, the result {after:?}"))
}

fn del_undoes(fixture: &Fixture<'_>) -> Verdict {
    let target = fixture.target()?;
    let before = state(&target)?;
    let attached = fixture.add(target)?;
    fixture.detach(&attached)?;
    let after = state(&attached.target)?;
    ensure(after == before, || {
        format!("only before ADD: {}; only after DEL: {}", before.minus(&after), after.minus(&before))
    })
}

/// The identity of the links of a pod, and their MTUs.
fn state(target: &Target) -> Verdict<Snapshot> {
    let links = target.pod.socket().links()?;
    let mtus: Snapshot = links.iter().map(|link| format!("{} has MTU {}", link.name, link.mtu)).collect();
    Ok(target.identity()?.and(mtus))
}
