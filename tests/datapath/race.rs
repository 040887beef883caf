//! Many at once, and one that is killed. They are processes, as a runtime's are: this binary, with `racer` as its only test.

use std::env;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use cnikit::datapath::{Error, ProgramName};
use cnikit_testbed::{Host, Namespace, Running, eventually, host, tool};

use crate::support::{MAPS, PROGRAMS, ROOT, datapath, ids, names};

/// Where the processes of a race meet.
const MEETING: &str = "CNIKIT_TEST_RACE";
const RACERS: usize = 8;
const LIMIT: Duration = Duration::from_secs(20);

#[test]
#[ignore = "one of the processes that other tests start"]
fn racer() {
    let Some(meeting) = env::var_os(MEETING) else { return };
    let (meeting, own) = (Path::new(&meeting), std::process::id());
    fs::write(meeting.join(format!("ready-{own}")), "").unwrap();
    eventually("the start", LIMIT, || meeting.join("start").exists());

    let datapath = datapath("one");
    datapath.ensure().unwrap();
    let seen = datapath.program(ProgramName::Main).unwrap().id();
    fs::write(meeting.join(format!("seen-{own}")), seen.to_string()).unwrap();
}

#[test]
fn processes_that_race_load_once() {
    if !tool("bpftool") {
        return;
    }
    host(|host| {
        let seen = race(host);
        let datapath = datapath("one");
        let loaded = ids(&datapath.directory())["cni_tc_main"];
        assert_eq!(seen, [loaded; RACERS]);
        assert_eq!(names(Path::new(ROOT).join("one")), ["v2"]);
        datapath.remove().unwrap();
    });
}

#[test]
fn a_loader_that_is_killed_blocks_nobody() {
    if !tool("bpftool") {
        return;
    }
    host(|host| {
        let meeting = host.scratch();
        let mut racers = line_up(host, &meeting, 1);
        fs::write(meeting.join("start"), "").unwrap();
        let network = Path::new(ROOT).join("one");
        eventually("the load", LIMIT, || network.join("loading").exists() || network.join("v2").exists());
        racers[0].kill();

        let datapath = datapath("one");
        datapath.ensure().unwrap();
        ids(&datapath.directory());
        assert_eq!(names(&network), ["v2"]);
        datapath.remove().unwrap();
    });
}

/// A lock on the directory that is removed would keep nobody out, and two would load into one directory.
#[test]
fn a_removal_meanwhile_leaves_a_whole_set_or_none() {
    if !tool("bpftool") {
        return;
    }
    host(|_| {
        let datapath = datapath("one");
        for _ in 0..10 {
            thread::scope(|scope| {
                let ensures: Vec<_> = (0..3).map(|_| scope.spawn(|| datapath.ensure())).collect();
                let removals = scope.spawn(|| (0..3).try_for_each(|_| datapath.remove()));
                for ensured in ensures {
                    ensured.join().unwrap().unwrap();
                }
                removals.join().unwrap().unwrap();
            });
            match datapath.open_counters() {
                Ok(_) => assert_eq!(ids(&datapath.directory()).len(), MAPS.len() + PROGRAMS.len()),
                Err(Error::Pin { .. }) => assert!(!Path::new(ROOT).join("one").exists()),
                Err(error) => panic!("{error}"),
            }
        }
        datapath.remove().unwrap();
    });
}

/// Has eight processes make the network `one` at once; the ids of the program `cni_tc_main` that they saw.
pub(crate) fn race(host: &Host) -> Vec<u64> {
    let meeting = host.scratch();
    let mut racers = line_up(host, &meeting, RACERS);
    fs::write(meeting.join("start"), "").expect("write");
    for racer in &mut racers {
        let status = racer.wait(LIMIT);
        assert!(status.success(), "{status}, and says: {}", texts(&meeting, "log-").concat());
    }
    texts(&meeting, "seen-").iter().map(|id| id.parse().expect("an id")).collect()
}

fn line_up(host: &Host, meeting: &Path, count: usize) -> Vec<Running> {
    let own = env::current_exe().expect("this binary");
    let racers = (0..count).map(|number| {
        let racer = host.command(&own).words("--exact race::racer --ignored --nocapture").env(MEETING, meeting);
        racer.spawn_logged(&meeting.join(format!("log-{number}")))
    });
    let racers = racers.collect();
    eventually("the racers", LIMIT, || texts(meeting, "ready-").len() == count);
    racers
}

/// The texts of the files whose names begin so.
fn texts(meeting: &Path, start: &str) -> Vec<String> {
    let files = names(meeting).into_iter().filter(|name| name.starts_with(start));
    files.map(|name| fs::read_to_string(meeting.join(name)).expect("text")).collect()
}
