//! Nodes on which an ADD fails: `doctor` names the cause and the fix.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use cnikit_testbed::{Command, Namespace as _, Ruling};
use serde_json::Value;

use crate::cli::{BINARY, command, conflist, refused, shown};
use crate::doctor::{configured, doctor, found};
use crate::install::{BLACKBOX, Node};
use crate::state_dir::net;
use crate::support::{NAME, Network, bin, on_host};

/// "The plugin is not available".
const UNAVAILABLE: u64 = 50;

/// The error message of STATUS.
#[track_caller]
pub(crate) fn unavailable(network: &Network) -> String {
    network.plugin.invocation("STATUS").config(&network.with("cniVersion", "1.1.0")).run().error(UNAVAILABLE)
}

/// The checks of `doctor` with failing system calls.
#[track_caller]
fn supervised(conf_dir: &Path, mut fails: impl FnMut(&str, &cnikit_testbed::Call) -> Option<i32> + Send) -> Vec<Value> {
    let line = format!("doctor --json --conf-dir {} --bin-dir {}", conf_dir.display(), bin().display());
    let judge = |call: &cnikit_testbed::Call| fails(call.name(), call).map_or(Ruling::Continue, Ruling::Fail);
    let output = Command::new(BINARY).env_clear().words(&line).supervised(judge);
    assert_eq!(output.status.code(), Some(1), "{output:#?}");
    let report: Value = serde_json::from_str(&output.stdout).expect("JSON");
    report["checks"].as_array().expect("a list").clone()
}

#[test]
fn a_read_only_bpf_file_system_is_reported() {
    on_host(|network| {
        let dir = configured(network);
        network.host.command("mount").words("-o remount,ro /sys/fs/bpf").run();
        let (status, checks) = doctor(&dir);
        let failed = found(&checks, "bpffs", "fail");
        assert_eq!(status, Some(1));
        assert!(failed.contains("read-only") && failed.contains("mount -o remount,rw /sys/fs/bpf"), "{checks:#?}");
        assert!(found(&checks, "selftest", "warn").contains("skipped"), "{checks:#?}");
        assert!(unavailable(network).contains("remount,rw"));
        let pod = network.host.pod();
        assert!(network.call("ADD", "one", &pod).error(5).contains("remount,rw"));
        let shown = command(&format!("status --conf-dir {}", dir.display())).stdout;
        assert!(shown.contains("mount -o remount,rw /sys/fs/bpf"), "{shown}");
        network.host.command("mount").words("-o remount,rw /sys/fs/bpf").run();
        assert_eq!(doctor(&dir).0, Some(0));
    });
}

#[test]
fn refused_system_calls_are_reported() {
    on_host(|network| {
        let dir = configured(network);
        for (error, remedies) in [
            (libc::EPERM, ["seccomp", "outside of the container"]),
            (libc::ENOSYS, ["CONFIG_BPF_SYSCALL", "boot a kernel"]),
            (libc::ENOMEM, ["memory.max", "ulimit -l"]),
        ] {
            let checks = supervised(&dir, |name, _| (name == "bpf").then_some(error));
            let failed = found(&checks, "selftest", "fail");
            assert!(remedies.iter().all(|remedy| failed.contains(remedy)), "{error}: {checks:#?}");
        }
        // The kernel's error for an unknown kind of link.
        let checks =
            supervised(&dir, |_, call| call.to_string().starts_with("sendto type 16").then_some(libc::EOPNOTSUPP));
        let failed = found(&checks, "selftest", "fail");
        assert!(failed.contains("modprobe bridge") && failed.contains("CONFIG_BRIDGE"), "{checks:#?}");
    });
}

#[test]
fn a_self_test_removes_the_pins_of_a_killed_one() {
    on_host(|network| {
        let dir = configured(network);
        let [left, running] = ["1", "2"].map(|pid| format!("/sys/fs/bpf/simple-ebpf-cni-selftest-{pid}"));
        fs::create_dir_all(format!("{left}/selftest/v1")).expect("room");
        fs::create_dir(&running).expect("room");
        network.host.command("touch").words("-d -1hour").arg(&left).run();
        assert_eq!(doctor(&dir).0, Some(0));
        assert!(!Path::new(&left).exists() && Path::new(&running).exists());
        fs::remove_dir(&running).expect("it is empty");
    });
}

#[test]
fn a_host_that_cannot_masquerade_is_reported() {
    on_host(|network| {
        let network = &network.by(network.with("ipMasq", true));
        let dir = configured(network);
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").expect("a private setting");
        let (status, checks) = doctor(&dir);
        assert_eq!(status, Some(0), "{checks:#?}");
        assert!(found(&checks, "ip_forward", "ok").contains("the first ADD"), "the ADD turns it on: {checks:#?}");

        network.host.command("mount").words("--bind /proc/sys /proc/sys").run();
        network.host.command("mount").words("-o remount,bind,ro /proc/sys").run();
        let (status, checks) = doctor(&dir);
        assert_eq!(status, Some(1));
        let failed = found(&checks, "ip_forward", "fail");
        assert!(failed.contains("cannot be written") && failed.contains("net.ipv4.ip_forward=1"), "{checks:#?}");
        // As in the container of a DaemonSet, when only the runtime's plugins have write access.
        let list = conflist(network);
        let words = format!("install -n --conf-dir {0} --bin-dir {0} --config", network.host.scratch().display());
        let output = command(&format!("{words} {} --ignore-checks", list.display()));
        assert!(!output.stdout.contains("cannot be written"), "{output:#?}");
        network.host.command("umount").arg("/proc/sys").run();

        const NETLINK_NETFILTER: u64 = 12;
        let checks = supervised(&dir, |name, call| {
            (name == "socket" && call.argument(2) == NETLINK_NETFILTER).then_some(libc::EPROTONOSUPPORT)
        });
        let failed = found(&checks, "masquerade", "fail");
        assert!(failed.contains("ipMasq") && failed.contains("modprobe"), "{checks:#?}");
    });
}

#[test]
fn missing_directories_and_duplicate_configurations_are_reported() {
    on_host(|network| {
        let scratch = network.host.scratch();
        let (_, checks) = doctor(&scratch.join("missing"));
        assert!(found(&checks, "config", "warn").contains("there is no "), "{checks:#?}");
        fs::write(scratch.join("file"), "").expect("room");
        let (status, checks) = doctor(&scratch.join("file"));
        assert_eq!(status, Some(1), "{checks:#?}");
        assert!(found(&checks, "config", "fail").contains("a directory"), "{checks:#?}");

        let dir = configured(network);
        fs::write(dir.join("20-again.conf"), network.config.to_string()).expect("room");
        let (_, checks) = doctor(&dir);
        let warned = found(&checks, "config", "warn");
        assert!(warned.contains("20-again.conf") && warned.contains("10-blackbox.conf"), "{checks:#?}");
        assert_eq!(found(&checks, "config", "fail"), "", "a network does not conflict with itself");
        fs::remove_file(dir.join("20-again.conf")).expect("it is there");

        let config = network.with("logFile", "/run/nowhere/cni.log");
        fs::write(dir.join("10-blackbox.conf"), config.to_string()).expect("room");
        let (status, checks) = doctor(&dir);
        assert_eq!(status, Some(0), "{checks:#?}");
        let warned = found(&checks, "log", "warn");
        assert!(warned.contains("/run/nowhere/cni.log") && warned.contains("No such file"), "{checks:#?}");
    });
}

#[test]
fn a_binary_that_cannot_be_executed_is_reported() {
    on_host(|network| {
        let dir = configured(network);
        let bin_dir = network.host.scratch();
        let checks = || {
            let output =
                command(&format!("doctor --json --conf-dir {} --bin-dir {}", dir.display(), bin_dir.display()));
            assert_eq!(output.status.code(), Some(1), "{output:#?}");
            let report: Value = serde_json::from_str(&output.stdout).expect("JSON");
            found(report["checks"].as_array().expect("a list"), "binary", "fail")
        };
        network.host.command("mount").words("-t tmpfs -o noexec tmpfs").arg(&bin_dir).run();
        fs::copy(BINARY, bin_dir.join("simple-ebpf-cni")).expect("room");
        assert!(checks().contains("noexec"));
        network.host.command("mount").words("-o remount,exec").arg(&bin_dir).run();
        fs::set_permissions(bin_dir.join("simple-ebpf-cni"), fs::Permissions::from_mode(0o644)).expect("root may");
        assert!(checks().contains("chmod +x"));
        network.host.command("umount").arg(&bin_dir).run();
    });
}

#[test]
fn a_full_pool_and_a_foreign_bridge_are_reported() {
    on_host(|network| {
        network.host.keep("route 10.99.0.0/30 ");
        let network = &network.by(network.with("subnet", "10.99.0.0/30"));
        let dir = configured(network);
        let only = network.attach("only");
        let (status, checks) = doctor(&dir);
        assert_eq!(status, Some(1));
        let failed = found(&checks, "ipam", "fail");
        assert!(failed.contains("10.99.0.0/30") && failed.contains("leases"), "{checks:#?}");
        network.detach(&only);
        network.host.ip("link del cbr0");

        network.host.ip("link add cbr0 type bridge");
        network.host.command("tc").words("qdisc add dev cbr0 ingress").run();
        let (status, checks) = doctor(&dir);
        assert_eq!(status, Some(1));
        assert!(found(&checks, "bridge", "fail").contains("ingress qdisc"), "{checks:#?}");
        network.host.ip("link del cbr0");
    });
}

#[test]
fn pins_of_a_newer_build_are_reported() {
    on_host(|network| {
        let dir = configured(network);
        let pins = Path::new("/sys/fs/bpf/simple-ebpf-cni").join(NAME);
        fs::create_dir_all(pins.join("v99")).expect("a BPF file system");
        let (status, checks) = doctor(&dir);
        assert_eq!(status, Some(1), "{checks:#?}");
        assert!(found(&checks, "pins", "fail").contains("install the newer build"), "{checks:#?}");
        assert!(unavailable(network).contains("layout 99"));
        let output = command(&format!("status --conf-dir {}", dir.display()));
        assert!(output.status.code() == Some(1) && output.stdout.contains("layout 99"), "{output:#?}");
        fs::remove_dir_all(pins.parent().expect("a directory")).expect("root may");
    });
}

#[test]
fn an_unknown_network_is_refused() {
    on_host(|network| {
        let dir = configured(network);
        let message =
            refused(1, &format!("doctor --network none --conf-dir {} --bin-dir {}", dir.display(), bin().display()));
        assert!(message.contains("no network none") && message.contains(NAME), "{message}");
    });
}

#[test]
fn a_held_lock_is_reported() {
    on_host(|network| {
        let dir = configured(network);
        let pod = network.attach("one");
        let pins = "/sys/fs/bpf/simple-ebpf-cni";
        for path in [net().join("lock").as_path(), Path::new(pins)] {
            let lock = fs::File::open(path).expect("an ADD has created it");
            rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("the lock is free");
            let (status, checks) = doctor(&dir);
            assert_eq!(status, Some(1), "{checks:#?}");
            let failed = found(&checks, "lock", "fail");
            assert!(failed.contains(&format!("fuser -v {}", path.display())), "{checks:#?}");
            drop(lock);
            assert_eq!(doctor(&dir).0, Some(0));
        }
        network.detach(&pod);
    });
}

/// Problems of other networks are not reported for the selected one.
#[test]
fn one_of_several_networks_can_be_selected() {
    on_host(|network| {
        let dir = configured(network);
        network.host.ip("link add br7 type veth peer name far");
        let mut other = network.with("bridge", "br7");
        (other["name"], other["subnet"]) = ("other".into(), "10.97.0.0/24".into());
        fs::write(dir.join("20-other.conf"), other.to_string()).expect("room");
        for (asked, status) in [("other", 1), (NAME, 0)] {
            let line = format!("doctor --network {asked} --conf-dir {} --bin-dir {}", dir.display(), bin().display());
            let output = command(&line);
            assert_eq!(output.status.code(), Some(status), "{output:#?}");
            assert_eq!(output.stdout.contains("br7"), status == 1, "{output:#?}");
        }
        network.host.ip("link del br7");
    });
}

/// No runtime can use the file. Only its text or the manifest shows that it belongs to the plugin.
#[test]
fn an_unreadable_configuration_of_the_plugin_is_reported() {
    on_host(|network| {
        let node = Node::new(network);
        shown(&node.install(BLACKBOX));
        let pod = node.network("10-blackbox.conflist").attach("one");
        let file = node.conf("10-blackbox.conflist");
        let looking = |what: &str| {
            let bin_dir =
                if what == "doctor" { format!("--bin-dir {}", node.bin_dir.display()) } else { String::new() };
            command(&format!("{what} --json {bin_dir} --conf-dir {}", node.conf_dir.display()))
        };
        let whole = fs::read_to_string(&file).expect("a file");
        for damaged in ["".to_owned(), whole.replace('{', ""), whole.replace("10.99.0.0/24", "banana")] {
            fs::write(&file, &damaged).expect("room");
            let output = looking("doctor");
            let report: Value = serde_json::from_str(&output.stdout).expect("JSON");
            let checks = report["checks"].as_array().expect("a list");
            let failed = found(checks, "config", "fail");
            assert_eq!(output.status.code(), Some(1), "{output:#?}");
            assert!(failed.contains("10-blackbox.conflist") && failed.contains("--force"), "{checks:#?}");
            assert_eq!(found(checks, "config", "warn"), "", "{damaged}");
            let output = looking("status");
            assert!(output.status.code() == Some(1) && output.stdout.contains("10-blackbox.conflist"), "{output:#?}");
        }
        // The fix that `doctor` names.
        shown(&node.install(&format!("{BLACKBOX} --force")));
        assert_eq!(looking("doctor").status.code(), Some(0));
        assert!(looking("status").status.success());
        node.network("10-blackbox.conflist").detach(&pod);
        shown(&node.uninstall("--purge"));
    });
}
