use std::fs;

use super::fixture::{NOW, ip, lease, owner, pool, usage};
use crate::ipam::*;
use crate::spec::{ErrorCode, HasErrorCode};

#[test]
fn a_requested_address_is_allocated_without_moving_the_cursor() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let pools = [pool("10.0.0.0/24"), pool("fd00::/64")];
    let mut given = Vec::new();
    for (id, requested) in [("a", vec![]), ("b", vec!["fd00::99", "fd00::99"]), ("c", vec!["10.0.0.4"]), ("d", vec![])]
    {
        let requested: Vec<_> = requested.into_iter().map(ip).collect();
        let lease = store.lock(NOW).unwrap().allocate(&owner(id), &pools, &requested).unwrap();
        given.push(lease.addresses.iter().map(|address| address.to_string()).collect::<Vec<_>>().join(" "));
    }
    assert_eq!(
        given,
        ["10.0.0.2/24 fd00::2/64", "10.0.0.3/24 fd00::99/64", "10.0.0.4/24 fd00::3/64", "10.0.0.5/24 fd00::4/64"]
    );
}

#[test]
fn an_impossible_request_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let pools = [pool("10.0.0.0/24"), pool("fd00::/64")];
    lease(&store, "a", &pools[0]);
    for (requested, code, message) in [
        (
            vec!["fd00::9", "10.0.0.2"],
            ADDRESS_TAKEN,
            "10.0.0.2 is held by eth0 of container a; request another address or remove that attachment",
        ),
        (
            vec!["10.0.0.1"],
            ErrorCode::INVALID_CONFIG,
            "10.0.0.1 cannot be allocated from 10.0.0.0/24, fd00::/64; request another address",
        ),
        (
            vec!["10.0.0.7", "10.0.0.8"],
            ErrorCode::INVALID_CONFIG,
            "10.0.0.7 and 10.0.0.8 are both in 10.0.0.0/24, which assigns one address; request only one of them",
        ),
    ] {
        let requested: Vec<_> = requested.into_iter().map(ip).collect();
        let error = store.lock(NOW).unwrap().allocate(&owner("b"), &pools, &requested).unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), (code, message));
        assert_eq!(store.leases().unwrap().count(), 1);
    }
}

/// Allocates one lease for each of these owner numbers.
fn fill(store: &Store, pool: &Pool, count: usize) {
    let mut guard = store.lock(NOW).unwrap();
    for number in 0..count {
        guard.allocate(&owner(&number.to_string()), std::slice::from_ref(pool), &[]).unwrap();
    }
}

#[test]
fn the_last_free_address_is_found_after_a_long_run() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let pool = pool("10.0.0.0/22");
    fill(&store, &pool, 1021);
    let full = usage(&store, &pool);
    assert_eq!((full.used, full.free()), (1021, 0));
    for number in [700, 3, 1020] {
        let freed = store.lock(NOW).unwrap().release(&owner(&number.to_string())).unwrap().unwrap();
        assert_eq!(lease(&store, &number.to_string(), &pool), freed.addresses[0].ip());
    }
}

#[test]
fn an_address_released_from_a_known_run_is_allocated_next() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let pool = pool("10.0.0.0/28");
    let release = |last: u8| {
        let mut guard = store.lock(NOW).unwrap();
        let held = guard.lease_at(ip(&format!("10.0.0.{last}"))).unwrap().unwrap();
        guard.release(&held.owner).unwrap();
    };
    let taken = || {
        let lock = fs::read_to_string(dir.path().join("lock")).unwrap();
        lock.lines().filter(|line| line.starts_with("taken")).map(str::to_owned).collect::<Vec<_>>()
    };
    fill(&store, &pool, 13);
    [10, 11, 13].into_iter().for_each(release);
    // The search restarts after the last lease and records the taken addresses that it skips.
    assert_eq!(lease(&store, "a", &pool), ip("10.0.0.10"));
    assert_eq!(taken(), ["taken 10.0.0.2 10.0.0.9"]);
    release(5);
    assert_eq!(taken(), ["taken 10.0.0.6 10.0.0.9", "taken 10.0.0.2 10.0.0.4"]);
    assert_eq!(lease(&store, "b", &pool), ip("10.0.0.11"));
    assert_eq!(lease(&store, "c", &pool), ip("10.0.0.13"));
    release(11);
    assert_eq!(lease(&store, "d", &pool), ip("10.0.0.5"));

    // The addresses of a damaged lease are unknown. The search continues from 10.0.0.11 and finds
    // the run again.
    assert_eq!(lease(&store, "e", &pool), ip("10.0.0.11"));
    release(12);
    assert_ne!(taken(), [""; 0]);
    fs::write(dir.path().join("leases/1@eth0.json"), "").unwrap();
    store.lock(NOW).unwrap().release(&owner("1")).unwrap();
    assert_eq!(taken(), [""; 0]);
}

#[test]
fn a_wrong_hint_does_not_exhaust_the_pool() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let pool = pool("10.0.0.0/28");
    let boot = BootId::current().unwrap();
    drop(store.lock(NOW).unwrap());
    for (id, row) in [("a", "taken 10.0.0.0 10.0.0.15"), ("b", "taken 10.0.0.3 10.0.0.3"), ("c", "taken 0.0.0.0 ::")] {
        fs::write(dir.path().join("lock"), format!("{}\nlast 10.0.0.1\n{row}\n", boot.as_str())).unwrap();
        lease(&store, id, &pool);
    }
    assert_eq!(usage(&store, &pool).used, 3);
    fs::write(dir.path().join("lock"), format!("{}\ntaken 10.0.0.2 10.0.0.14\n", boot.as_str())).unwrap();
    fill(&store, &pool, 10);
    let full = store.lock(NOW).unwrap().allocate(&owner("more"), &[pool], &[]);
    assert_eq!(full.unwrap_err().code(), POOL_EXHAUSTED);
}

#[test]
fn dead_leases_are_reclaimed_only_when_the_pool_is_exhausted() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (small, other) = (pool("10.0.0.0/29"), pool("10.1.0.0/24"));
    fill(&store, &small, 4);
    lease(&store, "elsewhere", &other);
    let mut asked = Vec::new();
    let mut allocate = |id: &str, gone: &[&str]| {
        let mut guard = store.lock(NOW).unwrap();
        guard.allocate_with(&owner(id), std::slice::from_ref(&small), &[], |lease| {
            asked.push(lease.owner.container_id.to_string());
            gone.contains(&lease.owner.container_id.as_str())
        })
    };
    allocate("4", &["1", "2", "elsewhere"]).unwrap();
    assert_eq!(allocate("5", &[]).unwrap_err().code(), POOL_EXHAUSTED);
    assert_eq!(allocate("6", &["1", "2", "elsewhere"]).unwrap().addresses, ["10.0.0.3/29".parse().unwrap()]);
    asked.sort();
    assert_eq!(asked, ["0", "0", "1", "1", "2", "2", "3", "3", "4", "4"]);
    assert_eq!(usage(&store, &small).used, 4);
    assert_eq!(usage(&store, &other).used, 1);
}

#[test]
fn a_requested_address_is_reclaimed_from_a_dead_lease() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let pools = [pool("10.0.0.0/24")];
    let address = lease(&store, "gone", &pools[0]);
    let mut guard = store.lock(NOW).unwrap();
    let lease = guard.allocate_with(&owner("new"), &pools, &[address], |held| held.owner == owner("gone")).unwrap();
    assert_eq!(lease.addresses[0].ip(), address);
    assert_eq!(guard.lease(&owner("gone")).unwrap(), None);
}

#[test]
fn a_damaged_dead_lease_is_reclaimed_and_quarantined() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let small = pool("10.0.0.0/29");
    fill(&store, &small, 5);
    fs::write(dir.path().join("leases/3@eth0.json"), "").unwrap();
    fs::write(dir.path().join("leases/note"), "").unwrap();
    let mut guard = store.lock(NOW).unwrap();
    let lease = guard.allocate_with(&owner("new"), &[small], &[], |lease| lease.owner == owner("3")).unwrap();
    assert_eq!(lease.addresses, ["10.0.0.5/29".parse().unwrap()]);
    let reported: Vec<_> = guard.quarantined().iter().map(ToString::to_string).collect();
    let (was, is) = (dir.path().join("leases/3@eth0.json"), dir.path().join("damaged/3@eth0.json"));
    let why = "EOF while parsing a value at line 1 column 0";
    assert_eq!(reported, [format!("{} was damaged and is now {}: {why}", was.display(), is.display())]);
}

#[test]
fn an_orphaned_address_is_free_when_the_pool_is_exhausted() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let pool = pool("10.0.0.0/24");
    fill(&store, &pool, 253);
    fs::remove_file(dir.path().join("leases/200@eth0.json")).unwrap();
    assert_eq!(lease(&store, "new", &pool), ip("10.0.0.202"));
}

/// A store with two small pools, one dual-stack lease, and the file of the lease.
fn dual_stack(dir: &std::path::Path) -> (Store, [Pool; 2], std::path::PathBuf) {
    let store = Store::open(dir).unwrap();
    let pools = [pool("10.0.0.0/30"), pool("fd00::/126")];
    let lease = store.lock(NOW).unwrap().allocate(&owner("a"), &pools, &[]).unwrap();
    assert_eq!(lease.addresses, ["10.0.0.2/30".parse().unwrap(), "fd00::2/126".parse().unwrap()]);
    (store, pools, dir.join("leases/a@eth0.json"))
}

#[test]
fn both_orphaned_addresses_are_free_when_the_pool_is_exhausted() {
    let dir = tempfile::tempdir().unwrap();
    let (store, pools, file) = dual_stack(dir.path());
    fs::remove_file(file).unwrap();
    let lease = store.lock(NOW).unwrap().allocate(&owner("new"), &pools, &[ip("fd00::3")]).unwrap();
    assert_eq!(lease.addresses, ["10.0.0.2/30".parse().unwrap(), "fd00::3/126".parse().unwrap()]);
    assert_eq!(usage(&store, &pools[1]).used, 1);
}

#[test]
fn both_orphaned_addresses_are_free_when_one_is_requested() {
    let dir = tempfile::tempdir().unwrap();
    let (store, pools, file) = dual_stack(dir.path());
    fs::remove_file(file).unwrap();
    let lease = store.lock(NOW).unwrap().allocate(&owner("new"), &pools, &[ip("fd00::2")]).unwrap();
    assert_eq!(lease.addresses, ["10.0.0.2/30".parse().unwrap(), "fd00::2/126".parse().unwrap()]);
    assert_eq!(store.lease_at(ip("10.0.0.2")).unwrap().map(|lease| lease.owner), Some(owner("new")));
}

#[test]
fn both_addresses_of_a_damaged_lease_stay_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (store, pools, file) = dual_stack(dir.path());
    let whole = fs::read_to_string(&file).unwrap();
    // A truncated file, and a file that names another owner.
    for content in [whole[..40].to_owned(), whole.replace("\"a\"", "\"b\"")] {
        fs::write(&file, content).unwrap();
        let mut guard = store.lock(NOW).unwrap();
        for requested in ["10.0.0.2", "fd00::2"] {
            let error = guard.allocate(&owner("new"), &pools, &[ip(requested)]).unwrap_err();
            assert_eq!(error.code(), ADDRESS_TAKEN);
        }
        let error = guard.allocate(&owner("new"), &pools[..1], &[]).unwrap_err();
        assert_eq!(error.code(), POOL_EXHAUSTED);
        assert_eq!(pools.each_ref().map(|pool| usage(&store, pool).used), [1, 1]);
    }
}
