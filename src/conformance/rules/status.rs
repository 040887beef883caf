//! `STATUS`.

use crate::conformance::fixture::Fixture;
use crate::conformance::rule::{Applies, Rule, Section};
use crate::conformance::verdict::{Verdict, ensure};
use crate::spec::Command::Status as STATUS;

pub(super) const RULES: &[Rule] = &[
    Rule::must(
        STATUS,
        "status.succeeds",
        Section::Status,
        "STATUS succeeds if the plugin can serve an ADD",
        |fixture| fixture.call("STATUS").run()?.success(),
    ),
    Rule::must(
        STATUS,
        "status.in-use",
        Section::Status,
        "STATUS succeeds with attachments and free addresses",
        |fixture| {
            let _attached = fixture.attach()?;
            fixture.call("STATUS").run()?.success()
        },
    ),
    Rule::should(STATUS, "status.silent", Section::Status, "STATUS prints nothing when it succeeds", |fixture| {
        let reply = fixture.call("STATUS").run()?;
        fixture.require_success("STATUS", &reply)?;
        reply.silence()
    }),
    Rule::must(
        STATUS,
        "status.without-path",
        Section::Status,
        "STATUS needs no CNI_PATH if the plugin does not delegate: the variable is optional",
        |fixture| fixture.call("STATUS").without("CNI_PATH").run()?.success(),
    )
    .only(Applies::NonDelegating),
    Rule::should(
        STATUS,
        "status.exhausted",
        Section::Status,
        "STATUS fails if the addresses are exhausted, so that no ADD can be served",
        |fixture| {
            let attached = fixture.exhaust()?;
            let reply = fixture.call("STATUS").run()?;
            ensure(!reply.succeeded(), || format!("with all {} addresses taken: {reply}", attached.len()))
        },
    )
    .only(Applies::Owning),
    Rule::should(
        STATUS,
        "status.exhausted-code",
        Section::Status,
        "if no ADD can be served, STATUS prints an error document with code 50 or 51",
        exhausted_code,
    )
    .only(Applies::Owning),
];

fn exhausted_code(fixture: &Fixture<'_>) -> Verdict {
    let _attached = fixture.exhaust()?;
    let reply = fixture.call("STATUS").run()?;
    let code = reply.json()["code"].as_u64();
    ensure(!reply.succeeded() && matches!(code, Some(50 | 51)), || reply.to_string())
}
