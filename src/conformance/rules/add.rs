//! `ADD`: rules about its effects, beyond the result.

use std::collections::BTreeSet;
use std::fs;

use crate::conformance::fixture::{Attached, Fixture, Scope, Target};
use crate::conformance::rule::{Applies, Rule, Section};
use crate::conformance::snapshot::Snapshot;
use crate::conformance::verdict::{Verdict, broken, ensure, unexpected};
use crate::netlink::BridgeSpec;
use crate::spec::{Command::Add as ADD, Version};

/// The name of the second interface of a container.
const SECOND: &str = "second0";

pub(super) const RULES: &[Rule] = &[
    Rule::must(ADD, "add.succeeds", Section::Errors, "ADD exits with status 0", |fixture| {
        fixture.call_for("ADD", &fixture.target()?).run()?.success()
    })
    .each_version(),
    Rule::must(
        ADD,
        "add.runtime-config",
        Section::Request,
        "ADD accepts an empty runtimeConfig, which a runtime inserts for a plugin without capabilities",
        |fixture| {
            fixture.call_for("ADD", &fixture.target()?).key("runtimeConfig", serde_json::json!({})).run()?.success()
        },
    ),
    Rule::must(
        ADD,
        "add.without-path",
        Section::Add,
        "ADD needs no CNI_PATH if the plugin does not delegate: the variable is optional",
        |fixture| fixture.call_for("ADD", &fixture.target()?).without("CNI_PATH").run()?.success(),
    )
    .only(Applies::NonDelegating),
    Rule::must(
        ADD,
        "add.interface-exists",
        Section::Add,
        "ADD fails if the container already has an interface with that name",
        interface_exists,
    )
    .only(Applies::Interfaces),
    Rule::must(
        ADD,
        "add.interface-exists-kept",
        Section::Add,
        "a failed ADD does not change an existing interface with that name",
        interface_kept,
    )
    .only(Applies::Interfaces),
    Rule::must(
        ADD,
        "add.twice",
        Section::Add,
        "a second ADD of an attachment fails, because the interface exists",
        twice,
    )
    .only(Applies::Interfaces),
    Rule::must(
        ADD,
        "add.twice-kept",
        Section::Add,
        "a second ADD of an attachment does not change the existing attachment",
        twice_kept,
    )
    .only(Applies::Interfaces),
    Rule::must(
        ADD,
        "add.twice-address",
        Section::Add,
        "after a second ADD of an attachment, its address stays reserved",
        twice_address,
    )
    .only(Applies::Owning),
    Rule::should(
        ADD,
        "add.second-interface",
        Section::Add,
        "a container can be attached again with another CNI_IFNAME, and gets another address",
        |fixture| {
            let first = fixture.attach()?;
            let second = second_interface(fixture, &first)?.addresses(fixture)?;
            let shared: Vec<String> = first.addresses(fixture)?.intersection(&second).cloned().collect();
            ensure(shared.is_empty(), || format!("both interfaces have {}", shared.join(", ")))
        },
    )
    .only(Applies::Owning),
    Rule::must(ADD, "add.netns-gone", Section::Add, "ADD fails if the path in CNI_NETNS does not exist", netns_gone)
        .only(Applies::Interfaces),
    Rule::must(ADD, "add.netns-is-file", Section::Add, "ADD fails if CNI_NETNS is not a namespace", netns_is_file)
        .only(Applies::Interfaces),
    Rule::should(
        ADD,
        "add.own-netns",
        Section::Parameters,
        "ADD fails if CNI_NETNS is the plugin's own namespace, which is not an isolation domain",
        |fixture| own_netns(fixture).map(drop),
    )
    .only(Applies::Interfaces),
    Rule::should(
        ADD,
        "add.own-netns-unchanged",
        Section::Parameters,
        "an ADD with the plugin's own namespace creates no interface in it",
        |fixture| {
            let target = own_netns(fixture)?;
            let actual = fixture.network()?.to_string();
            ensure(!actual.contains(&format!("link {} ", target.ifname)), || format!("the host has: {actual}"))
        },
    )
    .only(Applies::Interfaces),
    Rule::should(
        ADD,
        "add.failed-leaves-nothing",
        Section::Errors,
        "a failed ADD leaves no link, address or route on the host",
        |fixture| failed_leaves(fixture, Scope::Network),
    )
    .only(Applies::Interfaces),
    Rule::should(
        ADD,
        "add.failed-leaves-no-files",
        Section::Delegation,
        "a failed ADD leaves no state behind, such as a reserved address",
        |fixture| failed_leaves(fixture, Scope::Files),
    )
    .only(Applies::Interfaces),
    Rule::must(
        ADD,
        "add.others-untouched",
        Section::Add,
        "ADD and DEL do not change other pods or foreign links of the host",
        others_untouched,
    ),
];

/// A pod with an interface of the requested name, and its identity before the `ADD`.
fn occupied(fixture: &Fixture<'_>) -> Verdict<(Target, Snapshot)> {
    let target = fixture.target()?;
    // A chained plugin finds the interface of the previous plugin.
    if target.link()?.is_none()
        && let Ok(name) = target.ifname.parse()
    {
        target.pod.socket().create_bridge(&BridgeSpec::new(name))?;
    }
    let before = target.identity()?;
    Ok((target, before))
}

fn interface_exists(fixture: &Fixture<'_>) -> Verdict {
    let (target, _) = occupied(fixture)?;
    fixture.call_for("ADD", &target).run()?.failure()
}

fn interface_kept(fixture: &Fixture<'_>) -> Verdict {
    let (target, before) = occupied(fixture)?;
    fixture.call_for("ADD", &target).run()?;
    let after = target.identity()?;
    ensure(after == before, || format!("before: {before}; after: {after}"))
}

fn twice(fixture: &Fixture<'_>) -> Verdict {
    let attached = fixture.attach()?;
    fixture.call_for("ADD", &attached.target).run()?.failure()
}

fn twice_kept(fixture: &Fixture<'_>) -> Verdict {
    let attached = fixture.attach()?;
    let before = attached.target.identity()?;
    let host = fixture.network()?;
    fixture.call_for("ADD", &attached.target).run()?;
    let after = attached.target.identity()?;
    ensure(after == before, || format!("in the pod, before: {before}; after: {after}"))?;
    let removed = host.minus(&fixture.network()?);
    ensure(removed.is_empty(), || format!("removed from the host: {removed}"))?;
    if fixture.version >= Version::V0_4_0 {
        let reply = fixture.check(&attached).run()?;
        ensure(reply.succeeded(), || format!("CHECK: {reply}"))?;
    }
    Ok(())
}

fn twice_address(fixture: &Fixture<'_>) -> Verdict {
    let attached = fixture.attach()?;
    let held = attached.addresses(fixture)?;
    fixture.call_for("ADD", &attached.target).run()?;
    addresses_stay_reserved(fixture, &attached, &held)
}

/// Attaches other containers until the pool is exhausted, or until a freed address would have been
/// reused.
pub(super) fn addresses_stay_reserved(fixture: &Fixture<'_>, attached: &Attached, held: &BTreeSet<String>) -> Verdict {
    const OTHERS: usize = 16;
    for _ in 0..OTHERS {
        let target = fixture.target()?;
        let reply = fixture.call_for("ADD", &target).run()?;
        if !reply.succeeded() {
            break;
        }
        let other = Attached { target, result: reply.json() };
        let shared: Vec<String> = other.addresses(fixture)?.intersection(held).cloned().collect();
        let (one, two) = (&attached.target.container, &other.target.container);
        ensure(shared.is_empty(), || format!("{one} and {two} both have {}", shared.join(", ")))?;
    }
    Ok(())
}

/// A second interface of a container. The returned target has its name; the namespace is the one of
/// `first`.
pub(super) fn second_interface(fixture: &Fixture<'_>, first: &Attached) -> Verdict<Attached> {
    let mut target = fixture.target()?;
    target.container.clone_from(&first.target.container);
    SECOND.clone_into(&mut target.ifname);
    target.prev_result = fixture.prev_result(&first.target, SECOND)?;
    let reply = fixture.call_with_netns("ADD", &target, first.target.pod.path()).run()?;
    if !reply.succeeded() {
        return broken(reply.to_string());
    }
    Ok(Attached { target, result: reply.json() })
}

fn netns_gone(fixture: &Fixture<'_>) -> Verdict {
    let target = fixture.target()?;
    fixture.call_for("ADD", &target).env("CNI_NETNS", "/run/netns/gone").run()?.failure()
}

fn netns_is_file(fixture: &Fixture<'_>) -> Verdict {
    let target = fixture.target()?;
    let path = regular_file(fixture)?;
    fixture.call_with_netns("ADD", &target, &path).run()?.failure()
}

fn own_netns(fixture: &Fixture<'_>) -> Verdict<Target> {
    let target = fixture.target()?;
    let reply = fixture.call_with_netns("ADD", &target, &fixture.host().own_netns()?).run()?;
    if reply.succeeded() { broken(reply.to_string()) } else { Ok(target) }
}

fn failed_leaves(fixture: &Fixture<'_>, scope: Scope) -> Verdict {
    fixture.warm_up()?;
    let before = fixture.snapshot(scope)?;
    let (target, _) = occupied(fixture)?;
    let reply = fixture.call_for("ADD", &target).run()?;
    if reply.succeeded() {
        return unexpected("ADD fails because the interface exists", reply.to_string());
    }
    let leaked = fixture.leaked(scope, &before)?;
    ensure(leaked.is_empty(), || format!("left behind: {leaked}"))
}

fn others_untouched(fixture: &Fixture<'_>) -> Verdict {
    const FOREIGN: &str = "foreign0";
    let (bystander, before) = occupied(fixture)?;
    let (Ok(name), Ok(address)) = (FOREIGN.parse(), "198.51.100.1/24".parse()) else { return Ok(()) };
    let socket = fixture.host().socket();
    let link = socket.create_bridge(&BridgeSpec::new(name).up())?;
    socket.add_address(link, address)?;
    let foreign = || -> Verdict<Snapshot> {
        let lines = fixture.network()?.to_string();
        Ok(lines.split("; ").filter(|line| line.contains(FOREIGN)).map(str::to_owned).collect())
    };
    let host = foreign()?;
    fixture.warm_up()?;
    let after = bystander.identity()?;
    ensure(after == before, || format!("in another pod, before: {before}; after: {after}"))?;
    let after = foreign()?;
    ensure(after == host, || format!("on the host, before: {host}; after: {after}"))
}

/// A regular file at the path of a namespace, as after a reboot.
pub(super) fn regular_file(fixture: &Fixture<'_>) -> Verdict<std::path::PathBuf> {
    let path = fixture.host().scratch("file")?.join("netns");
    if let Err(source) = fs::write(&path, "") {
        return Err(crate::conformance::Error::Host { operation: "write", path, source }.into());
    }
    Ok(path)
}
