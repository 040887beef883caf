//! Compares random histories of a store with a simple model.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use proptest::prelude::*;

use super::crash::run_for;
use super::fixture::{NOW, ip, owner};
use crate::ipam::{BootId, Error, Lease, MemoryStore, Pool, Store};

/// Two pools, and the addresses in each.
const POOLS: [&str; 2] = [
    r#"[{"subnet": "10.0.0.0/29", "exclude": ["10.0.0.4"]}, {"subnet": "10.1.0.0/24", "rangeEnd": "10.1.0.3"}]"#,
    r#"[{"subnet": "fd00::/125", "gateway": "fd00::3"}]"#,
];
const ADDRESSES: [&[&str]; 2] = [
    &["10.0.0.2", "10.0.0.3", "10.0.0.5", "10.0.0.6", "10.1.0.2", "10.1.0.3"],
    &["fd00::1", "fd00::2", "fd00::4", "fd00::5", "fd00::6", "fd00::7"],
];
const OWNERS: usize = 8;

#[derive(Debug, Clone)]
enum Event {
    Allocate {
        owner: usize,
        requested: Option<usize>,
    },
    /// Each set bit marks an owner that is gone.
    AllocateWith {
        owner: usize,
        gone: u8,
    },
    Release {
        owner: usize,
    },
    /// Kills the process after this number of steps.
    Crash {
        steps: u32,
        event: Box<Event>,
    },
    Reboot,
}

fn event() -> impl Strategy<Value = Event> {
    let owner = 0..OWNERS;
    let plain = prop_oneof![
        4 => (owner.clone(), proptest::option::weighted(0.2, 0..12_usize))
            .prop_map(|(owner, requested)| Event::Allocate { owner, requested }),
        1 => (owner.clone(), any::<u8>()).prop_map(|(owner, gone)| Event::AllocateWith { owner, gone }),
        3 => owner.prop_map(|owner| Event::Release { owner }),
    ];
    prop_oneof![
        8 => plain.clone(),
        2 => (0..12_u32, plain).prop_map(|(steps, event)| Event::Crash { steps, event: Box::new(event) }),
        1 => Just(Event::Reboot),
    ]
}

/// The holders of addresses, and the last allocated address of each pool.
#[derive(Debug, Clone, Default)]
struct Model {
    held: BTreeMap<usize, [IpAddr; 2]>,
    /// Unknown after a crash, because it is only a hint.
    last: Option<[Option<IpAddr>; 2]>,
}

impl Model {
    fn is_free(&self, address: IpAddr) -> bool {
        !self.held.values().flatten().any(|held| *held == address)
    }

    /// The expected result of an allocation: one address of each pool, or any free address if the
    /// hint is lost.
    fn expect(&self, owner: usize, requested: Option<IpAddr>) -> Result<[Vec<IpAddr>; 2], &'static str> {
        if self.held.contains_key(&owner) {
            return Err("already leased");
        }
        if requested.is_some_and(|address| !self.is_free(address)) {
            return Err("taken");
        }
        let mut given = [Vec::new(), Vec::new()];
        for (index, names) in ADDRESSES.iter().enumerate() {
            let all: Vec<IpAddr> = names.iter().map(|name| ip(name)).collect();
            if let Some(request) = requested.filter(|request| all.contains(request)) {
                given[index] = vec![request];
                continue;
            }
            let start = |last: Option<IpAddr>| all.iter().position(|a| Some(*a) == last).map_or(0, |at| at + 1);
            let first = self.last.map_or(0, |last| start(last[index]));
            let mut free = all[first..].iter().chain(&all[..first]).copied().filter(|address| self.is_free(*address));
            given[index] = if self.last.is_some() { free.next().into_iter().collect() } else { free.collect() };
            if given[index].is_empty() {
                return Err("exhausted");
            }
        }
        Ok(given)
    }

    fn give(&mut self, owner: usize, lease: &Lease, requested: Option<IpAddr>) {
        let given = [lease.addresses[0].ip(), lease.addresses[1].ip()];
        self.last =
            self.last.map(|last| [0, 1].map(|i| if requested == Some(given[i]) { last[i] } else { Some(given[i]) }));
        if self.last.is_none() && requested.is_none() {
            self.last = Some(given.map(Some));
        }
        self.held.insert(owner, given);
    }
}

/// The implementation under test.
trait Subject {
    fn allocate(&mut self, owner: usize, requested: &[IpAddr], gone: u8) -> Result<Lease, Error>;
    fn release(&mut self, owner: usize) -> Option<Lease>;
    fn reboot(&mut self);
    fn held(&self) -> BTreeMap<usize, [IpAddr; 2]>;
    /// Whether the event ran to its end.
    fn crash(&mut self, steps: u32, event: &Event) -> bool;
}

struct Files<'a> {
    dir: &'a Path,
    boot: u32,
}

impl Files<'_> {
    /// The store is opened for each event, so all state comes from the directory.
    fn store(&self) -> Store {
        Store::for_boot(self.dir, BootId::new(self.boot.to_string()))
    }
}

fn pools() -> Vec<Pool> {
    POOLS.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
}

fn number(lease: &Lease) -> usize {
    lease.owner.container_id.as_str().parse().unwrap()
}

fn is_gone(gone: u8) -> impl Fn(&Lease) -> bool {
    move |lease| gone & (1 << number(lease)) != 0
}

fn addresses(lease: &Lease) -> [IpAddr; 2] {
    [lease.addresses[0].ip(), lease.addresses[1].ip()]
}

impl Subject for Files<'_> {
    fn allocate(&mut self, number: usize, requested: &[IpAddr], gone: u8) -> Result<Lease, Error> {
        let store = self.store();
        let mut guard = store.lock(NOW).unwrap();
        guard.allocate_with(&owner(&number.to_string()), &pools(), requested, is_gone(gone))
    }

    fn release(&mut self, number: usize) -> Option<Lease> {
        self.store().lock(NOW).unwrap().release(&owner(&number.to_string())).unwrap()
    }

    fn reboot(&mut self) {
        self.boot += 1;
    }

    fn held(&self) -> BTreeMap<usize, [IpAddr; 2]> {
        let store = self.store();
        drop(store.lock(NOW).unwrap());
        let leases: Vec<Lease> = store.leases().unwrap().map(Result::unwrap).collect();
        for lease in &leases {
            for address in &lease.addresses {
                assert_eq!(store.lease_at(address.ip()).unwrap().as_ref(), Some(lease));
            }
        }
        let used: u128 = pools().iter().flat_map(|pool| store.usage(pool).unwrap()).map(|usage| usage.used).sum();
        assert_eq!(used, 2 * leases.len() as u128);
        assert_eq!(std::fs::read_dir(store.addresses_dir()).unwrap().count(), 2 * leases.len());
        leases.iter().map(|lease| (number(lease), addresses(lease))).collect()
    }

    fn crash(&mut self, steps: u32, event: &Event) -> bool {
        run_for(steps, || match *event {
            Event::Allocate { owner, requested } => {
                drop(self.allocate(owner, requested_address(requested).as_slice(), 0))
            }
            Event::AllocateWith { owner, gone } => drop(self.allocate(owner, &[], gone)),
            Event::Release { owner } => drop(self.release(owner)),
            _ => {}
        })
    }
}

impl Subject for MemoryStore {
    fn allocate(&mut self, number: usize, requested: &[IpAddr], gone: u8) -> Result<Lease, Error> {
        self.allocate_with(&owner(&number.to_string()), &pools(), requested, is_gone(gone))
    }

    fn release(&mut self, number: usize) -> Option<Lease> {
        self.release(&owner(&number.to_string()))
    }

    fn reboot(&mut self) {
        (0..OWNERS).for_each(|number| drop(Subject::release(self, number)));
    }

    fn held(&self) -> BTreeMap<usize, [IpAddr; 2]> {
        self.leases().map(|lease| (number(lease), addresses(lease))).collect()
    }

    /// This store ends with its process, so there is no state to check.
    fn crash(&mut self, _: u32, _: &Event) -> bool {
        false
    }
}

fn requested_address(index: Option<usize>) -> Option<IpAddr> {
    index.map(|index| ip(ADDRESSES[index / 6][index % 6]))
}

fn allocate(subject: &mut impl Subject, model: &mut Model, owner: usize, requested: Option<IpAddr>, gone: u8) {
    let mut expected = model.expect(owner, requested);
    // Leases are reclaimed only if they block an allocation.
    if expected == Err("exhausted") {
        // Both pools have the same size and are used together, so the first pool is exhausted
        // first.
        let reclaimed = |holder: &usize| gone & (1 << holder) != 0;
        let mut after = model.clone();
        after.held.retain(|holder, _| !reclaimed(holder));
        expected = after.expect(owner, requested);
        model.held = after.held;
    }
    match (subject.allocate(owner, requested.as_slice(), gone), expected) {
        (Ok(lease), Ok(expected)) => {
            for (address, expected) in addresses(&lease).iter().zip(&expected) {
                assert!(expected.contains(address), "{address} is not among {expected:?}");
            }
            model.give(owner, &lease, requested);
        }
        (Err(error), Err(expected)) => {
            let kind = match error {
                Error::AlreadyLeased { .. } => "already leased",
                Error::AddressTaken { .. } => "taken",
                Error::PoolExhausted { .. } => "exhausted",
                other => panic!("{other}"),
            };
            assert_eq!(kind, expected);
        }
        (got, expected) => panic!("{got:?}, not {expected:?}"),
    }
}

fn live_through(subject: &mut impl Subject, events: &[Event]) {
    let mut model = Model { last: Some([None, None]), ..Model::default() };
    for event in events {
        match event {
            Event::Allocate { owner, requested } => {
                allocate(subject, &mut model, *owner, requested_address(*requested), 0);
            }
            Event::AllocateWith { owner, gone } => allocate(subject, &mut model, *owner, None, *gone),
            Event::Release { owner } => {
                let released = subject.release(*owner).map(|lease| addresses(&lease));
                assert_eq!(released, model.held.remove(owner));
            }
            Event::Reboot => {
                subject.reboot();
                model.held.clear();
            }
            Event::Crash { steps, event } => {
                subject.crash(*steps, event);
                settle(&mut model, subject.held(), event);
            }
        }
        assert_eq!(subject.held(), model.held);
    }
}

/// After a crash, the state is either the old or the new one.
fn settle(model: &mut Model, held: BTreeMap<usize, [IpAddr; 2]>, event: &Event) {
    let (Event::Allocate { owner: changed, .. }
    | Event::AllocateWith { owner: changed, .. }
    | Event::Release { owner: changed }) = *event
    else {
        return;
    };
    let dead = if let Event::AllocateWith { gone, .. } = *event { gone } else { 0 };
    for (owner, addresses) in &model.held {
        match held.get(owner) {
            Some(now) => assert_eq!(now, addresses),
            None => {
                assert!(matches!(*event, Event::Release { owner: it } if it == *owner) || dead & (1 << owner) != 0)
            }
        }
    }
    for (owner, addresses) in held.iter().filter(|(owner, _)| !model.held.contains_key(owner)) {
        assert!(*owner == changed && !matches!(event, Event::Release { .. }));
        let others = held.iter().filter(|(other, _)| *other != owner).flat_map(|(_, held)| held);
        assert!(others.into_iter().all(|held| !addresses.contains(held)));
    }
    *model = Model { held, last: None };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn files_keep_what_the_model_keeps(events in proptest::collection::vec(event(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        live_through(&mut Files { dir: dir.path(), boot: 0 }, &events);
    }

    #[test]
    fn memory_keeps_what_the_model_keeps(events in proptest::collection::vec(event(), 1..200)) {
        live_through(&mut MemoryStore::new(), &events);
    }
}
