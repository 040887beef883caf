//! `probe` returns the same errors as the lock and changes nothing.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use super::fixture::{NOW, lease, pool};
use crate::ipam::{BootId, Error, Store};

fn store(dir: &Path) -> Store {
    Store::for_boot(dir.join("data/net"), BootId::new("boot"))
}

#[track_caller]
fn agree(store: &Store, path: &Path) {
    let seen = store.probe().unwrap_err().to_string();
    assert!(seen.contains(path.to_str().unwrap()), "{seen}");
    store.lock(NOW).unwrap_err();
}

#[test]
fn a_usable_directory_passes_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    store.probe().unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    lease(&store, "a", &pool("10.0.0.0/24"));
    let held = store.lock(NOW).unwrap();
    store.probe().unwrap();
    drop(held);
}

#[test]
fn errors_of_the_lock_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let data = dir.path().join("data");
    let afresh = || {
        let _ = fs::remove_file(&data);
        let _ = fs::remove_dir_all(&data);
        fs::create_dir(&data).unwrap();
        fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
    };
    fs::write(&data, "in the way").unwrap();
    agree(&store, &data);

    afresh();
    fs::write(store.dir(), "in the way").unwrap();
    agree(&store, store.dir());

    afresh();
    fs::create_dir(data.join("elsewhere")).unwrap();
    symlink(data.join("elsewhere"), store.dir()).unwrap();
    agree(&store, store.dir());
    assert!(matches!(store.probe(), Err(Error::Linked { .. })));

    afresh();
    lease(&store, "a", &pool("10.0.0.0/24"));
    fs::set_permissions(store.dir(), Permissions::from_mode(0o775)).unwrap();
    agree(&store, store.dir());

    fs::set_permissions(store.dir(), Permissions::from_mode(0o755)).unwrap();
    let lock = store.dir().join("lock");
    fs::remove_file(&lock).unwrap();
    symlink(dir.path().join("elsewhere"), &lock).unwrap();
    agree(&store, &lock);

    fs::remove_file(&lock).unwrap();
    fs::remove_dir_all(store.dir().join("addresses")).unwrap();
    fs::write(store.dir().join("addresses"), "in the way").unwrap();
    let seen = store.probe().unwrap_err().to_string();
    assert!(seen.contains("/addresses"), "{seen}");
}

#[test]
fn a_lock_of_another_user_is_found() {
    if !cnikit_testbed::privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    lease(&store, "a", &pool("10.0.0.0/24"));
    chown(store.dir().join("lock"), Some(4321), None).unwrap();
    agree(&store, &store.dir().join("lock"));
}
