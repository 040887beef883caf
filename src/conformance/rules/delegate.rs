//! Delegation, observed by a script that records the calls and runs the real IPAM plugin.

use serde_json::json;

use crate::conformance::fixture::Fixture;
use crate::conformance::probe::Delegation;
use crate::conformance::recorder::Recorder;
use crate::conformance::rule::{Applies, Rule, Section};
use crate::conformance::verdict::{Verdict, broken, ensure, not_tried};
use crate::spec::Command::{Add as ADD, Check as CHECK, Del as DEL, Gc as GC, Status as STATUS};

pub(super) const RULES: &[Rule] = &[
    Rule::should(
        ADD,
        "delegate.called",
        Section::Delegation,
        "ADD calls the plugin in \"ipam.type\", which all other delegation rules need",
        |fixture| match fixture.delegation() {
            Delegation::NotCalled(seen) => broken(seen),
            Delegation::Unnamed | Delegation::Called => Ok(()),
        },
    )
    .only(Applies::Naming),
    Rule::must(ADD, "delegate.add", Section::Delegation, "ADD calls the delegate with the same variables", |fixture| {
        let (delegate, attached) = (Delegate::install(fixture, "")?, fixture.attach()?);
        let target = &attached.target;
        let path = target.pod.path().display();
        delegate.was_called(&format!("ADD {} {} {path}", target.container, target.ifname))
    })
    .only(Applies::Delegating),
    Rule::must(
        ADD,
        "delegate.configuration",
        Section::Delegation,
        "the delegate receives the complete configuration of the plugin",
        configuration,
    )
    .only(Applies::Delegating),
    Rule::must(DEL, "delegate.del", Section::Delegation, "DEL calls the delegate", |fixture| {
        let (delegate, attached) = (Delegate::install(fixture, "")?, fixture.attach()?);
        fixture.detach(&attached)?;
        delegate.was_called(&format!("DEL {}", attached.target.container))
    })
    .only(Applies::Delegating),
    Rule::must(
        DEL,
        "delegate.del-without-netns",
        Section::Del,
        "DEL calls the delegate after the end of the namespace",
        |fixture| {
            let (delegate, attached) = (Delegate::install(fixture, "")?, fixture.attach()?);
            let (call, container) = (fixture.del(&attached).env("CNI_NETNS", ""), attached.target.container);
            attached.target.pod.end()?;
            call.run()?;
            delegate.was_called(&format!("DEL {container}"))
        },
    )
    .only(Applies::Delegating),
    Rule::must(CHECK, "delegate.check", Section::Delegation, "CHECK calls the delegate", |fixture| {
        let (delegate, attached) = (Delegate::install(fixture, "")?, fixture.attach()?);
        fixture.check(&attached).run()?;
        delegate.was_called(&format!("CHECK {}", attached.target.container))
    })
    .only(Applies::Delegating),
    Rule::must(GC, "delegate.gc", Section::Gc, "GC calls the delegate", |fixture| {
        let delegate = Delegate::install(fixture, "")?;
        fixture.call("GC").key("cni.dev/valid-attachments", json!([])).run()?;
        delegate.was_called("GC")
    })
    .only(Applies::Delegating),
    Rule::must(STATUS, "delegate.status", Section::Status, "STATUS calls the delegate", |fixture| {
        let delegate = Delegate::install(fixture, "")?;
        fixture.call("STATUS").run()?;
        delegate.was_called("STATUS")
    })
    .only(Applies::Delegating),
    Rule::must(ADD, "delegate.add-error", Section::Delegation, "ADD fails if the delegate fails", |fixture| {
        Delegate::install(fixture, "ADD")?;
        fixture.call_for("ADD", &fixture.target()?).run()?.failure()
    })
    .only(Applies::Delegating),
    Rule::should(
        ADD,
        "delegate.add-error-undone",
        Section::Delegation,
        "if the ADD of the delegate fails, its DEL is called",
        |fixture| {
            let (delegate, target) = (Delegate::install(fixture, "ADD")?, fixture.target()?);
            fixture.call_for("ADD", &target).run()?;
            delegate.was_called(&format!("DEL {}", target.container))
        },
    )
    .only(Applies::Delegating),
    Rule::must(CHECK, "delegate.check-error", Section::Delegation, "CHECK fails if the delegate fails", |fixture| {
        Delegate::install(fixture, "CHECK")?;
        fixture.check(&fixture.attach()?).run()?.failure()
    })
    .only(Applies::Delegating),
    Rule::must(DEL, "delegate.del-error", Section::Delegation, "DEL fails if the delegate fails", |fixture| {
        Delegate::install(fixture, "DEL")?;
        fixture.del(&fixture.attach()?).run()?.failure()
    })
    .only(Applies::Delegating),
    Rule::must(GC, "delegate.gc-error", Section::Delegation, "GC fails if the delegate fails", |fixture| {
        Delegate::install(fixture, "GC")?;
        fixture.call("GC").key("cni.dev/valid-attachments", json!([])).run()?.failure()
    })
    .only(Applies::Delegating),
    Rule::should(STATUS, "delegate.status-error", Section::Status, "STATUS fails if the delegate fails", |fixture| {
        Delegate::install(fixture, "STATUS")?;
        fixture.call("STATUS").run()?.failure()
    })
    .only(Applies::Delegating),
];

/// The plugin in `ipam.type`, with the recorder in front of it.
struct Delegate(Recorder);

impl Delegate {
    /// Puts the recorder before the real delegate on `CNI_PATH`. The recorder fails for the verb
    /// `failing`, if it is not empty.
    fn install(fixture: &Fixture<'_>, failing: &str) -> Verdict<Self> {
        let name = fixture.config().delegate().unwrap_or_default();
        let Some(real) = fixture.find(name) else {
            return not_tried(format!("{name} is not on CNI_PATH"));
        };
        let recorder = Recorder::install(fixture.host(), &real, failing)?;
        fixture.prefer(recorder.directory());
        Ok(Self(recorder))
    }

    /// The rule holds if a call starts with `start`: verb, container, interface and namespace.
    fn was_called(&self, start: &str) -> Verdict {
        let calls = self.0.calls();
        let found = calls.lines().any(|line| line.trim_end().starts_with(start));
        ensure(found, || format!("no {start}; the delegate was called with: {}", calls.trim_end().replace('\n', "; ")))
    }
}

fn configuration(fixture: &Fixture<'_>) -> Verdict {
    let delegate = Delegate::install(fixture, "")?;
    fixture.attach()?;
    let got = delegate.0.configuration();
    for (key, value) in fixture.config().in_version(fixture.version) {
        ensure(got[&key] == value, || format!("{key} was {value} for the plugin and {} for the delegate", got[&key]))?;
    }
    Ok(())
}
