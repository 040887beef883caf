//! The example `runtime`. It shares its attachments with cnitool. `cargo test` builds the example.

use std::path::PathBuf;

use cnikit_testbed::{Command, cnitool, host};
use serde_json::{Value, json};

use crate::support::Bin;

/// `None` after `cargo test --test runtime`, which builds no examples.
fn example() -> Option<PathBuf> {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("examples/runtime");
    if !path.is_file() {
        eprintln!("SKIP: needs {}: run `cargo test` without `--test`", path.display());
    }
    path.is_file().then_some(path)
}

#[test]
fn the_example_adds_lists_checks_and_deletes() {
    let Some(example) = example() else { return };
    // The cache has a fixed path, so the test uses a private host.
    host(|_| {
        let bin = Bin::new();
        bin.plugin(
            "one",
            r#"case $CNI_COMMAND in
               ADD) echo '{"cniVersion":"1.1.0","ips":[{"address":"10.1.0.5/16"}]}';;
               VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["1.1.0"]}';;
               esac"#,
        );
        std::fs::create_dir(bin.scratch("net.d")).unwrap();
        let list = json!({"cniVersion": "1.1.0", "name": "dbnet", "plugins": [{"type": "one"}]});
        std::fs::write(bin.scratch("net.d/10-dbnet.conflist"), list.to_string()).unwrap();
        let call = |program: &PathBuf, args: &[&str]| {
            let command = Command::new(program).args(args).env("CNI_PATH", bin.path());
            command.env("NETCONFPATH", bin.scratch("net.d")).output()
        };
        let run = |args: &[&str]| {
            let output = call(&example, args);
            assert!(output.status.success(), "{args:?}: {output:?}");
            output.stdout
        };
        let blue = ["dbnet", "blue", "/run/netns/blue"];
        let verb = |verb| run(&[&[verb][..], &blue].concat());

        let added: Value = serde_json::from_str(&verb("add")).unwrap();
        assert_eq!(added["ips"][0]["address"], "10.1.0.5/16");
        assert_eq!(run(&["list"]), "dbnet\tblue\teth0\t10.1.0.5/16\n");
        verb("check");
        assert_eq!(bin.stdin("one", "CHECK")["prevResult"]["ips"][0]["address"], "10.1.0.5/16");
        run(&["status", "dbnet"]);
        run(&["validate", "dbnet"]);
        run(&["gc", "dbnet"]);
        let valid = json!([{"containerID": "blue", "ifname": "eth0"}]);
        assert_eq!(bin.stdin("one", "GC")["cni.dev/valid-attachments"], valid);
        verb("del");
        assert_eq!(run(&["list"]), "");

        let unknown = call(&example, &["add", "no-such-net", "blue", "/run/netns/blue"]);
        assert!(!unknown.status.success() && unknown.stderr.contains("no-such-net"), "{unknown:?}");

        let Some(cnitool) = cnitool() else { return };
        let theirs = call(&cnitool, &["add", "dbnet", "/run/netns/red"]);
        assert!(theirs.status.success(), "{theirs:?}");
        let listed = run(&["list"]);
        let container = listed.split('\t').nth(1).unwrap();
        run(&["del", "dbnet", container, "/run/netns/red"]);
        assert_eq!(run(&["list"]), "");
    });
}
