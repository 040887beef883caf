use super::fixture::{NOW, ip, owner, pool};
use crate::ipam::*;
use crate::spec::KubernetesPod;

/// A pool of two addresses, and each operation of the trait.
fn exercise(leases: &mut dyn LeaseTable) {
    let pools = [pool("10.0.0.0/30")];
    let [a, b] = [owner("a"), owner("b")];
    let lease = leases.allocate(&a, &pools, &[]).unwrap();
    assert_eq!(lease.addresses, ["10.0.0.2/30".parse().unwrap()]);
    assert_eq!(leases.lease(&a).unwrap().as_ref(), Some(&lease));
    assert_eq!(leases.lease_at(ip("10.0.0.2")).unwrap().as_ref(), Some(&lease));
    assert_eq!(leases.leases().unwrap(), std::slice::from_ref(&lease));
    let usage = leases.usage(&pools[0]).unwrap();
    assert_eq!((usage.len(), usage[0].used, usage[0].free()), (1, 1, 0));

    assert!(matches!(leases.allocate(&a, &pools, &[]), Err(Error::AlreadyLeased { .. })));
    assert!(matches!(leases.allocate(&b, &pools, &[]), Err(Error::PoolExhausted { .. })));
    let pod = KubernetesPod::from_args(&"K8S_POD_NAME=web-0".parse().unwrap());
    let tenant = Tenant { owner: b.clone(), pod: pod.clone() };
    let reclaimed = leases.allocate_for(&tenant, &pools, &[], &mut |lease| lease.owner == a).unwrap();
    assert_eq!((&reclaimed.addresses, &reclaimed.pod), (&lease.addresses, &pod));
    assert_eq!(leases.lease(&a).unwrap(), None);

    assert_eq!(leases.release(&b).unwrap(), Some(reclaimed));
    assert_eq!(leases.release(&b).unwrap(), None);
    assert_eq!(leases.lease_at(ip("10.0.0.2")).unwrap(), None);
    assert!(leases.leases().unwrap().is_empty());
}

#[test]
fn a_store_and_its_stand_in_behave_alike() {
    exercise(&mut MemoryStore::new());
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    exercise(&mut store.lock(NOW).unwrap());
}

#[test]
fn a_damaged_file_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut guard = store.lock(NOW).unwrap();
    guard.allocate(&owner("a"), &[pool("10.0.0.0/24")], &[]).unwrap();
    std::fs::write(dir.path().join("leases/b@eth0.json"), "{").unwrap();
    assert!(matches!(LeaseTable::leases(&guard), Err(Error::CorruptLease { .. })));
}
