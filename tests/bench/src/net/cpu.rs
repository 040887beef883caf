//! CPUs: where a thread runs, and how much of their time was taken.

use std::fs;

use rustix::thread::{CpuSet, Pid, sched_setaffinity};

/// Keeps the calling thread on a CPU; on the last one where there are not so many.
pub(super) fn pin(cpu: usize) {
    let last = std::thread::available_parallelism().map_or(1, usize::from) - 1;
    let mut set = CpuSet::new();
    set.set(cpu.min(last));
    sched_setaffinity(None::<Pid>, &set).expect("a CPU that is there");
}

/// How long all CPUs have worked since the boot, in seconds: for programs, for the kernel, for interrupts.
///
/// That is the whole machine's, whoever it worked for: packets are carried by whichever thread is interrupted, so
/// nothing less has all of it. It advances in steps of ten milliseconds.
pub(super) fn busy() -> f64 {
    let text = fs::read_to_string("/proc/stat").expect("/proc is mounted");
    let line = text.lines().next().expect("a line");
    // proc(5): user, nice, system, idle, iowait, irq, softirq.
    let ticks: Vec<u64> = line.split_whitespace().skip(1).map(|word| word.parse().expect("a number")).collect();
    [0, 1, 2, 5, 6].map(|at| ticks[at]).iter().sum::<u64>() as f64 / 100.0
}
