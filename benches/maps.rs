//! What a row of the maps costs through the library, and through bare [bpf(2)] calls.
//!
//! ```sh
//! cargo bench --bench maps
//! ```
//!
//! It needs root, and runs on a private host: the machine's own BPF file system is not touched. An iteration is one call
//! for one row; the rows around it are put in and taken out outside the clock.
//!
//! [bpf(2)]: https://man7.org/linux/man-pages/man2/bpf.2.html

use std::cell::RefCell;
use std::ffi::CString;
use std::fs;
use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use cnikit::datapath::{CounterMap, Datapath, PodPort, PortMap};
use cnikit::spec::MacAddr;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group};

/// How many rows are worked through between two looks at the clock.
const ROWS: u64 = 1_024;

/// A way to the rows of both maps.
trait Access {
    const NAME: &'static str;
    fn insert(&self, address: IpAddr, port: PodPort);
    fn port(&self, address: IpAddr) -> Option<PodPort>;
    fn remove(&self, address: IpAddr);
    fn track(&self, address: IpAddr);
    /// Packets and bytes that the pod sent.
    fn sent(&self, address: IpAddr) -> Option<(u64, u64)>;
    fn forget(&self, address: IpAddr);
}

struct Cnikit {
    ports: PortMap,
    counters: CounterMap,
}

/// The same by system calls, with one buffer for all CPUs that is used again and again.
struct Raw {
    ports: OwnedFd,
    counters: OwnedFd,
    per_cpu: RefCell<Vec<Counters>>,
}

/// `struct pod_counters` of `bpf/cni_tc.h`: of which the first two are `tx_packets` and `tx_bytes`.
type Counters = [u64; 6];

/// `struct pod_port` of the same.
#[derive(Clone, Copy)]
#[repr(C)]
struct Port {
    ifindex: u32,
    mac: [u8; 6],
    reserved: [u8; 2],
}

/// What `bpf(2)` takes to open a pin.
#[repr(C)]
struct Pin {
    path: u64,
    fd: u32,
    flags: u32,
}

/// What `bpf(2)` takes to work on a row.
#[repr(C)]
struct Row {
    map: u32,
    hole: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The commands of `bpf(2)`.
const LOOKUP: libc::c_int = 1;
const UPDATE: libc::c_int = 2;
const DELETE: libc::c_int = 3;
const OPEN: libc::c_int = 7;

impl Access for Cnikit {
    const NAME: &'static str = "cnikit";

    fn insert(&self, address: IpAddr, port: PodPort) {
        self.ports.insert(address, port).expect("a row");
    }

    fn port(&self, address: IpAddr) -> Option<PodPort> {
        self.ports.read(address).expect("a look-up")
    }

    fn remove(&self, address: IpAddr) {
        self.ports.remove(address).expect("a removal");
    }

    fn track(&self, address: IpAddr) {
        self.counters.track(address).expect("a row");
    }

    fn sent(&self, address: IpAddr) -> Option<(u64, u64)> {
        let counters = self.counters.read(address).expect("a look-up")?;
        Some((counters.tx_packets, counters.tx_bytes))
    }

    fn forget(&self, address: IpAddr) {
        self.counters.forget(address).expect("a removal");
    }
}

impl Raw {
    fn open(directory: &Path) -> Self {
        let cpus = fs::read_to_string("/sys/devices/system/cpu/possible").expect("the CPUs");
        let last = cpus.trim().rsplit(['-', ',']).next().expect("a number");
        let cpus = last.parse::<usize>().expect("a number") + 1;
        let [ports, counters] = ["pod_ifindex", "pkt_count"].map(|map| open(&directory.join(map)));
        Self { ports, counters, per_cpu: RefCell::new(vec![[0; 6]; cpus]) }
    }
}

impl Access for Raw {
    const NAME: &'static str = "raw";

    fn insert(&self, address: IpAddr, port: PodPort) {
        let mut value = Port { ifindex: port.ifindex, mac: port.mac.octets(), reserved: [0; 2] };
        assert!(call(UPDATE, &self.ports, address, (&raw mut value).cast()));
    }

    fn port(&self, address: IpAddr) -> Option<PodPort> {
        let mut value = Port { ifindex: 0, mac: [0; 6], reserved: [0; 2] };
        call(LOOKUP, &self.ports, address, (&raw mut value).cast())
            .then(|| PodPort { ifindex: value.ifindex, mac: MacAddr::new(value.mac) })
    }

    fn remove(&self, address: IpAddr) {
        assert!(call(DELETE, &self.ports, address, std::ptr::null_mut()));
    }

    fn track(&self, address: IpAddr) {
        let mut per_cpu = self.per_cpu.borrow_mut();
        per_cpu.fill([0; 6]);
        assert!(call(UPDATE, &self.counters, address, per_cpu.as_mut_ptr().cast()));
    }

    fn sent(&self, address: IpAddr) -> Option<(u64, u64)> {
        let mut per_cpu = self.per_cpu.borrow_mut();
        call(LOOKUP, &self.counters, address, per_cpu.as_mut_ptr().cast())
            .then(|| per_cpu.iter().fold((0, 0), |(packets, bytes), value| (packets + value[0], bytes + value[1])))
    }

    fn forget(&self, address: IpAddr) {
        assert!(call(DELETE, &self.counters, address, std::ptr::null_mut()));
    }
}

/// Opens a pinned map.
#[expect(unsafe_code, reason = "bpf(2) has no safe binding without libbpf")]
fn open(pin: &Path) -> OwnedFd {
    let path = CString::new(pin.as_os_str().as_encoded_bytes()).expect("no NUL");
    let pin = Pin { path: path.as_ptr() as u64, fd: 0, flags: 0 };
    // SAFETY: the path outlives the call, which is told the size of what else it reads.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, OPEN, &raw const pin, size_of::<Pin>()) };
    assert!(fd >= 0, "{path:?}: {}", io::Error::last_os_error());
    // SAFETY: the kernel has just given out this descriptor and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// Works on the row of an address; false if there is none. `value` has room for all CPUs, or is null where none is used.
#[expect(unsafe_code, reason = "bpf(2) has no safe binding without libbpf")]
fn call(command: libc::c_int, map: &OwnedFd, address: IpAddr, value: *mut u8) -> bool {
    let IpAddr::V4(address) = address else { panic!("{address} is not of IPv4") };
    let key = address.octets();
    let row = Row { map: map.as_raw_fd() as u32, hole: 0, key: key.as_ptr() as u64, value: value as u64, flags: 0 };
    // SAFETY: key and value outlive the call and have the sizes that the map was made with.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const row, size_of::<Row>()) };
    if done == 0 {
        return true;
    }
    let error = io::Error::last_os_error();
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{error}");
    false
}

fn address(number: u64) -> IpAddr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 244, 0, 2).to_bits() + number as u32).into()
}

fn port(number: u64) -> PodPort {
    let octets = number.to_be_bytes();
    PodPort { ifindex: number as u32 + 1, mac: MacAddr::new([0x02, 0, 0, 0, octets[6], octets[7]]) }
}

/// Measures `timed` for one row after the other; `before` and `after` are outside the clock.
fn rows(
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
                let count = left.min(ROWS);
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

/// Runs `measure` with each way in; the other one sets the scene and checks what was done.
macro_rules! both {
    ($group:ident, $cnikit:expr, $raw:expr, $measure:ident) => {
        $measure(&mut $group, $cnikit, $raw);
        $measure(&mut $group, $raw, $cnikit);
        $group.finish();
    };
}

fn maps(criterion: &mut Criterion) {
    let datapath = Datapath::new("/sys/fs/bpf/bench", &"bench".parse().expect("a name"));
    datapath.ensure().expect("the programs are loaded");
    let (ports, counters) = (datapath.ports().expect("a pin"), datapath.counters().expect("a pin"));
    let (cnikit, raw) = (Cnikit { ports, counters }, Raw::open(&datapath.directory()));

    let mut group = criterion.benchmark_group("maps/port-insert");
    both!(group, &cnikit, &raw, insert);
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
    datapath.remove().expect("the pins are removed");
}

fn insert<A: Access>(group: &mut BenchmarkGroup<'_, WallTime>, access: &A, other: &impl Access) {
    let check = |number| {
        assert_eq!(other.port(address(number)), Some(port(number)));
        other.remove(address(number));
    };
    rows(group, A::NAME, |_| (), |number| access.insert(address(number), port(number)), check);
}

fn read<A: Access>(group: &mut BenchmarkGroup<'_, WallTime>, access: &A, other: &impl Access) {
    let timed = |number| assert_eq!(access.port(address(number)), Some(port(number)));
    let put = |number| other.insert(address(number), port(number));
    rows(group, A::NAME, put, timed, |number| other.remove(address(number)));
}

fn remove<A: Access>(group: &mut BenchmarkGroup<'_, WallTime>, access: &A, other: &impl Access) {
    let put = |number| other.insert(address(number), port(number));
    let check = |number| assert_eq!(other.port(address(number)), None);
    rows(group, A::NAME, put, |number| access.remove(address(number)), check);
}

fn track<A: Access>(group: &mut BenchmarkGroup<'_, WallTime>, access: &A, other: &impl Access) {
    let check = |number| {
        assert_eq!(other.sent(address(number)), Some((0, 0)));
        other.forget(address(number));
    };
    rows(group, A::NAME, |_| (), |number| access.track(address(number)), check);
}

fn sent<A: Access>(group: &mut BenchmarkGroup<'_, WallTime>, access: &A, other: &impl Access) {
    let timed = |number| assert_eq!(access.sent(address(number)), Some((0, 0)));
    rows(group, A::NAME, |number| other.track(address(number)), timed, |number| other.forget(address(number)));
}

fn forget<A: Access>(group: &mut BenchmarkGroup<'_, WallTime>, access: &A, other: &impl Access) {
    let check = |number| assert_eq!(other.sent(address(number)), None);
    rows(group, A::NAME, |number| other.track(address(number)), |number| access.forget(address(number)), check);
}

criterion_group!(benches, maps);

fn main() {
    // Without privileges this says so and ends.
    cnikit_testbed::host(|_| {
        benches();
        Criterion::default().configure_from_args().final_summary();
    });
}
