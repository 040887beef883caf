//! `CHECK`.

use crate::conformance::bench::{Attached, Bench};
use crate::conformance::footprint::addresses;
use crate::conformance::rule::{Applies, Rule, Section};
use crate::conformance::verdict::{Verdict, ensure, not_tried};
use crate::netlink::Route;
use crate::spec::Command::Check as CHECK;

pub(super) const RULES: &[Rule] = &[
    Rule::must(CHECK, "check.succeeds", Section::Check, "CHECK immediately after ADD succeeds", |bench| {
        bench.check(&bench.attach()?).run()?.success()
    })
    .each_version(),
    Rule::should(CHECK, "check.silent", Section::Check, "CHECK prints nothing to standard output", |bench| {
        bench.check(&bench.attach()?).run()?.silence()
    }),
    Rule::should(
        CHECK,
        "check.without-prev-result",
        Section::Check,
        "CHECK without prevResult fails: the plugin has to consult it",
        |bench| {
            let attached = bench.attach()?;
            bench.on("CHECK", &attached.target).run()?.failure()
        },
    )
    .only(Applies::Interfaces),
    Rule::should(CHECK, "check.link-removed", Section::Check, "CHECK fails when the interface is gone", |bench| {
        tampered(bench, |attached| {
            let link = attached.target.required_link()?;
            Ok(attached.target.pod.socket().delete_link(link.index)?)
        })
    })
    .only(Applies::Interfaces),
    Rule::should(
        CHECK,
        "check.address-removed",
        Section::Check,
        "CHECK fails when an address of the result is gone from the interface",
        |bench| tampered(bench, remove_addresses),
    )
    .only(Applies::Interfaces),
    Rule::should(
        CHECK,
        "check.route-removed",
        Section::Check,
        "CHECK fails when a route of the result is gone from the container",
        route_removed,
    )
    .only(Applies::Interfaces),
    Rule::must(
        CHECK,
        "check.tolerates-more",
        Section::Check,
        "CHECK allows for an address and a route that a later plugin of a chain has added",
        tolerates_more,
    )
    .only(Applies::Interfaces),
    Rule::should(
        CHECK,
        "check.after-del",
        Section::Check,
        "CHECK fails when what the attachment had is gone, as after a DEL",
        |bench| {
            let attached = bench.attach()?;
            bench.detach(&attached)?;
            bench.check(&attached).run()?.failure()
        },
    ),
    Rule::must(CHECK, "check.changes-nothing", Section::Check, "CHECK leaves what is there as it is", changes_nothing)
        .only(Applies::Interfaces),
];

/// `CHECK` fails after somebody has changed something, and the change is undone by nobody.
fn tampered(bench: &Bench<'_>, tamper: fn(&Attached) -> Verdict) -> Verdict {
    let attached = bench.attach()?;
    tamper(&attached)?;
    bench.check(&attached).run()?.failure()
}

fn remove_addresses(attached: &Attached) -> Verdict {
    let (link, socket) = (attached.target.required_link()?, attached.target.pod.socket());
    let there = addresses(socket, &link);
    if there.is_empty() {
        return not_tried("the network gives no addresses");
    }
    for address in there {
        socket.delete_address(link.index, address)?;
    }
    Ok(())
}

fn route_removed(bench: &Bench<'_>) -> Verdict {
    let attached = bench.attach()?;
    let (link, socket) = (attached.target.required_link()?, attached.target.pod.socket());
    let result = attached.parsed(bench)?;
    let stated = |route: &&Route| result.routes.iter().any(|stated| stated.dst == route.dst);
    let routes = socket.routes(link.index)?;
    let Some(route) = routes.iter().find(stated) else {
        return not_tried("the result has no route by the interface: add \"routes\" to the configuration");
    };
    socket.delete_route(route)?;
    bench.check(&attached).run()?.failure()
}

fn tolerates_more(bench: &Bench<'_>) -> Verdict {
    let attached = bench.attach()?;
    let (link, socket) = (attached.target.required_link()?, attached.target.pod.socket());
    if let (Ok(address), Ok(dst)) = ("198.51.100.7/32".parse(), "203.0.113.0/24".parse()) {
        socket.add_address(link.index, address)?;
        socket.add_route(&Route::new(dst, link.index))?;
    }
    bench.check(&attached).run()?.success()
}

fn changes_nothing(bench: &Bench<'_>) -> Verdict {
    let attached = bench.attach()?;
    let look = || Ok::<_, crate::conformance::verdict::Stop>(attached.target.identity()?.and(bench.network()?));
    let before = look()?;
    bench.check(&attached).run()?;
    let after = look()?;
    ensure(after == before, || format!("before: {before}; after: {after}"))
}
