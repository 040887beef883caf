//! State directories without write access: `doctor`, `status` and STATUS report the error of an ADD
//! and change nothing.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;

use cnikit_testbed::{Footprint, Namespace as _};

use crate::broken_node::unavailable;
use crate::cli::command;
use crate::doctor::{configured, doctor, found};
use crate::support::{DATA_DIR, NAME, Network, on_host};

/// A fault of the state directory that prevents writing leases.
struct Fault {
    create: fn(&Network, &Path),
    words: [&'static str; 2],
    remedy: &'static str,
}

pub(crate) fn net() -> std::path::PathBuf {
    Path::new(DATA_DIR).join(NAME)
}

fn create(mode: u32) {
    fs::create_dir_all(net()).expect("room");
    for dir in [Path::new(DATA_DIR), &net()] {
        fs::set_permissions(dir, fs::Permissions::from_mode(mode)).expect("root may");
    }
}

fn mounted(network: &Network, options: &str) {
    create(0o755);
    network.host.command("mount").words(&format!("-t tmpfs -o mode=755,{options} tmpfs {DATA_DIR}")).run();
}

const FAULTS: [Fault; 9] = [
    Fault {
        create: |_, _| {
            create(0o755);
            fs::set_permissions(net(), fs::Permissions::from_mode(0o777)).expect("root may");
        },
        words: ["/simple-ebpf-cni/blackbox", "can be changed by others"],
        remedy: "chmod go-w /var/lib/cni/simple-ebpf-cni/blackbox",
    },
    Fault {
        create: |_, _| create(0o775),
        words: ["/simple-ebpf-cni/blackbox", "can be changed by others"],
        remedy: "chmod go-w /var/lib/cni/simple-ebpf-cni/blackbox",
    },
    Fault {
        create: |_, _| {
            create(0o755);
            chown(DATA_DIR, Some(4321), None).expect("root may");
        },
        words: [DATA_DIR, "user 4321"],
        remedy: "chown root /var/lib/cni/simple-ebpf-cni\"",
    },
    Fault {
        create: |_, _| fs::write(DATA_DIR, "in the way").expect("room"),
        words: [DATA_DIR, "Not a directory"],
        remedy: "move the file away",
    },
    Fault {
        create: |_, _| {
            create(0o755);
            let pipe = std::process::Command::new("mkfifo").arg(net().join("lock")).status();
            assert!(pipe.expect("coreutils").success());
        },
        words: ["/simple-ebpf-cni/blackbox/lock", "not a regular file"],
        remedy: "rm /var/lib/cni/simple-ebpf-cni/blackbox/lock",
    },
    Fault {
        create: |_, scratch| {
            create(0o755);
            fs::remove_dir(net()).expect("it is empty");
            symlink(scratch, net()).expect("room");
        },
        words: ["/simple-ebpf-cni/blackbox", "symbolic link"],
        remedy: "install -d -m 755 /var/lib/cni/simple-ebpf-cni/blackbox",
    },
    Fault {
        create: |_, _| {
            create(0o755);
            fs::write(net().join("leases"), "in the way").expect("room");
        },
        words: ["/simple-ebpf-cni/blackbox/leases", "Not a directory"],
        remedy: "move the file away",
    },
    Fault {
        create: |network, _| mounted(network, "ro"),
        words: [DATA_DIR, "Read-only file system"],
        remedy: "mount -o remount,rw",
    },
    Fault {
        create: |network, _| mounted(network, "nr_inodes=1"),
        words: [DATA_DIR, "No space left on device"],
        remedy: "df -i",
    },
];

#[test]
fn an_unusable_state_directory_is_reported() {
    on_host(|network| {
        let dir = configured(network);
        for Fault { create, words, remedy } in FAULTS {
            create(network, &network.host.scratch());
            let before = Footprint::of_files("/var/lib/cni");
            let modes = network.host.command("find").words("/var/lib/cni -printf %p%m%u%T@").run();

            let (status, checks) = doctor(&dir);
            let failed = found(&checks, "state", "fail");
            assert_eq!(status, Some(1), "{words:?}: {checks:#?}");
            assert!(words.iter().all(|word| failed.contains(word)) && failed.contains(remedy), "{words:?}: {failed}");
            let output = command(&format!("status --json --conf-dir {}", dir.display()));
            let shown = output.stdout + &output.stderr;
            assert_eq!(output.status.code(), Some(1));
            assert!(words.iter().all(|word| shown.contains(word)), "{words:?}: {shown}");
            let message = unavailable(network);
            assert!(message.contains(words[0]), "{message}");

            Footprint::of_files("/var/lib/cni").assert_unchanged(&before, "doctor, status and STATUS");
            assert_eq!(network.host.command("find").words("/var/lib/cni -printf %p%m%u%T@").run(), modes);
            let pod = network.host.pod();
            let message = network.call("ADD", "one", &pod).error(5);
            assert!(message.contains(words[0]), "{message}");

            let _ = network.host.command("umount").arg(DATA_DIR).output();
            network.host.command("rm").words("-rf").arg(DATA_DIR).run();
        }
        assert_eq!(doctor(&dir).0, Some(0));
    });
}

/// An example is the root file system of a node that runs from memory.
#[test]
fn a_file_system_without_size_and_inode_counts_is_no_problem() {
    on_host(|network| {
        let dir = configured(network);
        fs::create_dir_all(DATA_DIR).expect("room");
        network.host.command("mount").words("-t ramfs ramfs").arg(DATA_DIR).run();
        fs::set_permissions(DATA_DIR, fs::Permissions::from_mode(0o755)).expect("root may");
        let (status, checks) = doctor(&dir);
        assert_eq!(status, Some(0), "{checks:#?}");
        let pod = network.attach("one");
        network.detach(&pod);
        network.host.command("umount").arg(DATA_DIR).run();
    });
}

#[test]
fn an_install_stops_if_leases_cannot_be_written() {
    on_host(|network| {
        let [conf_dir, bin_dir] = [(); 2].map(|()| network.host.scratch());
        create(0o777);
        let line = format!(
            "install --network {NAME} --subnet 10.99.0.0/24 --conf-dir {} --bin-dir {}",
            conf_dir.display(),
            bin_dir.display()
        );
        let output = command(&line);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.contains("chmod go-w") && output.stdout.contains("Nothing was installed"), "{output:?}");
        assert_eq!(fs::read_dir(bin_dir).expect("a directory").count(), 0);
        fs::remove_dir_all(DATA_DIR).expect("it is there");
    });
}
