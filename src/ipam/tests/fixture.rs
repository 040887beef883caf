//! Shared helpers of the tests of this module.

use std::net::IpAddr;
use std::time::Duration;

use crate::ipam::{Pool, Range, Store, Usage};
use crate::spec::AttachmentKey;

/// A timeout that does not wait for a lock.
pub(super) const NOW: Duration = Duration::ZERO;

pub(super) fn owner(id: &str) -> AttachmentKey {
    AttachmentKey::new(id.parse().unwrap(), "eth0".parse().unwrap())
}

pub(super) fn pool(subnet: &str) -> Pool {
    Range::new(subnet.parse().unwrap(), None).unwrap().into()
}

pub(super) fn usage(store: &Store, pool: &Pool) -> Usage {
    store.usage(pool).unwrap().into_iter().sum()
}

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Allocates one lease and returns its address.
pub(super) fn lease(store: &Store, id: &str, pool: &Pool) -> IpAddr {
    store.lock(NOW).unwrap().allocate(&owner(id), std::slice::from_ref(pool), &[]).unwrap().addresses[0].ip()
}
