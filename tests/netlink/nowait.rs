//! Deletions that leave the waiting to another process.

use std::{
    fs,
    io::Read as _,
    os::fd::AsFd as _,
    process::{Command, Stdio},
};

use cnikit::netlink::{Error, LOOPBACK_INDEX};
use cnikit_testbed::kernel;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{WaitOptions, wait},
    thread::{CapabilitySet, CapabilitySets, set_capabilities},
};

use crate::support::{Bed, json, name, pair};

/// Set for the caller of [`a_caller_that_ends_leaves_nothing_open`], and so for the process that it leaves behind.
const CALLER: &str = "CNIKIT_TEST_CALLER";

#[test]
fn names_and_index_are_free_at_once() {
    const CHOSEN: u32 = 4_711;
    let Some(bed) = Bed::new() else { return };
    let bridge = bed.bridge();
    for round in 0..50 {
        let pair = pair(1, &bed.pod).host_index(CHOSEN).master(bridge).host_up();
        let indexes = bed.on_host.create_veth(&pair).unwrap_or_else(|error| panic!("round {round}: {error}"));
        bed.in_pod.set_up(indexes.peer).expect("bring the peer up");
        bed.on_host.delete_link_nowait(indexes.host).expect("delete");
        assert_eq!(bed.on_host.link_by_index(CHOSEN).expect("look up"), None);
        assert_eq!(bed.on_host.link_by_name(&name("veth1")).expect("look up"), None);
        assert_eq!(bed.in_pod.link_by_name(&name("eth1")).expect("look up"), None);
    }
    let names = |netns| json(netns, "ip -j link").as_array().map(Vec::len);
    assert_eq!((names(&bed.host), names(&bed.pod)), (Some(2), Some(1)));
}

#[test]
fn what_is_absent_is_success_and_what_is_refused_an_error() {
    let Some(bed) = Bed::new() else { return };
    bed.on_host.delete_link_nowait(4_711).expect("no such link");
    let error = bed.on_host.delete_link_nowait(LOOPBACK_INDEX).expect_err("loopback stays");
    let plain = bed.on_host.delete_link(LOOPBACK_INDEX).expect_err("loopback stays");
    assert_eq!((error.raw_os_error(), error.to_string()), (plain.raw_os_error(), plain.to_string()));

    let veth = bed.veth(1, None).host;
    let error = std::thread::scope(|scope| {
        let socket = bed.host.socket().expect("open a socket");
        let deprived = move || {
            let none = CapabilitySet::empty();
            let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
            set_capabilities(None, sets).expect("drop all capabilities");
            socket.delete_link_nowait(veth).expect_err("not permitted")
        };
        scope.spawn(deprived).join().expect("the thread")
    });
    assert!(matches!(error, Error::Kernel { .. }), "{error:?}");
    assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
    assert!(bed.on_host.link_by_index(veth).expect("look up").is_some());
}

#[test]
fn the_socket_stays_of_use() {
    let Some(bed) = Bed::new() else { return };
    let ends = [1, 2, 3].map(|number| bed.veth(number, None));
    for ends in &ends {
        bed.on_host.delete_link_nowait(ends.host).expect("delete");
        // The acknowledgement of the deletion arrives among the answers to these.
        assert!(bed.on_host.links().expect("list").iter().all(|link| link.index != ends.host));
    }
    bed.on_host.delete_link(ends[0].host).expect("it is gone");
}

/// What a runtime sees of a plugin that deletes a link: its process ends, and so does its output, though another
/// process lives on.
#[test]
fn a_caller_that_ends_leaves_nothing_open() {
    if Bed::new().is_none() {
        return;
    }
    let mark = std::process::id().to_string();
    let mut left_behind = 0;
    for _ in 0..20 {
        let mut caller = Command::new(std::env::current_exe().expect("this program"));
        caller.args(["--exact", "nowait::a_caller", "--ignored", "--nocapture", "--test-threads=1"]);
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
            assert_eq!(descriptors.len(), 4, "{descriptors:?}");
            assert!(descriptors[..3].iter().all(|target| target == "/dev/null"), "{descriptors:?}");
            assert!(descriptors[3].starts_with("socket:"), "{descriptors:?}");
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
    let bed = Bed::new().expect("the caller of this has one");
    let veth = bed.veth(1, None).host;
    bed.on_host.delete_link_nowait(veth).expect("delete");
    let children = wait(WaitOptions::NOHANG);
    assert_eq!(children.expect_err("there is no child"), rustix::io::Errno::CHILD, "nobody is left to be waited for");
    // The namespaces would be waited for as well.
    std::mem::forget(bed);
}

/// What the descriptors of each process are open on that has the mark in its environment.
fn descriptors_of_callers(mark: &str) -> Vec<Vec<String>> {
    let variable = format!("{CALLER}={mark}").into_bytes();
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").expect("/proc").flatten() {
        let path = process.path();
        let Ok(environment) = fs::read(path.join("environ")) else { continue };
        if !environment.split(|byte| *byte == 0).any(|entry| entry == variable) {
            continue;
        }
        let mut descriptors = Vec::new();
        for number in 0..64 {
            if let Ok(target) = fs::read_link(path.join("fd").join(number.to_string())) {
                descriptors.push(target.to_string_lossy().into_owned());
            }
        }
        // One that has ended meanwhile has none.
        if !descriptors.is_empty() {
            found.push(descriptors);
        }
    }
    found
}
