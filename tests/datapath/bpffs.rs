use std::fs;
use std::path::Path;

use cnikit::datapath::{Datapath, Error};
use cnikit::spec::{ErrorCode, HasErrorCode};
use cnikit_testbed::host;
use rustix::mount::{UnmountFlags, unmount};
use rustix::thread::CapabilitySet;

use crate::race::race;
use crate::support::{datapath, without};

#[test]
fn roots_outside_the_bpf_file_system_are_refused() {
    host(|host| {
        let (scratch, network) = (host.scratch(), "one".parse().unwrap());
        let relative = Path::new("of-no-package");
        for (root, created) in [
            (scratch.clone(), scratch.join("one")),
            (scratch.join("a/b"), scratch.join("a")),
            ("/sys/fs/bpf/../../kernel".into(), "/sys/kernel/one".into()),
            (relative.into(), relative.into()),
        ] {
            let error = Datapath::new(&root, &network).ensure().unwrap_err();
            let Error::NotBpffs { path } = &error else { panic!("{error:?}") };
            assert_eq!(*path, root);
            assert!(error.to_string().contains("choose a directory below /sys/fs/bpf"), "{error}");
            assert!(!created.exists(), "{} was created", created.display());
        }
    });
}

#[test]
fn other_mount_points_of_bpffs_work() {
    host(|host| {
        let elsewhere = host.scratch();
        rustix::mount::mount("bpf", &elsewhere, "bpf", rustix::mount::MountFlags::empty(), None).unwrap();
        let datapath = Datapath::new(elsewhere.join("example"), &"one".parse().unwrap());
        datapath.ensure().unwrap();
        assert!(elsewhere.join("example/one/v2/pkt_count").exists());
        datapath.remove().unwrap();
    });
}

#[test]
fn a_missing_bpffs_is_mounted_once() {
    host(|host| {
        unmount("/sys/fs/bpf", UnmountFlags::empty()).unwrap();
        assert_eq!(mounts(), [""; 0]);

        race(host);

        let mounts = mounts();
        assert_eq!(mounts.len(), 1, "{mounts:?}");
        for option in ["nosuid", "nodev", "noexec", "mode=700"] {
            assert!(mounts[0].contains(option), "{option}: {}", mounts[0]);
        }
        datapath("one").ensure().unwrap();
        datapath("one").remove().unwrap();
    });
}

#[test]
fn a_refused_mount_names_the_remedy() {
    host(|_| {
        unmount("/sys/fs/bpf", UnmountFlags::empty()).unwrap();
        let error = without(CapabilitySet::SYS_ADMIN, || datapath("one").ensure()).unwrap_err();
        let Error::Mount { path, .. } = &error else { panic!("{error:?}") };
        assert_eq!(path, Path::new("/sys/fs/bpf"));
        assert!(error.to_string().contains("mount -t bpf bpf /sys/fs/bpf"), "{error}");
        assert_eq!(error.code(), ErrorCode::PLUGIN_NOT_AVAILABLE);
        assert_eq!(mounts(), [""; 0]);
    });
}

#[test]
fn directories_are_private_to_their_owner() {
    use std::os::unix::fs::PermissionsExt as _;

    host(|_| {
        let datapath = datapath("one");
        datapath.ensure().unwrap();
        for directory in datapath.directory().ancestors().take(3) {
            let mode = fs::metadata(directory).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", directory.display());
        }
        datapath.remove().unwrap();
    });
}

/// The BPF file systems mounted on `/sys/fs/bpf`, as the kernel lists them for this thread. The
/// kernel also lists mounts below a covered `/sys`, which are left out.
fn mounts() -> Vec<String> {
    let listed = fs::read_to_string("/proc/thread-self/mountinfo").expect("/proc is mounted");
    // Mount id, parent id, device, root, mount point: proc_pid_mountinfo(5).
    let field = |line: &str, number| line.split(' ').nth(number).map(str::to_owned);
    let sys = listed.lines().rfind(|line| field(line, 4).as_deref() == Some("/sys")).expect("a /sys");
    let usual = |line: &&str| {
        field(line, 4).as_deref() == Some("/sys/fs/bpf") && field(line, 1) == field(sys, 0) && line.contains(" - bpf ")
    };
    listed.lines().filter(usual).map(str::to_owned).collect()
}
