//! Delegation, seen by an IPAM plugin that stands in front of the real one and writes down what it is called with.

use serde_json::json;

use crate::conformance::bench::Bench;
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
        "ADD calls the plugin in \"ipam.type\"; all other rules about delegation build on that",
        |bench| match bench.delegation() {
            Delegation::NotCalled(seen) => broken(seen),
            Delegation::Unnamed | Delegation::Called => Ok(()),
        },
    )
    .only(Applies::Naming),
    Rule::must(ADD, "delegate.add", Section::Delegation, "ADD is passed on with its variables", |bench| {
        let (delegate, attached) = (Delegate::install(bench, "")?, bench.attach()?);
        let target = &attached.target;
        let path = target.pod.path().display();
        delegate.was_called(&format!("ADD {} {} {path}", target.container, target.ifname))
    })
    .only(Applies::Delegating),
    Rule::must(
        ADD,
        "delegate.configuration",
        Section::Delegation,
        "the delegate gets the complete configuration that the plugin got",
        configuration,
    )
    .only(Applies::Delegating),
    Rule::must(DEL, "delegate.del", Section::Delegation, "DEL is passed on", |bench| {
        let (delegate, attached) = (Delegate::install(bench, "")?, bench.attach()?);
        bench.detach(&attached)?;
        delegate.was_called(&format!("DEL {}", attached.target.container))
    })
    .only(Applies::Delegating),
    Rule::must(
        DEL,
        "delegate.del-without-netns",
        Section::Del,
        "DEL is passed on when the namespace is gone",
        |bench| {
            let (delegate, attached) = (Delegate::install(bench, "")?, bench.attach()?);
            let (call, container) = (bench.del(&attached).env("CNI_NETNS", ""), attached.target.container);
            attached.target.pod.end()?;
            call.run()?;
            delegate.was_called(&format!("DEL {container}"))
        },
    )
    .only(Applies::Delegating),
    Rule::must(CHECK, "delegate.check", Section::Delegation, "CHECK is passed on", |bench| {
        let (delegate, attached) = (Delegate::install(bench, "")?, bench.attach()?);
        bench.check(&attached).run()?;
        delegate.was_called(&format!("CHECK {}", attached.target.container))
    })
    .only(Applies::Delegating),
    Rule::must(GC, "delegate.gc", Section::Gc, "GC is passed on", |bench| {
        let delegate = Delegate::install(bench, "")?;
        bench.call("GC").key("cni.dev/valid-attachments", json!([])).run()?;
        delegate.was_called("GC")
    })
    .only(Applies::Delegating),
    Rule::must(STATUS, "delegate.status", Section::Status, "STATUS is passed on", |bench| {
        let delegate = Delegate::install(bench, "")?;
        bench.call("STATUS").run()?;
        delegate.was_called("STATUS")
    })
    .only(Applies::Delegating),
    Rule::must(ADD, "delegate.add-error", Section::Delegation, "ADD fails when the delegate's does", |bench| {
        Delegate::install(bench, "ADD")?;
        bench.on("ADD", &bench.target()?).run()?.failure()
    })
    .only(Applies::Delegating),
    Rule::should(
        ADD,
        "delegate.add-error-undone",
        Section::Delegation,
        "when the delegate's ADD fails, its DEL is called",
        |bench| {
            let (delegate, target) = (Delegate::install(bench, "ADD")?, bench.target()?);
            bench.on("ADD", &target).run()?;
            delegate.was_called(&format!("DEL {}", target.container))
        },
    )
    .only(Applies::Delegating),
    Rule::must(CHECK, "delegate.check-error", Section::Delegation, "CHECK fails when the delegate's does", |bench| {
        Delegate::install(bench, "CHECK")?;
        bench.check(&bench.attach()?).run()?.failure()
    })
    .only(Applies::Delegating),
    Rule::must(DEL, "delegate.del-error", Section::Delegation, "DEL fails when the delegate's does", |bench| {
        Delegate::install(bench, "DEL")?;
        bench.del(&bench.attach()?).run()?.failure()
    })
    .only(Applies::Delegating),
    Rule::must(GC, "delegate.gc-error", Section::Delegation, "GC fails when the delegate's does", |bench| {
        Delegate::install(bench, "GC")?;
        bench.call("GC").key("cni.dev/valid-attachments", json!([])).run()?.failure()
    })
    .only(Applies::Delegating),
    Rule::should(STATUS, "delegate.status-error", Section::Status, "STATUS fails when the delegate's does", |bench| {
        Delegate::install(bench, "STATUS")?;
        bench.call("STATUS").run()?.failure()
    })
    .only(Applies::Delegating),
];

/// The plugin in `ipam.type`, with the recorder before it.
struct Delegate(Recorder);

impl Delegate {
    /// Puts the recorder before the real delegate on `CNI_PATH`. It fails for the verb in `failing`, if there is one.
    fn install(bench: &Bench<'_>, failing: &str) -> Verdict<Self> {
        let name = bench.config().delegate().unwrap_or_default();
        let Some(real) = bench.find(name) else {
            return not_tried(format!("{name} is not on CNI_PATH"));
        };
        let recorder = Recorder::install(bench.host(), &real, failing)?;
        bench.prefer(recorder.directory());
        Ok(Self(recorder))
    }

    /// The rule is kept if there was a call that begins so: verb, container, interface and namespace.
    fn was_called(&self, start: &str) -> Verdict {
        let calls = self.0.calls();
        let found = calls.lines().any(|line| line.trim_end().starts_with(start));
        ensure(found, || format!("no {start}; the delegate was called with: {}", calls.trim_end().replace('\n', "; ")))
    }
}

fn configuration(bench: &Bench<'_>) -> Verdict {
    let delegate = Delegate::install(bench, "")?;
    bench.attach()?;
    let got = delegate.0.configuration();
    for (key, value) in bench.config().in_version(bench.version) {
        ensure(got[&key] == value, || format!("{key} was {value}, and {} for the delegate", got[&key]))?;
    }
    Ok(())
}
