//! Stops a process between any two steps of a change, and then between any two steps of the
//! recovery.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fixture::{owner, pool};
use crate::ipam::{BootId, Lease, Pool, Store, StoreGuard};

thread_local! {
    /// The number of steps until this thread is stopped.
    static STEPS_LEFT: Cell<Option<u32>> = const { Cell::new(None) };
}

/// Called before every step of the store.
pub(in crate::ipam) fn step() {
    match STEPS_LEFT.get() {
        None => {}
        // Unwinding is equivalent to a kill: no destructor of the store changes files, and the
        // kernel closes the lock.
        Some(0) => resume_unwind(Box::new(Stopped)),
        Some(left) => STEPS_LEFT.set(Some(left - 1)),
    }
}

struct Stopped;

/// Runs `change` for this number of steps; returns whether it finished.
pub(super) fn run_for(steps: u32, change: impl FnOnce()) -> bool {
    STEPS_LEFT.set(Some(steps));
    let result = catch_unwind(AssertUnwindSafe(change));
    STEPS_LEFT.set(None);
    match result {
        Ok(()) => true,
        Err(payload) if payload.is::<Stopped>() => false,
        Err(payload) => resume_unwind(payload),
    }
}

fn pools() -> [Pool; 2] {
    ["10.0.0.0/24", "fd00::/64"].map(pool)
}

fn store(dir: &Path) -> Store {
    Store::for_boot(dir, BootId::new("now"))
}

fn lock(store: &Store) -> StoreGuard<'_> {
    store.lock(Duration::ZERO).unwrap()
}

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Asserts that the directory contains exactly these leases and their links.
fn assert_holds(store: &Store, expected: &[&Lease]) {
    let owners = expected.iter().map(|lease| lease.owner.file_name()).collect();
    assert_eq!(names(&store.leases_dir()), owners);
    let addresses =
        expected.iter().flat_map(|lease| &lease.addresses).map(|address| address.ip().to_string()).collect();
    assert_eq!(names(&store.addresses_dir()), addresses);
    assert!(!store.pending_path().exists());
    for lease in expected {
        assert_eq!(store.lease(&lease.owner).unwrap().as_ref(), Some(*lease));
        for address in &lease.addresses {
            assert_eq!(store.lease_at(address.ip()).unwrap().as_ref(), Some(*lease));
        }
    }
}

/// Runs `prepare`, then `change`, which is stopped after any number of steps. Then runs the
/// recovery, which is stopped after any number of steps, and a complete recovery. Passes the final
/// state to `check`. Returns the number of combinations.
fn die_everywhere<T>(prepare: impl Fn(&Path) -> T, change: impl Fn(&Path), check: impl Fn(&Path, T)) -> u32 {
    let mut deaths = 0;
    for steps in 0.. {
        let mut finished = false;
        for steps_of_recovery in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let prepared = prepare(dir.path());
            finished = run_for(steps, || change(dir.path()));
            let recovered = run_for(steps_of_recovery, || drop(lock(&store(dir.path()))));
            drop(lock(&store(dir.path())));
            check(dir.path(), prepared);
            deaths += 1;
            if recovered {
                break;
            }
        }
        if finished {
            break;
        }
    }
    deaths
}

#[test]
fn a_stopped_allocation_is_whole_or_nothing() {
    let deaths = die_everywhere(
        |dir| lock(&store(dir)).allocate(&owner("old"), &pools(), &[]).unwrap(),
        |dir| drop(lock(&store(dir)).allocate(&owner("new"), &pools(), &[]).unwrap()),
        |dir, old| {
            let store = store(dir);
            match store.lease(&owner("new")).unwrap() {
                Some(new) => assert_holds(&store, &[&old, &new]),
                None => assert_holds(&store, &[&old]),
            }
            let mut guard = lock(&store);
            guard.release(&owner("new")).unwrap();
            let again = guard.allocate(&owner("new"), &pools(), &[]).unwrap();
            drop(guard);
            assert_holds(&store, &[&old, &again]);
        },
    );
    // Six stops: before the hint, the file (2 steps), two links and the commit; and one complete
    // run. Four of these states need a recovery of at least one step.
    assert!(deaths >= 7 + 4, "{deaths}");
}

#[test]
fn the_first_allocation_of_all_is_whole_or_nothing() {
    die_everywhere(
        |_| (),
        |dir| drop(lock(&store(&dir.join("made/below"))).allocate(&owner("new"), &pools(), &[]).unwrap()),
        |dir, ()| {
            let store = store(&dir.join("made/below"));
            drop(lock(&store));
            match store.lease(&owner("new")).unwrap() {
                Some(new) => assert_holds(&store, &[&new]),
                None => assert_holds(&store, &[]),
            }
        },
    );
}

#[test]
fn a_stopped_release_is_whole_or_nothing() {
    let deaths = die_everywhere(
        |dir| ["old", "new"].map(|id| lock(&store(dir)).allocate(&owner(id), &pools(), &[]).unwrap()),
        |dir| drop(lock(&store(dir)).release(&owner("new")).unwrap()),
        |dir, [old, new]| {
            let store = store(dir);
            match store.lease(&owner("new")).unwrap() {
                Some(_) => assert_holds(&store, &[&old, &new]),
                None => assert_holds(&store, &[&old]),
            }
        },
    );
    assert!(deaths > 5 + 4, "{deaths}");
}

#[test]
fn a_stopped_release_of_a_corrupt_lease_leaks_nothing() {
    die_everywhere(
        |dir| {
            let [old, _] = ["old", "new"].map(|id| lock(&store(dir)).allocate(&owner(id), &pools(), &[]).unwrap());
            fs::write(corruptible(dir), "{").unwrap();
            old
        },
        |dir| assert_eq!(lock(&store(dir)).release(&owner("new")).unwrap(), None),
        |dir, old| {
            let store = store(dir);
            lock(&store).release(&owner("new")).unwrap();
            assert_holds(&store, &[&old]);
        },
    );
}

#[test]
fn a_stopped_first_lock_after_a_boot_leaves_no_old_lease() {
    die_everywhere(
        |dir| {
            let before = Store::for_boot(dir, BootId::new("before"));
            for id in ["a", "b"] {
                lock(&before).allocate(&owner(id), &pools(), &[]).unwrap();
            }
            fs::write(dir.join("leases/torn@eth0.json"), "").unwrap();
            fs::hard_link(dir.join("leases/torn@eth0.json"), dir.join("addresses/10.0.0.9")).unwrap();
        },
        |dir| drop(lock(&store(dir))),
        |dir, ()| {
            let store = store(dir);
            assert_holds(&store, &[]);
            let lease = lock(&store).allocate(&owner("a"), &pools(), &[]).unwrap();
            assert_holds(&store, &[&lease]);
        },
    );
}

#[test]
fn a_reader_never_sees_an_uncommitted_change() {
    for steps in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        drop(lock(&store));
        let finished = run_for(steps, || drop(lock(&store).allocate(&owner("new"), &pools(), &[]).unwrap()));
        let lease = store.lease(&owner("new")).unwrap();
        assert_eq!(lease.is_some(), finished);
        assert_eq!(store.leases().unwrap().map(Result::unwrap).next(), lease);
        for address in ["10.0.0.2", "fd00::2"] {
            match store.lease_at(address.parse().unwrap()) {
                Ok(found) => assert_eq!(found, lease),
                Err(error) => panic!("after {steps} steps: {error}"),
            }
        }
        if finished {
            break;
        }
    }
}

#[test]
fn a_half_written_journal_is_undone_by_its_inode() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let old = lock(&store).allocate(&owner("old"), &pools(), &[]).unwrap();
    fs::write(store.pending_path(), "{\"containerId\": \"new\", \"addr").unwrap();
    fs::hard_link(store.pending_path(), store.addresses_dir().join("10.0.0.77")).unwrap();
    drop(lock(&store));
    assert_holds(&store, &[&old]);
}

#[test]
fn a_journal_with_an_address_of_another_lease_leaves_it_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let old = lock(&store).allocate(&owner("old"), &pools(), &[]).unwrap();
    fs::copy(store.leases_dir().join(old.owner.file_name()), store.pending_path()).unwrap();
    drop(lock(&store));
    assert_holds(&store, &[&old]);
}

fn corruptible(dir: &Path) -> PathBuf {
    dir.join("leases").join(owner("new").file_name())
}
