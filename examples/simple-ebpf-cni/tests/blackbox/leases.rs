//! The command `leases`: output, and the import of other plugins' leases.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use cnikit_testbed::{Command, Footprint};
use serde_json::{Value, json};

use crate::cli::{BINARY, cells, conflist, conflist_of, refused, shown};
use crate::support::{DATA_DIR, NAME, Network, code, config, on_host, plugin};

#[test]
fn leases_are_shown_with_owners_and_range_usage() {
    on_host(|network| {
        assert_eq!(shown("leases"), format!("No network has leases in {DATA_DIR}.\n"));
        let long = "4fe2c9d1a87b4fe2c9d1a87b4fe2c9d1a87b4fe2c9d1a87b4fe2c9d1a87b0123";
        let (one, two) = (network.attach(long), network.attach("two"));

        let text = shown("leases");
        let cells = cells(&text);
        assert_eq!(cells[0], ["NAMESPACE/POD", "NETWORK", "ADDRESS", "CONTAINER", "IFNAME", "SINCE", "STATE"]);
        for (row, container, pod) in [(&cells[1], &long[..12], &one), (&cells[2], "two", &two)] {
            assert_eq!(row[..5], ["-", NAME, &format!("{}/24", pod.address()), container, "eth0"]);
            assert!(row[5].starts_with("20") && row[5].ends_with('Z') && row[6] == "held", "{row:?}");
        }
        assert_eq!(text.lines().last(), Some("blackbox: 2 leases, 2 addresses"));
        assert!(shown("leases --no-trunc").contains(long));

        // A /24 without network, broadcast and gateway.
        let file = conflist(network);
        let text = shown(&format!("leases --config {}", file.display()));
        assert!(text.ends_with("  10.99.0.0/24: 2 used, 251 free, 253 in all\n"), "{text}");

        let all: Value =
            serde_json::from_str(&shown(&format!("leases --json --config {}", file.display()))).expect("JSON");
        let blackbox = &all["networks"][0];
        assert_eq!((&all["dataDir"], &blackbox["name"]), (&json!(DATA_DIR), &json!(NAME)));
        let range = json!({ "range": "10.99.0.0/24", "used": 2, "free": 251, "total": 253 });
        assert_eq!(blackbox["ranges"], json!([range]));
        let lease = &blackbox["leases"][0];
        assert_eq!(
            (&lease["state"], &lease["containerId"], &lease["ifname"]),
            (&json!("held"), &json!(long), &json!("eth0"))
        );
        assert_eq!(lease["addresses"], json!([format!("{}/24", one.address())]));

        network.detach(&one);
        network.detach(&two);
    });
}

#[test]
fn damaged_and_earlier_boot_leases_are_marked() {
    on_host(|network| {
        let pods = ["good", "bad", "old"].map(|name| network.attach(name));
        let [_, bad, old] = ["good", "bad", "old"].map(|name| network.lease(name));
        let (bad_was, old_was) = (fs::read(&bad).expect("a lease"), fs::read_to_string(&old).expect("a lease"));
        fs::write(&bad, "{").expect("room");
        let mut lease: Value = serde_json::from_str(&old_was).expect("a lease");
        lease["bootId"] = "an-earlier-one".into();
        fs::write(&old, lease.to_string()).expect("room");

        let text = shown("leases");
        let rows: Vec<_> = cells(&text)[1..4].iter().map(|row| [row[2], row[3], row[6]].map(str::to_owned)).collect();
        let addresses = pods.each_ref().map(|pod| pod.address());
        let with_prefix = |address: &str| format!("{address}/24");
        let expected = [
            [with_prefix(addresses[0]), "good".into(), "held".into()],
            [addresses[1].into(), "bad".into(), "damaged".into()],
            [with_prefix(addresses[2]), "old".into(), "earlier boot".into()],
        ];
        assert_eq!(rows, expected);
        assert!(text.contains("blackbox: 1 lease, 1 address\n"), "{text}");
        assert!(text.contains(bad.to_str().expect("a text")), "{text}");
        let all: Value = serde_json::from_str(&shown("leases --json")).expect("JSON");
        let leases = all["networks"][0]["leases"].as_array().expect("a list");
        let states: Vec<_> = leases.iter().map(|lease| lease["state"].as_str().expect("a text")).collect();
        assert_eq!(states, ["held", "damaged", "earlierBoot"]);
        assert_eq!(leases[1]["addresses"], json!([addresses[1]]));

        fs::write(&bad, bad_was).expect("room");
        fs::write(&old, old_was).expect("room");
        pods.iter().for_each(|pod| network.detach(pod));
    });
}

#[test]
fn one_of_several_networks_can_be_selected() {
    on_host(|network| {
        let pod = network.attach("one");
        fs::create_dir_all(Path::new(DATA_DIR).join("other/leases")).expect("a directory");
        assert_eq!(shown("leases --network other"), "\nother: 0 leases, 0 addresses\n");
        assert!(shown("leases --network blackbox").contains(pod.address()));
        let message = refused(1, "leases --network none");
        assert!(message.contains("none") && message.contains("blackbox, other"), "{message}");
        let elsewhere = network.host.scratch();
        assert!(shown(&format!("leases --data-dir {}", elsewhere.display())).starts_with("No network"));
        network.detach(&pod);
    });
}

/// The JSON report of `leases import`.
#[track_caller]
fn import(network: &Network, source: &Path, options: &str) -> Value {
    let (source, file) = (source.display(), conflist(network));
    let text = shown(&format!("leases import {source} --config {} --json {options}", file.display()));
    serde_json::from_str(&text).expect("JSON")
}

#[track_caller]
fn addresses(report: &Value) -> Vec<String> {
    let leases = report["imported"].as_array().expect("a list").iter();
    leases.map(|lease| format!("{} {}", lease["containerId"], lease["addresses"])).collect()
}

#[track_caller]
fn skipped(report: &Value) -> Vec<String> {
    let skipped = report["skipped"].as_array().expect("a list").iter();
    skipped.map(|one| format!("{}: {}", one["name"], one["reason"]).replace('"', "")).collect()
}

#[test]
fn imported_leases_of_host_local_are_not_assigned_again() {
    on_host(|network| {
        let theirs = network.host.scratch();
        for (name, content) in [
            ("10.99.0.2", "aaa\r\neth0"),
            ("10.99.0.3", "bbb\r\neth0"),
            ("10.99.0.4", ""),
            ("10.98.0.9", "ccc\r\neth0"),
            ("\x1b[31mred", ""),
            ("last_reserved_ip.0", "10.99.0.3"),
        ] {
            fs::write(theirs.join(name), content).expect("room");
        }
        let (source, before) = (Footprint::of_files(&theirs), network.footprint());
        let preview = import(network, &theirs, "--dry-run");
        network.footprint().assert_unchanged(&before, "the dry run");
        assert!(!Path::new(DATA_DIR).join(NAME).exists(), "a dry run makes nothing");

        let report = import(network, &theirs, "");
        assert_eq!(addresses(&report), [r#""aaa" ["10.99.0.2/24"]"#, r#""bbb" ["10.99.0.3/24"]"#]);
        let left_out = [
            "\\u001b[31mred: its name is not an address",
            "10.98.0.9: it is not an address of the configured ranges",
            "10.99.0.4: it is empty",
        ];
        assert_eq!(skipped(&report), left_out);
        assert_eq!((addresses(&preview), skipped(&preview)), (addresses(&report), skipped(&report)));
        Footprint::of_files(&theirs).assert_unchanged(&source, "the import");

        let file = conflist(network);
        let text = shown(&format!("leases import {} --config {}", theirs.display(), file.display()));
        assert!(text.contains("red") && !text.contains('\x1b'), "a file's name commands the terminal: {text:?}");
        let again = import(network, &theirs, "");
        assert_eq!(addresses(&again), [""; 0]);
        assert!(skipped(&again).contains(&"10.99.0.2: eth0 of container aaa has a lease already".to_owned()));

        let pod = network.attach("new");
        assert_eq!(pod.address(), "10.99.0.4");
        network.detach(&pod);
        // DEL releases an imported lease like any other.
        for container in ["aaa", "bbb"] {
            network.plugin.on("DEL", &network.config, container, &pod.pod).run().silent();
        }
        assert!(network.taken().is_empty());
    });
}

#[test]
fn imported_leases_stay_when_the_pool_is_full() {
    on_host(|network| {
        // A network for one pod. The pod of the imported lease has no pair of this plugin, so it
        // may be alive.
        let config = network.with("subnet", "10.99.0.0/30");
        let theirs = network.host.scratch();
        fs::write(theirs.join("10.99.0.2"), "aaa\r\neth0").expect("room");
        let file = conflist_of(network, &config);
        shown(&format!("leases import {} --config {}", theirs.display(), file.display()));

        let pod = network.host.pod();
        let message = network.plugin.on("ADD", &config, "new", &pod).run().error(code::POOL_EXHAUSTED);
        assert!(message.contains("10.99.0.0/30"), "{message}");
        let mut wish = config.clone();
        wish["args"] = json!({ "cni": { "ips": ["10.99.0.2"] } });
        let message = network.plugin.on("ADD", &wish, "new", &pod).run().error(code::ADDRESS_TAKEN);
        assert!(message.contains("aaa"), "{message}");
        let text = shown("leases");
        assert_eq!(cells(&text)[1][2..5], ["10.99.0.2/30", "aaa", "eth0"]);
        network.plugin.on("DEL", &config, "aaa", &pod).run().silent();
        network.plugin.on("ADD", &config, "new", &pod).run().result();
        network.plugin.on("DEL", &config, "new", &pod).run().silent();
    });
}

#[test]
fn an_import_needs_ranges() {
    on_host(|network| {
        let theirs = network.host.scratch();
        fs::write(theirs.join("10.99.0.2"), "aaa\r\neth0").expect("room");
        let mut delegated = network.config.clone();
        let keys = delegated.as_object_mut().expect("an object");
        keys.retain(|key, _| key != "subnet");
        let mut of_the_runtime = delegated.clone();
        of_the_runtime["capabilities"] = json!({ "ipRanges": true });
        delegated["ipam"] = json!({ "type": "host-local", "subnet": "10.99.0.0/24" });
        for config in [delegated, of_the_runtime] {
            let file = conflist_of(network, &config);
            let line = format!("leases import {} --config {}", theirs.display(), file.display());
            for options in ["", " --dry-run"] {
                let message = refused(1, &format!("{line}{options}"));
                assert!(message.contains("10-blackbox.conflist") && message.contains("\"subnet\""), "{message}");
            }
        }
        assert!(!Path::new(DATA_DIR).join(NAME).exists());
    });
}

#[test]
fn leases_of_a_table_are_imported() {
    on_host(|network| {
        let table = network.host.scratch().join("ipam.json");
        let content = json!({ "allocated": { "10.99.0.7": "aaa" }, "subnet": "10.99.0.0/24", "gateway": "10.99.0.1" });
        fs::write(&table, content.to_string()).expect("room");
        let file = conflist(network);
        let text = shown(&format!("leases import {} --config {} --ifname net1", table.display(), file.display()));
        assert_eq!(cells(&text)[1], ["10.99.0.7/24", "aaa", "net1", "imported"]);
        assert!(text.ends_with("1 lease imported, 0 skipped\n"), "{text}");
        fs::remove_dir_all(Path::new(DATA_DIR).join(NAME)).expect("the leases");

        fs::write(&table, "[]").expect("room");
        let message = refused(1, &format!("leases import {} --config {}", table.display(), file.display()));
        assert!(message.contains("allocated"), "{message}");
    });
}

#[test]
fn invalid_files_and_arguments_are_reported() {
    on_host(|network| {
        assert!(refused(2, "nothing").contains("nothing"));
        assert!(refused(2, "leases import").contains("--config"));
        let file = network.host.scratch().join("other.conf");
        fs::write(&file, json!({ "name": "x", "cniVersion": "1.0.0", "type": "bridge" }).to_string()).expect("room");
        let message = refused(1, &format!("leases --config {}", file.display()));
        assert!(message.contains("simple-ebpf-cni") && message.contains("other.conf"), "{message}");
        fs::write(&file, network.with("subnet", "10.99.0.7/24").to_string()).expect("room");
        let message = refused(1, &format!("leases --config {}", file.display()));
        assert!(message.contains("other.conf") && message.contains("10.99.0.0/24"), "{message}");
    });
}

#[test]
fn help_and_version_work() {
    let version = shown("--version");
    let revision = version.trim_end().strip_prefix(concat!("simple-ebpf-cni ", env!("CARGO_PKG_VERSION")));
    // Git may refuse the user of the tests, or the user of the build. If it answers both, the
    // answers are equal.
    let git = Command::new("git").words("describe --tags --always --abbrev=12").output();
    match (revision, git.status.success()) {
        (Some(""), _) => {}
        (Some(revision), true) => assert_eq!(revision, format!(" ({})", git.stdout.trim())),
        (Some(revision), false) => assert!(revision.starts_with(" (") && revision.ends_with(')'), "{version}"),
        (None, _) => panic!("{version}"),
    }
    let help = shown("--help");
    assert!(help.contains("leases") && help.contains("Exit status"), "{help}");
    for command in ["pods", "top", "status", "doctor", "install", "uninstall", "leases", "leases import"] {
        let help = shown(&format!("{command} --help"));
        assert!(["Exit status", "--json"].iter().all(|word| help.contains(word)), "{help}");
    }
}

#[test]
fn ranges_of_a_configuration_directory_are_shown() {
    on_host(|network| {
        let pod = network.attach("one");
        let file = conflist(network);
        let line = format!("leases --conf-dir {}", file.parent().expect("a directory").display());
        assert!(shown(&line).contains("10.99.0.0/24: 1 used, 252 free"));
        network.detach(&pod);
    });
}

/// A refused ADD leaves only a directory.
#[test]
fn an_empty_network_is_left_out() {
    on_host(|network| {
        let empty = Path::new(DATA_DIR).join("two");
        fs::create_dir_all(&empty).expect("room");
        fs::set_permissions(DATA_DIR, fs::Permissions::from_mode(0o755)).expect("root may");
        let file = conflist(network);
        let shown = shown(&format!("status --conf-dir {}", file.parent().expect("a directory").display()));
        assert!(shown.contains("blackbox") && !shown.contains("two"), "{shown}");
        fs::remove_dir_all(DATA_DIR).expect("it is there");
    });
}

#[test]
fn arguments_of_a_runtime_are_ignored() {
    let output = Command::new(BINARY).env("CNI_COMMAND", "VERSION").words("leases --json").stdin("{}").output();
    let info: Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert!(output.status.success() && info["supportedVersions"].is_array(), "{output:?}");
}

#[test]
fn a_closed_pipe_is_no_failure() {
    on_host(|network| {
        let pod = network.attach("one");
        let file = conflist(network);
        let status = format!("status --conf-dir {}", file.parent().expect("a directory").display());
        for arguments in ["leases", "leases --json", "pods", &status, "top --json --interval 0.1"] {
            let script = format!("{{ sleep 0.2; '{BINARY}' {arguments}; }} | true; exit ${{PIPESTATUS[0]}}");
            let output = Command::new("bash").args(["-c", &script]).output();
            assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        }
        network.detach(&pod);
    });
}

#[test]
fn only_terminals_get_colors() {
    on_host(|network| {
        let pod = network.attach("one");
        assert!(!shown("leases").contains('\x1b'));
        let on_terminal = |no_color| {
            let line = format!("'{BINARY}' leases");
            Command::new("script").args(["-qec", &line, "/dev/null"]).env("NO_COLOR", no_color).run()
        };
        assert!(on_terminal("").contains("\x1b["));
        assert!(!on_terminal("1").contains("\x1b["));
        network.detach(&pod);
    });
}

#[test]
fn without_arguments_it_prints_name_and_version() {
    let by_hand = Command::new(BINARY).env_clear().output();
    let by_runtime = plugin().invocation("").config(&config()).run();
    assert_eq!(
        (by_hand.stdout.as_str(), by_hand.stderr.as_str()),
        (by_runtime.stdout.as_str(), by_runtime.stderr.as_str())
    );
}
