//! Map entries, one by one and in batches.

use std::cell::RefCell;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use cnikit::datapath::{CounterMap, Datapath, Endpoint, EndpointMap};
use cnikit::spec::{IfIndex, MacAddr};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion};

use crate::raw::{self, Row};

/// The number of entries between two reads of the clock.
const ENTRIES: u64 = 1_024;

/// An implementation of the access to both maps.
trait Access {
    const NAME: &'static str;
    fn insert(&self, address: IpAddr, port: Endpoint);
    fn port(&self, address: IpAddr) -> Option<Endpoint>;
    fn remove(&self, address: IpAddr);
    fn track(&self, address: IpAddr);
    /// Packets and bytes that the pod sent.
    fn sent(&self, address: IpAddr) -> Option<(u64, u64)>;
    fn forget(&self, address: IpAddr);
}

struct Cnikit {
    ports: EndpointMap,
    counters: CounterMap,
}

/// The same with system calls, and with one reused buffer for all CPUs.
struct Raw {
    ports: OwnedFd,
    counters: OwnedFd,
    per_cpu: RefCell<Vec<Counters>>,
}

/// `struct pod_counters` of `bpf/abi.h`. The first two members are `tx_packets` and `tx_bytes`.
type Counters = [u64; 6];

/// `struct endpoint` of the same header.
#[derive(Clone, Copy)]
#[repr(C)]
struct Port {
    ifindex: u32,
    mac: [u8; 6],
    reserved: [u8; 2],
}

impl Access for Cnikit {
    const NAME: &'static str = "cnikit";

    fn insert(&self, address: IpAddr, port: Endpoint) {
        self.ports.insert(address, port).expect("an entry");
    }

    fn port(&self, address: IpAddr) -> Option<Endpoint> {
        self.ports.read(address).expect("a lookup")
    }

    fn remove(&self, address: IpAddr) {
        self.ports.remove(address).expect("a removal");
    }

    fn track(&self, address: IpAddr) {
        self.counters.insert(address).expect("an entry");
    }

    fn sent(&self, address: IpAddr) -> Option<(u64, u64)> {
        let counters = self.counters.read(address).expect("a lookup")?;
        Some((counters.tx_packets, counters.tx_bytes))
    }

    fn forget(&self, address: IpAddr) {
        self.counters.remove(address).expect("a removal");
    }
}

impl Raw {
    fn open(directory: &Path) -> Self {
        let cpus = fs::read_to_string("/sys/devices/system/cpu/possible").expect("the CPUs");
        let last = cpus.trim().rsplit(['-', ',']).next().expect("a number");
        let cpus = last.parse::<usize>().expect("a number") + 1;
        let [ports, counters] = ["pod_ifindex", "pkt_count"].map(|map| raw::open(&directory.join(map)));
        Self { ports, counters, per_cpu: RefCell::new(vec![[0; 6]; cpus]) }
    }
}

impl From<Endpoint> for Port {
    fn from(port: Endpoint) -> Self {
        Self { ifindex: port.ifindex.get(), mac: port.mac.octets(), reserved: [0; 2] }
    }
}

impl Access for Raw {
    const NAME: &'static str = "raw";

    fn insert(&self, address: IpAddr, port: Endpoint) {
        let mut value = Port::from(port);
        assert!(raw::row(Row::Update, &self.ports, &key(address), (&raw mut value).cast()));
    }

    fn port(&self, address: IpAddr) -> Option<Endpoint> {
        let mut value = Port { ifindex: 0, mac: [0; 6], reserved: [0; 2] };
        raw::row(Row::LookUp, &self.ports, &key(address), (&raw mut value).cast())
            .then(|| Endpoint::new(ifindex(value.ifindex), MacAddr::new(value.mac)))
    }

    fn remove(&self, address: IpAddr) {
        assert!(raw::row(Row::Delete, &self.ports, &key(address), std::ptr::null_mut()));
    }

    fn track(&self, address: IpAddr) {
        let mut per_cpu = self.per_cpu.borrow_mut();
        per_cpu.fill([0; 6]);
        assert!(raw::row(Row::Update, &self.counters, &key(address), per_cpu.as_mut_ptr().cast()));
    }

    fn sent(&self, address: IpAddr) -> Option<(u64, u64)> {
        let mut per_cpu = self.per_cpu.borrow_mut();
        raw::row(Row::LookUp, &self.counters, &key(address), per_cpu.as_mut_ptr().cast())
            .then(|| per_cpu.iter().fold((0, 0), |(packets, bytes), value| (packets + value[0], bytes + value[1])))
    }

    fn forget(&self, address: IpAddr) {
        assert!(raw::row(Row::Delete, &self.counters, &key(address), std::ptr::null_mut()));
    }
}

fn key(address: IpAddr) -> [u8; 4] {
    let IpAddr::V4(address) = address else { panic!("{address} is not of IPv4") };
    address.octets()
}

fn address(number: u64) -> IpAddr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 244, 0, 2).to_bits() + number as u32).into()
}

fn ifindex(number: u32) -> IfIndex {
    IfIndex::new(number).expect("an index")
}

fn port(number: u64) -> Endpoint {
    let octets = number.to_be_bytes();
    Endpoint::new(ifindex(number as u32 + 1), MacAddr::new([0x02, 0, 0, 0, octets[6], octets[7]]))
}

/// Measures `timed` for one entry after the other. `before` and `after` are not measured.
fn entries(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    before: impl Fn(u64),
    timed: impl Fn(u64),
    after: impl Fn(u64),
) {
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            let mut taken = Duration::ZERO;
            let mut left = iterations;
            while left > 0 {
                let count = left.min(ENTRIES);
                (0..count).for_each(&before);
                let start = Instant::now();
                (0..count).for_each(&timed);
                taken += start.elapsed();
                (0..count).for_each(&after);
                left -= count;
            }
            taken
        });
    });
}

/// Runs `measure` with each implementation. The other implementation prepares the entries and
/// checks the results.
macro_rules! both {
    ($group:ident, $cnikit:expr, $raw:expr, $measure:ident) => {
        $measure(&mut $group, $cnikit, $raw);
        $measure(&mut $group, $raw, $cnikit);
        $group.finish();
    };
}

/// Runs the benchmarks on the maps of a datapath without entries.
pub(crate) fn bench(criterion: &mut Criterion, datapath: &Datapath) {
    let (ports, counters) = (datapath.open_endpoints().expect("a pin"), datapath.open_counters().expect("a pin"));
    let (cnikit, raw) = (Cnikit { ports, counters }, Raw::open(&datapath.directory()));

    let mut group = criterion.benchmark_group("maps/port-insert");
    insert(&mut group, &cnikit, &raw);
    insert(&mut group, &raw, &cnikit);
    insert_batch(&mut group, &raw);
    group.finish();
    let mut group = criterion.benchmark_group("maps/port-list");
    list(&mut group, &cnikit, &raw);
    group.finish();
    let mut group = criterion.benchmark_group("maps/port-read");
    both!(group, &cnikit, &raw, read);
    let mut group = criterion.benchmark_group("maps/port-remove");
    both!(group, &cnikit, &raw, remove);
    let mut group = criterion.benchmark_group("maps/counters-track");
    both!(group, &cnikit, &raw, track);
    let mut group = criterion.benchmark_group("maps/counters-read");
    both!(group, &cnikit, &raw, sent);
    let mut group = criterion.benchmark_group("maps/counters-forget");
    both!(group, &cnikit, &raw, forget);
}

/// The time is per entry, though one call processes all entries.
fn insert_batch(group: &mut BenchmarkGroup<'_, WallTime>, raw: &Raw) {
    let keys: Vec<[u8; 4]> = (0..ENTRIES).map(|number| key(address(number))).collect();
    let values: Vec<Port> = (0..ENTRIES).map(|number| Port::from(port(number))).collect();
    group.bench_function("raw-batch", |bencher| {
        bencher.iter_custom(|iterations| {
            let batches = iterations.div_ceil(ENTRIES);
            let taken: Duration = (0..batches).map(|_| time(|| raw::update_batch(&raw.ports, &keys, &values))).sum();
            for number in 0..ENTRIES {
                assert_eq!(raw.port(address(number)), Some(port(number)));
                raw.remove(address(number));
            }
            per_entry(taken, batches, iterations)
        });
    });
}

/// All addresses and their ports. The time is per entry.
fn list(group: &mut BenchmarkGroup<'_, WallTime>, cnikit: &Cnikit, raw: &Raw) {
    (0..ENTRIES).for_each(|number| raw.insert(address(number), port(number)));
    let one_by_one = || {
        let entries: Vec<_> = {
            let listed = cnikit.ports.addresses().expect("the map can be listed");
            listed.into_iter().map(|address| (address, cnikit.port(address))).collect()
        };
        assert_eq!(entries.len() as u64, ENTRIES);
    };
    let batch = || {
        // A bucket that does not fit into the remaining buffer ends the call, so the buffer has
        // spare room.
        let mut entries = vec![([0; 4], Port::from(port(0))); 2 * ENTRIES as usize];
        assert_eq!(raw::look_up_batch(&raw.ports, &mut entries), ENTRIES as usize);
    };
    let mut measure = |name: &str, all: &dyn Fn()| {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let times = iterations.div_ceil(ENTRIES);
                per_entry((0..times).map(|_| time(all)).sum(), times, iterations)
            });
        });
    };
    measure("cnikit", &one_by_one);
    measure("raw-batch", &batch);
    (0..ENTRIES).for_each(|number| raw.remove(address(number)));
}

fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// The time of `iterations` entries, from a measurement of whole batches.
fn per_entry(taken: Duration, batches: u64, iterations: u64) -> Duration {
    taken.mul_f64(iterations as f64 / (batches * ENTRIES) as f64)
}

fn insert<A: Access>(group: &mut BenchmarkGroup<'_, WallTime>, access: &A, other: &impl Access) {
    let check = |number| {
        assert_eq!(other.port(address(number)), Some(port(number)));
        other.remove(address(number));
    };
    entries(group, A::NAME, |_| (), |number| access.insert(address(number), port(number)), check);
}

fn read<A: Access>(group: &mut BenchmarkGroup<'_, WallTime>, access: &A, other: &impl Access) {
    let timed = |number| assert_eq!(access.port(address(number)), Some(port(number)));
    let put = |number| other.insert(address(number), port(number));
    entries(group, A::NAME, put, timed, |number| other.remove(address(number)));
}

fn remove<A: Access>(group: &mut BenchmarkGroup<'_, WallTime>, access: &A, other: &impl Access) {
    let put = |number| other.insert(address(number), port(number));
    let check = |number| assert_eq!(other.port(address(number)), None);
    entries(group, A::NAME, put, |number| access.remove(address(number)), check);
}

fn track<A: Access>(group: &mut BenchmarkGroup<'_, WallTime>, access: &A, other: &impl Access) {
    let check = |number| {
        assert_eq!(other.sent(address(number)), Some((0, 0)));
        other.forget(address(number));
    };
    entries(group, A::NAME, |_| (), |number| access.track(address(number)), check);
}

fn sent<A: Access>(group: &mut BenchmarkGroup<'_, WallTime>, access: &A, other: &impl Access) {
    let timed = |number| assert_eq!(access.sent(address(number)), Some((0, 0)));
    entries(group, A::NAME, |number| other.track(address(number)), timed, |number| other.forget(address(number)));
}

fn forget<A: Access>(group: &mut BenchmarkGroup<'_, WallTime>, access: &A, other: &impl Access) {
    let check = |number| assert_eq!(other.sent(address(number)), None);
    entries(group, A::NAME, |number| other.track(address(number)), |number| access.forget(address(number)), check);
}
