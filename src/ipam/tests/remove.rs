//! Removal deletes every file of a store, and no other file.

use std::fs;
use std::path::Path;

use super::fixture::{NOW, lease, owner, pool};
use crate::ipam::{BootId, Store};

fn store(dir: &Path) -> Store {
    Store::for_boot(dir.join("net"), BootId::new("boot"))
}

#[test]
fn a_store_is_removed_and_absent_is_success() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    store.remove().unwrap();
    lease(&store, "a", &pool("10.0.0.0/24"));
    drop(store.lock_owner(&owner("b"), NOW).unwrap());
    // Files that a killed process or a broken disk can leave.
    fs::write(store.dir().join("pending"), "half").unwrap();
    fs::create_dir(store.dir().join("damaged")).unwrap();
    fs::write(store.dir().join("damaged/c@eth0.json"), "").unwrap();
    assert!(store.is_written().unwrap());
    store.remove().unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    store.remove().unwrap();
}

#[test]
fn a_directory_of_another_program_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    // The layout of host-local.
    fs::create_dir(store.dir()).unwrap();
    for file in ["10.0.0.2", "last_reserved_ip.0", "lock"] {
        fs::write(store.dir().join(file), "theirs").unwrap();
    }
    assert!(!store.is_written().unwrap());
    assert!(Store::open_all(dir.path()).unwrap().is_empty());
    store.remove().unwrap();
    assert_eq!(fs::read_dir(store.dir()).unwrap().count(), 3);
}

#[test]
fn foreign_files_in_a_store_stay_and_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    lease(&store, "a", &pool("10.0.0.0/24"));
    fs::write(store.dir().join("notes"), "theirs").unwrap();
    let message = store.remove().unwrap_err().to_string();
    assert!(message.contains(store.dir().to_str().unwrap()), "{message}");
    let left: Vec<_> = fs::read_dir(store.dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["notes"]);
}
