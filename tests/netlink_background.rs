//! A background deletion keeps no descriptor of its caller open and leaves no zombies. This test is
//! its own binary, because processes of other tests in the same binary would inherit the
//! descriptors for a moment.
#![cfg(feature = "netlink")]

use std::{
    fs,
    io::Read as _,
    os::fd::AsFd as _,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use cnikit::{
    netlink::{Netns, OrphanRecord, VethEnd, VethIndexes, VethPair},
    spec::MacAddr,
};
use cnikit_testbed::privileged;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{WaitOptions, getpid, set_child_subreaper, wait},
};

/// Set for the caller of [`caller_leaves_nothing_open`], and inherited by the process that it
/// leaves behind.
const CALLER: &str = "CNIKIT_TEST_CALLER";

/// The path of the record for a caller.
const RECORD: &str = "CNIKIT_TEST_RECORD";

/// The view of a runtime on a plugin that deletes a link: the process ends and closes its output,
/// though another process still runs.
#[test]
fn caller_leaves_nothing_open() {
    if !privileged() {
        return;
    }
    let mark = std::process::id().to_string();
    let start = Instant::now();
    let mut left_behind = 0;
    let mut callers = 0;
    // On an emulated processor, most processes end before the test looks for them.
    while callers < 20 || (left_behind == 0 && start.elapsed() < LIMIT) {
        callers += 1;
        // Each caller has its own record, because the test must not depend on the reaper here.
        let dir = tempfile::tempdir().expect("a directory");
        let mut caller = caller("a_caller", dir.path()).env(CALLER, &mark).spawn().expect("start a caller");
        let status = caller.wait().expect("wait for the caller");
        let mut output = caller.stdout.take().expect("a pipe");
        let mut ends = [PollFd::from_borrowed_fd(output.as_fd(), PollFlags::empty())];
        poll(&mut ends, Some(&Timespec::default())).expect("poll");
        let closed = ends[0].revents().contains(PollFlags::HUP);
        let remaining = descriptors_of_orphans(caller.id(), &mark);
        let mut text = String::new();
        output.read_to_string(&mut text).expect("read");
        assert!(status.success() && text.contains("1 passed"), "{text}");
        assert!(closed, "a process still holds the output of the caller");
        for descriptors in remaining {
            left_behind += 1;
            assert_eq!(descriptors.len(), 5, "{descriptors:?}");
            assert!(descriptors[..3].iter().all(|target| target == "/dev/null"), "{descriptors:?}");
            assert!(descriptors[3].starts_with("socket:"), "{descriptors:?}");
            assert!(descriptors[4].starts_with("pipe:"), "{descriptors:?}");
        }
    }
    assert!(left_behind > 0, "no process outlived its caller");
}

/// The longest time until a process has outlived its caller.
const LIMIT: Duration = Duration::from_secs(60);

/// A caller that is a subreaper and reaps nothing, among callers with a working reaper.
#[test]
fn subreaper_that_does_not_reap_gets_one_zombie() {
    if !privileged() {
        return;
    }
    for has_other_callers in [false, true] {
        let dir = tempfile::tempdir().expect("a directory");
        if has_other_callers {
            // The second caller finds that the first orphan was reaped.
            for _ in 0..2 {
                run(&mut caller("a_caller", dir.path()));
                thread::sleep(SLOW_REAPER);
            }
        }
        run(&mut caller("a_subreaper", dir.path()));
    }
}

/// How long process 1 may take to reap: some check for orphans only from time to time.
const SLOW_REAPER: Duration = Duration::from_secs(3);

fn caller(test: &str, dir: &Path) -> Command {
    let mut caller = Command::new(std::env::current_exe().expect("this program"));
    caller.args(["--exact", test, "--ignored", "--nocapture", "--test-threads=1"]);
    caller.env(RECORD, dir.join("orphans")).stdout(Stdio::piped());
    caller
}

fn run(caller: &mut Command) {
    let output = caller.output().expect("start a caller");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// A caller of the tests above, in its own process.
#[test]
#[ignore = "run by the tests above"]
fn a_caller() {
    let Some(record) = given_record() else { return };
    let fixture = Fixture::new();
    let veth = fixture.veth(0);
    fixture.host.socket().expect("open a socket").delete_link_nowait(veth.host, &record).expect("delete");
    let children = wait(WaitOptions::NOHANG);
    assert_eq!(children.expect_err("no child"), rustix::io::Errno::CHILD, "no child is left");
}

/// As above, and the parent of its orphans: first one after the other, then many at once.
#[test]
#[ignore = "run by the tests above"]
fn a_subreaper() {
    let Some(record) = given_record() else { return };
    set_child_subreaper(Some(getpid())).expect("become a subreaper");
    let fixture = Fixture::new();
    let delete = |number| {
        let veth = fixture.veth(number);
        fixture.host.socket().expect("open a socket").delete_link_nowait(veth.host, &record).expect("delete");
    };
    thread::scope(|scope| {
        for number in 0..8 {
            scope.spawn(move || delete(number));
        }
    });
    (0..4).for_each(delete);
    let mut reaped = 0;
    while let Ok(Some(_)) = wait(WaitOptions::empty()) {
        reaped += 1;
    }
    assert_eq!(reaped, 1, "only the first orphan tests the reaper");
    delete(0);
    assert!(wait(WaitOptions::empty()).is_ok(), "the record shows that the reaper works");
}

fn given_record() -> Option<OrphanRecord> {
    std::env::var_os(RECORD).map(OrphanRecord::new)
}

/// A host and a pod.
struct Fixture {
    host: Netns,
    pod: Netns,
}

impl Fixture {
    fn new() -> Self {
        let create = || Netns::create().expect("create a namespace");
        Self { host: create(), pod: create() }
    }

    fn veth(&self, number: u8) -> VethIndexes {
        let end =
            |name: String, first| VethEnd::new(name.parse().expect("name"), MacAddr::new([first, 0, 0, 0, 0, number]));
        let pair = VethPair::new(end(format!("veth{number}"), 2), end(format!("eth{number}"), 6), &self.pod);
        self.host.socket().expect("open a socket").create_veth(&pair).expect("create the pair")
    }
}

/// The open descriptors of each process that the caller left behind: it has the mark in its
/// environment, and a later process id. Older processes are not read, because an orphan can end
/// in the meantime.
fn descriptors_of_orphans(caller: u32, mark: &str) -> Vec<Vec<String>> {
    let variable = format!("{CALLER}={mark}").into_bytes();
    let is_marked = |process: &Path| {
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == variable)
    };
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").expect("/proc").flatten() {
        let path = process.path();
        let is_later =
            process.file_name().to_str().and_then(|name| name.parse().ok()).is_some_and(|id: u32| id > caller);
        if !is_later || !is_marked(&path) {
            continue;
        }
        let mut descriptors = Vec::new();
        for number in 0..64 {
            if let Ok(target) = fs::read_link(path.join("fd").join(number.to_string())) {
                descriptors.push(target.to_string_lossy().into_owned());
            }
        }
        // A process that ends loses its environment first, and then its descriptors one by one.
        if is_marked(&path) {
            found.push(descriptors);
        }
    }
    found
}
