//! CPUs: pinning threads, and reading the busy time.

use std::fs;

use rustix::thread::{CpuSet, Pid, sched_setaffinity};

/// Pins the calling thread to a CPU, or to the last one if there are not enough.
pub(super) fn pin(cpu: usize) {
    let last = std::thread::available_parallelism().map_or(1, usize::from) - 1;
    let mut set = CpuSet::new();
    set.set(cpu.min(last));
    sched_setaffinity(None::<Pid>, &set).expect("a CPU that is there");
}

/// The busy time of all CPUs since the boot, in seconds: user, kernel, interrupts.
///
/// The value covers the whole machine, with other work too. The kernel processes packets in any
/// interrupted thread, so no smaller value covers all of it. The resolution is 10 ms.
pub(super) fn busy() -> f64 {
    let text = fs::read_to_string("/proc/stat").expect("/proc is mounted");
    let line = text.lines().next().expect("a line");
    // proc(5): user, nice, system, idle, iowait, irq, softirq.
    let ticks: Vec<u64> = line.split_whitespace().skip(1).map(|word| word.parse().expect("a number")).collect();
    [0, 1, 2, 5, 6].map(|at| ticks[at]).iter().sum::<u64>() as f64 / 100.0
}
