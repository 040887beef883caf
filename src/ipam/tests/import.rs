use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use super::fixture::{NOW, ip, lease, owner, pool};
use crate::ipam::*;
use crate::spec::{ErrorCode, HasErrorCode, IfName};

fn eth0() -> IfName {
    "eth0".parse().unwrap()
}

fn write(dir: &Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        fs::write(dir.join(name), content).unwrap();
    }
}

/// Name, content and times of every file. A read leaves them unchanged.
fn state(dir: &Path) -> BTreeMap<String, (Vec<u8>, SystemTime)> {
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let state = |path| (fs::read(&path).unwrap(), fs::metadata(path).unwrap().modified().unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), state(entry.path()))).collect()
}

fn made(import: &Import) -> Vec<String> {
    let addresses = |lease: &Lease| lease.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    import.leases.iter().map(|lease| format!("{}: {}", lease.owner.described(), addresses(lease))).collect()
}

fn skipped(import: &Import) -> Vec<String> {
    let mut skipped: Vec<_> = import.skipped.iter().map(|one| format!("{}: {}", one.name, one.reason)).collect();
    skipped.sort();
    skipped
}

#[test]
fn leases_of_host_local_are_imported() {
    let (theirs, ours) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(
        theirs.path(),
        &[
            ("10.0.0.2", "aaa\r\neth0"),
            ("fd00::2", "aaa\r\neth0"),
            ("10.0.0.3", "bbb\neth1\n"),
            ("10.0.0.4", "old"),
            ("10.0.0.5", ""),
            ("10.0.0.6", "not an id\r\neth0"),
            ("10.0.0.7", "ccc\r\nfar/too"),
            ("10.0.0.9", "ddd\r\neth0"),
            ("10.0.0.1", "eee\r\neth0"),
            ("10.9.0.2", "fff\r\neth0"),
            ("10.0.0.11", "here\r\neth0"),
            ("last_reserved_ip.0", "10.0.0.30"),
            ("last_reserved_ip.1", "fd00::30"),
            ("lock", ""),
            ("README", "?"),
        ],
    );
    let before = state(theirs.path());
    let store = Store::open(ours.path()).unwrap();
    let pools = [pool("10.0.0.0/24"), pool("fd00::/64")];
    let mut guard = store.lock(NOW).unwrap();
    guard.allocate(&owner("here"), &pools[..1], &[ip("10.0.0.9")]).unwrap();

    let import = guard.import(ForeignLeases::from_host_local(theirs.path(), &eth0()).unwrap(), &pools).unwrap();
    assert_eq!(
        made(&import),
        [
            "eth0 of container aaa: 10.0.0.2/24 fd00::2/64",
            "eth1 of container bbb: 10.0.0.3/24",
            "eth0 of container old: 10.0.0.4/24"
        ]
    );
    assert_eq!(
        skipped(&import),
        [
            "10.0.0.11: eth0 of container here has a lease already",
            "10.0.0.1: it is not an address of the configured ranges",
            "10.0.0.5: it is empty",
            "10.0.0.6: its holder is not a container id and interface name: container id \"not an id\" is not valid: \
             it must start with a letter or a digit and contain only letters, digits, '_', '.' and '-'",
            "10.0.0.7: its holder is not a container id and interface name: interface name \"far/too\" is not valid: \
             it must have 1 to 15 bytes, not be '.', '..', 'all' or 'default', and contain no '/', ':', '%' or \
             white space",
            "10.0.0.9: it is already held by a lease of eth0 of container here",
            "10.9.0.2: it is not an address of the configured ranges",
            "README: its name is not an address",
        ]
    );
    assert_eq!(state(theirs.path()), before);
    for lease in &import.leases {
        assert_eq!(store.lease(&lease.owner).unwrap().as_ref(), Some(lease));
    }
    let next = guard.allocate(&owner("next"), &pools, &[]).unwrap();
    assert_eq!(next.addresses, ["10.0.0.31/24".parse().unwrap(), "fd00::31/64".parse().unwrap()]);

    let again = guard.import(ForeignLeases::from_host_local(theirs.path(), &eth0()).unwrap(), &pools).unwrap();
    assert_eq!(made(&again), [""; 0]);
}

#[test]
fn leases_of_a_table_are_imported() {
    let (theirs, ours) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = theirs.path().join("ipam.json");
    let table = r#"{"allocated": {"10.244.1.2": "aaa", "10.244.1.3": "bbb", "ten": "ccc", "10.244.1.4": "", "10.7.0.1": "ddd"},
                    "subnet": "10.244.1.0/24", "gateway": "10.244.1.1"}"#;
    fs::write(&file, table).unwrap();
    let store = Store::open(ours.path()).unwrap();
    let pools = [pool("10.244.1.0/24")];
    let foreign = ForeignLeases::from_table(&file, &"net1".parse().unwrap()).unwrap();
    let import = store.lock(NOW).unwrap().import(foreign, &pools).unwrap();
    assert_eq!(made(&import), ["net1 of container aaa: 10.244.1.2/24", "net1 of container bbb: 10.244.1.3/24"]);
    assert_eq!(
        skipped(&import),
        [
            "10.244.1.4: it is empty",
            "10.7.0.1: it is not an address of the configured ranges",
            "ten: its name is not an address"
        ]
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), table);
    assert_eq!(lease(&store, "next", &pools[0]), ip("10.244.1.4"));
}

#[test]
fn an_invalid_table_or_directory_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ipam.json");
    fs::write(&file, r#"{"leases": {}}"#).unwrap();
    let error = ForeignLeases::from_table(&file, &eth0()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::DECODE);
    let text = error.to_string();
    let (_, cause) = text.split_once(" is not a table of leases: missing field `allocated` ").expect(&text);
    assert!(cause.ends_with("; it needs the key \"allocated\", with the container id of each address"), "{text}");
    assert_eq!(ForeignLeases::from_host_local(&file, &eth0()).unwrap_err().code(), ErrorCode::IO);
    assert_eq!(ForeignLeases::from_table(&dir.path().join("none"), &eth0()).unwrap_err().code(), ErrorCode::IO);
}

#[test]
fn an_imported_lease_is_freed_only_by_a_release() {
    let (theirs, ours) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(theirs.path(), &[("10.0.0.2", "aaa\r\neth0"), ("10.0.0.3", "bbb\r\neth0"), ("10.0.0.4", "ccc\r\neth0")]);
    let store = Store::open(ours.path()).unwrap();
    let pools = [pool("10.0.0.0/29")];
    let mut guard = store.lock(NOW).unwrap();
    let import = guard.import(ForeignLeases::from_host_local(theirs.path(), &eth0()).unwrap(), &pools).unwrap();
    assert_eq!(import.leases.len(), 3);
    // Imported leases have the mark in their file; other leases do not.
    let own = guard.allocate(&owner("own"), &pools, &[]).unwrap();
    assert_eq!((own.imported, own.addresses[0].ip()), (false, ip("10.0.0.5")));
    let text = |id: &str| fs::read_to_string(ours.path().join(format!("leases/{id}@eth0.json"))).unwrap();
    assert!(text("aaa").contains("\"imported\": true") && !text("own").contains("imported"));
    let read: Vec<_> = ["aaa", "own"].map(|id| store.lease(&owner(id)).unwrap().unwrap().imported).into();
    assert_eq!(read, [true, false]);

    let mut asked = Vec::new();
    let mut gone = |lease: &Lease| {
        asked.push(lease.owner.clone());
        true
    };
    let error = guard.allocate_with(&owner("new"), &pools, &[ip("10.0.0.3")], &mut gone).unwrap_err();
    assert_eq!(error.code(), ADDRESS_TAKEN);
    assert!(matches!(error, Error::AddressTaken { holder: Some(holder), .. } if *holder == owner("bbb")));
    // One address is free. Then the pool is exhausted, and two leases are reclaimed.
    for (id, expected) in [("new", "10.0.0.6"), ("next", "10.0.0.5"), ("more", "10.0.0.6")] {
        let lease = guard.allocate_with(&owner(id), &pools, &[], &mut gone).unwrap();
        assert_eq!(lease.addresses[0].ip(), ip(expected));
    }
    let error = guard.allocate_with(&owner("last"), &pools, &[], |lease| lease.imported).unwrap_err();
    assert_eq!(error.code(), POOL_EXHAUSTED);
    asked.sort();
    assert_eq!(asked, [owner("new"), owner("own")]);
    for lease in &import.leases {
        assert_eq!(guard.release(&lease.owner).unwrap().as_ref(), Some(lease));
    }
    assert_eq!(guard.allocate(&owner("last"), &pools, &[]).unwrap().addresses[0].ip(), ip("10.0.0.2"));
}

#[test]
fn orphaned_addresses_are_imported() {
    let (theirs, ours) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(theirs.path(), &[("10.0.0.2", "aaa\r\neth0"), ("fd00::2", "aaa\r\neth0"), ("10.0.0.3", "bbb\r\neth0")]);
    let store = Store::open(ours.path()).unwrap();
    let pools = [pool("10.0.0.0/24"), pool("fd00::/64")];
    store.lock(NOW).unwrap().allocate(&owner("lost"), &pools, &[]).unwrap();
    fs::remove_file(ours.path().join("leases/lost@eth0.json")).unwrap();

    let foreign = || ForeignLeases::from_host_local(theirs.path(), &eth0()).unwrap();
    let expected = ["eth0 of container aaa: 10.0.0.2/24 fd00::2/64", "eth0 of container bbb: 10.0.0.3/24"];
    assert_eq!(made(&store.preview_import(foreign(), &pools).unwrap()), expected);
    let import = store.lock(NOW).unwrap().import(foreign(), &pools).unwrap();
    assert_eq!((made(&import), skipped(&import)), (expected.map(str::to_owned).into(), vec![]));
    assert_eq!(store.lease_at(ip("fd00::2")).unwrap().map(|lease| lease.owner), Some(owner("aaa")));
}

#[test]
fn a_lease_blocked_by_a_file_is_skipped_and_the_others_are_imported() {
    let (theirs, ours) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(
        theirs.path(),
        &[
            ("10.0.0.2", "aaa\r\neth0"),
            ("10.0.0.3", "bbb\r\neth0"),
            ("fd00::3", "bbb\r\neth0"),
            ("fd00::4", "ccc\r\neth0"),
        ],
    );
    let store = Store::open(ours.path()).unwrap();
    let pools = [pool("10.0.0.0/24"), pool("fd00::/64")];
    store.lock(NOW).unwrap().allocate(&owner("here"), &pools, &[ip("10.0.0.9"), ip("fd00::3")]).unwrap();
    // The content is not a lease. The file name belongs to a pod that may be alive.
    let file = ours.path().join("leases/here@eth0.json");
    fs::write(&file, fs::read_to_string(&file).unwrap().replace("\"here\"", "\"elsewhere\"")).unwrap();

    let mut guard = store.lock(NOW).unwrap();
    let import = guard.import(ForeignLeases::from_host_local(theirs.path(), &eth0()).unwrap(), &pools).unwrap();
    assert_eq!(made(&import), ["eth0 of container aaa: 10.0.0.2/24", "eth0 of container ccc: fd00::4/64"]);
    assert_eq!(skipped(&import), ["10.0.0.3, fd00::3: it is already held by a lease"]);
    drop(guard);
    let mut names: Vec<_> = state(&ours.path().join("addresses")).into_keys().collect();
    names.sort();
    assert_eq!(names, ["10.0.0.2", "10.0.0.9", "fd00::3", "fd00::4"]);
    assert!(!ours.path().join("pending").exists());
}
