//! Many attachments in sequence: leaks add up.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cnikit_testbed::{Footprint, Namespace, eventually};

use crate::is_long;
use crate::support::{Network, on_host};

/// The number of loops.
const LOOPS: usize = 4;

/// After this number of cycles, the kernel's caches are filled.
const WARM: usize = 100;

/// The limit of the growth of the kernel's memory, in bytes per cycle, on a machine with other
/// work. A link has several thousand bytes, and a namespace tens of thousands.
const NOISE: u64 = 2_000;

/// The time for other processes to free memory.
const PATIENCE: Duration = Duration::from_secs(120);

/// The values that must not grow.
struct Usage {
    footprint: Footprint,
    /// The memory of the pinned maps, in bytes.
    maps: u64,
    /// Unreclaimable slab of the whole machine, in bytes.
    slab: u64,
    /// Open files of the whole machine.
    files: u64,
}

impl Usage {
    fn of(network: &Network) -> Self {
        let maps = ["pkt_count", "pod_ifindex", "pod_ifindex_v6", "port_config", "port_drops"].map(|name| {
            let pin = network.pin(name);
            let shown = network.host.command("bpftool").args(["-j", "map", "show", "pinned"]).arg(pin).json();
            shown["bytes_memlock"].as_u64().unwrap_or_else(|| panic!("no size: {shown}"))
        });
        let memory = fs::read_to_string("/proc/meminfo").expect("/proc is mounted");
        let slab = memory.lines().find_map(|line| line.strip_prefix("SUnreclaim:")?.trim().strip_suffix(" kB"));
        let slab = slab.and_then(|number| number.parse::<u64>().ok()).expect("a number of the kernel") * 1024;
        let files = fs::read_to_string("/proc/sys/fs/file-nr").expect("/proc is mounted");
        let files =
            files.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number of the kernel");
        Self { footprint: network.footprint(), maps: maps.iter().sum(), slab, files }
    }
}

/// Whether a process of the plugin still runs on this host. The background process of a deletion
/// runs for some milliseconds.
fn has_process() -> bool {
    let link = |path: PathBuf| fs::read_link(path).ok();
    let host = link("/proc/thread-self/ns/net".into());
    let processes = fs::read_dir("/proc").expect("/proc is mounted").flatten().map(|entry| entry.path());
    processes.filter(|process| link(process.join("ns/net")) == host).any(|process| {
        let program = link(process.join("exe"));
        program.is_some_and(|program| program == Path::new(env!("CARGO_BIN_EXE_simple-ebpf-cni")))
    })
}

/// Runs cycles of ADD and DEL, up to `wanted` or until the time limit. Returns their number.
fn cycle(network: &Network, wanted: usize, limit: Duration) -> usize {
    let (done, begun) = (AtomicUsize::new(0), Instant::now());
    std::thread::scope(|scope| {
        for place in 0..LOOPS {
            let done = &done;
            scope.spawn(move || {
                let (pod, name) = (network.host.pod(), format!("soak-{place}"));
                while done.load(Ordering::Relaxed) < wanted && begun.elapsed() < limit {
                    network.call("ADD", &name, &pod).result();
                    network.call("DEL", &name, &pod).silent();
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    if done % 1_000 == 0 {
                        eprintln!("soak: {done} of {wanted} cycles after {:.0?}", begun.elapsed());
                    }
                }
            });
        }
    });
    done.into_inner()
}

#[test]
fn cycles_of_add_and_del_leak_nothing() {
    on_host(|network| {
        let (wanted, limit) = if is_long() { (10_000, 1_200) } else { (500, 6) };
        cycle(network, WARM, Duration::from_secs(3));
        let before = Usage::of(network);
        let begun = Instant::now();
        let cycles = cycle(network, wanted, Duration::from_secs(limit));
        let took = begun.elapsed();
        eventually("all processes have ended", Duration::from_secs(5), || !has_process());
        let mut after = Usage::of(network);
        // Other work of the machine allocates memory and frees it. A leak stays.
        let deadline = Instant::now() + if is_long() { PATIENCE } else { Duration::ZERO };
        while after.slab > before.slab + NOISE * cycles as u64 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_secs(1));
            after = Usage::of(network);
        }
        let slab = after.slab.saturating_sub(before.slab);
        eprintln!(
            "soak: {cycles} cycles in {:.1?}; maps {} and {} bytes, slab {slab} bytes more, open files {} and {}",
            took, before.maps, after.maps, before.files, after.files
        );
        assert!(cycles > LOOPS, "too few cycles: {cycles}");
        after.footprint.assert_unchanged(&before.footprint, "soaking");
        assert_eq!(after.maps, before.maps, "the memory of the maps");
        if is_long() {
            let files = after.files.saturating_sub(before.files);
            assert!(files < cycles as u64 / 2, "{files} files more are open after {cycles} cycles");
            assert!(slab < NOISE * cycles as u64, "the kernel holds {slab} bytes more after {cycles} cycles");
        }
    });
}
