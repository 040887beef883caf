//! The log file: parallel writers, other file types in its place, rotation.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Barrier;

use cnikit_testbed::{Namespace as _, Pod};

use crate::logs::{LOG, assert_fields, lines, only_line, with_log};

#[test]
fn parallel_calls_write_whole_lines() {
    const PODS: usize = 16;
    with_log(None, |network| {
        let pods: Vec<Pod> = (0..PODS).map(|_| network.host.pod()).collect();
        for verb in ["ADD", "DEL"] {
            let calls: Vec<_> = pods.iter().enumerate().collect();
            let start = Barrier::new(PODS);
            std::thread::scope(|scope| {
                for (number, pod) in calls {
                    let call = network.plugin.on(verb, &network.config, &format!("pod-{number}"), pod);
                    let start = &start;
                    scope.spawn(move || {
                        start.wait();
                        call.run().result()
                    });
                }
            });
            let lines = lines();
            let containers: BTreeSet<_> = lines.iter().map(|line| line["container"].clone()).collect();
            assert_eq!((lines.len(), containers.len()), (PODS, PODS), "{lines:#?}");
            assert!(lines.iter().all(|line| line["result"] == "ok" && line["command"] == verb), "{lines:#?}");
            fs::write(LOG, "").expect("root may write");
        }
    });
}

/// Another file type in the log's place stays unchanged, and calls succeed.
#[test]
fn a_log_that_cannot_be_written_is_one_warning() {
    with_log(Some("debug"), |network| {
        let elsewhere = Path::new("/run/elsewhere");
        let refused = |what: &str, reason: &str| {
            let pod = network.host.pod();
            for verb in ["ADD", "DEL"] {
                let outcome = network.call(verb, "one", &pod);
                assert_eq!(outcome.stderr.lines().count(), 1, "{what}: {outcome:#?}");
                let stderr = outcome.stderr.trim_end();
                let begins = stderr.starts_with("simple-ebpf-cni: cannot write the log /run/cni.log: ");
                assert!(begins && stderr.contains(reason), "{what}: {stderr}");
                outcome.result();
            }
        };
        symlink(elsewhere, LOG).expect("root may link");
        refused("a symbolic link", "symbolic link");
        assert!(!elsewhere.exists());
        fs::remove_file(LOG).expect("it is there");

        // Without fs.protected_hardlinks, any user with write access to the directory can do that.
        let secret = network.host.scratch().join("secret");
        fs::write(&secret, "root's").expect("room");
        fs::hard_link(&secret, LOG).expect("both are on one file system");
        refused("a hard link", "has other hard links");
        assert_eq!(fs::read_to_string(&secret).expect("a file"), "root's");
        fs::remove_file(LOG).expect("it is there");

        network.host.command("mkfifo").arg(LOG).run();
        refused("a FIFO without a reader", "No such device or address");
        fs::remove_file(LOG).expect("it is there");

        fs::create_dir(LOG).expect("root may");
        refused("a directory", "directory");
        fs::remove_dir(LOG).expect("it is empty");

        symlink("/dev/full", elsewhere).expect("root may link");
        let full = network.by(network.with("logFile", "/dev/full"));
        let pod = network.host.pod();
        let outcome = full.call("ADD", "one", &pod);
        assert!(outcome.stderr.contains("not a regular file"), "{outcome:#?}");
        outcome.result();
        full.call("DEL", "one", &pod).silent();
        fs::remove_file(elsewhere).expect("it is there");

        fs::create_dir("/run/full").expect("root may");
        network.host.command("mount").words("-t tmpfs -o size=4k tmpfs /run/full").run();
        fs::write("/run/full/cni.log", [b'\n'; 4096]).expect("there is place for just that");
        let outcome = network.by(network.with("logFile", "/run/full/cni.log")).call("ADD", "one", &pod);
        assert_eq!(outcome.stderr.matches("No space left on device").count(), 1, "{outcome:#?}");
        outcome.result();
        full.call("DEL", "one", &pod).silent();
        network.host.command("umount").arg("/run/full").run();
        fs::remove_dir("/run/full").expect("it is empty");

        let nowhere = network.by(network.with("logFile", "/run/nowhere/cni.log"));
        let outcome = nowhere.call("ADD", "one", &pod);
        assert!(outcome.stderr.contains("No such file or directory"), "{outcome:#?}");
        outcome.result();
        nowhere.call("DEL", "one", &pod).silent();
        assert!(!Path::new("/run/nowhere").exists());
    });
}

/// Both modes of logrotate: a rename, after which the next call creates the file, and a truncation.
#[test]
fn a_log_can_be_rotated() {
    with_log(None, |network| {
        let pod = network.attach("one");
        fs::rename(LOG, "/run/cni.log.1").expect("root may rename");
        network.detach(&pod);
        assert_fields(&only_line(), &[("command", "DEL")]);
        let pod = network.attach("one");
        fs::File::options().write(true).truncate(true).open(LOG).expect("root may cut");
        network.detach(&pod);
        assert_fields(&only_line(), &[("command", "DEL")]);
        fs::remove_file("/run/cni.log.1").expect("it is there");
    });
}
