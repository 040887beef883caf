//! Store directories that another user has manipulated.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use super::fixture::{NOW, ip, lease, owner, pool};
use crate::ipam::{BootId, Error, Store};
use crate::spec::{ErrorCode, HasErrorCode};

/// An unused user id. Only root can change the owner of a file.
const STRANGER: u32 = 4321;

fn store(dir: &Path) -> Store {
    Store::for_boot(dir.join("data/net"), BootId::new("boot"))
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[track_caller]
fn refused(store: &Store, path: &Path, why: &str) {
    for error in [store.lock(NOW).unwrap_err(), store.lock_owner(&owner("b"), NOW).unwrap_err()] {
        assert!(matches!(error, Error::Shared { .. }), "{error:?}");
        assert_eq!(error.code(), ErrorCode::IO);
        assert!(error.to_string().starts_with(&format!("{} {why}", path.display())), "{error}");
    }
}

#[test]
fn a_directory_that_others_can_change_is_rejected_without_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (store, data) = (store(dir.path()), dir.path().join("data"));
    fs::create_dir_all(store.dir()).unwrap();
    set_mode(&data, 0o755);
    for mode in [0o777, 0o1777, 0o775, 0o757] {
        set_mode(store.dir(), mode);
        refused(&store, store.dir(), "can be changed by others");
    }
    set_mode(store.dir(), 0o755);
    set_mode(&data, 0o777);
    refused(&store, &data, "can be changed by others");
    assert_eq!(fs::read_dir(store.dir()).unwrap().count(), 0);
    // As in /tmp: only the owner of a file can move it.
    set_mode(&data, 0o1777);
    lease(&store, "a", &pool("10.0.0.0/24"));
}

#[test]
fn files_of_another_user_are_rejected() {
    if !cnikit_testbed::privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    lease(&store, "a", &pool("10.0.0.0/24"));
    let reason = format!("belongs to user {STRANGER}");
    chown(store.dir(), Some(STRANGER), None).unwrap();
    refused(&store, store.dir(), &reason);
    chown(store.dir(), Some(0), None).unwrap();
    let lock = store.dir().join("lock");
    chown(&lock, Some(STRANGER), None).unwrap();
    let error = store.lock(NOW).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{} {reason}", lock.display())), "{error}");
    chown(&lock, Some(0), None).unwrap();
    store.lock(NOW).unwrap();
}

#[test]
fn symbolic_links_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, pool) = (store(dir.path()), pool("10.0.0.0/24"));
    let secret = dir.path().join("secret");
    fs::write(&secret, "boot\nnot to be touched").unwrap();
    lease(&store, "a", &pool);
    let file = |name: &str| store.dir().join(name);
    let plant = |name: &str| {
        let _ = fs::remove_file(file(name));
        symlink(&secret, file(name)).unwrap();
    };

    plant("lock");
    let error = store.lock(NOW).unwrap_err().to_string();
    assert!(error.contains(file("lock").to_str().unwrap()), "{error}");
    fs::remove_file(file("lock")).unwrap();

    // The files of a pending change, a lease, an address and a lock.
    for name in ["pending", "leases/b@eth0.json", "addresses/10.0.0.3", "addresses/10.0.0.4"] {
        plant(name);
    }
    let error = store.lease(&owner("b")).unwrap_err();
    assert!(error.is_damage() && error.to_string().contains("b@eth0.json"), "{error}");
    store.lease_at(ip("10.0.0.3")).unwrap_err();
    store.lock(NOW).unwrap().release(&owner("b")).unwrap();
    let given = [lease(&store, "b", &pool), lease(&store, "c", &pool)];
    assert!(!given.contains(&ip("10.0.0.2")), "{given:?}");
    drop(store.lock_owner(&owner("a"), NOW).unwrap());
    plant("owners/a@eth0.json");
    store.lock_owner(&owner("a"), NOW).unwrap_err();
    assert_eq!(fs::read_to_string(&secret).unwrap(), "boot\nnot to be touched");
}

#[test]
fn a_pipe_does_not_block() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    lease(&store, "a", &pool("10.0.0.0/24"));
    let path = store.dir().join("leases/b@eth0.json");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(matches!(store.lease(&owner("b")).unwrap_err(), Error::CorruptLease { .. }));
}
