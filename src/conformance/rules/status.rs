//! `STATUS`.

use crate::conformance::bench::Bench;
use crate::conformance::rule::{Applies, Rule, Section};
use crate::conformance::verdict::{Verdict, ensure};
use crate::spec::Command::Status as STATUS;

pub(super) const RULES: &[Rule] = &[
    Rule::must(STATUS, "status.succeeds", Section::Status, "STATUS succeeds when ADD can be served", |bench| {
        bench.call("STATUS").run()?.success()
    }),
    Rule::must(
        STATUS,
        "status.in-use",
        Section::Status,
        "STATUS succeeds while there are attachments and addresses left",
        |bench| {
            let _attached = bench.attach()?;
            bench.call("STATUS").run()?.success()
        },
    ),
    Rule::should(STATUS, "status.silent", Section::Status, "STATUS prints nothing when it succeeds", |bench| {
        let reply = bench.call("STATUS").run()?;
        bench.demand("STATUS", &reply)?;
        reply.silence()
    }),
    Rule::must(
        STATUS,
        "status.without-path",
        Section::Status,
        "STATUS needs no CNI_PATH where the plugin delegates to nobody: it is optional",
        |bench| bench.call("STATUS").without("CNI_PATH").run()?.success(),
    )
    .only(Applies::Alone),
    Rule::should(
        STATUS,
        "status.exhausted",
        Section::Status,
        "STATUS fails when the addresses are exhausted, and no ADD can be served",
        |bench| {
            let attached = bench.exhaust()?;
            let reply = bench.call("STATUS").run()?;
            ensure(!reply.succeeded(), || format!("with all {} addresses taken: {reply}", attached.len()))
        },
    ),
    Rule::should(
        STATUS,
        "status.exhausted-code",
        Section::Status,
        "STATUS tells that no ADD can be served by an error document of code 50 or 51",
        exhausted_code,
    ),
];

fn exhausted_code(bench: &Bench<'_>) -> Verdict {
    let _attached = bench.exhaust()?;
    let reply = bench.call("STATUS").run()?;
    let code = reply.json()["code"].as_u64();
    ensure(!reply.succeeded() && matches!(code, Some(50 | 51)), || reply.to_string())
}
