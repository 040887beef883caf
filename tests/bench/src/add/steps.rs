//! The steps of this plugin's ADD: the system calls of its thread, grouped by purpose.
//!
//! `perf` records the beginning and end of each call, at a fraction of a microsecond each. A ptrace
//! tracer would take longer than the calls themselves. Starting and reaping the process, before
//! `execve` returns and after `exit_group`, are not part of the steps.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::thread;

use cnikit_testbed::{Host, Namespace as _};

use crate::add::Setup;
use crate::call;
use crate::host_thread::HostThread;
use crate::network::{Case, Network};
use crate::options::AddOptions;
use crate::report::Figure;

/// The number of other pods.
const PODS: usize = 10;

/// A traced ADD: milliseconds by step.
type Steps = BTreeMap<&'static str, f64>;

/// The steps in the order of the output.
const STEPS: [&str; 6] = [
    "netlink, longest message",
    "netlink, other messages",
    "bpf(2)",
    "files and pins",
    "memory and startup",
    "own code",
];

/// Empty if `perf` is not usable.
pub(crate) fn measure(options: &AddOptions, setup: &Setup) -> Vec<Figure> {
    eprintln!("steps");
    let rounds = options.common.rounds(3, 50);
    let ours = &setup.contestants[0];
    thread::scope(|scope| {
        let network = ours.network(Case::Ipv4, &setup.disk.0);
        let host_thread = HostThread::start(scope, ours.name, |_| network);
        let can_trace = host_thread.run(|host, network: &mut Network| {
            network.populate(host, PODS);
            prepare(host)
        });
        if !can_trace {
            eprintln!("NOT MEASURED: the steps of an ADD: perf is missing or lacks the permission to trace");
            return Vec::new();
        }
        let mut traced: Vec<Steps> = Vec::new();
        let mut whole = Vec::new();
        for _ in 0..rounds {
            whole.push(host_thread.run(|host, network| network.call_times(host).add.as_secs_f64() * 1e3));
            traced.push(host_thread.run(trace));
        }
        // The values are medians, so their sum differs slightly from the total.
        let mut figures: Vec<_> = STEPS
            .iter()
            .map(|step| {
                let times: Vec<f64> = traced.iter().map(|steps| steps.get(step).copied().unwrap_or(0.0)).collect();
                Figure::of("steps", step, PODS, ours.name, "ms", &times)
            })
            .collect();
        let sums: Vec<f64> = traced.iter().map(|steps| steps.values().sum()).collect();
        figures.push(Figure::of("steps", "sum", PODS, ours.name, "ms", &sums));
        figures.push(Figure::of("steps", "ADD without tracing", PODS, ours.name, "ms", &whole));
        figures
    })
}

/// Mounts tracefs on this host and tests `perf`.
fn prepare(host: &Host) -> bool {
    if !Command::new("perf").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return false;
    }
    let mounted = host.command("mount").words("-t tracefs tracefs /sys/kernel/tracing").output();
    let file = host.scratch().join("trial");
    let tried = Command::new("perf").args(perf(&file)).arg("/bin/true").output();
    mounted.status.success() && tried.is_ok_and(|output| output.status.success())
}

/// The arguments with which `perf` records each system call of the following command.
fn perf(file: &Path) -> Vec<OsString> {
    let events = "raw_syscalls:sys_enter,raw_syscalls:sys_exit";
    ["record".into(), "-q".into(), "-e".into(), events.into(), "-o".into(), file.into(), "--".into()].into()
}

/// Attaches a pod under `perf`, and detaches it.
fn trace(host: &Host, network: &mut Network) -> Steps {
    let (pod, file) = (host.pod(), host.scratch().join("trace"));
    let add = network.call("ADD", "traced", &pod);
    let process = add.process();
    let mut traced = Command::new("perf");
    traced.args(perf(&file)).arg(process.get_program()).env_clear();
    traced.envs(process.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let (_, result) = call::run(traced, add.input());
    assert!(result["ips"].is_array(), "no addresses in {result}");
    call::timed(&network.call("DEL", "traced", &pod));
    let script = host.command("perf").words("script --ns -F pid,tid,time,event,trace -i").arg(&file).run();
    steps(&script)
}

/// Sums the output of `perf script` for the first thread in it.
fn steps(script: &str) -> Steps {
    let mut steps = Steps::new();
    let mut main = None;
    // The time of the last entry to or exit from the kernel.
    let mut last = None;
    let mut longest: f64 = 0.0;
    for event in script.lines().filter_map(Event::parse) {
        if *main.get_or_insert(event.thread) != event.thread {
            continue;
        }
        let taken = last.map_or(0.0, |last| (event.time - last) * 1e3);
        last = Some(event.time);
        let step = if event.is_exit { kind(event.number) } else { STEPS[5] };
        if step == STEPS[1] {
            longest = longest.max(taken);
        }
        *steps.entry(step).or_default() += taken;
    }
    *steps.entry(STEPS[1]).or_default() -= longest;
    steps.insert(STEPS[0], longest);
    steps
}

/// The beginning or the end of a system call.
struct Event<'s> {
    thread: &'s str,
    /// In seconds.
    time: f64,
    is_exit: bool,
    number: i64,
}

impl<'s> Event<'s> {
    /// Parses a line such as `27438/27438 22992.837445145:  raw_syscalls:sys_exit: NR 59 = 0`.
    fn parse(line: &'s str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let thread = words.next()?;
        let time = words.next()?.trim_end_matches(':').parse().ok()?;
        let is_exit = words.next()?.contains("sys_exit");
        let number = words.nth(1)?.parse().ok()?;
        Some(Self { thread, time, is_exit, number })
    }
}

/// The purpose of a system call.
fn kind(number: i64) -> &'static str {
    match number {
        libc::SYS_socket | libc::SYS_bind | libc::SYS_setsockopt | libc::SYS_getsockname => STEPS[1],
        libc::SYS_sendto | libc::SYS_recvfrom | libc::SYS_sendmsg | libc::SYS_recvmsg => STEPS[1],
        libc::SYS_bpf => STEPS[2],
        libc::SYS_execve | libc::SYS_mmap | libc::SYS_mprotect | libc::SYS_munmap | libc::SYS_brk => STEPS[4],
        libc::SYS_prlimit64 | libc::SYS_rt_sigaction | libc::SYS_sigaltstack | libc::SYS_getrandom => STEPS[4],
        libc::SYS_set_tid_address | libc::SYS_set_robust_list | libc::SYS_rseq | libc::SYS_sched_getaffinity => {
            STEPS[4]
        }
        _ => STEPS[3],
    }
}

#[cfg(test)]
mod tests {
    use super::{STEPS, steps};

    #[test]
    fn time_belongs_to_the_ended_call_or_to_the_program() {
        let send = libc::SYS_sendto;
        let script = format!(
            "7/7 10.000000000: raw_syscalls:sys_exit: NR {} = 0\n\
             7/7 10.001000000: raw_syscalls:sys_enter: NR {send} (0, 0)\n\
             7/8 10.001500000: raw_syscalls:sys_enter: NR {} (0, 0)\n\
             7/7 10.003000000: raw_syscalls:sys_exit: NR {send} = 36\n\
             7/7 10.003000000: raw_syscalls:sys_enter: NR {send} (0, 0)\n\
             7/7 10.007000000: raw_syscalls:sys_exit: NR {send} = 36\n",
            libc::SYS_execve,
            libc::SYS_bpf,
        );
        let steps = steps(&script);
        let rounded = |step: &str| (steps.get(step).copied().unwrap_or(0.0) * 1e3).round();
        assert_eq!(rounded(STEPS[0]), 4_000.0);
        assert_eq!(rounded(STEPS[1]), 2_000.0);
        assert_eq!(rounded(STEPS[5]), 1_000.0);
        assert_eq!(rounded(STEPS[2]), 0.0);
    }
}
