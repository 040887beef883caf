//! Puts arbitrary files into the lease directory of a network. Expects an error that names a file,
//! or addresses that are free.

use std::collections::HashSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use cnikit::ipam::{BootId, Error, Owner, Pool, Store};

/// The change of the directory. The first byte selects the file, the second the operation, the
/// third the length of the data.
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
        locked.allocate(&owner(id), &pools, &[]).expect("five are free");
    }
    change(store.dir(), input);
    look(&store, &pools[0]);

    let held = held(store.dir());
    let mut given = HashSet::new();
    // One more than the number of addresses.
    for id in ["a", "b", "c", "d", "e", "f"] {
        let lease = store.lock(Duration::ZERO).and_then(|mut locked| locked.allocate(&owner(id), &pools, &[]));
        match lease {
            Ok(lease) => {
                let address = lease.addresses[0].ip();
                assert!(!held.contains(&address), "{address} is held");
                assert!(given.insert(address), "{address} was given already");
            }
            Err(error) => assert_names_a_file(&error, dir.path()),
        }
    }
    look(&store, &pools[0]);
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
        // Ignore operations that fail.
        let _ = match how % 5 {
            // Writes in place, so the other name of the file has the new content too.
            0 => fs::write(&path, content),
            1 => fs::remove_file(&path).and_then(|()| fs::write(&path, content)),
            2 => fs::remove_file(&path).and_then(|()| fs::create_dir(&path)),
            3 => fs::remove_file(&path).and_then(|()| symlink("/dev/zero", &path)),
            _ => fs::remove_file(&path).and_then(|()| fs::hard_link(dir.join("leases/kept@eth0.json"), &path)),
        };
    }
}

/// Addresses that must not be allocated: addresses with the file of a lease. If the boot mark in
/// the lock file is lost, damaged leases count as leases of an earlier boot.
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
    // The pending change is undone, including its addresses.
    let pending = fs::symlink_metadata(dir.join("pending")).map(|file| file.ino()).ok();
    entries("addresses")
        .filter(|entry| entry.metadata().is_ok_and(|file| owned.contains(&file.ino()) && Some(file.ino()) != pending))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Every operation that only reads.
fn look(store: &Store, pool: &Pool) {
    let dir = store.dir();
    let named = |error: Error| assert_names_a_file(&error, dir);
    store.lease(&owner("kept")).map(drop).unwrap_or_else(named);
    for last in 1..8 {
        store.lease_at(IpAddr::from([10, 0, 0, last])).map(drop).unwrap_or_else(named);
    }
    for leases in [store.leases(), store.leases_of_all_boots()] {
        match leases {
            // The number of entries is bounded by the input.
            Ok(leases) => leases.take(32).for_each(|lease| lease.map(drop).unwrap_or_else(named)),
            Err(error) => named(error),
        }
    }
    store.usage(pool).map(drop).unwrap_or_else(named);
    store.damaged().map(drop).unwrap_or_else(named);
    store.locked_owners().map(drop).unwrap_or_else(named);
}

fn assert_names_a_file(error: &Error, dir: &Path) {
    let is_of_no_file = matches!(error, Error::PoolExhausted { .. } | Error::AlreadyLeased { .. });
    let named = dir.to_str().expect("a name of ASCII");
    assert!(is_of_no_file || error.to_string().contains(named), "{error}");
}

fn owner(id: &str) -> Owner {
    Owner { container_id: id.parse().expect("an id"), ifname: "eth0".parse().expect("a name") }
}
