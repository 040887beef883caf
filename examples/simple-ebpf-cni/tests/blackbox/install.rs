//! The command `install`, and `uninstall` after it: written, removed and untouched files.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use cnikit_testbed::{Call, Command, Footprint, Namespace as _, Plugin, Ruling};
use serde_json::{Value, json};

use crate::cli::{BINARY, command, conflist, json_of, refused, shown};
use crate::support::{DATA_DIR, NAME, Network, ORPHANS, STATE_DIR, on_host};

/// The two directories of a node, empty.
pub(crate) struct Node<'h> {
    pub(crate) network: &'h Network<'h>,
    pub(crate) conf_dir: PathBuf,
    pub(crate) bin_dir: PathBuf,
}

impl<'h> Node<'h> {
    pub(crate) fn new(network: &'h Network<'h>) -> Self {
        let [conf_dir, bin_dir] = [(); 2].map(|()| network.host.scratch());
        Self { network, conf_dir, bin_dir }
    }

    pub(crate) fn install(&self, options: &str) -> String {
        format!("install --conf-dir {} --bin-dir {} {options}", self.conf_dir.display(), self.bin_dir.display())
    }

    pub(crate) fn uninstall(&self, options: &str) -> String {
        format!("uninstall --conf-dir {} {options}", self.conf_dir.display())
    }

    pub(crate) fn conf(&self, name: &str) -> PathBuf {
        self.conf_dir.join(name)
    }

    pub(crate) fn binary(&self) -> PathBuf {
        self.bin_dir.join("simple-ebpf-cni")
    }

    pub(crate) fn loopback(&self) -> PathBuf {
        self.bin_dir.join("loopback")
    }

    /// The files in both directories.
    pub(crate) fn files(&self) -> Footprint {
        Footprint::of_files(&self.conf_dir).and(Footprint::of_files(&self.bin_dir))
    }

    /// The installed plugin, with the installed configuration.
    pub(crate) fn network(&self, file: &str) -> Network<'h> {
        let list: Value = serde_json::from_slice(&fs::read(self.conf(file)).expect("a file")).expect("JSON");
        let mut config = list["plugins"][0].clone();
        (config["cniVersion"], config["name"]) = (list["cniVersion"].clone(), list["name"].clone());
        Network { host: self.network.host, plugin: Plugin::new(self.binary().to_str().expect("a text")), config }
    }
}

pub(crate) const BLACKBOX: &str = "--network blackbox --subnet 10.99.0.0/24";

#[test]
fn an_installed_plugin_works_and_can_be_removed() {
    on_host(|network| {
        let node = Node::new(network);
        let text = shown(&node.install(BLACKBOX));
        let file = "10-blackbox.conflist";
        for path in [node.binary(), node.loopback(), node.conf(file)] {
            assert!(text.contains(&format!("wrote {}\n", path.display())), "{text}");
        }
        assert_eq!(fs::read_link(node.loopback()).expect("a link"), Path::new("simple-ebpf-cni"));
        assert_eq!(fs::read(node.binary()).expect("a file"), fs::read(BINARY).expect("a file"));
        let mode = |path: &Path| path.metadata().expect("a file").permissions().mode() & 0o777;
        assert_eq!((mode(&node.binary()), mode(&node.conf(file))), (0o755, 0o644));

        let pod = node.network(file).attach("one");
        assert_eq!(pod.address(), "10.99.0.2");
        let message = refused(1, &node.uninstall(""));
        assert!(message.contains("1 pod is attached"), "{message}");
        network.detach(&pod);

        let before = node.files();
        assert_eq!(shown(&node.install(BLACKBOX)).matches("unchanged").count(), 3);
        node.files().assert_unchanged(&before, "a second install");
        let text = shown(&node.uninstall(""));
        // The three installed files, and the orphan record of the DEL with its directory.
        assert_eq!(text.matches("removed ").count(), 5, "{text}");
        assert!([ORPHANS, STATE_DIR].iter().all(|path| text.contains(&format!("removed {path}\n"))), "{text}");
        node.files().assert_unchanged(&Footprint::default(), "uninstall");
        assert!(shown(&node.uninstall("")).contains("nothing to remove"));
    });
}

#[test]
fn several_subnets_and_own_configurations_are_installed() {
    on_host(|network| {
        let node = Node::new(network);
        shown(&node.install("--network two --bridge br7 --subnet 10.97.0.0/24 --subnet fd00:97::/64"));
        let config = node.network("10-two.conflist").config;
        assert_eq!((&config["bridge"], &config["subnets"]), (&json!("br7"), &json!(["10.97.0.0/24", "fd00:97::/64"])));

        let source = conflist(network);
        // The other plugin of the list does not exist, so a check fails.
        shown(&node.install(&format!("--order 30 --ignore-checks --config {}", source.display())));
        let written = fs::read(node.conf("30-blackbox.conflist")).expect("a file");
        assert_eq!(written, fs::read(&source).expect("a file"));

        // The binary stays, because it serves the other network.
        shown(&node.uninstall("--network two"));
        assert!(node.binary().exists() && !node.conf("10-two.conflist").exists());
        assert!(node.conf("30-blackbox.conflist").exists());
        shown(&node.uninstall(""));
        node.files().assert_unchanged(&Footprint::default(), "uninstall");
    });
}

#[test]
fn an_invalid_network_is_refused_before_any_write() {
    on_host(|network| {
        let node = Node::new(network);
        for (options, word) in [
            ("--subnet 10.99.0.7/24", "10.99.0.0/24"),
            ("--subnet 127.0.0.0/8", "127.0.0.0/8"),
            ("--config /dev/null", "JSON"),
        ] {
            let message = refused(1, &node.install(options));
            assert!(message.contains(word), "{options}: {message}");
        }
        node.files().assert_unchanged(&Footprint::default(), "a refused install");
        assert!(!Path::new(DATA_DIR).exists());
    });
}

#[test]
fn a_failed_check_stops_an_install() {
    on_host(|network| {
        let node = Node::new(network);
        network.host.ip("link add cbr0 type veth peer name far");
        let output = command(&node.install(BLACKBOX));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.contains("FAIL") && output.stdout.contains("cbr0"), "{output:?}");
        node.files().assert_unchanged(&Footprint::default(), "a stopped install");
        assert_eq!(command(&node.install(&format!("{BLACKBOX} --force"))).status.code(), Some(1));
        assert!(!node.binary().exists());
        shown(&node.install(&format!("{BLACKBOX} --ignore-checks")));
        assert!(node.binary().exists());
        shown(&node.uninstall(""));
        network.host.ip("link del cbr0");
    });
}

#[test]
fn an_unusable_list_is_not_installed() {
    on_host(|network| {
        let node = Node::new(network);
        let file = network.host.scratch().join("list.conflist");
        for (version, second, word) in [("1.0.0", "no-such-plugin", "no-such-plugin"), ("0.2.0", "", "cniVersion")] {
            let mut plugins = vec![network.config.clone()];
            if !second.is_empty() {
                plugins.push(json!({ "type": second }));
            }
            let list = json!({ "cniVersion": version, "name": "blackbox", "plugins": plugins });
            fs::write(&file, list.to_string()).expect("room");
            let output = command(&node.install(&format!("--config {}", file.display())));
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            assert!(output.stdout.contains("FAIL") && output.stdout.contains(word), "{output:?}");
            node.files().assert_unchanged(&Footprint::default(), "a stopped install");
        }
    });
}

/// The later one of two would lose the other's manifest entries.
#[test]
fn installs_exclude_each_other() {
    on_host(|network| {
        let node = Node::new(network);
        fs::create_dir_all(DATA_DIR).expect("room");
        let other = fs::File::open(DATA_DIR).expect("a directory");
        rustix::fs::flock(&other, rustix::fs::FlockOperation::LockExclusive).expect("the lock is free");
        for line in [node.install(BLACKBOX), node.uninstall("")] {
            assert!(refused(1, &line).contains(DATA_DIR), "{line}");
        }
        node.files().assert_unchanged(&Footprint::default(), "a refused install");
        drop(other);
        shown(&node.install(BLACKBOX));
        shown(&node.uninstall(""));
        assert!(!Path::new(DATA_DIR).exists());
    });
}

#[test]
fn a_dry_run_changes_nothing() {
    on_host(|network| {
        let node = Node::new(network);
        let report = json_of(&node.install(&format!("{BLACKBOX} --dry-run --json")));
        let actions: Vec<_> = report["files"].as_array().expect("a list").iter().map(|file| &file["action"]).collect();
        assert_eq!(report["dryRun"], true);
        assert_eq!(actions, ["create", "create", "create"]);
        node.files().assert_unchanged(&Footprint::default(), "a dry run");
        network.footprint().assert_unchanged(&Footprint::default(), "a dry run");

        shown(&node.install(BLACKBOX));
        let (files, before) = (node.files(), network.footprint());
        assert_eq!(shown(&node.uninstall("--purge -n")).matches("would remove").count(), 4);
        node.files().assert_unchanged(&files, "a dry run");
        network.footprint().assert_unchanged(&before, "a dry run");
        shown(&node.uninstall(""));
    });
}

#[test]
fn foreign_and_changed_files_stay() {
    on_host(|network| {
        let node = Node::new(network);
        let file = node.conf("10-blackbox.conflist");
        for path in [node.binary(), file.clone()] {
            fs::write(&path, "theirs").expect("room");
            let message = refused(1, &node.install(BLACKBOX));
            assert!(message.contains(path.to_str().expect("a text")) && message.contains("--force"), "{message}");
            assert_eq!(fs::read(&path).expect("a file"), b"theirs");
            fs::remove_file(&path).expect("the file");
        }

        shown(&node.install(BLACKBOX));
        let changed = fs::read_to_string(&file).expect("a file").replace("10.99.0.0/24", "10.99.0.0/25");
        fs::write(&file, &changed).expect("room");
        let message = refused(1, &node.install(BLACKBOX));
        assert!(message.contains("10-blackbox.conflist"), "{message}");
        let text = shown(&node.uninstall(""));
        assert!(text.contains(&format!("kept {}", file.display())), "{text}");
        assert_eq!(fs::read_to_string(&file).expect("a file"), changed);
        assert!(node.binary().exists(), "the remaining configuration needs it: {text}");
        shown(&node.uninstall("--force"));
        assert!(!file.exists() && !node.binary().exists());
    });
}

/// Replaces the installed binary and its digest, as if an older build was installed.
fn pretend_older(node: &Node) {
    fs::write(node.binary(), b"an older build").expect("room");
    let manifest = Path::new(DATA_DIR).join("installed.json");
    let digest = |path: &Path| {
        let sum = node.network.host.command("sha256sum").arg(path).run();
        sum.split(' ').next().expect("a digest").to_owned()
    };
    let (was, new) = (fs::read_to_string(&manifest).expect("a file"), digest(&node.binary()));
    fs::write(&manifest, was.replace(&digest(Path::new(BINARY)), &new)).expect("room");
}

#[test]
fn an_upgrade_replaces_the_binary_of_another_build() {
    on_host(|network| {
        let node = Node::new(network);
        shown(&node.install(BLACKBOX));
        pretend_older(&node);
        let text = shown(&node.install(BLACKBOX));
        assert!(text.contains(&format!("replaced {}", node.binary().display())), "{text}");
        assert_eq!(fs::read(node.binary()).expect("a file"), fs::read(BINARY).expect("a file"));
        shown(&node.uninstall(""));
    });
}

#[test]
fn the_configuration_sorts_first_unless_it_cannot() {
    on_host(|network| {
        let node = Node::new(network);
        let put = |name: &str, network: &str| {
            let theirs = json!({ "cniVersion": "1.0.0", "name": network, "type": "bridge" });
            fs::write(node.conf(name), theirs.to_string()).expect("room");
        };
        put("10-bb.conf", "bb");
        shown(&node.install(BLACKBOX));
        assert!(node.conf("09-blackbox.conflist").exists());
        shown(&node.uninstall("--force"));

        put("00-aa.conf", "aa");
        let message = refused(1, &node.install(BLACKBOX));
        assert!(message.contains("00-aa.conf") && message.contains("--order"), "{message}");
        shown(&node.install(&format!("{BLACKBOX} --order 7")));
        assert!(node.conf("07-blackbox.conflist").exists());
        shown(&node.uninstall("--force"));

        put("20-mine.conf", NAME);
        let message = refused(1, &node.install(&format!("{BLACKBOX} --order 7")));
        assert!(message.contains("20-mine.conf"), "{message}");
    });
}

/// The next command does not treat a file of the killed one as foreign, at any kill point.
#[test]
fn a_killed_install_is_finished_or_taken_back() {
    on_host(|network| {
        for (is_upgrade, is_finished) in [(false, false), (true, false), (true, true)] {
            for moment in 0.. {
                let node = Node::new(network);
                let line = node.install(BLACKBOX);
                if is_upgrade {
                    shown(&line);
                    pretend_older(&node);
                }
                let mut writes = 0;
                let is_write = |call: &Call| {
                    let is_rename = call.name().starts_with("rename");
                    // The self-test renames its pins there.
                    call.name().starts_with("symlink") || is_rename && !call.to_string().contains("/sys/fs/bpf")
                };
                let killed = Command::new(BINARY).env_clear().words(&line).supervised(|call| {
                    writes += usize::from(is_write(call));
                    if is_write(call) && writes > moment { Ruling::Kill } else { Ruling::Continue }
                });
                assert_eq!(killed.status.code().is_none(), writes > moment, "{killed:#?}");
                if is_finished {
                    shown(&line);
                    assert_eq!(fs::read(node.binary()).expect("a file"), fs::read(BINARY).expect("a file"));
                    assert_eq!(fs::read(node.loopback()).expect("a file"), fs::read(BINARY).expect("a file"));
                }
                shown(&node.uninstall(""));
                node.files().assert_unchanged(&Footprint::default(), "an install that was killed, and uninstall");
                assert!(!Path::new(DATA_DIR).exists());
                if killed.status.success() {
                    assert!(moment >= 6, "the files and their entries in the manifest: {moment}");
                    break;
                }
            }
        }
    });
}

/// A `loopback` of another package stays, in every form and with every option.
#[test]
fn a_foreign_loopback_stays() {
    on_host(|network| {
        let (theirs, file) = (network.host.scratch().join("loopback"), Path::new("."));
        fs::copy("/bin/true", &theirs).expect("room");
        for (target, options) in [(file, ""), (file, "--force"), (theirs.as_path(), ""), (Path::new("gone"), "")] {
            let node = Node::new(network);
            if target == file {
                fs::copy(&theirs, node.loopback()).expect("room");
            } else {
                symlink(target, node.loopback()).expect("room");
            }
            let using = if target == Path::new("gone") { "kept the unusable" } else { "using the existing" };
            let before = Footprint::of_files(&node.bin_dir);
            let planned = json_of(&node.install(&format!("{BLACKBOX} {options} -n --json")));
            let planned = &planned["files"][1];
            assert_eq!(
                (&planned["path"], &planned["action"]),
                (&json!(node.loopback()), &json!("foreign")),
                "{planned}"
            );
            let text = shown(&node.install(&format!("{BLACKBOX} {options}")));
            assert!(text.contains(&format!("{using} {}\n", node.loopback().display())), "{text}");
            // What `uninstall` removes is in the manifest.
            let text = shown(&node.uninstall(if options.is_empty() { "--purge" } else { "--purge --force" }));
            assert!(!text.contains("loopback"), "{text}");
            Footprint::of_files(&node.bin_dir).assert_unchanged(&before, "install and uninstall");
            assert!(!Path::new(DATA_DIR).exists());
        }
    });
}

/// A node with a kubelet starts no pod with it.
#[test]
fn an_unusable_foreign_loopback_is_reported() {
    type Put = fn(&Path);

    on_host(|network| {
        let node = Node::new(network);
        let foreign: [(&str, Put); 4] = [
            ("a link to gone", |path| symlink("gone", path).expect("room")),
            ("a link to loopback", |path| symlink("loopback", path).expect("room")),
            ("no executable file", |path| fs::write(path, "theirs").expect("room")),
            ("no executable file", |path| fs::create_dir(path).expect("room")),
        ];
        for (_, put) in foreign {
            put(&node.loopback());
            let text = shown(&node.install(BLACKBOX));
            assert!(text.contains("warn  loopback") && text.contains("kept the unusable"), "{text}");
            shown(&node.uninstall(""));
            fs::remove_file(node.loopback()).or_else(|_| fs::remove_dir(node.loopback())).expect("it stays");
        }
        network.host.empty_dir("/var/lib/kubelet");
        for (word, put) in foreign {
            put(&node.loopback());
            let before = node.files();
            for (options, is_stopped) in [(BLACKBOX, true), ("", false)] {
                let output = command(&node.install(&format!("{options} -n")));
                assert_eq!(output.status.code(), Some(i32::from(is_stopped)), "{output:#?}");
                let verdict = if is_stopped { "FAIL  loopback" } else { "warn  loopback" };
                let remedy = format!("remove {}, then run the same install again", node.loopback().display());
                for word in [verdict, word, &remedy] {
                    assert!(output.stdout.contains(word), "{word}: {output:#?}");
                }
            }
            assert_eq!(command(&node.install(BLACKBOX)).status.code(), Some(1));
            node.files().assert_unchanged(&before, "a stopped install");
            fs::remove_file(node.loopback()).or_else(|_| fs::remove_dir(node.loopback())).expect("it stays");
        }
        // The binary makes this link of an operator usable.
        symlink(node.binary(), node.loopback()).expect("room");
        let text = shown(&node.install(BLACKBOX));
        assert!(text.contains("using the existing") && !text.contains("loopback      "), "{text}");
        shown(&node.uninstall(""));
    });
}

/// A package manager replaces the link by its own file.
#[test]
fn a_replaced_loopback_is_kept_and_an_upgrade_forgets_it() {
    on_host(|network| {
        for options in ["", "--force"] {
            for is_reinstalled in [false, true] {
                let node = Node::new(network);
                shown(&node.install(BLACKBOX));
                fs::remove_file(node.loopback()).expect("the link");
                fs::write(node.loopback(), "theirs").expect("room");
                if is_reinstalled {
                    shown(&node.install(BLACKBOX));
                }
                let planned = shown(&node.uninstall(&format!("--purge -n {options}")));
                let text = shown(&node.uninstall(&format!("--purge {options}")));
                assert_eq!(planned.replace("would remove", "removed"), text);
                let kept = format!("kept {}: not written by install\n", node.loopback().display());
                assert_eq!(text.contains(&kept), !is_reinstalled, "{text}");
                assert_eq!(fs::read(node.loopback()).expect("a file"), b"theirs");
                assert!(!node.binary().exists() && !Path::new(DATA_DIR).exists());
            }
        }
    });
}

/// An older build did not create the link.
#[test]
fn an_upgrade_adds_a_missing_loopback() {
    on_host(|network| {
        let node = Node::new(network);
        shown(&node.install(BLACKBOX));
        fs::remove_file(node.loopback()).expect("the link");
        let text = shown(&node.install(""));
        assert!(text.contains(&format!("wrote {}\n", node.loopback().display())), "{text}");
        // A link of the same target counts as installed, as an equal file does.
        fs::remove_file(Path::new(DATA_DIR).join("installed.json")).expect("the manifest");
        assert_eq!(shown(&node.install(BLACKBOX)).matches("unchanged").count(), 3);
        shown(&node.uninstall("--purge"));
        node.files().assert_unchanged(&Footprint::default(), "uninstall");
    });
}

#[test]
fn portmap_is_in_the_list_if_the_node_has_it() {
    on_host(|network| {
        let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
        let ours = json!({ "type": "simple-ebpf-cni", "bridge": "cbr0", "subnet": "10.99.0.0/24" });
        let source = network.host.scratch().join("source.conflist");
        let text = |plugins: &str| {
            format!("{{ \"name\":\"blackbox\",\n  \"plugins\": [ {plugins} ],\"cniVersion\":\"1.0.0\"}}")
        };
        fs::write(&source, text(&format!("{ours},\n {portmap}"))).expect("room");
        let written = |node: &Node| fs::read_to_string(node.conf("10-blackbox.conflist")).expect("a file");
        let plugins =
            |node: &Node| -> Value { serde_json::from_str::<Value>(&written(node)).expect("JSON")["plugins"].clone() };
        let node = Node::new(network);
        let from_file = node.install(&format!("--optional portmap --optional tuning --config {}", source.display()));

        shown(&node.install(BLACKBOX));
        assert_eq!(plugins(&node), json!([ours]));
        let report = json_of(&format!("{from_file} -n --json"));
        assert_eq!(report["leftOut"], json!(["portmap"]), "tuning is not in the list: {report}");
        let said = shown(&from_file);
        assert!(said.contains(&format!("portmap is not in {}", node.bin_dir.display())), "{said}");
        assert!(said.contains("hostPort of pods has no effect"), "{said}");
        assert_eq!(written(&node), text(&ours.to_string()));

        // Without the option, the plugin is required.
        let output = command(&node.install(&format!("--config {}", source.display())));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.contains("FAIL") && output.stdout.contains("portmap"), "{output:?}");
        for (options, word) in [("", "--config"), ("--subnet 10.99.0.0/24", "--subnet")] {
            let message = refused(2, &node.install(&format!("{options} --optional portmap")));
            assert!(message.contains(word), "{message}");
        }

        fs::write(node.bin_dir.join("portmap"), "#!/bin/sh\nexit 1\n").expect("room");
        fs::set_permissions(node.bin_dir.join("portmap"), fs::Permissions::from_mode(0o755)).expect("the owner");
        let said = shown(&from_file);
        assert!(!said.contains("portmap"), "{said}");
        assert_eq!(written(&node), fs::read_to_string(&source).expect("a file"));
        shown(&node.install(BLACKBOX));
        assert_eq!(plugins(&node), json!([ours, portmap]));

        // In the DaemonSet's container, a link of the node leads nowhere.
        fs::remove_file(node.bin_dir.join("portmap")).expect("the file");
        symlink("/nowhere/portmap", node.bin_dir.join("portmap")).expect("room");
        let said = shown(&from_file);
        assert!(said.contains("warn  plugins") && said.contains("leads to no file here"), "{said}");
        assert_eq!(plugins(&node), json!([ours, portmap]));

        // A DEL without portmap leaves its rules.
        fs::remove_file(node.bin_dir.join("portmap")).expect("the link");
        let said = shown(&from_file);
        assert!(said.contains("warn  plugins") && said.contains("a DEL leaves what portmap created"), "{said}");
        assert_eq!(plugins(&node), json!([ours]));
        assert!(!shown(&from_file).contains("warn  plugins"), "the list does not change");
        shown(&node.uninstall("--purge"));
    });
}

#[test]
fn without_a_manifest_nothing_is_written() {
    on_host(|network| {
        let node = Node::new(network);
        fs::create_dir_all(DATA_DIR).expect("room");
        network.host.command("mount").words("-t tmpfs -o ro,mode=755 tmpfs").arg(DATA_DIR).run();
        for (options, word) in [("", "1 problem"), ("--ignore-checks", "installed.json")] {
            let output = command(&node.install(&format!("{BLACKBOX} {options}")));
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            assert!(output.stderr.contains(word) && !output.stderr.contains(".new"), "{output:?}");
        }
        node.files().assert_unchanged(&Footprint::default(), "an install that failed");
        network.host.command("umount").arg(DATA_DIR).run();
        fs::remove_dir(DATA_DIR).expect("it is empty");
    });
}

/// `gateway` and `exclude` have no command line option.
#[test]
fn keys_that_no_flag_sets_are_named_with_their_place() {
    on_host(|network| {
        let node = Node::new(network);
        network.host.ip("link add cbr0 type bridge");
        network.host.ip("address add 10.99.0.50/24 dev cbr0");
        for (options, has_place) in
            [(BLACKBOX.to_owned(), true), (format!("--config {}", conflist(network).display()), false)]
        {
            let output = command(&node.install(&options));
            assert!(output.status.code() == Some(1) && output.stdout.contains("\"exclude\""), "{output:#?}");
            assert_eq!(output.stdout.contains("install it with --config FILE"), has_place, "{output:#?}");
        }
    });
}
