//! What a lease costs at 10, 1,000 and 65,000 leases held, in this store and in two other shapes of store.
//!
//! ```sh
//! cargo bench --no-default-features --features ipam --bench ipam
//! ```
//!
//! Each iteration allocates one address and releases it. `one-file` keeps all leases in one JSON file, which each
//! change reads, parses and replaces. `scan` keeps a file per address that names its owner, and looks for an owner by
//! reading all of them, before an allocation and for a release.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cnikit::ipam::{Owner, Range, Store};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode, criterion_group, criterion_main};
use fs2::FileExt;

/// A store in the shape that a benchmark compares.
trait Shape {
    const NAME: &'static str;
    fn new(dir: &Path) -> Self;
    fn allocate(&self, owner: &Owner, range: &Range) -> IpAddr;
    fn release(&self, owner: &Owner) -> bool;
    /// Puts these leases into an empty store, without the quadratic time that some shapes would take for it.
    fn fill(&self, leases: &BTreeMap<IpAddr, Owner>, range: &Range);
}

struct Cnikit(Store);

struct OneFile(PathBuf);

struct Scan(PathBuf);

impl Shape for Cnikit {
    const NAME: &'static str = "cnikit";

    fn new(dir: &Path) -> Self {
        Self(Store::open(dir).expect("a store"))
    }

    fn allocate(&self, owner: &Owner, range: &Range) -> IpAddr {
        let mut locked = self.0.lock(Duration::from_secs(1)).expect("the lock");
        locked.allocate(owner, &[range.clone().into()], &[]).expect("a lease").addresses[0].ip()
    }

    fn release(&self, owner: &Owner) -> bool {
        self.0.lock(Duration::from_secs(1)).expect("the lock").release(owner).expect("a release").is_some()
    }

    fn fill(&self, leases: &BTreeMap<IpAddr, Owner>, range: &Range) {
        for (address, owner) in leases {
            assert_eq!(self.allocate(owner, range), *address);
        }
    }
}

impl OneFile {
    /// Reads, changes and replaces the file, under a lock.
    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<IpAddr, Owner>, &mut Option<IpAddr>) -> T) -> T {
        let _lock = lock(&self.0);
        let file = self.0.join("leases.json");
        let (mut leases, mut last) = match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).expect("leases"),
            Err(_) => Default::default(),
        };
        let result = change(&mut leases, &mut last);
        let new = self.0.join("leases.json.new");
        fs::write(&new, serde_json::to_vec(&(leases, last)).expect("text")).expect("room");
        fs::rename(new, file).expect("a rename");
        result
    }
}

impl Shape for OneFile {
    const NAME: &'static str = "one-file";

    fn new(dir: &Path) -> Self {
        Self(dir.into())
    }

    fn allocate(&self, owner: &Owner, range: &Range) -> IpAddr {
        self.change(|leases, last| {
            assert!(!leases.values().any(|held| held == owner));
            let free = range.after(*last).find(|address| !leases.contains_key(address)).expect("a free address");
            leases.insert(free, owner.clone());
            *last = Some(free);
            free
        })
    }

    fn release(&self, owner: &Owner) -> bool {
        self.change(|leases, _| {
            let held = leases.len();
            leases.retain(|_, of| of != owner);
            leases.len() < held
        })
    }

    fn fill(&self, leases: &BTreeMap<IpAddr, Owner>, _: &Range) {
        self.change(|held, last| {
            held.clone_from(leases);
            *last = leases.keys().max().copied();
        });
    }
}

impl Scan {
    fn find(&self, owner: &Owner) -> Option<PathBuf> {
        let name = text(owner);
        let mut entries = fs::read_dir(self.0.join("addresses")).expect("a directory");
        entries.find_map(|entry| {
            let path = entry.expect("an entry").path();
            (fs::read_to_string(&path).expect("text") == name).then_some(path)
        })
    }
}

impl Shape for Scan {
    const NAME: &'static str = "scan";

    fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir.join("addresses")).expect("a directory");
        Self(dir.into())
    }

    fn allocate(&self, owner: &Owner, range: &Range) -> IpAddr {
        let _lock = lock(&self.0);
        assert_eq!(self.find(owner), None);
        let last = fs::read_to_string(self.0.join("last")).ok().and_then(|text| text.parse().ok());
        let (free, mut file) = range
            .after(last)
            .find_map(|address| {
                let path = self.0.join("addresses").join(address.to_string());
                Some((address, OpenOptions::new().write(true).create_new(true).open(path).ok()?))
            })
            .expect("a free address");
        file.write_all(text(owner).as_bytes()).expect("room");
        fs::write(self.0.join("last"), free.to_string()).expect("room");
        free
    }

    fn release(&self, owner: &Owner) -> bool {
        let _lock = lock(&self.0);
        self.find(owner).map(|path| fs::remove_file(path).expect("a removal")).is_some()
    }

    fn fill(&self, leases: &BTreeMap<IpAddr, Owner>, _: &Range) {
        for (address, owner) in leases {
            let path = self.0.join("addresses").join(address.to_string());
            fs::write(path, text(owner)).expect("room");
            fs::write(self.0.join("last"), address.to_string()).expect("room");
        }
    }
}

fn text(owner: &Owner) -> String {
    format!("{}\n{}", owner.container_id, owner.ifname)
}

fn lock(dir: &Path) -> File {
    let file = File::create(dir.join("lock")).expect("a lock file");
    file.lock_exclusive().expect("the lock");
    file
}

fn owner(number: usize) -> Owner {
    // As long as the ids that container runtimes give.
    let id = format!("{number:064x}");
    Owner { container_id: id.parse().expect("an id"), ifname: "eth0".parse().expect("an ifname") }
}

fn measure<S: Shape>(group: &mut BenchmarkGroup<'_, WallTime>, held: usize) {
    let dir = tempfile::tempdir().expect("a directory");
    let range = Range::new("10.0.0.0/8".parse().expect("a subnet"), None).expect("a range");
    let shape = S::new(dir.path());
    shape.fill(&range.after(None).zip((0..held).map(owner)).collect(), &range);
    let newcomer = owner(held);
    let mut before = None;
    group.bench_function(BenchmarkId::from_parameter(S::NAME), |bencher| {
        bencher.iter(|| {
            let address = shape.allocate(&newcomer, &range);
            assert!(range.contains(address) && before.replace(address) != Some(address));
            assert!(shape.release(&newcomer));
        });
    });
    assert!(!shape.release(&newcomer));
    assert!(shape.release(&owner(0)), "the leases held are still there");
}

fn leases(criterion: &mut Criterion) {
    for held in [10, 1_000, 65_000] {
        let mut group = criterion.benchmark_group(format!("ipam/lease-beside-{held}"));
        // One iteration of the slowest takes a second.
        group.sampling_mode(SamplingMode::Flat).sample_size(10).measurement_time(Duration::from_secs(3));
        measure::<Cnikit>(&mut group, held);
        measure::<OneFile>(&mut group, held);
        measure::<Scan>(&mut group, held);
        group.finish();
    }
}

criterion_group!(benches, leases);
criterion_main!(benches);
