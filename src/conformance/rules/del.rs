//! `DEL`.

use std::path::Path;

use super::add::{regular_file, second_interface};
use crate::conformance::call::Call;
use crate::conformance::fixture::{Fixture, Scope};
use crate::conformance::rule::{Applies, Rule, Section};
use crate::conformance::verdict::{Verdict, ensure, not_tried, unexpected};
use crate::netlink::{BridgeSpec, IfIndex};
use crate::spec::{Command::Del as DEL, Version};

pub(super) const RULES: &[Rule] = &[
    Rule::must(DEL, "del.succeeds", Section::Del, "DEL of an attachment succeeds", |fixture| {
        fixture.del(&fixture.attach()?).run()?.success()
    })
    .each_version(),
    Rule::should(DEL, "del.silent", Section::Del, "DEL prints nothing to standard output", |fixture| {
        fixture.del(&fixture.attach()?).run()?.silence()
    }),
    Rule::must(DEL, "del.pod-clean", Section::Del, "after DEL the container has no interface except lo", pod_clean)
        .each_version()
        .only(Applies::Interfaces),
    Rule::must(
        DEL,
        "del.host-clean",
        Section::Del,
        "after DEL the host has no additional link, address or route, except state of the whole network",
        |fixture| leaves_nothing(fixture, Scope::Network),
    ),
    Rule::should(
        DEL,
        "del.files-clean",
        Section::Del,
        "after DEL there is no additional file in /run, /var/lib/cni or bpffs, except state of the whole network",
        |fixture| leaves_nothing(fixture, Scope::Files),
    ),
    Rule::must(
        DEL,
        "del.firewall-clean",
        Section::Del,
        "after DEL the packet filter has no additional rule, except state of the whole network",
        |fixture| leaves_nothing(fixture, Scope::Firewall),
    ),
    Rule::should(
        DEL,
        "del.netns-kept",
        Section::Lifecycle,
        "DEL does not remove the container's namespace, which belongs to the runtime",
        netns_kept,
    ),
    Rule::must(DEL, "del.twice", Section::Del, "a second DEL succeeds", |fixture| {
        let attached = fixture.attach()?;
        fixture.detach(&attached)?;
        fixture.del(&attached).run()?.success()
    })
    .each_version(),
    Rule::must(DEL, "del.never-added", Section::Del, "DEL of an unknown attachment succeeds", |fixture| {
        fixture.call_for("DEL", &fixture.target()?).run()?.success()
    }),
    Rule::must(DEL, "del.failed-add", Section::Lifecycle, "DEL after a failed ADD succeeds", |fixture| {
        let target = fixture.target()?;
        fixture.call_with_netns("ADD", &target, Path::new("/run/netns/gone")).run()?;
        fixture.call_for("DEL", &target).run()?.success()
    }),
    Rule::should(DEL, "del.without-prev-result", Section::Del, "DEL without prevResult succeeds", |fixture| {
        let attached = fixture.attach()?;
        fixture.call_for("DEL", &attached.target).without_key("prevResult").run()?.success()
    })
    .since(Version::V0_4_0)
    .each_version(),
    Rule::must(
        DEL,
        "del.without-netns",
        Section::Del,
        "DEL without CNI_NETNS succeeds: the variable is optional",
        |fixture| fixture.del(&fixture.attach()?).without("CNI_NETNS").run()?.success(),
    ),
    Rule::must(
        DEL,
        "del.empty-netns",
        Section::Del,
        "DEL with an empty CNI_NETNS succeeds: runtimes send it after the end of a container",
        |fixture| fixture.del(&fixture.attach()?).env("CNI_NETNS", "").run()?.success(),
    ),
    Rule::should(
        DEL,
        "del.without-netns-clean",
        Section::Del,
        "DEL without CNI_NETNS leaves nothing on the host after the end of the namespace",
        |fixture| del_after_netns_end(fixture, |call| call.without("CNI_NETNS")),
    ),
    Rule::must(
        DEL,
        "del.netns-gone",
        Section::Del,
        "DEL succeeds if the path in CNI_NETNS no longer exists",
        |fixture| {
            let attached = fixture.attach()?;
            let call = fixture.del(&attached);
            attached.target.pod.end()?;
            call.run()?.success()
        },
    ),
    Rule::should(
        DEL,
        "del.netns-gone-clean",
        Section::Del,
        "DEL after the end of the namespace leaves nothing on the host",
        |fixture| del_after_netns_end(fixture, |call| call),
    ),
    Rule::should(
        DEL,
        "del.netns-is-file",
        Section::Del,
        "DEL succeeds if CNI_NETNS is a regular file, as after a reboot",
        |fixture| {
            let path = regular_file(fixture)?;
            fixture.del(&fixture.attach()?).env("CNI_NETNS", path).run()?.success()
        },
    ),
    Rule::should(
        DEL,
        "del.netns-is-file-clean",
        Section::Del,
        "DEL leaves nothing on the host if CNI_NETNS is a regular file",
        |fixture| {
            let path = regular_file(fixture)?;
            del_after_netns_end(fixture, |call| call.env("CNI_NETNS", &path))
        },
    ),
    Rule::should(
        DEL,
        "del.stranger-kept",
        Section::Del,
        "DEL does not delete an interface in another pod's namespace that now has the path in CNI_NETNS",
        stranger_kept,
    )
    .only(Applies::Attached),
    Rule::should(
        DEL,
        "del.own-netns-kept",
        Section::Parameters,
        "DEL with the plugin's own namespace as CNI_NETNS deletes no interface of the host",
        own_netns_kept,
    )
    .only(Applies::Attached),
    Rule::must(
        DEL,
        "del.others-kept",
        Section::Del,
        "DEL does not change other attachments of the network",
        others_kept,
    ),
    Rule::must(
        DEL,
        "del.second-interface",
        Section::Del,
        "DEL of one of two interfaces of a container succeeds and does not change the other one",
        second_interface_goes,
    ),
    Rule::should(
        DEL,
        "del.frees-address",
        Section::Del,
        "after DEL on an exhausted pool, one ADD succeeds",
        frees_address,
    )
    .only(Applies::Owning),
];

fn leaves_nothing(fixture: &Fixture<'_>, scope: Scope) -> Verdict {
    fixture.warm_up()?;
    let before = fixture.snapshot(scope)?;
    let attached = fixture.attach()?;
    fixture.detach(&attached)?;
    // The namespace still exists here: its end would hide links that DEL did not delete.
    let leaked = fixture.leaked(scope, &before)?;
    ensure(leaked.is_empty(), || format!("left behind: {leaked}"))
}

/// Ends the namespace of the container, then calls the `DEL` that `change` returns.
fn del_after_netns_end(fixture: &Fixture<'_>, change: impl FnOnce(Call) -> Call) -> Verdict {
    fixture.warm_up()?;
    let before = fixture.snapshot(Scope::Everything)?;
    let attached = fixture.attach()?;
    let call = change(fixture.del(&attached));
    attached.target.pod.end()?;
    call.run()?;
    let leaked = fixture.leaked(Scope::Everything, &before)?;
    ensure(leaked.is_empty(), || format!("left behind: {leaked}"))
}

fn pod_clean(fixture: &Fixture<'_>) -> Verdict {
    let attached = fixture.attach()?;
    fixture.detach(&attached)?;
    let leaked = attached.target.pod.socket().links()?;
    let names: Vec<&str> =
        leaked.iter().filter(|link| link.index != IfIndex::LOOPBACK).map(|link| link.name.as_str()).collect();
    ensure(names.is_empty(), || format!("the container has {}", names.join(", ")))
}

fn netns_kept(fixture: &Fixture<'_>) -> Verdict {
    let attached = fixture.attach()?;
    fixture.detach(&attached)?;
    let pod = &attached.target.pod;
    ensure(pod.is_in_place(), || format!("the namespace is no longer at {}", pod.path().display()))
}

fn stranger_kept(fixture: &Fixture<'_>) -> Verdict {
    let mut attached = fixture.attach()?;
    let ended = attached.target.pod.inode();
    attached.target.pod = attached.target.pod.replace()?;
    if attached.target.pod.inode() == ended {
        return not_tried("the kernel reused the inode number of the old namespace");
    }
    if let Ok(name) = attached.target.ifname.parse() {
        attached.target.pod.socket().create_bridge(&BridgeSpec::new(name))?;
    }
    let before = attached.target.identity()?;
    fixture.del(&attached).run()?;
    let after = attached.target.identity()?;
    ensure(after == before, || format!("before: {before}; after: {after}"))
}

fn own_netns_kept(fixture: &Fixture<'_>) -> Verdict {
    let target = fixture.target()?;
    if let Ok(name) = target.ifname.parse() {
        fixture.host().socket().create_bridge(&BridgeSpec::new(name))?;
    }
    let before = fixture.network()?;
    fixture.call_with_netns("DEL", &target, &fixture.host().own_netns()?).run()?;
    let removed = before.minus(&fixture.network()?);
    ensure(removed.is_empty(), || format!("removed from the host: {removed}"))
}

fn others_kept(fixture: &Fixture<'_>) -> Verdict {
    let (kept, deleted) = (fixture.attach()?, fixture.attach()?);
    let before = kept.target.identity()?;
    fixture.detach(&deleted)?;
    let after = kept.target.identity()?;
    ensure(after == before, || format!("before: {before}; after: {after}"))?;
    if fixture.version >= Version::V0_4_0 {
        let reply = fixture.check(&kept).run()?;
        ensure(reply.succeeded(), || format!("CHECK of the other attachment: {reply}"))?;
    }
    Ok(())
}

fn second_interface_goes(fixture: &Fixture<'_>) -> Verdict {
    let first = fixture.attach()?;
    let before = first.target.identity()?;
    let Ok(second) = second_interface(fixture, &first) else {
        return not_tried("the plugin does not attach a container twice");
    };
    let call = fixture.del(&first).env("CNI_IFNAME", &second.target.ifname).key("prevResult", second.result);
    let reply = call.run()?;
    ensure(reply.succeeded(), || reply.to_string())?;
    let removed = before.minus(&first.target.identity()?);
    ensure(removed.is_empty(), || format!("removed with the second interface: {removed}"))?;
    if fixture.version >= Version::V0_4_0 {
        let reply = fixture.check(&first).run()?;
        ensure(reply.succeeded(), || format!("CHECK of the first after DEL of the second: {reply}"))?;
    }
    Ok(())
}

fn frees_address(fixture: &Fixture<'_>) -> Verdict {
    let attached = fixture.exhaust()?;
    let Some(first) = attached.first() else {
        return unexpected("the ADD at the start of the rule succeeds", "every ADD failed");
    };
    fixture.detach(first)?;
    let reply = fixture.call_for("ADD", &fixture.target()?).run()?;
    ensure(reply.succeeded(), || format!("after {} ADDs and one DEL: {reply}", attached.len()))
}
