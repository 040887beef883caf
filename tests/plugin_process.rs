//! A careless plugin as a process: standard output must still contain one document or nothing.
//!
//! The binary is its own plugin if `CNI_COMMAND` is set. The usual test runner prints to standard
//! output, so this test has its own `main` (`harness = false`) and its own binary.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use cnikit::plugin::{
    self, AddRequest, CheckRequest, DelRequest, GcRequest, Plugin, PluginError, PluginInfo, StatusRequest,
};
use cnikit::runtime::{Delegable, Delegate, Prior};
use cnikit::spec::{AddResult, Interface};
use cnikit_testbed::Outcome;
use serde_json::{Value, json};

/// The lifetime of a child that the plugin leaves behind.
const LINGER: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    if std::env::var_os("CNI_COMMAND").is_some() {
        return plugin::run(&Careless);
    }
    let tests: [(&str, fn()); 5] = [
        ("printed_text_goes_to_standard_error", printed_text_goes_to_standard_error),
        ("a_verb_without_result_stays_silent", a_verb_without_result_stays_silent),
        ("a_panic_is_an_error_document", a_panic_is_an_error_document),
        ("a_background_child_does_not_block_the_caller", a_background_child_does_not_block_the_caller),
        ("a_plugin_does_not_delegate_to_itself", a_plugin_does_not_delegate_to_itself),
    ];
    for (name, test) in tests {
        test();
        eprintln!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

fn printed_text_goes_to_standard_error() {
    let outcome = call("ADD", "print");
    let printed = ["from the verb", "from a thread", "from a child", "without end of line"];
    for text in printed {
        assert!(outcome.stderr.contains(text), "{text:?} is not on standard error: {outcome:#?}");
    }
    // Not with the testbed's `json`, which is `null` for invalid JSON: the error shows the output.
    let document: Value = serde_json::from_str(&outcome.stdout).expect("one JSON document and nothing else");
    assert_eq!(document, json!({ "cniVersion": "1.1.0", "interfaces": [{ "name": "eth0" }] }));
    assert!(outcome.status.success(), "{outcome:#?}");
}

fn a_verb_without_result_stays_silent() {
    let outcome = call("DEL", "print");
    assert!(outcome.stderr.contains("from a child"), "{outcome:#?}");
    outcome.silent();
}

fn a_panic_is_an_error_document() {
    for verb in ["ADD", "DEL"] {
        let outcome = call(verb, "panic");
        assert!(outcome.stderr.contains("from the verb"), "{outcome:#?}");
        let message = outcome.error(999);
        assert!(message.contains("the author was wrong"), "{message}");
    }
}

fn a_background_child_does_not_block_the_caller() {
    let start = Instant::now();
    let mut plugin = Command::new(program())
        .envs(VARIABLES)
        .env("CNI_COMMAND", "DEL")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // Not the test's standard error, because the child inherits it and its readers would wait
        // for the child.
        .stderr(Stdio::null())
        .spawn()
        .expect("it can be started");
    let mut stdin = plugin.stdin.take().expect("a pipe");
    stdin.write_all(config("linger").to_string().as_bytes()).expect("the plugin reads");
    drop(stdin);
    let mut stdout = String::new();
    plugin.stdout.take().expect("a pipe").read_to_string(&mut stdout).expect("text");
    let waited = start.elapsed();
    let status = plugin.wait().expect("it ends");
    assert!(status.success() && stdout.is_empty(), "{status}: {stdout}");
    assert!(waited < LINGER - Duration::from_secs(1), "standard output stayed open for {waited:?}");
}

/// Under every name: the executable's own, a symbolic link, a hard link.
fn a_plugin_does_not_delegate_to_itself() {
    let program = program();
    let beside = program.parent().expect("an absolute path");
    let links = tempfile::tempdir_in(beside).expect("a directory");
    std::os::unix::fs::symlink(&program, links.path().join("symbolic")).expect("room");
    std::fs::hard_link(&program, links.path().join("hard")).expect("one file system");
    let own = program.file_name().and_then(|name| name.to_str()).expect("text");
    for (directory, name) in [(beside, own), (links.path(), "symbolic"), (links.path(), "hard")] {
        for verb in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
            let mut config = config("delegate");
            config["ipam"] = json!({ "type": name });
            config["prevResult"] = json!({});
            config["cni.dev/valid-attachments"] = json!([]);
            let call =
                cnikit_testbed::Plugin::new(&program).invocation(verb).config(&config).env("CNI_PATH", directory);
            let outcome = VARIABLES.into_iter().fold(call, |call, (name, value)| call.env(name, value)).run();
            // ADD rejects the configuration, so DEL has nothing to release.
            if verb == "DEL" {
                outcome.silent();
                continue;
            }
            let message = outcome.error(7);
            assert!(message.contains(&format!("plugin {name} would delegate to itself")), "{verb}: {message}");
        }
    }
}

const VARIABLES: [(&str, &str); 4] = [
    ("CNI_CONTAINERID", "one"),
    ("CNI_IFNAME", "eth0"),
    ("CNI_NETNS", "/proc/self/ns/net"),
    // The namespace is the plugin's own. The test does not use it, and so needs no root.
    ("CNI_NETNS_OVERRIDE", "1"),
];

fn program() -> PathBuf {
    std::env::current_exe().expect("a test has a path")
}

fn config(mistake: &str) -> Value {
    json!({ "cniVersion": "1.1.0", "name": "dbnet", "type": "careless", "mistake": mistake })
}

fn call(verb: &str, mistake: &str) -> Outcome {
    let invocation = cnikit_testbed::Plugin::new(program()).invocation(verb).config(&config(mistake));
    VARIABLES.into_iter().fold(invocation, |invocation, (name, value)| invocation.env(name, value)).run()
}

/// A plugin that ignores the rules for standard output.
struct Careless;

#[derive(serde::Deserialize)]
struct Config {
    mistake: Mistake,
}

#[derive(Clone, Copy, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mistake {
    Print,
    Panic,
    Linger,
    Delegate,
}

/// The delegate of a plugin that may be the plugin itself. A recursive call ends here.
fn delegate<R: Delegable>(request: &R) -> Result<Delegate<'_, R>, PluginError> {
    assert!(!is_called_by_a_plugin(), "the plugin has called itself");
    Ok(Delegate::ipam(request)?.expect("the configuration names a delegate"))
}

fn is_called_by_a_plugin() -> bool {
    let environment = std::fs::read(format!("/proc/{}/environ", std::os::unix::process::parent_id()));
    environment.is_ok_and(|text| text.split(|byte| *byte == 0).any(|variable| variable.starts_with(b"CNI_COMMAND=")))
}

#[expect(clippy::print_stdout, reason = "the test checks this mistake")]
impl Mistake {
    fn make(self) {
        println!("from the verb");
        match self {
            Mistake::Print => {
                std::thread::spawn(|| println!("from a thread")).join().expect("it prints");
                Command::new("sh").args(["-c", "echo from a child"]).status().expect("there is a shell");
                // This text stays in a buffer until the process exits.
                print!("without end of line");
            }
            Mistake::Panic => panic!("the author was wrong"),
            Mistake::Delegate => {}
            Mistake::Linger => drop(Command::new("sleep").arg(LINGER.as_secs().to_string()).spawn()),
        }
    }
}

impl Plugin for Careless {
    type Config = Config;

    fn info(&self) -> PluginInfo {
        PluginInfo { name: "careless", version: "1.0.0", summary: "Prints, panics, leaves children.", docs: "none" }
    }

    fn add(&self, request: &AddRequest<Config>) -> Result<AddResult, PluginError> {
        if matches!(request.config.mistake, Mistake::Delegate) {
            return Ok(delegate(request)?.add(Prior::Absent)?.commit());
        }
        request.config.mistake.make();
        Ok(AddResult::default().with_interface(Interface::new("eth0")))
    }

    fn del(&self, request: &DelRequest<Config>) -> Result<(), PluginError> {
        let mistake = request.config.as_ref().expect("the test's configuration is valid").mistake;
        if matches!(mistake, Mistake::Delegate) {
            return Ok(delegate(request)?.del()?);
        }
        mistake.make();
        Ok(())
    }

    fn check(&self, request: &CheckRequest<Config>) -> Result<(), PluginError> {
        Ok(delegate(request)?.check()?)
    }

    fn gc(&self, request: &GcRequest<Config>) -> Result<(), PluginError> {
        Ok(delegate(request)?.gc()?)
    }

    fn status(&self, request: &StatusRequest<Config>) -> Result<(), PluginError> {
        Ok(delegate(request)?.status()?)
    }
}
