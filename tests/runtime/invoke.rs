use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use cnikit::runtime::{Error, Invocation, find};
use cnikit::spec::{Command, ErrorCode, HasErrorCode as _, Version};

use crate::support::{Bin, RESULT, config, parameters};

fn add(bin: &Bin, lines: &str) -> Result<cnikit::spec::AddResult, Error> {
    Invocation::new(bin.plugin("fake", lines), Command::Add).add(&config("1.0.0"))
}

#[test]
fn the_first_executable_file_is_found() {
    let bin = Bin::new();
    let [one, two, three] = ["one", "two", "three"].map(|name| bin.scratch(name));
    fs::create_dir_all(one.join("fake")).unwrap();
    fs::create_dir(&two).unwrap();
    fs::write(two.join("fake"), "").unwrap();
    fs::create_dir(&three).unwrap();
    let path = ["".into(), "/nonexistent".into(), one, two.clone(), three.clone()];
    let fake = "fake".parse().unwrap();

    let error = find(&fake, &path).unwrap_err();
    let text =
        format!("plugin fake cannot be run: {} is not executable; run chmod +x on it", two.join("fake").display());
    assert_eq!((error.to_string(), error.code()), (text, ErrorCode::INVALID_CONFIG));

    fs::write(three.join("fake"), "").unwrap();
    fs::set_permissions(three.join("fake"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(find(&fake, &path).unwrap(), three.join("fake"));

    let error = find(&fake, &[]).unwrap_err();
    assert_eq!(error.to_string(), "plugin fake not found: CNI_PATH names no directory; set it");
}

#[test]
fn the_plugin_receives_exactly_the_parameters_and_the_callers_environment() {
    let bin = Bin::new();
    let plugin = bin.succeeding("fake", RESULT);
    let parameters = parameters("c1").args("A=1;B=x=y".parse().unwrap());
    let path = ["/opt/cni/bin".into(), bin.path()];
    let invocation = Invocation::new(plugin, Command::Add).parameters(&parameters).path(&path).unwrap();
    let result = invocation.add(&config("1.1.0")).unwrap();
    assert_eq!(result.ips[0].address.to_string(), "10.1.0.5/16");

    let cni_path = format!("/opt/cni/bin:{}", bin.path().display());
    let expected = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/blue"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "A=1;B=x=y"),
        ("CNI_PATH", &cni_path),
    ];
    for (name, value) in expected {
        assert_eq!(bin.variable("fake", "ADD", name).as_deref(), Some(value), "{name}");
    }
    assert!(bin.variable("fake", "ADD", "PATH").is_some());
    assert_eq!(bin.stdin("fake", "ADD")["name"], "dbnet");
}

#[test]
fn an_unset_parameter_is_empty_for_runtimes_and_inherited_by_delegates() {
    let runtime: BTreeMap<_, _> =
        Invocation::new("/bin/x", Command::Gc).variables().map(|(name, value)| (name, value.to_owned())).collect();
    assert_eq!(runtime.len(), 6);
    assert_eq!(runtime["CNI_COMMAND"], "GC");
    assert!(
        ["CNI_ARGS", "CNI_NETNS", "CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"]
            .iter()
            .all(|one| runtime[one].is_empty())
    );

    let delegated = Invocation::delegated("/bin/x", Command::Gc);
    assert_eq!(delegated.variables().map(|(name, _)| name).collect::<Vec<_>>(), ["CNI_COMMAND"]);

    let error = delegated.path(&["/a:b".into()]).unwrap_err();
    assert_eq!(error.code(), ErrorCode::INVALID_ENVIRONMENT);
}

#[test]
fn a_result_has_its_own_version_or_the_configurations() {
    let bin = Bin::new();
    let old = r#"{"ip4":{"ip":"10.1.0.7/16"}}"#;
    let result = Invocation::new(bin.succeeding("fake", old), Command::Add).add(&config("0.2.0")).unwrap();
    assert_eq!(result.ips[0].address.to_string(), "10.1.0.7/16");

    let stated = r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.1.0.8/16"}}"#;
    let result = Invocation::new(bin.succeeding("fake", stated), Command::Add).add(&config("1.1.0")).unwrap();
    assert_eq!(result.ips[0].address.to_string(), "10.1.0.8/16");

    assert_eq!(add(&bin, "echo null").unwrap(), cnikit::spec::AddResult::default());
    assert_eq!(add(&bin, "echo '{}'").unwrap(), cnikit::spec::AddResult::default());
}

#[test]
fn an_error_document_is_passed_on() {
    let bin = Bin::new();
    let error = Invocation::new(bin.failing("fake", "DEL", 11), Command::Del).run(&config("1.0.0")).unwrap_err();
    let Error::Plugin { code, msg, details, .. } = &error else { panic!("{error:?}") };
    assert_eq!((*code, msg.as_str(), details.as_str()), (ErrorCode::TRY_AGAIN, "fake is broken", "really"));
    assert_eq!(error.code(), ErrorCode::TRY_AGAIN);
    let path = bin.path().join("fake");
    assert_eq!(error.to_string(), format!("{} failed DEL with code 11: fake is broken: really", path.display()));
}

#[test]
fn an_error_without_a_document_contains_the_output() {
    let bin = Bin::new();
    let error = add(&bin, "echo 'segmentation fault, sort of' >&2; exit 3").unwrap_err();
    assert!(error.to_string().ends_with("(exit status: 3); its output: segmentation fault, sort of"), "{error}");
    assert_eq!(error.code(), ErrorCode::INTERNAL);
    let error = add(&bin, "echo 'usage: fake'; exit 2").unwrap_err();
    assert!(error.to_string().ends_with("its output: usage: fake"), "{error}");
    let error = add(&bin, "kill -9 $$").unwrap_err();
    assert!(error.to_string().ends_with("without an error document (signal: 9 (SIGKILL))"), "{error}");
    // The end of a long output is kept.
    let error = add(&bin, "seq 100000 >&2; exit 1").unwrap_err();
    let Error::NoDocument { output, .. } = error else { panic!("{error:?}") };
    assert!(output.ends_with("\n99999\n100000") && output.len() <= 4096, "{output}");
}

#[test]
fn success_without_a_result_is_an_error() {
    let bin = Bin::new();
    let error = add(&bin, "echo '{\"code\": 7, \"msg\": \"no subnet\"}'").unwrap_err();
    assert!(matches!(error, Error::ErrorAsResult { code: ErrorCode::INVALID_CONFIG, .. }), "{error:?}");
    assert!(error.to_string().contains("wrote an error document with code 7: no subnet; "), "{error}");
    for garbage in ["", "echo hello", "echo '{\"ips\":'", "echo '{} {}'"] {
        let error = add(&bin, garbage).unwrap_err();
        assert!(matches!(error, Error::NotJson { .. }), "{garbage}: {error:?}");
    }
    for wrong in ["[]", "{\"ips\":7}", "{\"cniVersion\":\"9.9.9\"}"] {
        let error = add(&bin, &format!("echo '{wrong}'")).unwrap_err();
        assert!(matches!(error, Error::InvalidResponse { .. }), "{wrong}: {error:?}");
    }
}

#[test]
fn a_hanging_plugin_is_killed_with_its_children() {
    let bin = Bin::new();
    let pid = bin.scratch("pid");
    let plugin = bin.plugin("fake", &format!("sleep 600 & echo $! > {}; echo waiting >&2; wait", pid.display()));
    let begin = Instant::now();
    let invocation = Invocation::new(plugin, Command::Add).timeout(Duration::from_secs(2));
    let error = invocation.add(&config("1.0.0")).unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert!(error.to_string().ends_with("ADD took longer than 2s; its output: waiting"), "{error}");
    assert_eq!(error.code(), ErrorCode::TRY_AGAIN);

    let child = format!("/proc/{}/stat", fs::read_to_string(pid).unwrap().trim());
    cnikit_testbed::eventually("the child to be killed", Duration::from_secs(5), || {
        // A zombie remains until its new parent reaps it.
        fs::read_to_string(&child).map_or(true, |stat| stat.contains(") Z "))
    });
}

#[test]
fn a_background_child_is_not_waited_for() {
    let bin = Bin::new();
    let begin = Instant::now();
    let result = add(&bin, &format!("sleep 20 & echo '{RESULT}'")).unwrap();
    assert_eq!(result.ips.len(), 1);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

#[test]
fn neither_a_long_input_nor_a_long_output_blocks() {
    let bin = Bin::new();
    let long = "x".repeat(1 << 20);
    let config = format!(r#"{{"cniVersion":"1.0.0","name":"dbnet","type":"fake","long":"{long}"}}"#);
    let config = cnikit::spec::RawConfig::parse(config).unwrap();
    // The plugin writes before it reads.
    let path = bin.path().join("fake");
    let script = "#!/bin/sh\nseq 200000 >&2\nprintf '{\"long\":\"'\nhead -c 1000000 /dev/zero | tr '\\0' y\n\
                  printf '\",\"received\":'\nwc -c\nprintf '}'\n";
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let result = Invocation::new(&path, Command::Add).add(&config).unwrap();
    assert_eq!(result.other["received"], config.as_bytes().len());
    assert_eq!(result.other["long"].as_str().unwrap().len(), 1_000_000);

    // A plugin that does not read its input.
    fs::write(&path, "#!/bin/sh\necho '{}'\n").unwrap();
    Invocation::new(&path, Command::Add).add(&config).unwrap();
}

#[test]
fn an_endless_output_is_limited() {
    let bin = Bin::new();
    let error = add(&bin, "exec cat /dev/zero").unwrap_err();
    assert!(matches!(error, Error::OutputTooLong { .. }), "{error:?}");
}

#[test]
fn a_busy_executable_is_retried() {
    let bin = Bin::new();
    let plugin = bin.succeeding("fake", RESULT);
    let writer = fs::OpenOptions::new().append(true).open(&plugin).unwrap();
    let closer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        drop(writer);
    });
    Invocation::new(&plugin, Command::Add).add(&config("1.0.0")).unwrap();
    closer.join().unwrap();

    let writer = fs::OpenOptions::new().append(true).open(&plugin).unwrap();
    let invocation = Invocation::new(&plugin, Command::Add).timeout(Duration::from_millis(200));
    let error = invocation.add(&config("1.0.0")).unwrap_err();
    assert!(matches!(&error, Error::Start { .. }), "{error:?}");
    assert_eq!(error.code(), ErrorCode::IO);
    drop(writer);
}

#[test]
fn supported_versions_are_requested() {
    let bin = Bin::new();
    let response = r#"echo '{"cniVersion":"1.1.0","supportedVersions":["1.0.0","0.4.0","2.0.0"]}'"#;
    let versions = Invocation::new(bin.plugin("fake", response), Command::Version).versions().unwrap();
    assert_eq!(versions, [Version::V0_4_0, Version::V1_0_0]);
    assert_eq!(bin.stdin("fake", "VERSION"), serde_json::json!({"cniVersion": "1.1.0"}));

    let ancient = r#"echo '{"cniVersion":"0.1.0","code":100,"msg":"unknown CNI_COMMAND: VERSION"}'; exit 1"#;
    let versions = Invocation::new(bin.plugin("fake", ancient), Command::Version).versions().unwrap();
    assert_eq!(versions, [Version::V0_1_0]);
}
