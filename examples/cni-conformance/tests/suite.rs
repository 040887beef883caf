//! The suite on a plugin that has one flaw at a time, on one that has none, and the command around it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use cnikit::conformance::{Level, Outcome, Report, Suite};
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

fn broken(report: &Report) -> Vec<String> {
    let findings = report.findings.iter().filter(|finding| finding.outcome >= Outcome::Warned);
    findings.map(|finding| format!("{}@{}: {:?}", finding.rule, finding.version, finding.seen)).collect()
}

/// Each flaw is what its rule is there for. A rule is tried on the sound plugin too, which keeps it.
#[test]
fn each_flaw_is_caught_by_its_rule() {
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
    for (flaw, rule) in flaws {
        let report = flawed(flaw).only(rule).run().unwrap_or_else(|error| panic!("{flaw}: {error}"));
        let worst = report.of(rule).max_by_key(|finding| finding.outcome).expect("the rule was tried");
        let caught = if worst.level == Level::Must { Outcome::Failed } else { Outcome::Warned };
        assert_eq!(worst.outcome, caught, "{flaw} is not caught by {rule}: {worst:?}");
        assert_eq!(report.is_conformant(), worst.level == Level::Should);
    }
}

#[test]
fn a_plugin_without_flaw_keeps_every_rule() {
    if !privileged() {
        return;
    }
    let report = flawed("").run().expect("a verdict");
    assert_eq!(broken(&report), [""; 0]);
    let skipped = report.findings.iter().filter(|finding| finding.outcome == Outcome::Skipped);
    for finding in skipped {
        let themes = ["delegate.", "result.ipam"];
        assert!(themes.iter().any(|theme| finding.rule.starts_with(theme)), "{}: {:?}", finding.rule, finding.seen);
    }
}

#[test]
fn a_plugin_that_hangs_is_ended() {
    if !privileged() {
        return;
    }
    let hanging = flawed("slow").timeout(Duration::from_secs(1));
    let error = hanging.run().expect_err("it serves no ADD");
    assert!(error.to_string().contains("after that time"), "{error}");
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

#[test]
fn the_command_tells_by_its_status() {
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

    for wrong in [&["--only", "no.such-rule"], &["--version", "7.0.0"], &["--prepare", "/bin/false"]] {
        let refused = run("", wrong);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        assert!(!refused.stderr.is_empty() && refused.stdout.is_empty(), "{refused:?}");
    }
}

#[test]
fn the_command_judges_by_what_is_known() {
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
        let (status, told) = run("flawed-1", json!({ rule: [other] }));
        assert!(
            status == Some(1) && told.contains("result.cni-version: failed in 1.0.0, which is not known"),
            "{told}"
        );
    }
    let (status, told) = run("flawed-1", json!({ rule: ["flawed-1"], "result.mac": ["flawed"] }));
    assert!(status == Some(0) && told.contains("result.mac: kept"), "{told}");
    let (status, told) = run("flawed-1", json!({ "no.such-rule": ["flawed"] }));
    assert!(status == Some(2) && told.contains("no.such-rule"), "{told}");
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
