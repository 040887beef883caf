//! A deletion that is not waited for leaves nothing of its caller open. A binary of its own: whatever other tests start
//! meanwhile would hold the descriptors for a moment too.
#![cfg(feature = "netlink")]

use std::{
    fs,
    io::Read as _,
    os::fd::AsFd as _,
    path::Path,
    process::{Command, Stdio},
};

use cnikit::{
    netlink::{Netns, VethEnd, VethPair},
    spec::MacAddr,
};
use cnikit_testbed::{kernel, privileged};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{WaitOptions, wait},
};

/// Set for the caller of [`a_caller_that_ends_leaves_nothing_open`], and so for the process that it leaves behind.
const CALLER: &str = "CNIKIT_TEST_CALLER";

/// What a runtime sees of a plugin that deletes a link: its process ends, and so does its output, though another
/// process lives on.
#[test]
fn a_caller_that_ends_leaves_nothing_open() {
    if !privileged() {
        return;
    }
    let mark = std::process::id().to_string();
    let mut left_behind = 0;
    for _ in 0..20 {
        let mut caller = Command::new(std::env::current_exe().expect("this program"));
        caller.args(["--exact", "a_caller", "--ignored", "--nocapture", "--test-threads=1"]);
        let mut caller = caller.env(CALLER, &mark).stdout(Stdio::piped()).spawn().expect("start a caller");
        let status = caller.wait().expect("wait for the caller");
        let mut output = caller.stdout.take().expect("a pipe");
        let mut ends = [PollFd::from_borrowed_fd(output.as_fd(), PollFlags::empty())];
        poll(&mut ends, Some(&Timespec::default())).expect("poll");
        let closed = ends[0].revents().contains(PollFlags::HUP);
        let remaining = descriptors_of_callers(&mark);
        let mut said = String::new();
        output.read_to_string(&mut said).expect("read");
        assert!(status.success() && said.contains("1 passed"), "{said}");
        assert!(closed, "somebody still holds the output of the caller");
        for descriptors in remaining {
            left_behind += 1;
            assert_eq!(descriptors.len(), 5, "{descriptors:?}");
            assert!(descriptors[..3].iter().all(|target| target == "/dev/null"), "{descriptors:?}");
            assert!(descriptors[3].starts_with("socket:"), "{descriptors:?}");
            assert!(descriptors[4].starts_with("pipe:"), "{descriptors:?}");
        }
    }
    // Before, the kernel sends no echo, and the caller waits until the other is through.
    let outlives = kernel() >= (6, 2);
    assert!(left_behind > 0 || !outlives, "no process was ever seen that outlives its caller");
}

/// The caller of the test above, in a process of its own.
#[test]
#[ignore = "run by a_caller_that_ends_leaves_nothing_open"]
fn a_caller() {
    if std::env::var_os(CALLER).is_none() {
        return;
    }
    let host = Netns::create().expect("create the host's namespace");
    let pod = Netns::create().expect("create the pod's namespace");
    let on_host = host.socket().expect("open a socket");
    let end =
        |name: &str, last| VethEnd { name: name.parse().expect("name"), mac: MacAddr::new([2, 0, 0, 0, 0, last]) };
    let pair = VethPair::new(end("veth0", 1), end("eth0", 2), &pod);
    let veth = on_host.create_veth(&pair).expect("create the pair").host;
    on_host.delete_link_nowait(veth).expect("delete");
    let children = wait(WaitOptions::NOHANG);
    assert_eq!(children.expect_err("there is no child"), rustix::io::Errno::CHILD, "nobody is left to be waited for");
}

/// What the descriptors of each process are open on that has the mark in its environment.
fn descriptors_of_callers(mark: &str) -> Vec<Vec<String>> {
    let variable = format!("{CALLER}={mark}").into_bytes();
    let is_marked = |process: &Path| {
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == variable)
    };
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").expect("/proc").flatten() {
        let path = process.path();
        if !is_marked(&path) {
            continue;
        }
        let mut descriptors = Vec::new();
        for number in 0..64 {
            if let Ok(target) = fs::read_link(path.join("fd").join(number.to_string())) {
                descriptors.push(target.to_string_lossy().into_owned());
            }
        }
        // One that ends loses its environment first, and then one descriptor after the other.
        if is_marked(&path) {
            found.push(descriptors);
        }
    }
    found
}
