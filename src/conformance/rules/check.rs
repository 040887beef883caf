//! `CHECK`.

use crate::conformance::fixture::{Attached, Fixture};
use crate::conformance::rule::{Applies, Rule, Section};
use crate::conformance::snapshot::addresses;
use crate::conformance::verdict::{Verdict, ensure, not_tried};
use crate::netlink::Route;
use crate::spec::Command::Check as CHECK;

pub(super) const RULES: &[Rule] = &[
    Rule::must(CHECK, "check.succeeds", Section::Check, "CHECK immediately after ADD succeeds", |fixture| {
        fixture.check(&fixture.attach()?).run()?.success()
    })
    .each_version(),
    Rule::should(CHECK, "check.silent", Section::Check, "CHECK prints nothing to standard output", |fixture| {
        fixture.check(&fixture.attach()?).run()?.silence()
    }),
    Rule::should(
        CHECK,
        "check.without-prev-result",
        Section::Check,
        "CHECK without prevResult fails, because the plugin must use it",
        |fixture| {
            let attached = fixture.attach()?;
            fixture.call_for("CHECK", &attached.target).without_key("prevResult").run()?.failure()
        },
    )
    .only(Applies::Attached),
    Rule::should(CHECK, "check.link-removed", Section::Check, "CHECK fails if the interface was deleted", |fixture| {
        tampered(fixture, |attached| {
            let link = attached.target.required_link()?;
            Ok(attached.target.pod.socket().delete_link(link.index)?)
        })
    })
    .only(Applies::Interfaces),
    Rule::should(
        CHECK,
        "check.address-removed",
        Section::Check,
        "CHECK fails if an address of the result was deleted from the interface",
        |fixture| tampered(fixture, remove_addresses),
    )
    .only(Applies::Interfaces),
    Rule::should(
        CHECK,
        "check.route-removed",
        Section::Check,
        "CHECK fails if a route of the result was deleted from the container",
        route_removed,
    )
    .only(Applies::Interfaces),
    Rule::must(
        CHECK,
        "check.tolerates-more",
        Section::Check,
        "CHECK accepts an address and a route that a later plugin of a chain has added",
        tolerates_more,
    )
    .only(Applies::Attached),
    Rule::should(CHECK, "check.after-del", Section::Check, "CHECK fails after a DEL", |fixture| {
        let attached = fixture.attach()?;
        fixture.detach(&attached)?;
        fixture.check(&attached).run()?.failure()
    })
    .only(Applies::Owning),
    Rule::must(CHECK, "check.changes-nothing", Section::Check, "CHECK changes nothing", changes_nothing)
        .only(Applies::Attached),
];

/// `CHECK` fails after a change to the attachment that was not undone.
fn tampered(fixture: &Fixture<'_>, tamper: fn(&Attached) -> Verdict) -> Verdict {
    let attached = fixture.attach()?;
    tamper(&attached)?;
    fixture.check(&attached).run()?.failure()
}

fn remove_addresses(attached: &Attached) -> Verdict {
    let (link, socket) = (attached.target.required_link()?, attached.target.pod.socket());
    let actual = addresses(socket, &link);
    if actual.is_empty() {
        return not_tried("the network assigns no addresses");
    }
    for address in actual {
        socket.delete_address(link.index, address)?;
    }
    Ok(())
}

fn route_removed(fixture: &Fixture<'_>) -> Verdict {
    let attached = fixture.attach()?;
    let (link, socket) = (attached.target.required_link()?, attached.target.pod.socket());
    let result = attached.parsed(fixture)?;
    let stated = |route: &&Route| result.routes.iter().any(|stated| stated.dst == route.dst);
    let routes = socket.routes(link.index)?;
    let Some(route) = routes.iter().find(stated) else {
        return not_tried("the result has no route through the interface: add \"routes\" to the configuration");
    };
    socket.delete_route(route)?;
    fixture.check(&attached).run()?.failure()
}

fn tolerates_more(fixture: &Fixture<'_>) -> Verdict {
    let attached = fixture.attach()?;
    let (link, socket) = (attached.target.required_link()?, attached.target.pod.socket());
    if let (Ok(address), Ok(dst)) = ("198.51.100.7/32".parse(), "203.0.113.0/24".parse()) {
        socket.add_address(link.index, address)?;
        socket.add_route(&Route::new(dst, link.index))?;
    }
    fixture.check(&attached).run()?.success()
}

fn changes_nothing(fixture: &Fixture<'_>) -> Verdict {
    let attached = fixture.attach()?;
    let snapshot = || Ok::<_, crate::conformance::verdict::Stop>(attached.target.identity()?.and(fixture.network()?));
    let before = snapshot()?;
    fixture.check(&attached).run()?;
    let after = snapshot()?;
    ensure(after == before, || format!("before: {before}; after: {after}"))
}
