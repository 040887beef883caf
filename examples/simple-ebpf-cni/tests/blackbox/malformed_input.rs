//! Names that are paths, planted files, and a runtime that lacks privileges.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use cnikit_testbed::{Footprint, Namespace, Output, kernel};
use serde_json::Value;

use crate::support::{DATA_DIR, GATEWAY, NAME, Network, on_host};

/// A user without any process or file of the test.
const OTHER_USER: u32 = 4321;

/// Everything below the directories that the plugin writes to, by name.
fn written() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("/var/lib/cni"), PathBuf::from("/run")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

#[test]
fn a_name_that_is_a_path_creates_no_file() {
    on_host(|network| {
        let pod = network.host.pod();
        let long = "n".repeat(4096);
        // Longer than a file name, but otherwise valid. It was never added, so DEL has nothing to
        // remove.
        let is_nothing = |verb: &str, name: &str| verb == "DEL" && name == long;
        let before = written();
        for name in ["..", "../up", "/etc", "a/b", "a\0b", ".hidden", "-rf", &long] {
            let config = network.with("name", name);
            for verb in ["ADD", "CHECK", "DEL"] {
                let outcome = network.plugin.on(verb, &config, "one", &pod).run();
                assert!(is_nothing(verb, name) || !outcome.status.success(), "{verb} of {name:.9}: {outcome:?}");
            }
        }
        for variable in ["CNI_CONTAINERID", "CNI_IFNAME"] {
            // The kernel has directories with these names for the settings of all links.
            let of_links: &[_] = if variable == "CNI_IFNAME" { &["all", "default"] } else { &[] };
            for value in ["..", "../up", "/etc", "a/b", &long].iter().chain(of_links) {
                for verb in ["ADD", "CHECK", "DEL"] {
                    let outcome = network.plugin.on(verb, &network.config, "one", &pod).env(variable, value).run();
                    let is_nothing = variable == "CNI_CONTAINERID" && is_nothing(verb, value);
                    assert!(is_nothing || !outcome.status.success(), "{verb}, {value:.9}: {outcome:?}");
                }
            }
        }
        assert_eq!(written(), before);
        Footprint::of_network(&pod).assert_unchanged(&Footprint::default(), "a refused call");
    });
}

#[test]
fn state_is_accessible_to_root_alone() {
    on_host(|network| {
        let attached = network.attach("one");
        let pins = Path::new("/sys/fs/bpf/simple-ebpf-cni");
        let mut paths = vec![Path::new(DATA_DIR).to_owned(), pins.to_owned()];
        let mut seen = 0;
        while let Some(path) = paths.pop() {
            let found = fs::symlink_metadata(&path).unwrap();
            let expected = if found.is_dir() { 0o700 } else { 0o600 };
            assert_eq!((found.mode() & 0o7777, found.uid()), (expected, 0), "{}", path.display());
            if found.is_dir() {
                paths.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            seen += 1;
        }
        assert!(seen > 15, "lease, lock and pins: {seen}");
        network.detach(&attached);
    });
}

#[test]
fn a_state_directory_writable_by_others_is_refused() {
    on_host(|network| {
        let pod = network.host.pod();
        let folder = Path::new(DATA_DIR).join(NAME);
        fs::create_dir_all(&folder).unwrap();
        let before = network.footprint();
        let refused = |words: &str| {
            let error = network.call("ADD", "one", &pod).error(5);
            assert!(error.contains(words) && error.contains("chmod go-w"), "{error}");
            network.footprint().assert_unchanged(&before, "the refused ADD");
        };
        for path in [&folder, Path::new(DATA_DIR)] {
            fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
            refused(&format!("{} can be changed by others", path.display()));
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        chown(&folder, Some(OTHER_USER), None).unwrap();
        refused(&format!("{} belongs to user {OTHER_USER}", folder.display()));
        chown(&folder, Some(0), None).unwrap();
        let attached = network.attach_pod("one", pod);
        network.detach(&attached);
    });
}

#[test]
fn a_planted_lock_is_refused() {
    on_host(|network| {
        let pod = network.host.pod();
        let folder = Path::new(DATA_DIR).join(NAME);
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
        let (lock, secret) = (folder.join("lock"), Path::new("/run/secret"));
        fs::write(secret, "not to be touched").unwrap();
        symlink(secret, &lock).unwrap();
        let error = network.call("ADD", "one", &pod).error(5);
        assert!(error.contains(lock.to_str().unwrap()), "{error}");
        fs::remove_file(&lock).unwrap();

        fs::write(&lock, "").unwrap();
        chown(&lock, Some(OTHER_USER), None).unwrap();
        let error = network.call("ADD", "one", &pod).error(5);
        assert!(error.contains(&format!("{} belongs to user {OTHER_USER}", lock.display())), "{error}");
        fs::remove_file(&lock).unwrap();
        assert_eq!(fs::read_to_string(secret).unwrap(), "not to be touched");
        Footprint::of_network(&pod).assert_unchanged(&Footprint::default(), "the refused ADD");
    });
}

/// Calls a verb as user 0, with these capabilities and no others.
fn with_capabilities(network: &Network, verb: &str, capabilities: &[&str]) -> Output {
    let bounds: String = capabilities.iter().map(|capability| format!(",+{capability}")).collect();
    let command = network.host.command("setpriv").arg(format!("--bounding-set=-all{bounds}"));
    command
        .arg("--inh-caps=-all")
        .arg(env!("CARGO_BIN_EXE_simple-ebpf-cni"))
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", "one")
        .env("CNI_NETNS", NETNS)
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/")
        .stdin(network.config.to_string())
        .output()
}

/// The namespace of a pod at a runtime's usual path: a process with few capabilities cannot read
/// `/proc/<pid>` of another.
const NETNS: &str = "/run/pod";

#[test]
fn three_capabilities_are_sufficient_and_a_missing_one_is_named() {
    // Before Linux 6.12, the verification of the programs needs a fourth capability.
    let mut needed = vec!["net_admin", "sys_admin", "bpf"];
    if kernel() < (6, 12) {
        needed.push("perfmon");
    }
    // Before 5.11, maps count as locked memory, and libbpf raises that limit.
    if kernel() < (5, 11) {
        needed.push("sys_resource");
    }
    on_host(|network| {
        let pod = network.host.pod();
        fs::write(NETNS, "").unwrap();
        network.host.command("mount").arg("--bind").arg(pod.netns()).arg(NETNS).run();
        // For the kernel, SYS_ADMIN includes BPF.
        for missing in ["net_admin", "sys_admin"] {
            let held: Vec<_> = needed.iter().copied().filter(|capability| *capability != missing).collect();
            let before = network.footprint();
            let output = with_capabilities(network, "ADD", &held);
            let error: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
            let message = format!("{} {}", error["msg"], error["details"]);
            assert!(message.contains(&format!("CAP_{}", missing.to_uppercase())), "without {missing}: {error}");
            // With SYS_ADMIN, the ADD loads the programs. These are shared parts of the network and
            // stay.
            let left = network.footprint().beyond(&before, &["pin ".to_owned()]);
            assert!(left.is_empty(), "without {missing}: {left}");
        }
        let output = with_capabilities(network, "ADD", &needed);
        assert!(output.status.success(), "{output:?}");
        assert!(pod.ping(GATEWAY, 1).status.success());
        let output = with_capabilities(network, "DEL", &needed);
        assert!(output.status.success(), "{output:?}");
        network.host.command("umount").arg(NETNS).run();
    });
}
