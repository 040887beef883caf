//! Calls for different containers at the same time.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::thread;

use crate::conformance::bench::{Attached, Bench, Look, Target};
use crate::conformance::call::{Call, Reply};
use crate::conformance::rule::{Rule, Section};
use crate::conformance::verdict::{Verdict, ensure};
use crate::spec::Command::{Add as ADD, Del as DEL};

/// How many calls there are at once.
const CALLS: usize = 8;

pub(super) const RULES: &[Rule] = &[
    Rule::must(
        ADD,
        "parallel.first-adds",
        Section::Lifecycle,
        "the first ADDs of a network succeed when there are several at once",
        |bench| add_all(bench).map(drop),
    ),
    Rule::must(
        ADD,
        "parallel.addresses",
        Section::Lifecycle,
        "of several ADDs at once no two get the same address",
        unique_addresses,
    ),
    Rule::must(
        ADD,
        "parallel.adds",
        Section::Lifecycle,
        "several ADDs at once succeed on a network that others use",
        |bench| {
            let _other = bench.attach()?;
            add_all(bench).map(drop)
        },
    ),
    Rule::must(
        DEL,
        "parallel.dels",
        Section::Lifecycle,
        "several DELs at once succeed, and leave nothing on the host",
        dels,
    ),
];

fn add_all(bench: &Bench<'_>) -> Verdict<Vec<Attached>> {
    let targets = (0..CALLS).map(|_| bench.target()).collect::<Verdict<Vec<Target>>>()?;
    let replies = at_once(targets.iter().map(|target| bench.on("ADD", target)).collect())?;
    let mut attached = Vec::new();
    for (target, reply) in targets.into_iter().zip(replies) {
        ensure(reply.succeeded(), || format!("{} of {CALLS}: {reply}", target.container))?;
        if !bench.is_ipam() {
            target.required_link()?;
        }
        attached.push(Attached { target, result: reply.json() });
    }
    Ok(attached)
}

fn unique_addresses(bench: &Bench<'_>) -> Verdict {
    let mut owners = BTreeMap::new();
    for attached in add_all(bench)? {
        for address in attached.addresses(bench)? {
            let owner = attached.target.container.clone();
            if let Some(other) = owners.insert(address.clone(), owner.clone()) {
                return ensure(false, || format!("{other} and {owner} both have {address}"));
            }
        }
    }
    Ok(())
}

fn dels(bench: &Bench<'_>) -> Verdict {
    bench.warm_up()?;
    let before = bench.network()?;
    let attached = add_all(bench)?;
    for (attached, reply) in attached.iter().zip(at_once(attached.iter().map(|one| bench.del(one)).collect())?) {
        ensure(reply.succeeded(), || format!("{} of {CALLS}: {reply}", attached.target.container))?;
    }
    let left = bench.left(Look::Network, &before)?;
    ensure(left.is_empty(), || format!("left behind: {left}"))
}

/// Makes all calls at the same moment. Threads of the host's thread live in its namespaces.
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
