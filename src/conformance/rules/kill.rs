//! Plugins that are killed while they work, with the processes that they started.

use std::thread;
use std::time::Duration;

use crate::conformance::bench::{Bench, Look, Target};
use crate::conformance::rule::{Applies, Rule, Section};
use crate::conformance::verdict::{Verdict, ensure};
use crate::spec::Command::{Add as ADD, Del as DEL};

/// At how many moments of an `ADD` it is killed, evenly spread over the time that it takes.
const MOMENTS: u32 = 20;

pub(super) const RULES: &[Rule] = &[
    Rule::must(
        DEL,
        "kill.del-succeeds",
        Section::Lifecycle,
        "DEL after an ADD that was killed at any moment succeeds",
        |bench| {
            each_moment(bench, |bench, target, moment| {
                let reply = bench.on("DEL", target).run()?;
                ensure(reply.succeeded(), || format!("ADD killed {moment}: {reply}"))
            })
        },
    ),
    Rule::should(
        DEL,
        "kill.pod-clean",
        Section::Del,
        "after an ADD that was killed and its DEL, the container has no interface but lo",
        |bench| {
            each_moment(bench, |bench, target, moment| {
                bench.on("DEL", target).run()?;
                let left = target.network()?;
                ensure(left.is_empty(), || format!("ADD killed {moment}: left behind: {left}"))
            })
        },
    )
    .only(Applies::Interfaces),
    Rule::should(
        DEL,
        "kill.host-clean",
        Section::Del,
        "after an ADD that was killed and its DEL, the host has no link, address or route more than before",
        |bench| leaves_nothing(bench, Look::Network),
    ),
    Rule::should(
        DEL,
        "kill.files-clean",
        Section::Del,
        "after an ADD that was killed and its DEL, there is no state more than before, such as a reserved address",
        |bench| leaves_nothing(bench, Look::Files),
    ),
    Rule::must(
        ADD,
        "kill.add-again",
        Section::Lifecycle,
        "after an ADD that was killed and its DEL, the attachment can be added",
        |bench| {
            each_moment(bench, |bench, target, moment| {
                bench.on("DEL", target).run()?;
                let reply = bench.on("ADD", target).run()?;
                ensure(reply.succeeded(), || format!("first ADD killed {moment}: {reply}"))?;
                bench.on("DEL", target).run().map(drop)
            })
        },
    ),
    Rule::must(
        ADD,
        "kill.others-served",
        Section::Lifecycle,
        "after an ADD that was killed, another container can be added at once, before any DEL",
        |bench| {
            each_moment(bench, |bench, killed, moment| {
                let target = bench.target()?;
                let reply = bench.on("ADD", &target).run()?;
                ensure(reply.succeeded(), || format!("ADD killed {moment}: {reply}"))?;
                // What DEL has to do is other rules' concern; here it makes room.
                bench.on("DEL", &target).run()?;
                bench.on("DEL", killed).run().map(drop)
            })
        },
    ),
    Rule::must(
        DEL,
        "kill.del-again",
        Section::Del,
        "a DEL that was killed at any moment succeeds when it is called again, and leaves nothing on the host",
        del_again,
    ),
];

/// Kills an `ADD` at each moment and has `then` look at what came of it; `moment` says when it was.
fn each_moment(bench: &Bench<'_>, then: impl Fn(&Bench<'_>, &Target, &str) -> Verdict) -> Verdict {
    bench.warm_up()?;
    for delay in moments(bench) {
        let target = bench.target()?;
        kill_after(&bench.on("ADD", &target), delay)?;
        then(bench, &target, &format!("after {:.1} ms", delay.as_secs_f64() * 1000.0))?;
    }
    Ok(())
}

fn leaves_nothing(bench: &Bench<'_>, look: Look) -> Verdict {
    bench.warm_up()?;
    let before = bench.look(look)?;
    each_moment(bench, |bench, target, moment| {
        bench.on("DEL", target).run()?;
        let left = bench.left(look, &before)?;
        ensure(left.is_empty(), || format!("ADD killed {moment}: left behind: {left}"))
    })
}

fn del_again(bench: &Bench<'_>) -> Verdict {
    bench.warm_up()?;
    let before = bench.network()?;
    for delay in moments(bench) {
        let attached = bench.attach()?;
        kill_after(&bench.del(&attached), delay)?;
        let reply = bench.del(&attached).run()?;
        let moment = format!("DEL killed after {:.1} ms", delay.as_secs_f64() * 1000.0);
        ensure(reply.succeeded(), || format!("{moment}: {reply}"))?;
        let left = bench.left(Look::Network, &before)?.and(attached.target.network()?);
        ensure(left.is_empty(), || format!("{moment}: left behind: {left}"))?;
    }
    Ok(())
}

fn moments(bench: &Bench<'_>) -> impl Iterator<Item = Duration> {
    let whole = bench.add_takes();
    (0..MOMENTS).map(move |moment| whole * moment / MOMENTS)
}

fn kill_after(call: &crate::conformance::call::Call, delay: Duration) -> Verdict {
    let mut running = call.start()?;
    thread::sleep(delay);
    running.kill();
    Ok(())
}
