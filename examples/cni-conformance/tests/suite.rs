//! Runs the suite on a plugin without flaws and with one flaw at a time, and tests the command.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use cnikit::conformance::{Error, Kind, Level, Outcome, Report, Suite};
use cnikit::spec::Version;
use cnikit_testbed::privileged;
use serde_json::{Value, json};

/// A binary that `cargo test --workspace` builds beside this test's.
fn built(path: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let profile = test.ancestors().nth(2).expect("it lies below deps in the profile's directory");
    let binary = profile.join(path);
    assert!(
        binary.is_file(),
        "{} is not there: build it by `cargo build --workspace --examples --bins`",
        binary.display()
    );
    binary
}

fn flawed(flaw: &str) -> Suite {
    let config = json!({ "name": "flawed", "type": "flawed-cni", "subnet": "10.77.0.0/28", "flaw": flaw });
    Suite::new(built("examples/flawed_cni"), config).expect("the plugin is there")
}

fn chained(flaw: &str) -> Suite {
    let plugin = json!({ "type": "flawed_chained", "mtu": 1400, "flaw": flaw });
    let config = json!({ "name": "chain", "plugins": [{ "type": "bridge" }, plugin] });
    Suite::new(built("examples/flawed_chained"), config).expect("the plugin is there")
}

fn broken(report: &Report) -> Vec<String> {
    let findings = report.findings.iter().filter(|finding| finding.outcome >= Outcome::Warned);
    findings.map(|finding| format!("{}@{}: {:?}", finding.rule, finding.version, finding.seen)).collect()
}

/// Each flaw must break its rule. Another test proves that the plugin without flaws follows every
/// rule.
#[test]
fn every_flaw_breaks_its_rule() {
    if !privileged() {
        return;
    }
    let flaws = [
        ("junk", "result.document"),
        ("exit-zero", "input.add-no-container-id"),
        ("exit-zero", "add.interface-exists"),
        ("mute-errors", "error.document"),
        ("own-codes", "code.add-no-container-id"),
        ("own-codes", "status.exhausted-code"),
        ("old-result", "result.cni-version"),
        ("talks", "del.silent"),
        ("talks", "gc.silent"),
        ("wrong-mac", "kernel.mac"),
        ("no-route", "kernel.routes"),
        ("one-address", "parallel.addresses"),
        ("replace", "add.twice-kept"),
        ("replace", "add.interface-exists-kept"),
        ("free-live", "add.twice-address"),
        ("del-once", "del.twice"),
        ("del-once", "del.never-added"),
        ("del-needs-netns", "del.without-netns"),
        ("leak-link", "del.pod-clean"),
        ("leak-link", "del.host-clean"),
        ("end-netns", "del.netns-kept"),
        ("leak-lease", "del.files-clean"),
        ("leak-lease", "del.frees-address"),
        ("leak-lease", "kill.files-clean"),
        ("blind-check", "check.link-removed"),
        ("blind-check", "check.address-removed"),
        ("blind-check", "check.route-removed"),
        ("blind-check", "check.after-del"),
        ("gc-frees-all", "gc.keeps-valid"),
        ("gc-frees-all", "gc.keeps-addresses"),
        ("gc-idle", "gc.frees-others"),
        ("gc-without-list", "gc.absent-list"),
        ("gc-without-list", "gc.null-list"),
        ("blind-status", "status.exhausted"),
    ];
    let flaws_of_chained = [
        ("drops-result", "chain.result-kept"),
        ("drops-result", "result.ip-interface"),
        ("needs-nothing", "chain.needs-prev-result"),
        ("deletes-interface", "chain.interface-kept"),
        ("keeps-mtu", "chain.del-undoes"),
        ("leaks-file", "del.files-clean"),
        ("leaks-file", "kill.files-clean"),
    ];
    let suites = flaws.iter().map(|(flaw, rule)| (flawed(flaw), *flaw, *rule));
    let chained = flaws_of_chained.iter().map(|(flaw, rule)| (chained(flaw), *flaw, *rule));
    for (suite, flaw, rule) in suites.chain(chained) {
        let report = suite.only(rule).run().unwrap_or_else(|error| panic!("{flaw}: {error}"));
        let worst = report.of(rule).max_by_key(|finding| finding.outcome).expect("the rule was tried");
        let caught = if worst.level == Level::Must { Outcome::Failed } else { Outcome::Warned };
        assert_eq!(worst.outcome, caught, "{flaw} is not caught by {rule}: {worst:?}");
        assert_eq!(report.is_conformant(), worst.level == Level::Should);
    }
}

#[test]
fn a_plugin_without_flaws_follows_every_rule() {
    if !privileged() {
        return;
    }
    let report = flawed("").run().expect("a verdict");
    assert_eq!(broken(&report), [""; 0]);
    let skipped = report.findings.iter().filter(|finding| finding.outcome == Outcome::Skipped);
    for finding in skipped {
        let groups = ["delegate.", "result.ipam", "chain."];
        assert!(groups.iter().any(|group| finding.rule.starts_with(group)), "{}: {:?}", finding.rule, finding.seen);
    }
}

/// The suite attaches the pod and passes `prevResult`. Rules about the creation of interfaces and
/// addresses are skipped, and every other rule is tried.
#[test]
fn a_chained_plugin_without_flaws_follows_every_rule() {
    if !privileged() {
        return;
    }
    let report = chained("").run().expect("a verdict");
    assert_eq!(broken(&report), [""; 0]);
    assert_eq!(report.kind, Kind::Chained);
    let skipped: Vec<&str> = report
        .findings
        .iter()
        .filter(|finding| finding.outcome == Outcome::Skipped)
        .filter(|finding| !finding.seen.as_deref().is_some_and(|seen| seen.starts_with("the plugin is chained")))
        .map(|finding| finding.rule.as_str())
        .collect();
    let others = |rule: &&&str| !["delegate.", "result.ipam", "kernel.mtu"].iter().any(|group| rule.starts_with(group));
    assert_eq!(skipped.iter().filter(others).count(), 0, "{skipped:?}");
    for rule in ["chain.del-undoes", "del.without-prev-result", "check.without-prev-result", "kernel.addresses"] {
        assert!(report.of(rule).all(|finding| finding.outcome == Outcome::Passed), "{rule}");
    }
}

#[test]
fn a_hanging_plugin_is_killed() {
    if !privileged() {
        return;
    }
    let hanging = flawed("slow").timeout(Duration::from_secs(1));
    let error = hanging.run().expect_err("it serves no ADD");
    assert!(error.to_string().contains("after that time"), "{error}");
}

/// Needs no privileges, because nothing runs.
#[test]
fn a_pattern_that_matches_no_rule_is_no_verdict() {
    for (suite, text) in [
        (flawed("").only("typo.*"), "\"typo.*\" of only"),
        (flawed("").only("del.*").only("ad.twice"), "\"ad.twice\" of only"),
        (flawed("").skip("del.twcie"), "\"del.twcie\" of skip"),
        (flawed("").only(""), "\"\" of only"),
    ] {
        let error = suite.run().expect_err("it selects nothing");
        assert!(matches!(error, Error::NoSuchRule { .. }) && error.to_string().contains(text), "{error}");
    }
    for suite in [flawed("").skip("*"), flawed("").only("del.*").skip("del.*")] {
        assert!(matches!(suite.run(), Err(Error::NoRules)));
    }
}

/// A plugin with its own address management may still have an `ipam.type`, with or without an
/// installed plugin.
#[test]
fn a_plugin_that_does_not_call_its_delegate_gets_one_warning() {
    if !privileged() {
        return;
    }
    let path = tempfile::tempdir().expect("a directory");
    let delegate = path.path().join("pool");
    std::fs::write(&delegate, "#!/bin/sh\nexit 1\n").expect("room");
    std::fs::set_permissions(&delegate, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
    for name in ["pool", "absent"] {
        let config = json!({
            "name": "flawed", "type": "flawed-cni", "subnet": "10.77.0.0/28", "ipam": { "type": name },
        });
        let suite =
            Suite::new(built("examples/flawed_cni"), config).expect("the plugin is there").with_cni_path(path.path());
        let report = suite.only("delegate.*").only("*.without-path").run().expect("a verdict");
        let outcomes = |outcome| -> Vec<&str> {
            report.findings.iter().filter(|one| one.outcome == outcome).map(|one| one.rule.as_str()).collect()
        };
        assert_eq!(outcomes(Outcome::Failed), [""; 0], "{report}");
        assert_eq!(outcomes(Outcome::Warned), ["delegate.called"], "{report}");
        assert_eq!(outcomes(Outcome::Passed), ["add.without-path", "status.without-path"], "{report}");
        for finding in report.findings.iter().filter(|finding| finding.outcome == Outcome::Skipped) {
            assert!(finding.seen.as_deref().is_some_and(|seen| seen.contains("delegate.called")), "{finding:?}");
        }
    }
}

/// The addresses come from Debian's `host-local`.
#[test]
fn a_delegating_plugin_follows_the_delegation_rules() {
    if !privileged() {
        return;
    }
    let ipam = json!({ "type": "host-local", "subnet": "10.79.0.0/28" });
    let config = json!({ "name": "delegating", "type": "simple-ebpf-cni", "ipam": ipam });
    let suite = Suite::new(built("simple-ebpf-cni"), config).expect("it is there").with_cni_path("/usr/lib/cni");
    let report =
        suite.with_version(Version::V1_0_0).only("delegate.*").only("add.without-path").run().expect("a verdict");
    assert_eq!(broken(&report), [""; 0]);
    let of = |rule: &'static str| report.of(rule).next().expect("it was selected");
    assert_eq!((of("delegate.called").outcome, of("delegate.add").outcome), (Outcome::Passed, Outcome::Passed));
    assert_eq!(of("add.without-path").seen.as_deref(), Some("the plugin delegates and needs CNI_PATH for that"));
}

#[test]
fn simple_ebpf_cni_conforms() {
    if !privileged() {
        return;
    }
    let config = json!({ "name": "conformance", "type": "simple-ebpf-cni", "subnet": "10.78.0.0/28" });
    let report = Suite::new(built("simple-ebpf-cni"), config).expect("it is there").run().expect("a verdict");
    assert_eq!(broken(&report), [""; 0]);
}

/// scripts/conformance.sh tries the examples with all versions.
fn example(plugin: &str, config: &str) -> Suite {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let text = std::fs::read_to_string(configs.join(format!("{config}.conf"))).expect("the configuration is there");
    let suite = Suite::new(built(&format!("examples/{plugin}")), text.parse().expect("JSON"));
    let (suite, prepare) = (suite.expect("the plugin is there"), configs.join(format!("{config}.prepare")));
    let suite = suite.with_version(Version::V1_1_0);
    if prepare.is_file() { suite.prepare(prepare) } else { suite }
}

#[test]
fn the_example_macvlan_conforms() {
    if !privileged() {
        return;
    }
    let report = example("macvlan", "macvlan-example").run().expect("a verdict");
    assert_eq!((broken(&report), report.kind), (Vec::new(), Kind::Interface));
}

#[test]
fn the_example_tuning_conforms() {
    if !privileged() {
        return;
    }
    let report = example("tuning", "tuning-example").run().expect("a verdict");
    assert_eq!((broken(&report), report.kind), (Vec::new(), Kind::Chained));
}

#[test]
fn the_example_pool_ipam_conforms() {
    if !privileged() {
        return;
    }
    let report = example("pool-ipam", "pool-ipam").run().expect("a verdict");
    assert_eq!((broken(&report), report.kind), (Vec::new(), Kind::Ipam));
}

#[test]
fn the_exit_status_reports_the_verdict() {
    if !privileged() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let plugin = built("examples/flawed_cni");
    let run = |flaw: &str, arguments: &[&str]| {
        let config = json!({
            "cniVersion": "1.1.0", "name": "listed",
            "plugins": [{ "type": "flawed-cni", "subnet": "10.77.0.0/28", "flaw": flaw }],
        });
        let path = folder.path().join("config.conflist");
        std::fs::write(&path, config.to_string()).expect("it is writable");
        command(&plugin, &path).args(arguments).output().expect("it can be started")
    };

    let kept = run("", &["--only", "version.*", "--format", "json"]);
    assert_eq!(kept.status.code(), Some(0), "{kept:?}");
    let report: Value = serde_json::from_slice(&kept.stdout).expect("JSON");
    assert_eq!((&report["network"], &report["kind"]), (&json!("listed"), &json!("interface")));
    assert_eq!(report["findings"][0]["rule"], "version.answers");

    let broken = run("old-result", &["--only", "result.*", "--version", "1.0.0", "--color", "always"]);
    assert_eq!(broken.status.code(), Some(1), "{broken:?}");
    let table = text(&broken);
    assert!(table.contains("\x1b[31mfailed") && table.contains("result.cni-version"), "{table}");

    let warned = run("talks", &["--only", "del.silent", "--format", "junit"]);
    assert_eq!(warned.status.code(), Some(0), "{warned:?}");
    let junit = text(&warned);
    assert!(junit.contains(r#"<testcase classname="flawed_cni.del" name="del.silent@1.1.0""#), "{junit}");

    // The rules about GC do not apply to a version without GC.
    for format in ["table", "json"] {
        let skipped = run("", &["--only", "gc.*", "--version", "1.0.0", "--format", format]);
        assert_eq!(skipped.status.code(), Some(2), "{skipped:?}");
        let stderr = String::from_utf8_lossy(&skipped.stderr);
        assert!(stderr.contains("every rule was skipped") && stderr.contains("select other rules"), "{stderr}");
        assert_eq!(text(&skipped).contains("no verdict: every rule was skipped"), format == "table", "{skipped:?}");
        assert!(text(&skipped).contains("gc.succeeds"), "{skipped:?}");
    }

    let wrong: [&[&str]; 5] = [
        &["--only", "no.such-rule"],
        &["--skip", "del.twcie"],
        &["--only", "del.twice", "--skip", "del.*"],
        &["--version", "7.0.0"],
        &["--prepare", "/bin/false"],
    ];
    for wrong in wrong {
        let refused = run("", wrong);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(!refused.stderr.is_empty() && refused.stdout.is_empty(), "{refused:?}");
    }
}

#[test]
fn known_violations_are_not_failures() {
    if !privileged() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let plugin = built("examples/flawed_cni");
    let run = |name: &str, rules: Value| {
        let config = json!({ "name": "flawed", "type": "flawed-cni", "subnet": "10.77.0.0/28", "flaw": "old-result" });
        let known = json!([{ "rules": rules, "verdict": "plugin", "why": "it is flawed", "source": "flawed_cni.rs" }]);
        let [config, known] = [("config", config), ("known", known)].map(|(name, json)| {
            let path = folder.path().join(name);
            std::fs::write(&path, json.to_string()).expect("it is writable");
            path
        });
        let mut command = command(&plugin, &config);
        command.args(["--only", "result.*", "--version", "1.0.0", "--name", name, "--known"]).arg(known);
        let output = command.output().expect("it can be started");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };

    let rule = "result.cni-version";
    assert_eq!(run("flawed-1", json!({ rule: ["flawed"] })), (Some(0), String::new()));
    for other in ["flawed-2", "flaw"] {
        let (status, text) = run("flawed-1", json!({ rule: [other] }));
        assert!(status == Some(1) && text.contains("result.cni-version: failed in 1.0.0, not in the list"), "{text}");
    }
    let (status, text) = run("flawed-1", json!({ rule: ["flawed-1"], "result.mac": ["flawed"] }));
    assert!(status == Some(0) && text.contains("result.mac: passed"), "{text}");
    let (status, text) = run("flawed-1", json!({ "no.such-rule": ["flawed"] }));
    assert!(status == Some(2) && text.contains("no.such-rule"), "{text}");
}

#[test]
fn the_command_compares_reports() {
    if !privileged() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let paths = ["", "old-result"].map(|flaw| {
        let report = flawed(flaw).only("result.*").only("del.silent").run().expect("a verdict");
        let path = folder.path().join(format!("{}.json", if flaw.is_empty() { "sound" } else { flaw }));
        std::fs::write(&path, serde_json::to_vec(&report).expect("JSON")).expect("it is writable");
        path
    });
    let bad = format!("bad={}", paths[1].display());
    let compared = bare().arg("--compare").arg(&paths[0]).arg(bad).output().expect("it can be started");
    let table = text(&compared);
    assert!(table.starts_with("| rule | level | sound | bad |\n"), "{table}");
    let echo = table.lines().find(|line| line.contains("result.cni-version")).expect("a row");
    assert!(echo.contains("| ok | **failed** in 0.1.0 to 0.3.0, 0.4.0 to 1.1.0 |"), "{echo}");
}

#[test]
fn the_command_lists_its_rules() {
    let listed = bare().arg("--list").output().expect("it can be started");
    assert!(listed.status.success(), "{listed:?}");
    assert_eq!(text(&listed).lines().count(), cnikit::conformance::rules().count());
}

fn bare() -> Command {
    Command::new(env!("CARGO_BIN_EXE_cni-conformance"))
}

fn command(plugin: &Path, config: &Path) -> Command {
    let mut command = bare();
    command.arg("--plugin").arg(plugin).arg("--config").arg(config).args(["--timeout", "20"]);
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
