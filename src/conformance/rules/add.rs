//! `ADD`: what it may and may not do, beyond its result.

use std::collections::BTreeSet;
use std::fs;

use crate::conformance::bench::{Attached, Bench, Look, Target};
use crate::conformance::footprint::Footprint;
use crate::conformance::rule::{Applies, Rule, Section};
use crate::conformance::verdict::{Verdict, broken, ensure, unexpected};
use crate::netlink::BridgeSpec;
use crate::spec::{Command::Add as ADD, Version};

/// The name of the second interface of a container.
const SECOND: &str = "second0";

pub(super) const RULES: &[Rule] = &[
    Rule::must(ADD, "add.succeeds", Section::Errors, "ADD exits with status 0", |bench| {
        bench.on("ADD", &bench.target()?).run()?.success()
    })
    .each_version(),
    Rule::must(
        ADD,
        "add.runtime-config",
        Section::Request,
        "ADD takes an empty runtimeConfig, which a runtime inserts for a plugin without capabilities",
        |bench| bench.on("ADD", &bench.target()?).key("runtimeConfig", serde_json::json!({})).run()?.success(),
    ),
    Rule::must(
        ADD,
        "add.without-path",
        Section::Add,
        "ADD needs no CNI_PATH where the plugin delegates to nobody: it is optional",
        |bench| bench.on("ADD", &bench.target()?).without("CNI_PATH").run()?.success(),
    )
    .only(Applies::Alone),
    Rule::must(
        ADD,
        "add.interface-exists",
        Section::Add,
        "ADD fails where the container has an interface of that name already",
        interface_exists,
    )
    .only(Applies::Interfaces),
    Rule::must(
        ADD,
        "add.interface-exists-kept",
        Section::Add,
        "an ADD that finds an interface of that name leaves it as it is",
        interface_kept,
    )
    .only(Applies::Interfaces),
    Rule::must(ADD, "add.twice", Section::Add, "a second ADD of one attachment fails: the interface exists", twice)
        .only(Applies::Interfaces),
    Rule::must(
        ADD,
        "add.twice-kept",
        Section::Add,
        "after a second ADD of one attachment, what the first made is as before",
        twice_kept,
    )
    .only(Applies::Interfaces),
    Rule::must(
        ADD,
        "add.twice-address",
        Section::Add,
        "after a second ADD of one attachment, its address is given to nobody else",
        twice_address,
    ),
    Rule::should(
        ADD,
        "add.second-interface",
        Section::Add,
        "a container that is attached can be attached by another CNI_IFNAME, with an address of its own",
        |bench| {
            let first = bench.attach()?;
            let second = second_interface(bench, &first)?.addresses(bench)?;
            let shared: Vec<String> = first.addresses(bench)?.intersection(&second).cloned().collect();
            ensure(shared.is_empty(), || format!("both interfaces have {}", shared.join(", ")))
        },
    ),
    Rule::must(ADD, "add.netns-gone", Section::Add, "ADD fails where there is nothing at CNI_NETNS", netns_gone)
        .only(Applies::Interfaces),
    Rule::must(ADD, "add.netns-is-file", Section::Add, "ADD fails where CNI_NETNS is no namespace", netns_is_file)
        .only(Applies::Interfaces),
    Rule::should(
        ADD,
        "add.own-netns",
        Section::Parameters,
        "ADD fails where CNI_NETNS is the namespace that the plugin runs in: that is no isolation domain",
        |bench| own_netns(bench).map(drop),
    )
    .only(Applies::Interfaces),
    Rule::should(
        ADD,
        "add.own-netns-unchanged",
        Section::Parameters,
        "an ADD with the plugin's own namespace makes no interface there",
        |bench| {
            let target = own_netns(bench)?;
            let there = bench.network()?.to_string();
            ensure(!there.contains(&format!("link {} ", target.ifname)), || format!("the host has: {there}"))
        },
    )
    .only(Applies::Interfaces),
    Rule::should(
        ADD,
        "add.failed-leaves-nothing",
        Section::Errors,
        "an ADD that fails leaves no link, address or route on the host",
        |bench| failed_leaves(bench, Look::Network),
    )
    .only(Applies::Interfaces),
    Rule::should(
        ADD,
        "add.failed-leaves-no-files",
        Section::Delegation,
        "an ADD that fails leaves no state behind, such as a reserved address",
        |bench| failed_leaves(bench, Look::Files),
    )
    .only(Applies::Interfaces),
    Rule::must(
        ADD,
        "add.others-untouched",
        Section::Add,
        "ADD and DEL change nothing in another pod, and no link of the host that is not the plugin's",
        others_untouched,
    ),
];

/// A pod that has an interface of the wanted name, and what it looked like before `ADD` saw it.
fn occupied(bench: &Bench<'_>) -> Verdict<(Target, Footprint)> {
    let target = bench.target()?;
    if let Ok(name) = target.ifname.parse() {
        target.pod.socket().create_bridge(&BridgeSpec::new(name))?;
    }
    let before = target.identity()?;
    Ok((target, before))
}

fn interface_exists(bench: &Bench<'_>) -> Verdict {
    let (target, _) = occupied(bench)?;
    bench.on("ADD", &target).run()?.failure()
}

fn interface_kept(bench: &Bench<'_>) -> Verdict {
    let (target, before) = occupied(bench)?;
    bench.on("ADD", &target).run()?;
    let after = target.identity()?;
    ensure(after == before, || format!("before: {before}; after: {after}"))
}

fn twice(bench: &Bench<'_>) -> Verdict {
    let attached = bench.attach()?;
    bench.on("ADD", &attached.target).run()?.failure()
}

fn twice_kept(bench: &Bench<'_>) -> Verdict {
    let attached = bench.attach()?;
    let before = attached.target.identity()?;
    let host = bench.network()?;
    bench.on("ADD", &attached.target).run()?;
    let after = attached.target.identity()?;
    ensure(after == before, || format!("in the pod, before: {before}; after: {after}"))?;
    let gone = host.beyond(&bench.network()?);
    ensure(gone.is_empty(), || format!("gone from the host: {gone}"))?;
    if bench.version >= Version::V0_4_0 {
        let reply = bench.check(&attached).run()?;
        ensure(reply.succeeded(), || format!("CHECK says: {reply}"))?;
    }
    Ok(())
}

fn twice_address(bench: &Bench<'_>) -> Verdict {
    let attached = bench.attach()?;
    let held = attached.addresses(bench)?;
    bench.on("ADD", &attached.target).run()?;
    none_is_given_away(bench, &attached, &held)
}

/// Others attach until the pool has nothing left, or for long enough that an address which was freed comes round.
pub(super) fn none_is_given_away(bench: &Bench<'_>, attached: &Attached, held: &BTreeSet<String>) -> Verdict {
    const OTHERS: usize = 16;
    for _ in 0..OTHERS {
        let target = bench.target()?;
        let reply = bench.on("ADD", &target).run()?;
        if !reply.succeeded() {
            break;
        }
        let other = Attached { target, result: reply.json() };
        let shared: Vec<String> = other.addresses(bench)?.intersection(held).cloned().collect();
        let (one, two) = (&attached.target.container, &other.target.container);
        ensure(shared.is_empty(), || format!("{one} and {two} both have {}", shared.join(", ")))?;
    }
    Ok(())
}

/// A second interface of a container. Its target says which one; the namespace is the first's.
pub(super) fn second_interface(bench: &Bench<'_>, first: &Attached) -> Verdict<Attached> {
    let mut target = bench.target()?;
    let reply = bench.on("ADD", &first.target).env("CNI_IFNAME", SECOND).run()?;
    if !reply.succeeded() {
        return broken(reply.to_string());
    }
    target.container.clone_from(&first.target.container);
    SECOND.clone_into(&mut target.ifname);
    Ok(Attached { target, result: reply.json() })
}

fn netns_gone(bench: &Bench<'_>) -> Verdict {
    let target = bench.target()?;
    bench.on("ADD", &target).env("CNI_NETNS", "/run/netns/gone").run()?.failure()
}

fn netns_is_file(bench: &Bench<'_>) -> Verdict {
    let target = bench.target()?;
    let path = regular_file(bench)?;
    bench.on_path("ADD", &target, &path).run()?.failure()
}

fn own_netns(bench: &Bench<'_>) -> Verdict<Target> {
    let target = bench.target()?;
    let reply = bench.on_path("ADD", &target, &bench.host().own_netns()?).run()?;
    if reply.succeeded() { broken(reply.to_string()) } else { Ok(target) }
}

fn failed_leaves(bench: &Bench<'_>, look: Look) -> Verdict {
    bench.warm_up()?;
    let before = bench.look(look)?;
    let (target, _) = occupied(bench)?;
    let reply = bench.on("ADD", &target).run()?;
    if reply.succeeded() {
        return unexpected("ADD fails, as the interface exists", reply.to_string());
    }
    let left = bench.left(look, &before)?;
    ensure(left.is_empty(), || format!("left behind: {left}"))
}

fn others_untouched(bench: &Bench<'_>) -> Verdict {
    const FOREIGN: &str = "foreign0";
    let (bystander, before) = occupied(bench)?;
    let (Ok(name), Ok(address)) = (FOREIGN.parse(), "198.51.100.1/24".parse()) else { return Ok(()) };
    let socket = bench.host().socket();
    let link = socket.create_bridge(&BridgeSpec::new(name).up())?;
    socket.add_address(link, address)?;
    let foreign = || -> Verdict<Footprint> {
        let lines = bench.network()?.to_string();
        Ok(lines.split("; ").filter(|line| line.contains(FOREIGN)).map(str::to_owned).collect())
    };
    let host = foreign()?;
    bench.warm_up()?;
    let after = bystander.identity()?;
    ensure(after == before, || format!("in another pod, before: {before}; after: {after}"))?;
    let after = foreign()?;
    ensure(after == host, || format!("on the host, before: {host}; after: {after}"))
}

/// A file where a namespace once was, as a reboot leaves them.
pub(super) fn regular_file(bench: &Bench<'_>) -> Verdict<std::path::PathBuf> {
    let path = bench.host().scratch("file")?.join("netns");
    if let Err(source) = fs::write(&path, "") {
        return Err(crate::conformance::Error::Host { operation: "write", path, source }.into());
    }
    Ok(path)
}
