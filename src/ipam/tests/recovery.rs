use std::fs;
use std::path::Path;

use super::fixture::{NOW, ip, lease, owner, pool, usage};
use crate::ipam::*;
use crate::spec::{ErrorCode, HasErrorCode};

/// The quarantined files, by name and reason.
fn quarantined(guard: &StoreGuard<'_>, dir: &Path) -> Vec<(String, String)> {
    let mut reported: Vec<_> = guard
        .quarantined()
        .iter()
        .map(|one| {
            assert_eq!(one.kept, dir.join("damaged").join(one.file.file_name().unwrap()));
            let name = one.file.file_name().unwrap().to_str().unwrap().to_owned();
            (name, one.to_string().split(": ").last().unwrap().to_owned())
        })
        .collect();
    reported.sort();
    reported
}

#[test]
fn a_file_torn_by_a_power_cut_is_quarantined_at_the_next_boot() {
    let dir = tempfile::tempdir().unwrap();
    let pool = pool("10.0.0.0/24");
    let before = Store::for_boot(dir.path(), BootId::new("before"));
    for id in ["empty", "half", "whole"] {
        lease(&before, id, &pool);
    }
    let file = |id: &str| dir.path().join(format!("leases/{id}@eth0.json"));
    fs::write(file("empty"), "").unwrap();
    fs::write(file("half"), &fs::read(file("half")).unwrap()[..40]).unwrap();
    fs::create_dir(file("directory")).unwrap();

    let after = Store::for_boot(dir.path(), BootId::new("after"));
    let guard = after.lock(NOW).unwrap();
    let reported = quarantined(&guard, dir.path());
    assert_eq!(
        reported,
        [
            ("directory@eth0.json", "Is a directory (os error 21)"),
            ("empty@eth0.json", "EOF while parsing a value at line 1 column 0"),
            ("half@eth0.json", "EOF while parsing a string at line 3 column 13"),
        ]
        .map(|(name, why)| (name.to_owned(), why.to_owned()))
    );
    drop(guard);
    assert_eq!(usage(&after, &pool).used, 0);
    assert_eq!(fs::read_dir(dir.path().join("leases")).unwrap().count(), 0);
    assert_eq!(after.damaged().unwrap().len(), 3);
    assert!(after.lock(NOW).unwrap().quarantined().is_empty(), "reported once");
    assert_eq!(lease(&after, "empty", &pool), ip("10.0.0.5"));
}

#[test]
fn an_unreadable_file_costs_one_lease() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let pool = pool("10.0.0.0/29");
    lease(&store, "a", &pool);
    let file = dir.path().join("leases/a@eth0.json");
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();

    assert_eq!(store.lease(&owner("a")).unwrap_err().code(), ErrorCode::IO);
    assert_eq!(lease(&store, "b", &pool), ip("10.0.0.3"));
    let mut guard = store.lock(NOW).unwrap();
    assert_eq!(guard.release(&owner("a")).unwrap(), None);
    let reported = quarantined(&guard, dir.path());
    assert_eq!(reported, [("a@eth0.json".to_owned(), "Is a directory (os error 21)".to_owned())]);
    assert_eq!(guard.release(&owner("a")).unwrap(), None);
    drop(guard);
    assert_eq!(lease(&store, "a", &pool), ip("10.0.0.4"));
}

#[test]
fn a_second_damaged_file_of_one_name_replaces_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for content in ["one", "two"] {
        lease(&store, "a", &pool("10.0.0.0/24"));
        fs::write(dir.path().join("leases/a@eth0.json"), content).unwrap();
        assert_eq!(store.lock(NOW).unwrap().release(&owner("a")).unwrap(), None);
        assert_eq!(fs::read_to_string(dir.path().join("damaged/a@eth0.json")).unwrap(), content);
    }
    assert_eq!(usage(&store, &pool("10.0.0.0/24")).used, 0);
}
