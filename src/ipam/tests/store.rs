use std::error::Error as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::fixture::{NOW, ip, lease, owner, pool, usage};
use crate::ipam::*;
use crate::spec::{ErrorCode, HasErrorCode, KubernetesPod};

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_lease_is_found_by_owner_and_by_address() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let before = SystemTime::now() - Duration::from_secs(1);
    let pools = [pool("10.0.0.0/24"), pool("fd00::/64")];
    let lease = store.lock(NOW).unwrap().allocate(&owner("a"), &pools, &[]).unwrap();

    assert_eq!(lease.addresses, ["10.0.0.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()]);
    let found = store.lease(&owner("a")).unwrap().unwrap();
    assert_eq!((&found.owner, &found.addresses), (&owner("a"), &lease.addresses));
    assert_eq!(found.boot_id, BootId::current().unwrap());
    assert!(before <= found.created && found.created <= SystemTime::now());
    for address in ["10.0.0.2", "fd00::2"] {
        assert_eq!(store.lease_at(ip(address)).unwrap().as_ref(), Some(&found));
    }
    assert_eq!(store.lease_at(ip("10.0.0.3")).unwrap(), None);
    assert_eq!(store.lease(&owner("b")).unwrap(), None);
    assert_eq!(store.leases().unwrap().map(Result::unwrap).collect::<Vec<_>>(), [found]);
}

#[test]
fn a_lease_is_read_back_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let given = store.lock(NOW).unwrap().allocate(&owner("a"), &[pool("10.0.0.0/24")], &[]).unwrap();
    assert_eq!(store.lease(&owner("a")).unwrap(), Some(given.clone()));
    assert_eq!(store.lock(NOW).unwrap().release(&owner("a")).unwrap(), Some(given));
}

/// The pod is not part of the owner. A release needs no pod name, and a lease without a valid pod
/// name is intact.
#[test]
fn a_lease_records_its_pod() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::for_boot(dir.path(), BootId::new("this-boot"));
    let pod = KubernetesPod::from_args(&"K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u1".parse().unwrap());
    let tenant = Tenant { owner: owner("a"), pod: pod.clone() };
    let given = store.lock(NOW).unwrap().allocate_for(&tenant, &[pool("10.0.0.0/24")], &[], |_| false).unwrap();
    assert_eq!(given.pod, pod);
    assert_eq!(store.lease(&owner("a")).unwrap(), Some(given.clone()));
    assert_eq!(MemoryStore::new().allocate_for(&tenant, &[pool("10.0.0.0/24")], &[], |_| false).unwrap().pod, pod);

    let path = dir.path().join("leases/a@eth0.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!([&json["podNamespace"], &json["podName"], &json["podUid"]], ["shop", "web-0", "u1"]);
    // The format of builds without these keys.
    json.as_object_mut().unwrap().retain(|key, _| !key.starts_with("pod"));
    for bad in [None, Some("a\u{1b}b"), Some(""), Some("a/b")] {
        json["podName"] = bad.into();
        fs::write(&path, json.to_string()).unwrap();
        assert_eq!(store.lease(&owner("a")).unwrap().unwrap().pod, KubernetesPod::default(), "{bad:?}");
    }
    assert_eq!(store.lock(NOW).unwrap().release(&owner("a")).unwrap().unwrap().addresses, given.addresses);
}

#[test]
fn the_file_is_readable_json() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::for_boot(dir.path(), BootId::new("this-boot"));
    lease(&store, "4fe2c9", &pool("10.244.1.0/24"));
    let text = fs::read_to_string(dir.path().join("leases/4fe2c9@eth0.json")).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[..lines.len() - 2],
        [
            "{",
            "  \"containerId\": \"4fe2c9\",",
            "  \"ifname\": \"eth0\",",
            "  \"addresses\": [",
            "    \"10.244.1.2/24\"",
            "  ],",
            "  \"bootId\": \"this-boot\","
        ]
    );
    assert!(lines[lines.len() - 2].starts_with("  \"created\": \"20"), "{text}");
    assert!(text.ends_with("}\n"));
}

#[test]
fn a_released_address_rests_until_the_others_were_used() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let pool = pool("10.0.0.0/29");
    let mut seen = Vec::new();
    for _ in 0..6 {
        seen.push(lease(&store, "a", &pool));
        store.lock(NOW).unwrap().release(&owner("a")).unwrap();
    }
    assert_eq!(seen, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"].map(ip));
}

#[test]
fn each_pool_continues_at_its_cursor() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let pools = [pool("10.0.0.0/24"), pool("fd00::/64")];
    for (id, expected) in [("a", ["10.0.0.2", "fd00::2"]), ("b", ["10.0.0.3", "fd00::3"])] {
        let lease = store.lock(NOW).unwrap().allocate(&owner(id), &pools, &[]).unwrap();
        assert_eq!(lease.addresses.iter().map(|a| a.ip()).collect::<Vec<_>>(), expected.map(ip));
    }
}

#[test]
fn an_unreadable_hint_starts_at_the_first_address() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let pool = pool("10.0.0.0/24");
    lease(&store, "a", &pool);
    let boot = BootId::current().unwrap();
    for (id, hint, expected) in [
        ("b", &b"\xff\0 10.0"[..], "10.0.0.3"),
        ("c", b"last 192.168.0.1\n", "10.0.0.4"),
        ("d", b"last 10.0.0.1\n", "10.0.0.5"),
        ("e", b"", "10.0.0.6"),
        ("f", b"rubbish\nlast 10.0.0.99\n", "10.0.0.100"),
    ] {
        fs::write(dir.path().join("lock"), [boot.as_str().as_bytes(), b"\n", hint].concat()).unwrap();
        assert_eq!(lease(&store, id, &pool), ip(expected));
    }
}

#[test]
fn a_second_lease_for_one_owner_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut guard = store.lock(NOW).unwrap();
    let held = guard.allocate(&owner("a"), &[pool("10.0.0.0/24")], &[]).unwrap();
    let error = guard.allocate(&owner("a"), &[pool("10.0.0.0/24")], &[]).unwrap_err();
    assert_eq!(error.code(), ALREADY_LEASED);
    assert_eq!(
        error.to_string(),
        "eth0 of container a already holds 10.0.0.2/24; release it before another allocation"
    );
    match error {
        Error::AlreadyLeased { lease } => assert_eq!(*lease, held),
        other => panic!("{other}"),
    }
    assert_eq!(usage(&store, &pool("10.0.0.0/24")), Usage { used: 1, total: 253 });
}

#[test]
fn one_pool_given_twice_gives_two_addresses() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let pools = [pool("10.0.0.0/24"), pool("10.0.0.0/24")];
    let lease = store.lock(NOW).unwrap().allocate(&owner("a"), &pools, &[]).unwrap();
    assert_eq!(lease.addresses, ["10.0.0.2/24".parse().unwrap(), "10.0.0.3/24".parse().unwrap()]);
}

#[test]
fn an_exhausted_pool_is_named_and_costs_the_other_pools_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (small, large) = (pool("10.0.0.0/29"), pool("10.1.0.0/24"));
    for id in ["a", "b", "c", "d", "e"] {
        lease(&store, id, &small);
    }
    let error = store.lock(NOW).unwrap().allocate(&owner("f"), &[large.clone(), small.clone()], &[]).unwrap_err();
    assert_eq!(error.code(), POOL_EXHAUSTED);
    assert_eq!(
        error.to_string(),
        "no address of 10.0.0.0/29 is free: all 5 are leased; remove attachments or configure a larger subnet"
    );
    assert_eq!(usage(&store, &large), Usage { used: 0, total: 253 });
    assert_eq!(usage(&store, &small), Usage { used: 5, total: 5 });

    store.lock(NOW).unwrap().release(&owner("c")).unwrap();
    assert_eq!(lease(&store, "f", &small), ip("10.0.0.4"));
}

#[test]
fn releasing_an_unknown_owner_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.lock(NOW).unwrap().release(&owner("a")).unwrap(), None);
}

#[test]
fn a_store_that_was_never_written_is_empty_and_stays_absent() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("net")).unwrap();
    assert_eq!(store.lease(&owner("a")).unwrap(), None);
    assert_eq!(store.lease_at(ip("10.0.0.2")).unwrap(), None);
    assert_eq!(store.leases().unwrap().count(), 0);
    assert_eq!(usage(&store, &pool("10.0.0.0/24")), Usage { used: 0, total: 253 });
    assert!(!store.dir().exists());
}

#[test]
fn a_corrupt_lease_costs_itself_and_not_the_pool() {
    for content in [
        "",
        "{\"containerId\": \"a\"",
        "{}",
        "[]",
        "{\"containerId\":\"b\",\"ifname\":\"eth0\",\"addresses\":[],\"bootId\":\"\",\"created\":\"2025-01-01T00:00:00Z\"}",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let pool = pool("10.0.0.0/24");
        lease(&store, "a", &pool);
        let file = dir.path().join("leases/a@eth0.json");
        fs::write(&file, content).unwrap();

        let error = store.lease(&owner("a")).unwrap_err();
        assert_eq!(error.code(), CORRUPT_LEASE);
        // The message has the cause before the remedy. A printed chain of sources must not repeat
        // it at the end.
        assert!(error.source().is_none());
        let text = error.to_string();
        let cause = text
            .strip_prefix(&format!("lease file {} is corrupt: ", file.display()))
            .and_then(|rest| rest.strip_suffix("; delete the attachment in its name to free its addresses"));
        assert!(cause.is_some_and(|cause| !cause.is_empty()), "{text}");
        match error {
            Error::CorruptLease { owner: of, .. } => assert_eq!(of, Some(Box::new(owner("a")))),
            other => panic!("{other}"),
        }
        let error = store.lock(NOW).unwrap().allocate(&owner("a"), std::slice::from_ref(&pool), &[]).unwrap_err();
        assert_eq!(error.code(), CORRUPT_LEASE);

        assert_eq!(lease(&store, "c", &pool), ip("10.0.0.3"));
        let (good, bad): (Vec<_>, Vec<_>) = store.leases().unwrap().partition(Result::is_ok);
        assert_eq!((good.len(), bad.len()), (1, 1));

        let mut guard = store.lock(NOW).unwrap();
        assert_eq!(guard.release(&owner("a")).unwrap(), None);
        let kept = dir.path().join("damaged/a@eth0.json");
        assert_eq!(
            guard.quarantined().iter().map(|aside| (&aside.file, &aside.kept)).collect::<Vec<_>>(),
            [(&file, &kept)]
        );
        drop(guard);
        assert_eq!(fs::read_to_string(&kept).unwrap(), content);
        assert_eq!(store.damaged().unwrap(), [kept]);
        assert_eq!(usage(&store, &pool).used, 1);
        assert_eq!(store.lease(&owner("a")).unwrap(), None);
        assert_eq!(lease(&store, "a", &pool), ip("10.0.0.4"));
    }
}

#[test]
fn a_corrupt_lease_is_an_error_by_address_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    lease(&store, "a", &pool("10.0.0.0/24"));
    fs::write(dir.path().join("leases/a@eth0.json"), "{").unwrap();
    assert_eq!(store.lease_at(ip("10.0.0.2")).unwrap_err().code(), CORRUPT_LEASE);
}

#[test]
fn leases_end_with_their_boot() {
    let dir = tempfile::tempdir().unwrap();
    let pool = pool("10.0.0.0/24");
    let before = Store::for_boot(dir.path(), BootId::new("before"));
    lease(&before, "a", &pool);
    let after = Store::for_boot(dir.path(), BootId::new("after"));

    assert_eq!(after.lease(&owner("a")).unwrap(), None);
    assert_eq!(after.lease_at(ip("10.0.0.2")).unwrap(), None);
    assert_eq!(after.leases().unwrap().count(), 0);
    assert_eq!(usage(&after, &pool).used, 0);

    drop(after.lock(NOW).unwrap());
    assert_eq!(fs::read_dir(dir.path().join("leases")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(dir.path().join("addresses")).unwrap().count(), 0);
    assert_eq!(lease(&after, "a", &pool), ip("10.0.0.3"), "the hint outlives the boot");
}

#[test]
fn a_lost_mark_keeps_the_leases_of_this_boot() {
    let dir = tempfile::tempdir().unwrap();
    let pool = pool("10.0.0.0/24");
    let store = Store::open(dir.path()).unwrap();
    let address = lease(&store, "a", &pool);
    for mark in [None, Some("torn")] {
        match mark {
            None => fs::remove_file(dir.path().join("lock")).unwrap(),
            Some(text) => fs::write(dir.path().join("lock"), text).unwrap(),
        }
        drop(store.lock(NOW).unwrap());
        assert_eq!(store.lease_at(address).unwrap().map(|lease| lease.owner), Some(owner("a")));
        assert_eq!(usage(&store, &pool).used, 1);
    }
}

#[test]
fn files_are_for_the_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data/net");
    let store = Store::open(&root).unwrap();
    lease(&store, "a", &pool("10.0.0.0/24"));
    for directory in ["", "leases", "addresses", ".."] {
        assert_eq!(mode(root.join(directory)), 0o700, "{directory}");
    }
    for file in ["lock", "leases/a@eth0.json", "addresses/10.0.0.2"] {
        assert_eq!(mode(root.join(file)), 0o600, "{file}");
    }
}

#[test]
fn a_container_id_too_long_for_a_file_is_rejected_and_otherwise_absent() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let pools = [pool("10.0.0.0/24")];
    let mut guard = store.lock(NOW).unwrap();
    let longest = owner(&"a".repeat(255 - "@eth0.json".len()));
    guard.allocate(&longest, &pools, &[]).unwrap();
    assert!(guard.release(&longest).unwrap().is_some());

    let too_long = owner(&"a".repeat(256 - "@eth0.json".len()));
    let error = guard.allocate(&too_long, &pools, &[]).unwrap_err();
    assert_eq!(error.code(), ErrorCode::INVALID_ENVIRONMENT);
    assert!(error.to_string().ends_with("makes a file name of 256 bytes; shorten it by 1"), "{error}");
    assert_eq!(guard.lease(&too_long).unwrap(), None);
    assert_eq!(guard.release(&too_long).unwrap(), None);
}

#[test]
fn a_held_lock_is_an_error_after_the_timeout_and_names_the_holder() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let held = store.lock(NOW).unwrap();
    let start = std::time::Instant::now();
    let error = store.lock(Duration::from_millis(50)).unwrap_err();
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert_eq!(error.code(), ErrorCode::TRY_AGAIN);
    assert_eq!(
        error.to_string(),
        format!(
            "lock {} is still held by process {} after 50ms; try again, or end the process that holds it",
            dir.path().join("lock").display(),
            std::process::id()
        )
    );
    drop(held);
    drop(store.lock(NOW).unwrap());
}

#[test]
fn readers_do_not_wait() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let address = lease(&store, "a", &pool("10.0.0.0/24"));
    let _locked = store.lock(NOW).unwrap();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| Store::open(dir.path()).unwrap().lease_at(address).unwrap().unwrap().owner))
            .collect();
        readers.into_iter().for_each(|reader| assert_eq!(reader.join().unwrap(), owner("a")));
    });
}

#[test]
fn a_lock_released_in_time_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let held = store.lock(NOW).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| store.lock(Duration::from_secs(10)).map(drop));
        std::thread::sleep(Duration::from_millis(20));
        drop(held);
        waiting.join().unwrap().unwrap();
    });
}

#[test]
fn the_real_error_is_reported_when_the_directory_cannot_be_created() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let store = Store::open(dir.path().join("file/net")).unwrap();
    let error = store.lock(NOW).unwrap_err();
    assert_eq!(error.code(), ErrorCode::IO);
    let lock = dir.path().join("file/net/lock");
    let expected = format!(
        "cannot open {}: Not a directory (os error 20); remove the file that exists in place of the directory",
        lock.display()
    );
    assert_eq!(error.to_string(), expected);
    assert!(error.source().is_none(), "{error:?}");
}

/// The protocol and the lease files spell the container id differently. Both forms are on disks.
#[test]
fn a_lease_file_keeps_its_keys() {
    let owner = owner("4fe2c9");
    assert_eq!(serde_json::to_string(&owner).unwrap(), r#"{"containerID":"4fe2c9","ifname":"eth0"}"#);
    let file = r#"{"containerId":"4fe2c9","ifname":"eth0","addresses":["10.0.0.2/24"],"bootId":"boot","created":"2025-03-01T12:00:00Z"}"#;
    let lease: Lease = serde_json::from_str(file).unwrap();
    assert_eq!(lease.owner, owner);
    assert_eq!(serde_json::to_string(&lease).unwrap(), file);
}
