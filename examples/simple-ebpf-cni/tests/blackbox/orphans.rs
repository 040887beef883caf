//! The background processes of DEL and GC do not accumulate if their reaper does not reap them.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cnikit_testbed::{Footprint, Host, Namespace as _, Outcome, Plugin, Ruling, Running, eventually, supervision};
use serde_json::json;

use crate::support::{Attached, Network, ORPHANS, STATE_DIR, bin, on_host};

/// Time limit for the kernel to release a link.
const PATIENCE: Duration = Duration::from_secs(10);

/// A process 1 that reaps nothing.
const REAPS_NOTHING: &[&str] = &["sleep", "infinity"];

/// A process 1 that reaps every child. A shell does this while it waits.
const REAPS: &[&str] = &["sh", "-c", "while :; do sleep 60; done"];

/// A PID namespace with its own process 1. The plugin runs in it.
struct Container<'h> {
    _unshare: Running,
    host: &'h Host,
    init: u32,
}

impl<'h> Container<'h> {
    #[track_caller]
    fn start(host: &'h Host, init: &[&str]) -> Self {
        let unshare =
            host.command("setpriv").words("--pdeathsig KILL -- unshare --pid --fork --kill-child --mount-proc --");
        let unshare = unshare.args(init).spawn();
        let name = if init == REAPS { "sh" } else { "sleep" };
        let mut init = None;
        eventually("process 1", PATIENCE, || {
            init = processes().into_iter().find(|found| found.parent == unshare.pid() && found.name == name);
            init.is_some()
        });
        let init = init.expect("process 1").pid;
        Self { _unshare: unshare, host, init }
    }

    /// The plugin, as a child of a process of the container. `before` is the start of the command
    /// line.
    fn plugin(&self, before: &str) -> Plugin {
        self.plugin_in(&["pid", "mnt"], before)
    }

    /// The plugin in some of the namespaces of the container.
    fn plugin_in(&self, namespaces: &[&str], before: &str) -> Plugin {
        let option = |kind: &&str| format!("--{}=/proc/{}/ns/{kind} ", kind.replace("mnt", "mount"), self.init);
        let namespaces: String = namespaces.iter().map(option).collect();
        let script = self.host.scratch().join("simple-ebpf-cni");
        let plugin = bin().join("simple-ebpf-cni");
        let text = format!("#!/bin/sh\nexec nsenter {namespaces} -- {before} {} \"$@\"\n", plugin.display());
        fs::write(&script, text).expect("room");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a script");
        Plugin::new(script)
    }

    /// The zombies that process 1 should reap, after all other processes have ended.
    #[track_caller]
    fn zombies(&self) -> usize {
        let mut zombies = 0;
        eventually("the end of the background processes", PATIENCE, || {
            let of_init = |found: &Process| found.parent == self.init && found.name != "sleep";
            let orphans: Vec<_> = processes().into_iter().filter(of_init).collect();
            zombies = orphans.len();
            orphans.iter().all(|orphan| orphan.state == "Z")
        });
        zombies
    }
}

/// A process, by its id on the machine.
struct Process {
    pid: u32,
    name: String,
    state: String,
    parent: u32,
}

fn processes() -> Vec<Process> {
    let pids = fs::read_dir("/proc").expect("/proc").filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let process = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, fields) = stat.split_once('(')?.1.rsplit_once(')')?;
        let mut fields = fields.split_whitespace();
        let (state, parent) = (fields.next()?.to_owned(), fields.next()?.parse().ok()?);
        Some(Process { pid, name: name.to_owned(), state, parent })
    };
    pids.filter_map(process).collect()
}

#[track_caller]
fn attach<const N: usize>(network: &Network, names: [&str; N]) -> [Attached; N] {
    names.map(|name| network.attach(name))
}

/// DEL without the pod's namespace, because paths of the machine differ in the container.
fn del(network: &Network, plugin: &Plugin, pod: &Attached) -> Outcome {
    plugin.on("DEL", &network.config, &pod.container, &pod.pod).without("CNI_NETNS").run()
}

fn gc(network: &Network, plugin: &Plugin) -> Outcome {
    let mut config = network.with("cniVersion", "1.1.0");
    config["cni.dev/valid-attachments"] = json!([]);
    plugin.invocation("GC").config(&config).run()
}

#[test]
fn zombies_do_not_accumulate_under_a_process_1_that_reaps_nothing() {
    on_host(|network| {
        let container = Container::start(network.host, REAPS_NOTHING);
        // A runtime that ignores SIGCHLD passes this setting to its plugins.
        for before in ["", "env --ignore-signal=CHLD"] {
            let plugin = container.plugin(before);
            for pod in attach(network, ["one", "two", "three"]) {
                del(network, &plugin, &pod).silent();
                assert!(pod.pod.link("eth0").is_none(), "the interface exists after the DEL");
                assert!(container.zombies() <= 1, "after a DEL, {before}");
            }
            let pods = attach(network, ["one", "two", "three"]);
            gc(network, &plugin).silent();
            assert!(pods.iter().all(|pod| pod.pod.link("eth0").is_none()));
            assert!(container.zombies() <= 1, "after a GC, {before}");
            let pods = attach(network, ["one", "two", "three", "four", "five", "six"]);
            std::thread::scope(|scope| {
                for pod in &pods {
                    let plugin = &plugin;
                    scope.spawn(move || del(network, plugin, pod).silent());
                }
            });
            assert!(container.zombies() <= 1, "after DELs at once, {before}");
        }
        assert_eq!(container.zombies(), 1, "one zombie shows that the reaper does not reap");
    });
}

/// Otherwise the calls of one container would allow the other one more zombie.
#[test]
fn the_record_of_one_container_does_not_apply_to_another() {
    on_host(|network| {
        let containers = [REAPS_NOTHING, REAPS, REAPS_NOTHING].map(|init| Container::start(network.host, init));
        let plugins = containers.each_ref().map(|container| container.plugin(""));
        for _ in 0..3 {
            for plugin in &plugins {
                let [pod] = attach(network, ["one"]);
                del(network, plugin, &pod).silent();
            }
        }
        assert_eq!(containers.each_ref().map(Container::zombies), [1, 0, 1]);
    });
}

/// Another `/proc` shows other processes under the ids of the orphans.
#[test]
fn a_proc_of_another_pid_namespace_is_ignored() {
    on_host(|network| {
        let container = Container::start(network.host, REAPS_NOTHING);
        let plugin = container.plugin_in(&["pid"], "");
        for pod in attach(network, ["one", "two"]) {
            del(network, &plugin, &pod).silent();
            assert!(pod.pod.link("eth0").is_none());
        }
        assert_eq!(container.zombies(), 0, "nothing is left behind");
    });
}

/// Whether a DEL leaves a background process.
#[track_caller]
fn leaves_behind(network: &Network, plugin: &Plugin) -> bool {
    const RTM_DELLINK: &str = "sendto type 17";
    const RTM_GETLINK: &str = "sendto type 18";
    let [pod] = attach(network, ["one"]);
    let (mut asks, mut deletes) = (None, Vec::new());
    let call = plugin.on("DEL", &network.config, &pod.container, &pod.pod).without("CNI_NETNS");
    let outcome = call.supervised(|call| {
        match call.to_string().as_str() {
            RTM_GETLINK => asks = Some(call.process()),
            RTM_DELLINK => deletes.push(call.process()),
            _ => {}
        }
        Ruling::Continue
    });
    outcome.silent();
    assert!(pod.pod.link("eth0").is_none());
    assert_eq!(deletes.len(), 1, "one request");
    asks != Some(deletes[0])
}

#[test]
fn each_del_leaves_one_orphan_if_they_are_reaped() {
    if !supervision() {
        return;
    }
    on_host(|network| {
        let container = Container::start(network.host, REAPS);
        for round in 0..4 {
            assert!(leaves_behind(network, &container.plugin("")), "round {round}");
            eventually("the end of the orphan", PATIENCE, || container.zombies() == 0);
        }
        let file = fs::metadata(ORPHANS).expect("the record");
        assert_eq!((file.mode() & 0o7777, file.uid()), (0o600, 0));
        assert_eq!(fs::metadata(STATE_DIR).expect("its directory").mode() & 0o7777, 0o700);
    });
}

/// Some reapers reap once in a few seconds, and a busy node may delay them more.
#[test]
fn a_delayed_reaper_does_not_slow_del_down() {
    if !supervision() {
        return;
    }
    on_host(|network| {
        let container = Container::start(network.host, REAPS);
        let plugin = container.plugin("");
        let signal = |signal: &str| {
            network.host.command("kill").args([signal, &container.init.to_string()]).run();
        };
        for _ in 0..2 {
            assert!(leaves_behind(network, &plugin));
            eventually("the end of the orphan", PATIENCE, || container.zombies() == 0);
        }
        signal("-STOP");
        for zombies in 1..=3 {
            let [pod] = attach(network, ["one"]);
            del(network, &plugin, &pod).silent();
            assert_eq!(container.zombies(), zombies, "one background process for each DEL");
        }
        signal("-CONT");
        eventually("the end of the orphans", PATIENCE, || container.zombies() == 0);
        assert!(leaves_behind(network, &plugin));
    });
}

/// An unusable record slows DEL down, and has no other effect.
#[test]
fn an_unusable_record_is_ignored() {
    if !supervision() {
        return;
    }
    on_host(|network| {
        let container = Container::start(network.host, REAPS);
        let plugin = container.plugin("");
        let elsewhere = network.host.scratch().join("elsewhere");
        fs::write(&elsewhere, "of value").expect("room");
        let record = Path::new(ORPHANS);
        let planted: [(&str, &dyn Fn()); 5] = [
            ("a link", &|| symlink(&elsewhere, record).expect("a link")),
            ("a second name", &|| fs::hard_link(&elsewhere, record).expect("a name")),
            ("a pipe", &|| _ = network.host.command("mkfifo").arg(record).run()),
            ("a directory", &|| fs::create_dir(record).expect("a directory")),
            ("a file of others", &|| {
                fs::write(record, "").expect("room");
                fs::set_permissions(record, fs::Permissions::from_mode(0o666)).expect("a mode");
            }),
        ];
        fs::create_dir(STATE_DIR).expect("room");
        for (what, plant) in planted {
            plant();
            assert!(!leaves_behind(network, &plugin), "{what}");
            assert_eq!(fs::read_to_string(&elsewhere).expect("the file"), "of value", "{what}");
            remove(record);
        }
        fs::remove_dir(STATE_DIR).expect("an empty directory");
        let outside: PathBuf = network.host.scratch();
        symlink(&outside, STATE_DIR).expect("a link");
        assert!(!leaves_behind(network, &plugin), "the directory is a link");
        assert!(Footprint::of_files(&outside).is_empty());
        fs::remove_file(STATE_DIR).expect("the link");
        // DEL replaces a damaged record.
        fs::create_dir(STATE_DIR).expect("room");
        fs::write(record, "\u{0}\n".repeat(70_000)).expect("room");
        assert!(leaves_behind(network, &plugin));
        assert!(fs::metadata(record).expect("the record").len() < 4096);
    });
}

fn remove(record: &Path) {
    let removed = if record.is_dir() { fs::remove_dir(record) } else { fs::remove_file(record) };
    removed.expect("it can be removed");
}
