//! Arbitrary files in the lease directory of a network: an allocation returns a free address, or an
//! error that names a file.

use std::collections::HashSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use cnikit::ipam::{BootId, Error, Pool, Store};
use cnikit::spec::AttachmentKey;

/// The files that an input changes. Each change is three bytes and its content: an index into this
/// list, the kind of change (see [`change`]) and the length of the content.
const FILES: [&str; 10] = [
    "lock",
    "pending",
    "leases/kept@eth0.json",
    "leases/other@eth0.json",
    "leases/no lease",
    "addresses/10.0.0.2",
    "addresses/10.0.0.4",
    "addresses/no address",
    "owners/kept@eth0.json",
    "damaged/kept@eth0.json",
];

pub(crate) fn run(input: &[u8]) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::for_boot(dir.path().join("net"), BootId::new("boot"));
    let pools = [serde_json::from_str::<Pool>(r#"[{"subnet": "10.0.0.0/29"}]"#).expect("a pool")];
    for id in ["kept", "other"] {
        let mut locked = store.lock(Duration::ZERO).expect("the lock is free");
        locked.allocate(&owner(id), &pools, &[]).expect("5 free addresses");
    }
    change(store.dir(), input);
    read_all(&store, &pools[0]);

    let held = held(store.dir());
    let mut allocated = HashSet::new();
    // One more than the pool has addresses.
    for id in ["a", "b", "c", "d", "e", "f"] {
        let lease = store.lock(Duration::ZERO).and_then(|mut locked| locked.allocate(&owner(id), &pools, &[]));
        match lease {
            Ok(lease) => {
                let address = lease.addresses[0].ip();
                assert!(!held.contains(&address), "{address} is held");
                assert!(allocated.insert(address), "{address} was allocated twice");
            }
            Err(error) => assert_names_a_file(&error, dir.path()),
        }
    }
    read_all(&store, &pools[0]);
    for id in ["kept", "other", "a", "b"] {
        let released = store.lock(Duration::ZERO).and_then(|mut locked| {
            locked.release(&owner(id))?;
            locked.remove_orphans()
        });
        released.unwrap_or_else(|error| assert_names_a_file(&error, dir.path()));
    }
}

fn change(dir: &Path, mut input: &[u8]) {
    for sub in ["owners", "damaged"] {
        fs::create_dir_all(dir.join(sub)).expect("a directory");
    }
    while let Some((&[file, how, length], rest)) = input.split_first_chunk() {
        let (content, rest) = rest.split_at(usize::from(length).min(rest.len()));
        input = rest;
        let path = dir.join(FILES[usize::from(file) % FILES.len()]);
        // A change that fails is skipped.
        let _ = match how % 5 {
            // In place: a hard link to the file sees the change too.
            0 => fs::write(&path, content),
            1 => fs::remove_file(&path).and_then(|()| fs::write(&path, content)),
            2 => fs::remove_file(&path).and_then(|()| fs::create_dir(&path)),
            3 => fs::remove_file(&path).and_then(|()| symlink("/dev/zero", &path)),
            _ => fs::remove_file(&path).and_then(|()| fs::hard_link(dir.join("leases/kept@eth0.json"), &path)),
        };
    }
}

/// Addresses that must not be allocated: those hard-linked to a lease file. If the lock file has
/// lost its boot id, an unreadable lease counts as left over from an earlier boot.
fn held(dir: &Path) -> HashSet<IpAddr> {
    let entries = |name: &str| fs::read_dir(dir.join(name)).into_iter().flatten().flatten();
    let lock = dir.join("lock");
    let is_marked = fs::symlink_metadata(&lock).is_ok_and(|lock| lock.is_file())
        && fs::read(&lock).is_ok_and(|mark| mark.starts_with(b"boot\n"));
    let owned: HashSet<u64> = entries("leases")
        .filter(|entry| {
            let name = entry.file_name();
            let is_lease = ["kept@eth0.json", "other@eth0.json"].iter().any(|lease| name == *lease);
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            let is_readable = || {
                let lease = fs::read(entry.path()).ok().and_then(|text| serde_json::from_slice(&text).ok());
                lease.is_some_and(|lease: cnikit::ipam::Lease| lease.boot_id == BootId::new("boot"))
            };
            is_lease && is_file && (is_marked || is_readable())
        })
        .filter_map(|entry| Some(entry.metadata().ok()?.ino()))
        .collect();
    // Recovery rolls back the pending change and frees its addresses.
    let pending = fs::symlink_metadata(dir.join("pending")).map(|file| file.ino()).ok();
    entries("addresses")
        .filter(|entry| entry.metadata().is_ok_and(|file| owned.contains(&file.ino()) && Some(file.ino()) != pending))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Calls every read-only operation.
fn read_all(store: &Store, pool: &Pool) {
    let dir = store.dir();
    let check = |error: Error| assert_names_a_file(&error, dir);
    store.lease(&owner("kept")).map(drop).unwrap_or_else(check);
    for last in 1..8 {
        store.lease_at(IpAddr::from([10, 0, 0, last])).map(drop).unwrap_or_else(check);
    }
    for leases in [store.leases(), store.leases_of_all_boots()] {
        match leases {
            // The directory holds fewer than 32 leases: the limit ends an endless iterator.
            Ok(leases) => leases.take(32).for_each(|lease| lease.map(drop).unwrap_or_else(check)),
            Err(error) => check(error),
        }
    }
    store.usage(pool).map(drop).unwrap_or_else(check);
    store.damaged().map(drop).unwrap_or_else(check);
    store.locked_owners().map(drop).unwrap_or_else(check);
}

fn assert_names_a_file(error: &Error, dir: &Path) {
    let has_no_file = matches!(error, Error::PoolExhausted { .. } | Error::AlreadyLeased { .. });
    let named = dir.to_str().expect("an ASCII path");
    assert!(has_no_file || error.to_string().contains(named), "{error}");
}

fn owner(id: &str) -> AttachmentKey {
    AttachmentKey { container_id: id.parse().expect("an id"), ifname: "eth0".parse().expect("a name") }
}
