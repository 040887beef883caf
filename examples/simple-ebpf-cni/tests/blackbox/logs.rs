//! The log: one line for each call, for any content. No call fails because of the log.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use cnikit_testbed::{Namespace as _, Outcome};
use serde_json::{Value, json};

use crate::support::{Network, on_host};

/// A private host has its own `/run`, so the file is not the machine's.
pub(crate) const LOG: &str = "/run/cni.log";

/// A line as a logfmt parser reads it.
pub(crate) type Line = BTreeMap<String, String>;

/// The configuration with a log.
fn logged(network: &Network, level: Option<&str>) -> Value {
    let mut config = network.with("logFile", LOG);
    config["cniVersion"] = json!("1.1.0");
    if let Some(level) = level {
        config["logLevel"] = json!(level);
    }
    config
}

/// Runs a test on a network with a log.
#[track_caller]
pub(crate) fn with_log(level: Option<&str>, test: impl FnOnce(&Network) + Send) {
    on_host(|network| {
        test(&network.by(logged(network, level)));
        let _ = fs::remove_file(LOG);
    });
}

/// Calls a verb without an attachment.
#[track_caller]
fn bare(network: &Network, verb: &str) -> Outcome {
    network.plugin.invocation(verb).config(&network.config).run()
}

/// The complete lines of the log.
#[track_caller]
pub(crate) fn lines() -> Vec<Line> {
    let text = fs::read_to_string(LOG).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is torn: {text}");
    text.lines().map(parsed).collect()
}

/// Parses a line: `key=value key="value with \"escapes\""`.
#[track_caller]
fn parsed(line: &str) -> Line {
    let mut fields = Line::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (key, value) = rest.split_once('=').unwrap_or_else(|| panic!("no key=value in {rest:?} of {line:?}"));
        let length = match value.strip_prefix('"') {
            Some(quoted) => 2 + closing(quoted).unwrap_or_else(|| panic!("a quote is open in {line:?}")),
            None => value.find(' ').unwrap_or(value.len()),
        };
        let (value, more) = value.split_at(length);
        assert!(key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{key:?} of {line:?}");
        assert!(fields.insert(key.to_owned(), value.to_owned()).is_none(), "{key} is there twice: {line:?}");
        rest = more.strip_prefix(' ').unwrap_or(more);
    }
    fields
}

/// The position of the first quote without a backslash before it.
fn closing(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        closes
    })
}

/// The only line of the log, which is then emptied.
#[track_caller]
pub(crate) fn only_line() -> Line {
    let mut lines = lines();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    fs::write(LOG, "").expect("root may write");
    lines.remove(0)
}

#[track_caller]
pub(crate) fn assert_fields(line: &Line, expected: &[(&str, &str)]) {
    for (key, value) in expected {
        assert_eq!(line.get(*key).map(String::as_str), Some(*value), "{key} of {line:#?}");
    }
}

/// A time of the line, in milliseconds.
#[track_caller]
fn time(line: &Line, key: &str) -> f64 {
    let text = line.get(key).unwrap_or_else(|| panic!("no {key} in {line:#?}"));
    text.parse().unwrap_or_else(|error| panic!("{key}={text}: {error}"))
}

/// Seconds since 1970, from date(1).
fn seconds(network: &Network, time: &str) -> u64 {
    let text = network.host.command("date").args(["-u", "+%s", "-d", time]).run();
    text.trim().parse().expect("date prints a number")
}

#[test]
fn each_verb_is_one_line() {
    with_log(None, |network| {
        let before = seconds(network, "now");
        let pod = network.attach("one");
        let reported = bare(network, "VERSION").json;
        assert_eq!(reported["cniVersion"], "1.1.0");
        let mode = fs::metadata(LOG).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let [add, version] = <[Line; 2]>::try_from(lines()).expect("two lines");
        fs::write(LOG, "").expect("root may write");
        let of_pod = [("network", "blackbox"), ("container", "one"), ("ifname", "eth0"), ("addresses", "10.99.0.2/24")];
        assert_fields(&add, &of_pod);
        assert_fields(&add, &[("command", "ADD"), ("result", "ok"), ("level", "info")]);
        assert_fields(&version, &[("command", "VERSION"), ("network", "blackbox"), ("result", "ok")]);
        // The time of a line is UTC and now.
        let (written, after) = (seconds(network, &add["time"]), seconds(network, "now"));
        assert!(add["time"].ends_with('Z') && (before..=after).contains(&written), "{before} {add:?} {after}");
        let steps =
            ["lock", "look", "load", "lease", "programs", "bridge", "pair", "join", "port", "gateway", "maps", "pod"];
        let sum: f64 = steps.iter().map(|step| time(&add, &format!("{step}_ms"))).sum();
        assert!(sum > 0.0 && sum <= time(&add, "total_ms"), "{add:#?}");

        network.check(&pod).silent();
        let check = only_line();
        assert_fields(&check, &of_pod);
        assert_fields(&check, &[("command", "CHECK"), ("result", "ok")]);

        bare(network, "STATUS").silent();
        let status = only_line();
        assert_fields(&status, &[("command", "STATUS"), ("network", "blackbox"), ("result", "ok")]);
        assert!(!status.contains_key("container"), "{status:?}");

        let config = network.with("prevResult", pod.result.clone());
        network.by(config).call("DEL", "one", &pod.pod).silent();
        let del = only_line();
        assert_fields(&del, &of_pod);
        assert_fields(&del, &[("command", "DEL"), ("result", "ok")]);
        for step in ["pair_ms", "maps_ms", "lease_ms", "total_ms"] {
            assert!(time(&del, step) >= 0.0);
        }

        network.attach("two");
        fs::write(LOG, "").expect("root may write");
        bare(&network.by(network.with("cni.dev/valid-attachments", json!([]))), "GC").silent();
        let gc = only_line();
        assert_fields(&gc, &[("command", "GC"), ("network", "blackbox"), ("result", "ok")]);
        assert!(time(&gc, "collect_ms") <= time(&gc, "total_ms"));
    });
}

/// The time of another plugin is a step too. Its output is not a line of the log.
#[test]
fn a_delegate_is_a_step() {
    with_log(None, |network| {
        let mut config = network.with("ipam", json!({ "type": "host-local", "subnet": "10.99.0.0/24" }));
        config["cniVersion"] = json!("1.0.0");
        config.as_object_mut().expect("an object").remove("subnet");
        let pod = network.host.pod();
        for verb in ["ADD", "DEL"] {
            let call = network.plugin.on(verb, &config, "one", &pod).env("CNI_PATH", "/usr/lib/cni").run();
            assert!(call.status.success(), "{call:#?}");
            let line = only_line();
            assert_fields(&line, &[("command", verb), ("result", "ok")]);
            let delegate = time(&line, "delegate_ms");
            assert!(delegate > 0.0 && delegate < time(&line, "total_ms"), "{line:#?}");
        }
        network.host.keep("file /var/lib/cni/networks/");
    });
}

#[test]
fn a_failure_is_a_line_in_the_log_and_on_standard_error() {
    with_log(None, |network| {
        let pod = network.attach("one");
        fs::write(LOG, "").expect("root may write");
        let failed = network.call("ADD", "one", &pod.pod);
        let stderr = failed.stderr.clone();
        let message = failed.error(4);
        let line = only_line();
        assert_fields(&line, &[("level", "error"), ("result", "error"), ("code", "4"), ("container", "one")]);
        assert_eq!(line["msg"], format!("{message:?}"));
        assert_eq!(stderr, format!("simple-ebpf-cni: {message}\n"));
        network.detach(&pod);
    });
}

#[test]
fn an_unreadable_configuration_is_reported_on_standard_error() {
    with_log(None, |network| {
        let pod = network.host.pod();
        let add = network.plugin.on("ADD", &network.config, "one", &pod);
        for (call, code) in [(add.clone().stdin("{"), 6), (add.clone().env("CNI_IFNAME", "a/b"), 4)] {
            let outcome = call.run();
            assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:#?}");
            assert!(outcome.stderr.starts_with("simple-ebpf-cni: "), "{outcome:#?}");
            let _ = outcome.error(code);
        }
        assert!(!Path::new(LOG).exists());
    });
}

#[test]
fn without_a_log_a_successful_call_prints_nothing() {
    on_host(|network| {
        let pod = network.host.pod();
        let add = network.call("ADD", "one", &pod);
        assert_eq!(add.stderr, "");
        let del = network.call("DEL", "one", &pod);
        assert_eq!((add.result()["ips"].is_array(), del.stderr.as_str()), (true, ""));
        assert!(!Path::new(LOG).exists());
    });
}

/// The number of lines of a failed ADD, a successful ADD and its DEL.
#[test]
fn levels_choose_what_is_written() {
    for (level, commands) in [("error", 1), ("warning", 1), ("warn", 1), ("info", 3)] {
        with_log(Some(level), |network| {
            let pod = network.attach("one");
            let _ = network.call("ADD", "one", &pod.pod).error(4);
            network.detach(&pod);
            assert_eq!(lines().len(), commands, "{level}: {:#?}", lines());
        });
    }
}

#[test]
fn debug_logs_each_step() {
    with_log(Some("debug"), |network| {
        let pod = network.attach("one");
        let lines = lines();
        let (call, steps) = lines.split_last().expect("lines");
        assert_fields(call, &[("level", "info"), ("result", "ok")]);
        assert!(steps.iter().all(|line| line["level"] == "debug" && line["container"] == "one"), "{steps:#?}");
        for step in ["look", "load", "lease", "bridge", "pair", "join", "pod"] {
            let reported: Vec<&Line> =
                steps.iter().filter(|line| line["step"] == step && line.contains_key("step_ms")).collect();
            assert_eq!(reported.len(), 1, "{step}: {steps:#?}");
            assert_eq!(reported[0]["step_ms"], call[&format!("{step}_ms")], "{step}");
        }
        network.detach(&pod);
    });
}

/// A warning is a line in the log and on standard error, and the call continues.
#[test]
fn a_warning_names_its_call() {
    const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
    with_log(Some("warning"), |network| {
        for options in ["--bind", "-o remount,bind,ro"] {
            network.host.command("mount").words(options).args([FORWARD, FORWARD]).run();
        }
        let masquerading = network.by(network.with("ipMasq", true));
        let pod = network.host.pod();
        let add = masquerading.call("ADD", "one", &pod);
        let stderr = add.stderr.clone();
        add.result();
        let line = only_line();
        assert_fields(&line, &[("level", "warning"), ("command", "ADD"), ("container", "one"), ("step", "masquerade")]);
        assert!(line["msg"].contains(FORWARD), "{line:#?}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        let text = stderr.trim_end().strip_prefix("simple-ebpf-cni: ").expect("the prefix");
        assert_eq!(line["msg"], format!("{text:?}"));
        masquerading.call("DEL", "one", &pod).silent();
        network.host.command("umount").arg(FORWARD).run();
        let gc = network.by(network.with("cni.dev/valid-attachments", json!([])));
        bare(&gc, "GC").silent();
    });
}

/// A pod without IPv6 needs no setting, so only the bridge causes a warning.
#[test]
fn read_only_settings_cause_a_warning() {
    with_log(Some("warning"), |network| {
        let pod = network.host.pod();
        let settings = "/proc/sys";
        for options in ["--bind", "-o remount,bind,ro"] {
            network.host.command("mount").words(options).args([settings, settings]).run();
        }
        let add = network.call("ADD", "one", &pod);
        network.host.command("umount").arg(settings).run();
        add.result();
        let lines = lines();
        assert!(lines.iter().all(|line| line["level"] == "warning" && line["container"] == "one"), "{lines:#?}");
        let steps: BTreeSet<_> = lines.iter().map(|line| line["step"].as_str()).collect();
        assert_eq!(steps, BTreeSet::from(["bridge"]), "{lines:#?}");
        network.call("DEL", "one", &pod).silent();
    });
}

#[test]
fn an_invalid_level_is_refused_except_by_del() {
    with_log(Some("loud"), |network| {
        let pod = network.host.pod();
        let message = network.call("ADD", "one", &pod).error(7);
        assert!(["logLevel", "loud", "error", "warning", "info", "debug"].iter().all(|word| message.contains(word)));
        assert_fields(&only_line(), &[("level", "error"), ("code", "7")]);
        network.call("DEL", "one", &pod).silent();
        assert_fields(&only_line(), &[("command", "DEL"), ("result", "ok")]);
    });
}

#[test]
fn a_relative_path_is_refused() {
    on_host(|network| {
        let message = network.by(network.with("logFile", "cni.log")).call("ADD", "one", &network.host.pod()).error(7);
        assert!(message.contains("logFile") && message.contains("absolute"), "{message}");
    });
}

/// Names from the runtime and quoted texts in messages cannot add lines or keys.
#[test]
fn malicious_values_do_not_break_a_line() {
    with_log(None, |network| {
        let pod = network.host.pod();
        let hostile = "x\ntime=2026-01-01T00:00:00Z level=info result=ok\" \\ \u{1b}[2J \u{202e}";
        let by_key = |key: &str| network.by(network.with(key, hostile)).call("ADD", "one", &pod);
        let by_variable =
            || network.plugin.on("ADD", &network.config, "one", &pod).env("CNI_ARGS", format!("MAC={hostile}")).run();
        let nested = network.with("ipam", json!({ "type": format!("host-local{hostile}") }));
        let calls: [(Outcome, u64); 5] = [
            (by_key("name"), 7),
            (by_key("bridge"), 7),
            (by_key("subnet"), 7),
            (by_variable(), 4),
            (network.by(nested).call("ADD", "one", &pod), 7),
        ];
        let lines = lines();
        assert_eq!(lines.len(), calls.len(), "{lines:#?}");
        for ((outcome, code), line) in calls.into_iter().zip(lines) {
            assert_fields(&line, &[("result", "error"), ("command", "ADD"), ("code", &code.to_string())]);
            assert!(line.values().flat_map(|value| value.chars()).all(|c| !c.is_control() && c != '\u{202e}'));
            assert_eq!(outcome.stderr.matches('\n').count(), 1, "{outcome:#?}");
            assert!(!outcome.stderr.contains('\u{1b}'), "{outcome:#?}");
            let _ = outcome.error(code);
        }
        // The kernel accepts quotes in the name of an interface.
        let ifname = r#"a"=\b"#;
        let named = |verb| network.plugin.on(verb, &network.config, "one", &pod).env("CNI_IFNAME", ifname).run();
        fs::write(LOG, "").expect("root may write");
        named("ADD").result();
        assert_fields(&only_line(), &[("ifname", &format!("{ifname:?}")), ("result", "ok")]);
        named("DEL").silent();
    });
}
