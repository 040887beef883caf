//! Concurrent and killed loaders of a set. Each loader is a process: this binary with `loader` as
//! its only test.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use cnikit_testbed::{Command, Host, Namespace, Ruling, eventually, host, supervision, tool};

use crate::foreign::{FIRST, SECOND, compile, hits, load, put_hits, set};
use crate::support::{ROOT, names};

/// The environment variables with the directory that synchronizes the processes, and with the
/// object file to load.
const SYNC_DIR: &str = "CNIKIT_TEST_PIN_SET";
const OBJECT: &str = "CNIKIT_TEST_PIN_SET_OBJECT";
const LOADERS: usize = 4;
const TIMEOUT: Duration = Duration::from_secs(20);

/// More points than a replacement has. The sweep ends before.
const MAX_POINTS: usize = 400;

#[test]
#[ignore = "one of the processes that other tests start"]
fn loader() {
    let Some(sync_dir) = env::var_os(SYNC_DIR).map(PathBuf::from) else { return };
    let object = fs::read(env::var_os(OBJECT).unwrap()).unwrap();
    let own = std::process::id();
    fs::write(sync_dir.join(format!("ready-{own}")), "").unwrap();
    eventually("the start", TIMEOUT, || sync_dir.join("start").exists());
    let set = set();
    set.ensure(&object, |pins| {
        fs::write(sync_dir.join(format!("loads-{own}")), "")?;
        load(&object, pins)?;
        fs::write(sync_dir.join("pinned"), "")?;
        eventually("the permission to publish", TIMEOUT, || !sync_dir.join("hold").exists());
        Ok(())
    })
    .unwrap();
    set.open_program("count_packets").unwrap();
}

/// A loader of the object file in `sync_dir`.
fn command(host: &Host, sync_dir: &Path) -> Command {
    let own = env::current_exe().expect("this binary");
    let command = host.command(&own).words("--exact pin_set_kill::loader --ignored --nocapture --test-threads=1");
    command.env(SYNC_DIR, sync_dir).env(OBJECT, sync_dir.join("object"))
}

/// A directory with an object file.
fn sync_dir(host: &Host, object: &[u8]) -> PathBuf {
    let sync_dir = host.scratch();
    fs::write(sync_dir.join("object"), object).expect("write");
    sync_dir
}

fn count(sync_dir: &Path, start: &str) -> usize {
    names(sync_dir).iter().filter(|name| name.starts_with(start)).count()
}

#[test]
fn concurrent_processes_load_once() {
    if !tool("bpftool") || !tool("clang") {
        return;
    }
    host(|host| {
        let object = compile(host, FIRST);
        let sync_dir = sync_dir(host, &object);
        let log = |number| sync_dir.join(format!("log-{number}"));
        let mut loaders: Vec<_> =
            (0..LOADERS).map(|number| command(host, &sync_dir).spawn_logged(&log(number))).collect();
        eventually("the loaders", TIMEOUT, || count(&sync_dir, "ready-") == LOADERS);
        fs::write(sync_dir.join("start"), "").unwrap();
        for (number, loader) in loaders.iter_mut().enumerate() {
            let status = loader.wait(TIMEOUT);
            assert!(status.success(), "{status}: {}", fs::read_to_string(log(number)).unwrap());
        }
        assert_eq!(count(&sync_dir, "loads-"), 1);
        assert!(set().is_current(&object).unwrap());
        assert_eq!(names(Path::new(ROOT).join("one")), ["v1"]);
        set().remove().unwrap();
    });
}

#[test]
fn a_loader_killed_before_it_publishes_leaves_no_set() {
    if !tool("bpftool") || !tool("clang") {
        return;
    }
    host(|host| {
        let object = compile(host, FIRST);
        let sync_dir = sync_dir(host, &object);
        fs::write(sync_dir.join("hold"), "").unwrap();
        fs::write(sync_dir.join("start"), "").unwrap();
        let mut loader = command(host, &sync_dir).spawn_logged(&sync_dir.join("log"));
        eventually("the pins", TIMEOUT, || sync_dir.join("pinned").exists());
        let set = set();
        assert!(!set.is_complete().unwrap() && !set.directory().exists(), "the loader has not finished");

        // Another caller waits for the loader.
        thread::scope(|scope| {
            let waiting = scope.spawn(|| set.ensure(&object, |pins| load(&object, pins)));
            assert!(loader.kill());
            waiting.join().unwrap().unwrap();
        });
        assert_eq!(names(Path::new(ROOT).join("one")), ["v1"]);
        assert_eq!(names(set.directory()), ["count_packets", "extra", "hits"]);
        set.remove().unwrap();
    });
}

/// Kills a replacement before each of its system calls that change something. All pins of the set
/// stay usable, and the next call repairs the set.
#[test]
fn a_killed_replacement_leaves_usable_pins() {
    if !tool("bpftool") || !tool("clang") || !supervision() {
        return;
    }
    host(|host| {
        let (first, second) = (compile(host, FIRST), compile(host, SECOND));
        let sync_dir = sync_dir(host, &second);
        fs::write(sync_dir.join("start"), "").unwrap();
        let set = set();
        set.ensure(&first, |pins| load(&first, pins)).unwrap();
        put_hits(&set, 7);

        let mut killed = 0;
        for point in 0..MAX_POINTS {
            set.ensure(&first, |pins| load(&first, pins)).unwrap();
            // The replacement begins with the lock of the root.
            let (mut has_begun, mut left, mut is_hit) = (false, point, false);
            let output = command(host, &sync_dir).supervised(|call| {
                has_begun |= call.to_string().ends_with(ROOT);
                if !has_begun || !call.changes() || is_hit {
                    return Ruling::Continue;
                }
                is_hit = left == 0;
                left = left.saturating_sub(1);
                if is_hit { Ruling::Kill } else { Ruling::Continue }
            });
            if !is_hit {
                assert!(output.status.success(), "{output:?}");
                break;
            }
            killed += 1;
            assert_eq!(hits(&set), 7, "point {point}");
            let is_known = set.open_program("count_packets").unwrap().map_ids().unwrap();
            assert!(!is_known.is_empty(), "point {point}");
        }
        assert!((20..MAX_POINTS).contains(&killed), "{killed} points");
        assert!(set.is_current(&second).unwrap());
        assert_eq!(names(set.directory()), ["count_packets", "hits"]);
        assert_eq!(names(Path::new(ROOT).join("one")), ["v1"]);
        eprintln!("{killed} points");
        set.remove().unwrap();
    });
}
