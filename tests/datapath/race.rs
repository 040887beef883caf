//! Concurrent calls, and a killed call. A container runtime starts plugin processes, so each caller
//! is a process: this binary with `racer` as its only test.

use std::env;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use cnikit::datapath::{Error, ProgramName};
use cnikit_testbed::{Host, Namespace, Running, eventually, host, tool};

use crate::support::{MAPS, PROGRAMS, ROOT, datapath, ids, names};

/// The environment variable with the directory that synchronizes the processes of a race.
const SYNC_DIR: &str = "CNIKIT_TEST_RACE";
const RACERS: usize = 8;
const TIMEOUT: Duration = Duration::from_secs(20);

#[test]
#[ignore = "one of the processes that other tests start"]
fn racer() {
    let Some(sync_dir) = env::var_os(SYNC_DIR) else { return };
    let (sync_dir, own) = (Path::new(&sync_dir), std::process::id());
    fs::write(sync_dir.join(format!("ready-{own}")), "").unwrap();
    eventually("the start", TIMEOUT, || sync_dir.join("start").exists());

    let datapath = datapath("one");
    datapath.ensure().unwrap();
    let seen = datapath.program(ProgramName::Main).unwrap().id();
    fs::write(sync_dir.join(format!("seen-{own}")), seen.to_string()).unwrap();
}

#[test]
fn concurrent_processes_load_once() {
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
fn a_killed_loader_does_not_block_others() {
    if !tool("bpftool") {
        return;
    }
    host(|host| {
        let sync_dir = host.scratch();
        let mut racers = start_racers(host, &sync_dir, 1);
        fs::write(sync_dir.join("start"), "").unwrap();
        let network = Path::new(ROOT).join("one");
        eventually("the load", TIMEOUT, || network.join("loading").exists() || network.join("v2").exists());
        racers[0].kill();

        let datapath = datapath("one");
        datapath.ensure().unwrap();
        ids(&datapath.directory());
        assert_eq!(names(&network), ["v2"]);
        datapath.remove().unwrap();
    });
}

/// A lock on a removed directory excludes no other process: two processes would load into one
/// directory.
#[test]
fn a_concurrent_removal_leaves_a_complete_set_or_none() {
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

/// Eight processes create the network `one` at once. Returns the id of `cni_tc_main` that each
/// process saw.
pub(crate) fn race(host: &Host) -> Vec<u64> {
    let sync_dir = host.scratch();
    let mut racers = start_racers(host, &sync_dir, RACERS);
    fs::write(sync_dir.join("start"), "").expect("write");
    for racer in &mut racers {
        let status = racer.wait(TIMEOUT);
        assert!(status.success(), "{status}: {}", texts(&sync_dir, "log-").concat());
    }
    texts(&sync_dir, "seen-").iter().map(|id| id.parse().expect("an id")).collect()
}

fn start_racers(host: &Host, sync_dir: &Path, count: usize) -> Vec<Running> {
    let own = env::current_exe().expect("this binary");
    let racers = (0..count).map(|number| {
        let racer = host.command(&own).words("--exact race::racer --ignored --nocapture").env(SYNC_DIR, sync_dir);
        racer.spawn_logged(&sync_dir.join(format!("log-{number}")))
    });
    let racers = racers.collect();
    eventually("the racers", TIMEOUT, || texts(sync_dir, "ready-").len() == count);
    racers
}

/// The texts of the files with names that start with `start`.
fn texts(sync_dir: &Path, start: &str) -> Vec<String> {
    let files = names(sync_dir).into_iter().filter(|name| name.starts_with(start));
    files.map(|name| fs::read_to_string(sync_dir.join(name)).expect("text")).collect()
}
