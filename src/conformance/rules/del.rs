//! `DEL`.

use std::path::Path;

use super::add::{regular_file, second_interface};
use crate::conformance::bench::{Bench, Look};
use crate::conformance::call::Call;
use crate::conformance::rule::{Applies, Rule, Section};
use crate::conformance::verdict::{Verdict, ensure, not_tried, unexpected};
use crate::netlink::{BridgeSpec, LOOPBACK_INDEX};
use crate::spec::{Command::Del as DEL, Version};

pub(super) const RULES: &[Rule] = &[
    Rule::must(DEL, "del.succeeds", Section::Del, "DEL of an attachment succeeds", |bench| {
        bench.del(&bench.attach()?).run()?.success()
    })
    .each_version(),
    Rule::should(DEL, "del.silent", Section::Del, "DEL prints nothing to standard output", |bench| {
        bench.del(&bench.attach()?).run()?.silence()
    }),
    Rule::must(DEL, "del.pod-clean", Section::Del, "after DEL the container has no interface but lo", pod_clean)
        .each_version()
        .only(Applies::Interfaces),
    Rule::must(
        DEL,
        "del.host-clean",
        Section::Del,
        "after DEL the host has no link, address or route more than before ADD, but what serves the whole network",
        |bench| leaves_nothing(bench, Look::Network),
    ),
    Rule::should(
        DEL,
        "del.files-clean",
        Section::Del,
        "after DEL there is no file in /run, /var/lib/cni or bpffs more than before ADD, but what serves the whole network",
        |bench| leaves_nothing(bench, Look::Files),
    ),
    Rule::must(
        DEL,
        "del.firewall-clean",
        Section::Del,
        "after DEL the packet filter has no rule more than before ADD, but what serves the whole network",
        |bench| leaves_nothing(bench, Look::Firewall),
    ),
    Rule::should(
        DEL,
        "del.netns-kept",
        Section::Lifecycle,
        "after DEL the container's namespace is where it was: it is the runtime's to end",
        netns_kept,
    ),
    Rule::must(DEL, "del.twice", Section::Del, "a second DEL succeeds", |bench| {
        let attached = bench.attach()?;
        bench.detach(&attached)?;
        bench.del(&attached).run()?.success()
    })
    .each_version(),
    Rule::must(DEL, "del.never-added", Section::Del, "DEL of what was never added succeeds", |bench| {
        bench.on("DEL", &bench.target()?).run()?.success()
    }),
    Rule::must(DEL, "del.failed-add", Section::Lifecycle, "DEL after an ADD that failed succeeds", |bench| {
        let target = bench.target()?;
        bench.on_path("ADD", &target, Path::new("/run/netns/gone")).run()?;
        bench.on("DEL", &target).run()?.success()
    }),
    Rule::should(DEL, "del.without-prev-result", Section::Del, "DEL without prevResult succeeds", |bench| {
        let attached = bench.attach()?;
        bench.on("DEL", &attached.target).run()?.success()
    })
    .since(Version::V0_4_0)
    .each_version(),
    Rule::must(DEL, "del.without-netns", Section::Del, "DEL without CNI_NETNS succeeds: it is optional", |bench| {
        bench.del(&bench.attach()?).without("CNI_NETNS").run()?.success()
    }),
    Rule::must(
        DEL,
        "del.empty-netns",
        Section::Del,
        "DEL with an empty CNI_NETNS succeeds, as runtimes send that for a container that is gone",
        |bench| bench.del(&bench.attach()?).env("CNI_NETNS", "").run()?.success(),
    ),
    Rule::should(
        DEL,
        "del.without-netns-clean",
        Section::Del,
        "DEL without CNI_NETNS leaves nothing on the host once the namespace has ended",
        |bench| gone(bench, |call| call.without("CNI_NETNS")),
    ),
    Rule::must(DEL, "del.netns-gone", Section::Del, "DEL succeeds when nothing is left at CNI_NETNS", |bench| {
        let attached = bench.attach()?;
        let call = bench.del(&attached);
        attached.target.pod.end()?;
        call.run()?.success()
    }),
    Rule::should(
        DEL,
        "del.netns-gone-clean",
        Section::Del,
        "DEL leaves nothing on the host when the namespace has ended before",
        |bench| gone(bench, |call| call),
    ),
    Rule::should(
        DEL,
        "del.netns-is-file",
        Section::Del,
        "DEL succeeds where CNI_NETNS has become an ordinary file, as after a reboot",
        |bench| {
            let path = regular_file(bench)?;
            bench.del(&bench.attach()?).env("CNI_NETNS", path).run()?.success()
        },
    ),
    Rule::should(
        DEL,
        "del.netns-is-file-clean",
        Section::Del,
        "DEL frees what it can where CNI_NETNS has become an ordinary file",
        |bench| {
            let path = regular_file(bench)?;
            gone(bench, |call| call.env("CNI_NETNS", &path))
        },
    ),
    Rule::should(
        DEL,
        "del.stranger-kept",
        Section::Del,
        "DEL spares the interface of a stranger whose namespace has come to be at the path of one that ended",
        stranger_kept,
    )
    .only(Applies::Interfaces),
    Rule::should(
        DEL,
        "del.own-netns-kept",
        Section::Parameters,
        "DEL with the plugin's own namespace as CNI_NETNS deletes no interface of the host",
        own_netns_kept,
    )
    .only(Applies::Interfaces),
    Rule::must(
        DEL,
        "del.others-kept",
        Section::Del,
        "DEL of one attachment leaves the others of the network as they are",
        others_kept,
    ),
    Rule::must(
        DEL,
        "del.second-interface",
        Section::Del,
        "DEL of one of a container's two interfaces succeeds, and leaves the other as it is",
        second_interface_goes,
    ),
    Rule::should(
        DEL,
        "del.frees-address",
        Section::Del,
        "when the pool is exhausted, DEL makes room for one ADD",
        frees_address,
    ),
];

fn leaves_nothing(bench: &Bench<'_>, look: Look) -> Verdict {
    bench.warm_up()?;
    let before = bench.look(look)?;
    let attached = bench.attach()?;
    bench.detach(&attached)?;
    // The namespace still lives: its end would hide what DEL did not do.
    let left = bench.left(look, &before)?;
    ensure(left.is_empty(), || format!("left behind: {left}"))
}

/// The container's namespace has ended before `DEL` is called as `change` will have it.
fn gone(bench: &Bench<'_>, change: impl FnOnce(Call) -> Call) -> Verdict {
    bench.warm_up()?;
    let before = bench.look(Look::Everything)?;
    let attached = bench.attach()?;
    let call = change(bench.del(&attached));
    attached.target.pod.end()?;
    call.run()?;
    let left = bench.left(Look::Everything, &before)?;
    ensure(left.is_empty(), || format!("left behind: {left}"))
}

fn pod_clean(bench: &Bench<'_>) -> Verdict {
    let attached = bench.attach()?;
    bench.detach(&attached)?;
    let left = attached.target.pod.socket().links()?;
    let names: Vec<&str> =
        left.iter().filter(|link| link.index != LOOPBACK_INDEX).map(|link| link.name.as_str()).collect();
    ensure(names.is_empty(), || format!("the container has {}", names.join(", ")))
}

fn netns_kept(bench: &Bench<'_>) -> Verdict {
    let attached = bench.attach()?;
    bench.detach(&attached)?;
    let pod = &attached.target.pod;
    ensure(pod.is_in_place(), || format!("the namespace is no longer at {}", pod.path().display()))
}

fn stranger_kept(bench: &Bench<'_>) -> Verdict {
    let mut attached = bench.attach()?;
    let ended = attached.target.pod.inode();
    attached.target.pod = attached.target.pod.replace()?;
    if attached.target.pod.inode() == ended {
        return not_tried("the kernel gave the new namespace the number of the old one");
    }
    if let Ok(name) = attached.target.ifname.parse() {
        attached.target.pod.socket().create_bridge(&BridgeSpec::new(name))?;
    }
    let before = attached.target.identity()?;
    bench.del(&attached).run()?;
    let after = attached.target.identity()?;
    ensure(after == before, || format!("before: {before}; after: {after}"))
}

fn own_netns_kept(bench: &Bench<'_>) -> Verdict {
    let target = bench.target()?;
    if let Ok(name) = target.ifname.parse() {
        bench.host().socket().create_bridge(&BridgeSpec::new(name))?;
    }
    let before = bench.network()?;
    bench.on_path("DEL", &target, &bench.host().own_netns()?).run()?;
    let gone = before.beyond(&bench.network()?);
    ensure(gone.is_empty(), || format!("gone from the host: {gone}"))
}

fn others_kept(bench: &Bench<'_>) -> Verdict {
    let (kept, gone) = (bench.attach()?, bench.attach()?);
    let before = kept.target.identity()?;
    bench.detach(&gone)?;
    let after = kept.target.identity()?;
    ensure(after == before, || format!("before: {before}; after: {after}"))?;
    if bench.version >= Version::V0_4_0 {
        let reply = bench.check(&kept).run()?;
        ensure(reply.succeeded(), || format!("CHECK of the other says: {reply}"))?;
    }
    Ok(())
}

fn second_interface_goes(bench: &Bench<'_>) -> Verdict {
    let first = bench.attach()?;
    let before = first.target.identity()?;
    let Ok(second) = second_interface(bench, &first) else {
        return not_tried("the plugin does not attach a container twice");
    };
    let call = bench.del(&first).env("CNI_IFNAME", &second.target.ifname).key("prevResult", second.result);
    let reply = call.run()?;
    ensure(reply.succeeded(), || reply.to_string())?;
    let gone = before.beyond(&first.target.identity()?);
    ensure(gone.is_empty(), || format!("gone with the second: {gone}"))?;
    if bench.version >= Version::V0_4_0 {
        let reply = bench.check(&first).run()?;
        ensure(reply.succeeded(), || format!("CHECK of the first after DEL of the second: {reply}"))?;
    }
    Ok(())
}

fn frees_address(bench: &Bench<'_>) -> Verdict {
    let attached = bench.exhaust()?;
    let Some(first) = attached.first() else {
        return unexpected("an ADD that the rule begins with succeeds", "none did");
    };
    bench.detach(first)?;
    let reply = bench.on("ADD", &bench.target()?).run()?;
    ensure(reply.succeeded(), || format!("after {} ADDs and one DEL: {reply}", attached.len()))
}
