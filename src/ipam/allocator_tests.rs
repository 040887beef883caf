use super::fixture::{NOW, ip, lease, owner, pool};
use super::*;
use crate::spec::{Coded, ErrorCode};

#[test]
fn a_requested_address_is_given_and_does_not_move_the_search() {
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
fn a_request_that_cannot_be_met_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let pools = [pool("10.0.0.0/24"), pool("fd00::/64")];
    lease(&store, "a", &pools[0]);
    for (requested, code, message) in [
        (
            vec!["fd00::9", "10.0.0.2"],
            ADDRESS_TAKEN,
            "10.0.0.2 is held by eth0 of container a; ask for another address, or remove that attachment",
        ),
        (
            vec!["10.0.0.1"],
            ErrorCode::INVALID_CONFIG,
            "10.0.0.1 is not among the addresses of 10.0.0.0/24, fd00::/64 that can be handed out; ask for one that is",
        ),
        (
            vec!["10.0.0.7", "10.0.0.8"],
            ErrorCode::INVALID_CONFIG,
            "10.0.0.7 and 10.0.0.8 are both of 10.0.0.0/24, which gives one address; ask for one of them",
        ),
    ] {
        let requested: Vec<_> = requested.into_iter().map(ip).collect();
        let error = store.lock(NOW).unwrap().allocate(&owner("b"), &pools, &requested).unwrap_err();
        assert_eq!((error.code(), error.to_string().as_str()), (code, message));
        assert_eq!(store.leases().unwrap().count(), 1);
    }
}
