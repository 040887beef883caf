//! Concurrent calls for different containers.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::thread;

use crate::conformance::call::{Call, Reply};
use crate::conformance::fixture::{Attached, Fixture, Scope, Target};
use crate::conformance::rule::{Applies, Rule, Section};
use crate::conformance::verdict::{Verdict, ensure};
use crate::spec::Command::{Add as ADD, Del as DEL};

/// The number of concurrent calls.
const CALLS: usize = 8;

pub(super) const RULES: &[Rule] = &[
    Rule::must(
        ADD,
        "parallel.first-adds",
        Section::Lifecycle,
        "several concurrent first ADDs of a network succeed",
        |fixture| add_all(fixture).map(drop),
    ),
    Rule::must(
        ADD,
        "parallel.addresses",
        Section::Lifecycle,
        "concurrent ADDs get different addresses",
        unique_addresses,
    )
    .only(Applies::Owning),
    Rule::must(
        ADD,
        "parallel.adds",
        Section::Lifecycle,
        "several concurrent ADDs succeed on a network that is in use",
        |fixture| {
            let _other = fixture.attach()?;
            add_all(fixture).map(drop)
        },
    ),
    Rule::must(
        DEL,
        "parallel.dels",
        Section::Lifecycle,
        "several concurrent DELs succeed and leave nothing on the host",
        dels,
    ),
];

fn add_all(fixture: &Fixture<'_>) -> Verdict<Vec<Attached>> {
    let targets = (0..CALLS).map(|_| fixture.target()).collect::<Verdict<Vec<Target>>>()?;
    let replies = at_once(targets.iter().map(|target| fixture.call_for("ADD", target)).collect())?;
    let mut attached = Vec::new();
    for (target, reply) in targets.into_iter().zip(replies) {
        ensure(reply.succeeded(), || format!("{} of {CALLS}: {reply}", target.container))?;
        if !fixture.is_ipam() {
            target.required_link()?;
        }
        attached.push(Attached { target, result: reply.json() });
    }
    Ok(attached)
}

fn unique_addresses(fixture: &Fixture<'_>) -> Verdict {
    let mut owners = BTreeMap::new();
    for attached in add_all(fixture)? {
        for address in attached.addresses(fixture)? {
            let owner = attached.target.container.clone();
            if let Some(other) = owners.insert(address.clone(), owner.clone()) {
                return ensure(false, || format!("{other} and {owner} both have {address}"));
            }
        }
    }
    Ok(())
}

fn dels(fixture: &Fixture<'_>) -> Verdict {
    fixture.warm_up()?;
    let before = fixture.network()?;
    let attached = add_all(fixture)?;
    for (attached, reply) in attached.iter().zip(at_once(attached.iter().map(|one| fixture.del(one)).collect())?) {
        ensure(reply.succeeded(), || format!("{} of {CALLS}: {reply}", attached.target.container))?;
    }
    let leaked = fixture.leaked(Scope::Network, &before)?;
    ensure(leaked.is_empty(), || format!("left behind: {leaked}"))
}

/// Starts all calls at the same moment. The threads inherit the namespaces of the calling thread.
fn at_once(calls: Vec<Call>) -> Verdict<Vec<Reply>> {
    let start = Barrier::new(calls.len());
    let run = |call: &Call| {
        start.wait();
        call.run()
    };
    thread::scope(|scope| {
        let threads: Vec<_> = calls.iter().map(|call| scope.spawn(|| run(call))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    })
}
