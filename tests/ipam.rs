//! The lease store and processes: concurrent processes, killed processes, and full disks.
#![cfg(feature = "ipam")]

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use cnikit::ipam::{Error, Lease, Pool, Range, Store};
use cnikit::spec::AttachmentKey;

/// Long enough for all other processes on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The store directory of a child process. The child uses a number in the name of its containers.
const DIR: &str = "CNIKIT_TEST_STORE";
const NUMBER: &str = "CNIKIT_TEST_NUMBER";

fn owner(id: &str) -> AttachmentKey {
    AttachmentKey { container_id: id.parse().expect("a container id"), ifname: "eth0".parse().expect("an ifname") }
}

fn pool(subnet: &str) -> Pool {
    Range::new(subnet.parse().expect("a subnet"), None).expect("a range").into()
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name")).collect()
}

/// Runs the test `name` of this file in a new process.
fn spawn(name: &str, dir: &Path, number: usize) -> Child {
    child_command(name, dir, number).spawn().expect("a child process")
}

fn child_command(name: &str, dir: &Path, number: usize) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", name, "--ignored", "--nocapture"]);
    command.env(DIR, dir).env(NUMBER, number.to_string()).stdout(Stdio::null());
    command
}

/// The arguments from `spawn`.
fn arguments() -> (PathBuf, String) {
    let dir = std::env::var_os(DIR).expect("started by another test");
    (dir.into(), std::env::var(NUMBER).expect("started by another test"))
}

/// Asserts that the directory contains only intact leases, and returns them.
fn whole_leases(store: &Store) -> Vec<Lease> {
    let guard = store.lock(TIMEOUT).expect("the lock");
    let leases: Vec<Lease> = guard.leases().expect("leases").map(|lease| lease.expect("a whole lease")).collect();
    let held: Vec<IpAddr> = leases.iter().flat_map(|lease| &lease.addresses).map(|address| address.ip()).collect();
    let unique: BTreeSet<String> = held.iter().map(IpAddr::to_string).collect();
    assert_eq!(unique.len(), held.len(), "an address is held twice");
    assert_eq!(names(&store.dir().join("addresses")), unique);
    assert!(!store.dir().join("pending").exists());
    for lease in &leases {
        for address in &lease.addresses {
            assert_eq!(guard.lease_at(address.ip()).expect("a lease").as_ref(), Some(lease));
        }
    }
    leases
}

/// This variable enables runs that take minutes. Without it, the tests run a part of each.
fn is_long_run() -> bool {
    std::env::var_os("CNIKIT_LONG_TESTS").is_some_and(|long| long == "1")
}

#[test]
fn processes_and_threads_never_share_an_address() {
    let processes = 64;
    let dir = tempfile::tempdir().expect("a directory");
    let children: Vec<Child> = (0..processes).map(|number| spawn("lease_from_threads", dir.path(), number)).collect();
    for mut child in children {
        assert!(child.wait().expect("a status").success());
    }
    let leases = whole_leases(&Store::open(dir.path()).expect("a store"));
    assert_eq!(leases.len(), processes * THREADS * KEPT);
}

const THREADS: usize = 2;
/// Each thread keeps this many leases and releases as many.
const KEPT: usize = 25;

#[test]
#[ignore = "one of the processes of processes_and_threads_never_share_an_address"]
fn lease_from_threads() {
    let (dir, number) = arguments();
    let pools = [pool("10.0.0.0/20"), pool("fd00::/64")];
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (dir, number, pools) = (&dir, &number, &pools);
            scope.spawn(move || {
                let store = Store::open(dir).expect("a store");
                for round in 0..KEPT {
                    let kept = owner(&format!("{number}-{thread}-{round}"));
                    let short = owner(&format!("{number}-{thread}-short"));
                    for owner in [&kept, &short] {
                        store.lock(TIMEOUT).expect("the lock").allocate(owner, pools, &[]).expect("a lease");
                    }
                    let released = store.lock(TIMEOUT).expect("the lock").release(&short).expect("a release");
                    assert!(released.is_some());
                }
            });
        }
    });
}

#[test]
fn processes_killed_at_any_moment_leave_whole_leases() {
    let rounds = if is_long_run() { 5_000 } else { 100 };
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path()).expect("a store");
    let bystander = store.lock(TIMEOUT).expect("the lock").allocate(&owner("bystander"), &[pool("10.0.0.0/24")], &[]);
    let bystander = bystander.expect("a lease");
    for round in 0..rounds {
        let mut child = spawn("lease_forever", dir.path(), 0);
        let started = (0..10_000).any(|_| {
            thread::sleep(Duration::from_millis(1));
            dir.path().join("started").exists()
        });
        assert!(started, "the child did not start in ten seconds");
        // Steps of 17 microseconds hit a different instruction each time.
        thread::sleep(Duration::from_micros(17 * (round % 200)));
        child.kill().expect("a kill");
        assert_eq!(child.wait().expect("a status").signal(), Some(9));
        fs::remove_file(dir.path().join("started")).expect("the mark of a start");

        let leases = whole_leases(&store);
        assert!(leases.len() <= 3, "{leases:?}");
        assert!(leases.contains(&bystander));
        for lease in leases.iter().filter(|lease| **lease != bystander) {
            store.lock(TIMEOUT).expect("the lock").release(&lease.owner).expect("a release");
        }
    }
    assert_eq!(whole_leases(&store), [bystander]);
}

#[test]
#[ignore = "the process that processes_killed_at_any_moment_leave_whole_leases kills"]
fn lease_forever() {
    let (dir, _) = arguments();
    let store = Store::open(&dir).expect("a store");
    let pools = [pool("10.0.0.0/24"), pool("fd00::/64")];
    // Ends by itself if the parent does not kill it.
    for round in 0..100_000 {
        for id in ["a", "b"] {
            store.lock(TIMEOUT).expect("the lock").allocate(&owner(id), &pools, &[]).expect("a lease");
        }
        if round == 0 {
            fs::write(dir.join("started"), "").expect("the mark of a start");
        }
        for id in ["a", "b"] {
            store.lock(TIMEOUT).expect("the lock").release(&owner(id)).expect("a release");
        }
    }
}

#[test]
fn a_lock_ends_with_its_process() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path()).expect("a store");
    let mut child = spawn("hold_the_lock", dir.path(), 0);
    let held_by = (0..10_000).find_map(|_| {
        thread::sleep(Duration::from_millis(1));
        // A caller that does not wait gets no holder.
        match store.lock(Duration::from_millis(1)) {
            Err(Error::LockTimeout { holder, .. }) => Some(holder),
            Ok(_) => None,
            Err(error) => panic!("{error}"),
        }
    });
    child.kill().expect("a kill");
    child.wait().expect("a status");
    assert_eq!(held_by, Some(Some(child.id())));
    store.lock(Duration::ZERO).expect("the lock of a process that is gone");
}

#[test]
#[ignore = "the process that a_lock_ends_with_its_process kills"]
fn hold_the_lock() {
    let (dir, _) = arguments();
    let store = Store::open(dir).expect("a store");
    let _guard = store.lock(TIMEOUT).expect("the lock");
    thread::sleep(TIMEOUT);
}

#[test]
fn a_full_or_read_only_disk_is_reported_and_releases_work() {
    if !is_root() {
        assert!(std::env::var_os("CNIKIT_REQUIRE_PRIVILEGED").is_none_or(|required| required != "1"));
        eprintln!("SKIP mounting a small disk needs root");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    // The mount is in a private mount namespace and ends with it.
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--propagation", "private", "sh", "-ec"]);
    unshare.arg("mount -t tmpfs -o size=64k,mode=700 none \"$0\"; exec \"$@\"").arg(dir.path());
    let child = child_command("use_a_small_disk", dir.path(), 0);
    unshare.arg(child.get_program()).args(child.get_args()).stdout(Stdio::null());
    unshare.envs(child.get_envs().filter_map(|(key, value)| Some((key, value?))));
    assert!(unshare.status().expect("unshare").success());
    assert_eq!(names(dir.path()), BTreeSet::new(), "the disk was not the child's own");
}

#[test]
#[ignore = "runs on the disk that a_full_or_read_only_disk_is_reported_and_releases_work mounts"]
fn use_a_small_disk() {
    let (dir, _) = arguments();
    let store = Store::open(&dir).expect("a store");
    let pools = [pool("10.0.0.0/24")];
    let mut held = Vec::new();
    let error = (0..100).find_map(|number| {
        let owner = owner(&number.to_string());
        match store.lock(TIMEOUT).expect("the lock").allocate(&owner, &pools, &[]) {
            Ok(_) => {
                held.push(owner);
                None
            }
            Err(error) => Some(error),
        }
    });
    assert_io(&error.expect("64 kB hold fewer than 100 leases"), std::io::ErrorKind::StorageFull);
    assert_eq!(whole_leases(&store).len(), held.len());

    let other = Store::open(dir.join("other")).expect("a store");
    assert_io(&other.lock(TIMEOUT).expect_err("no room for a mark"), std::io::ErrorKind::StorageFull);
    fs::remove_dir_all(other.dir()).expect("the other directory");

    let mut guard = store.lock(TIMEOUT).expect("the lock");
    for owner in &held[1..] {
        assert!(guard.release(owner).expect("a release").is_some());
    }
    guard.allocate(&owner("again"), &pools, &[]).expect("a lease on a disk with room again");
    drop(guard);

    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(&dir).status().expect("mount");
    assert!(remounted.success());
    assert_io(&store.lock(TIMEOUT).expect_err("no lock"), std::io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(store.leases().expect("leases").count(), 2);
}

fn assert_io(error: &Error, kind: std::io::ErrorKind) {
    match error {
        Error::Io { source, .. } => assert_eq!(source.kind(), kind),
        other => panic!("{other}"),
    }
}

fn is_root() -> bool {
    // The owner of a process's /proc directory is its effective user.
    std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").expect("/proc")) == 0
}
