use std::{env, fs, panic, process::Command};

use cnikit::{
    netlink::{Error, Netns},
    spec::{ErrorCode, HasErrorCode},
};

use cnikit_testbed::tool;

use crate::support::Fixture;

#[test]
fn other_files_are_not_network_namespaces() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let missing = Netns::open(directory.path().join("gone")).expect_err("nothing is there");
    assert!(matches!(missing, Error::NetnsMissing { .. }), "{missing:?}");
    assert_eq!(missing.code(), ErrorCode::INVALID_NETNS);

    // The file `/run/netns/<name>` after its mount is gone.
    let file = directory.path().join("file");
    fs::write(&file, "").expect("write a file");
    let error = Netns::open(&file).expect_err("a file is no namespace");
    assert!(matches!(error, Error::NotNetns { .. }), "{error:?}");

    let error = Netns::open("/proc/self/ns/mnt").expect_err("a mount namespace");
    assert!(matches!(error, Error::NotNetns { .. }), "{error:?}");

    // A process that has ended.
    let error = Netns::open("/proc/4194305/ns/net").expect_err("above the greatest pid");
    assert!(matches!(error, Error::NetnsMissing { .. }), "{error:?}");
}

#[test]
fn fifo_does_not_block_the_caller() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let fifo = directory.path().join("fifo");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).expect("create a FIFO");
    let error = Netns::open(&fifo).expect_err("a FIFO is no namespace");
    assert!(matches!(error, Error::NotNetns { .. }), "{error:?}");
}

#[test]
fn identity_follows_the_namespace_and_not_the_path() {
    let own = Netns::current().expect("own namespace");
    let same = Netns::open("/proc/self/ns/net").expect("own namespace by its path");
    assert_eq!(own.id(), same.id());

    let Some(fixture) = Fixture::new() else { return };
    assert_ne!(fixture.host.id(), own.id());
    assert_ne!(fixture.host.id(), fixture.pod.id());
    let inside = fixture.pod.run(Netns::current).expect("enter").expect("look");
    assert_eq!(inside.id(), fixture.pod.id());
}

#[test]
fn the_path_of_the_descriptor_leads_to_the_namespace() {
    let Some(fixture) = Fixture::new() else { return };
    let path = fixture.pod.path();
    assert_eq!(Netns::open(&path).expect("open the path").id(), fixture.pod.id());
    // The kernel shows the namespace behind the descriptor as `net:[inode]`.
    let target = fs::read_link(&path).expect("read the link");
    assert_eq!(target.to_str(), Some(format!("net:[{}]", fixture.pod.id().inode).as_str()));
    // Another thread in another namespace shares the descriptors of the process.
    let opened = fixture.host.run(|| Netns::open(&path)).expect("enter").expect("open the path");
    assert_eq!(opened.id(), fixture.pod.id());
}

#[test]
fn caller_stays_in_its_namespace() {
    let Some(fixture) = Fixture::new() else { return };
    let before = Netns::current().expect("own namespace").id();
    fixture.pod.run(|| ()).expect("enter");
    let panicked = panic::catch_unwind(panic::AssertUnwindSafe(|| {
        fixture.pod.run(|| panic!("inside")).expect("enter");
    }));
    let message = panicked.expect_err("the panic comes through");
    assert_eq!(message.downcast_ref::<&str>(), Some(&"inside"));
    assert_eq!(Netns::current().expect("own namespace").id(), before);
}

/// A process that is root only in a user namespace may enter the network namespaces below it. It
/// may not enter its own network namespace again.
#[test]
fn caller_that_could_not_return_stays_in_its_namespace() {
    if !tool("unshare") {
        return;
    }
    let tests = env::current_exe().expect("the tests");
    let visitor = ["--exact", "netns::visitor", "--ignored", "--nocapture"];
    let output = Command::new("unshare").args(["--user", "--map-root-user"]).arg(tests).args(visitor).output();
    let output = output.expect("run unshare");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
}

#[test]
#[ignore = "the process that caller_that_could_not_return_stays_in_its_namespace starts"]
fn visitor() {
    let home = Netns::current().expect("own namespace").id();
    let pod = Netns::create().expect("create a pod's namespace");
    assert_eq!(pod.run(Netns::current).expect("enter").expect("look").id(), pod.id());
    assert_eq!(Netns::current().expect("own namespace").id(), home);
}
