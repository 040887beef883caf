//! Plugins that are killed during a call, with the processes that they started.

use std::thread;
use std::time::Duration;

use crate::conformance::fixture::{Fixture, Scope, Target};
use crate::conformance::rule::{Applies, Rule, Section};
use crate::conformance::verdict::{Verdict, ensure};
use crate::spec::Command::{Add as ADD, Del as DEL};

/// The number of kill times, evenly spread over the duration of an `ADD`.
const MOMENTS: u32 = 20;

pub(super) const RULES: &[Rule] = &[
    Rule::must(
        DEL,
        "kill.del-succeeds",
        Section::Lifecycle,
        "DEL succeeds after an ADD that was killed at any moment",
        |fixture| {
            each_moment(fixture, |fixture, target, moment| {
                let reply = fixture.call_for("DEL", target).run()?;
                ensure(reply.succeeded(), || format!("ADD killed {moment}: {reply}"))
            })
        },
    ),
    Rule::should(
        DEL,
        "kill.pod-clean",
        Section::Del,
        "after a killed ADD and its DEL, the container has no interface except lo",
        |fixture| {
            each_moment(fixture, |fixture, target, moment| {
                fixture.call_for("DEL", target).run()?;
                let leaked = target.created()?;
                ensure(leaked.is_empty(), || format!("ADD killed {moment}: left behind: {leaked}"))
            })
        },
    )
    .only(Applies::Interfaces),
    Rule::should(
        DEL,
        "kill.host-clean",
        Section::Del,
        "after a killed ADD and its DEL, the host has no additional link, address or route",
        |fixture| leaves_nothing(fixture, Scope::Network),
    ),
    Rule::should(
        DEL,
        "kill.files-clean",
        Section::Del,
        "after a killed ADD and its DEL, there is no additional state, such as a reserved address",
        |fixture| leaves_nothing(fixture, Scope::Files),
    ),
    Rule::must(
        ADD,
        "kill.add-again",
        Section::Lifecycle,
        "after a killed ADD and its DEL, the attachment can be added",
        |fixture| {
            each_moment(fixture, |fixture, target, moment| {
                fixture.call_for("DEL", target).run()?;
                let reply = fixture.add_again(target)?.run()?;
                ensure(reply.succeeded(), || format!("first ADD killed {moment}: {reply}"))?;
                fixture.call_for("DEL", target).run().map(drop)
            })
        },
    ),
    Rule::must(
        ADD,
        "kill.others-served",
        Section::Lifecycle,
        "after a killed ADD and before its DEL, another container can be added immediately",
        |fixture| {
            each_moment(fixture, |fixture, killed, moment| {
                let target = fixture.target()?;
                let reply = fixture.call_for("ADD", &target).run()?;
                ensure(reply.succeeded(), || format!("ADD killed {moment}: {reply}"))?;
                // Other rules test these DELs. Here they free addresses.
                fixture.call_for("DEL", &target).run()?;
                fixture.call_for("DEL", killed).run().map(drop)
            })
        },
    ),
    Rule::must(
        DEL,
        "kill.del-again",
        Section::Del,
        "after a DEL that was killed at any moment, a second DEL succeeds and leaves nothing on the host",
        del_again,
    ),
];

/// Kills an `ADD` at each kill time, then calls `then`; `moment` describes the time.
fn each_moment(fixture: &Fixture<'_>, then: impl Fn(&Fixture<'_>, &Target, &str) -> Verdict) -> Verdict {
    fixture.warm_up()?;
    for delay in moments(fixture) {
        let target = fixture.target()?;
        kill_after(&fixture.call_for("ADD", &target), delay)?;
        then(fixture, &target, &format!("after {:.1} ms", delay.as_secs_f64() * 1000.0))?;
    }
    Ok(())
}

fn leaves_nothing(fixture: &Fixture<'_>, scope: Scope) -> Verdict {
    fixture.warm_up()?;
    let before = fixture.snapshot(scope)?;
    each_moment(fixture, |fixture, target, moment| {
        fixture.call_for("DEL", target).run()?;
        let leaked = fixture.leaked(scope, &before)?;
        ensure(leaked.is_empty(), || format!("ADD killed {moment}: left behind: {leaked}"))
    })
}

fn del_again(fixture: &Fixture<'_>) -> Verdict {
    fixture.warm_up()?;
    let before = fixture.network()?;
    for delay in moments(fixture) {
        let attached = fixture.attach()?;
        kill_after(&fixture.del(&attached), delay)?;
        let reply = fixture.del(&attached).run()?;
        let moment = format!("DEL killed after {:.1} ms", delay.as_secs_f64() * 1000.0);
        ensure(reply.succeeded(), || format!("{moment}: {reply}"))?;
        let leaked = fixture.leaked(Scope::Network, &before)?.and(attached.target.created()?);
        ensure(leaked.is_empty(), || format!("{moment}: left behind: {leaked}"))?;
    }
    Ok(())
}

fn moments(fixture: &Fixture<'_>) -> impl Iterator<Item = Duration> {
    let whole = fixture.add_duration();
    (0..MOMENTS).map(move |moment| whole * moment / MOMENTS)
}

fn kill_after(call: &crate::conformance::call::Call, delay: Duration) -> Verdict {
    let mut running = call.start()?;
    thread::sleep(delay);
    running.kill();
    Ok(())
}
