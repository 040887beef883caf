//! The cost of a lease beside 1 to 65,536 others, in this store and in other stores.
//!
//! ```sh
//! cargo bench --no-default-features --features ipam --bench ipam
//! ```
//!
//! Names are `ipam/<case>-beside-<leases held>/<implementation>`:
//!
//! * `cnikit`: the store in files, with its lock: the whole step.
//! * `floor`: the smallest set of bare system calls with the same guarantees in the same directory.
//! * `memory`: the store in memory.
//! * `one-file`: all leases in one JSON file, which each change reads, parses and replaces.
//! * `host-local`: the real plugin, one process for each step, if it is installed in `/usr/lib/cni`
//!   or `/opt/cni/bin`; `cnikit-process` is the same step with this library.
//!
//! On a busy machine, `CNIKIT_BENCH_RATIOS=1` prints interleaved medians of `cnikit` and `floor`
//! instead.
//!
//! The files are in `TMPDIR`, so the results include that file system.

mod floor;
mod host_local;
mod one_file;
mod ratios;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use cnikit::ipam::{LOCK_TIMEOUT, MemoryStore, Pool, Range, Store};
use cnikit::spec::AttachmentKey;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, criterion_group};
use tempfile::TempDir;

use crate::floor::Floor;
use crate::host_local::HostLocal;
use crate::one_file::OneFile;

const HELD: [usize; 5] = [1, 250, 1_000, 10_000, 65_536];

/// A lease store under test.
trait Keeper {
    fn allocate(&mut self, owner: &AttachmentKey) -> IpAddr;
    fn release(&mut self, owner: &AttachmentKey);
}

/// The store in files, with the pools for its allocations.
struct Files {
    store: Store,
    pools: [Pool; 1],
    _dir: TempDir,
}

struct Memory {
    store: MemoryStore,
    pools: [Pool; 1],
}

impl Files {
    fn holding(held: usize, range: Range) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("a store");
        let pools = [range.into()];
        let mut locked = store.lock(LOCK_TIMEOUT).expect("the lock");
        for number in 0..held {
            locked.allocate(&owner(number), &pools, &[]).expect("a lease");
        }
        drop(locked);
        Self { store, pools, _dir: dir }
    }
}

impl Keeper for Files {
    fn allocate(&mut self, owner: &AttachmentKey) -> IpAddr {
        let mut locked = self.store.lock(LOCK_TIMEOUT).expect("the lock");
        locked.allocate(owner, &self.pools, &[]).expect("a lease").addresses[0].ip()
    }

    fn release(&mut self, owner: &AttachmentKey) {
        self.store.lock(LOCK_TIMEOUT).expect("the lock").release(owner).expect("a release").expect("a lease");
    }
}

impl Keeper for Memory {
    fn allocate(&mut self, owner: &AttachmentKey) -> IpAddr {
        self.store.allocate(owner, &self.pools, &[]).expect("a lease").addresses[0].ip()
    }

    fn release(&mut self, owner: &AttachmentKey) {
        self.store.release(owner).expect("a lease");
    }
}

fn owner(number: usize) -> AttachmentKey {
    // The length of ids of real container runtimes.
    let id = format!("{number:064x}");
    AttachmentKey { container_id: id.parse().expect("an id"), ifname: "eth0".parse().expect("an ifname") }
}

fn range(subnet: &str) -> Range {
    Range::new(subnet.parse().expect("a subnet"), None).expect("a range")
}

/// Alternates allocations and releases, and measures one of the two.
fn by_turns(keeper: &mut impl Keeper, iterations: u64, allocation: bool) -> Duration {
    // Not one of the held owners.
    let newcomer = owner(usize::MAX);
    let mut sum = Duration::ZERO;
    for _ in 0..iterations {
        let start = Instant::now();
        keeper.allocate(&newcomer);
        let middle = Instant::now();
        keeper.release(&newcomer);
        sum += if allocation { middle - start } else { middle.elapsed() };
    }
    sum
}

fn group<'a>(criterion: &'a mut Criterion, case: &str, held: usize) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(format!("ipam/{case}-beside-{held}"));
    // One iteration of the slowest store takes a second.
    group.sampling_mode(SamplingMode::Flat).sample_size(20);
    group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    group
}

fn leases(criterion: &mut Criterion) {
    for held in HELD {
        let mut files = Files::holding(held, range("10.0.0.0/8"));
        let mut floor = Floor::in_store(&files.store);
        let mut memory = Memory { store: MemoryStore::new(), pools: files.pools.clone() };
        for number in 0..held {
            memory.allocate(&owner(number));
        }
        let mut one_file = OneFile::holding(held, &files.pools[0]);
        for (case, allocation) in [("allocate", true), ("release", false)] {
            let mut group = group(criterion, case, held);
            group.bench_function("cnikit", |bencher| bencher.iter_custom(|n| by_turns(&mut files, n, allocation)));
            group.bench_function("floor", |bencher| bencher.iter_custom(|n| by_turns(&mut floor, n, allocation)));
            group.bench_function("memory", |bencher| bencher.iter_custom(|n| by_turns(&mut memory, n, allocation)));
            group.bench_function("one-file", |bencher| bencher.iter_custom(|n| by_turns(&mut one_file, n, allocation)));
            group.finish();
        }
        look_up(criterion, &files, held);
        processes(criterion, &files, held);
    }
}

fn look_up(criterion: &mut Criterion, files: &Files, held: usize) {
    let sought = owner(held / 2);
    let address = files.store.lease(&sought).expect("a look").expect("a lease").addresses[0].ip();
    group(criterion, "owner", held).bench_function("cnikit", |bencher| {
        bencher.iter(|| files.store.lease(&sought).expect("a look").expect("a lease"));
    });
    group(criterion, "address", held).bench_function("cnikit", |bencher| {
        bencher.iter(|| files.store.lease_at(address).expect("a look").expect("a lease"));
    });
}

/// An ADD and a DEL. Each is a process that reads its configuration and runs its step.
fn processes(criterion: &mut Criterion, files: &Files, held: usize) {
    let mut group = group(criterion, "add+del", held);
    group.sample_size(10);
    let mut ours = host_local::Ours::new(files.store.dir());
    group.bench_function("cnikit-process", |bencher| {
        bencher.iter(|| {
            ours.allocate(&owner(usize::MAX));
            ours.release(&owner(usize::MAX));
        });
    });
    if let Some(mut theirs) = HostLocal::holding(held, &files.pools[0]) {
        group.bench_function("host-local", |bencher| {
            bencher.iter(|| {
                theirs.allocate(&owner(usize::MAX));
                theirs.release(&owner(usize::MAX));
            });
        });
    }
}

/// One address is free. It was allocated last, so the search must pass all others.
fn nearly_full(criterion: &mut Criterion) {
    for (subnet, held) in [("10.0.0.0/24", 252), ("10.0.0.0/16", 65_532)] {
        let mut files = Files::holding(held, range(subnet));
        let mut group = group(criterion, "last-free", held);
        group.bench_function("cnikit", |bencher| bencher.iter_custom(|n| by_turns(&mut files, n, true)));
        group.bench_function("cnikit-unaware", |bencher| {
            bencher.iter_custom(|n| (0..n).map(|_| unaware(&mut files)).sum());
        });
        group.bench_function("one-by-one", |bencher| {
            let addresses = files.store.dir().join("addresses");
            let last = files.pools[0].iter_from(None).last();
            bencher.iter(|| {
                let is_free = |address: &IpAddr| !addresses.join(address.to_string()).exists();
                files.pools[0].iter_from(last).find(is_free).expect("a free address")
            });
        });
    }
}

/// An allocation without hints about taken addresses.
fn unaware(files: &mut Files) -> Duration {
    let lock = files.store.dir().join("lock");
    let hints = std::fs::read_to_string(&lock).expect("a lock file");
    let rest: Vec<&str> = hints.lines().filter(|line| !line.starts_with("taken")).collect();
    std::fs::write(&lock, rest.join("\n") + "\n").expect("room");
    by_turns(files, 1, true)
}

criterion_group!(benches, leases, nearly_full);

fn main() {
    if host_local::is_step() {
        return host_local::step();
    }
    if ratios::are_wanted() {
        return ratios::print();
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
