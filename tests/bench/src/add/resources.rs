//! The peak memory of a call, and its total CPU time.

use std::process::Command;
use std::thread;

use cnikit_testbed::Host;

use crate::add::Setup;
use crate::add::floor::Floor;
use crate::call;
use crate::host_thread::HostThread;
use crate::launcher::USAGE_FILE;
use crate::network::{Case, Network};
use crate::options::AddOptions;
use crate::report::Figure;

/// The usage of a call.
#[derive(Debug, Clone, Copy)]
struct Usage {
    /// The peak resident set of its largest process, in MiB.
    peak: f64,
    /// The CPU time of all its processes, in milliseconds.
    cpu: f64,
}

/// ADD and DEL in alternation, and the first ADD of a network.
pub(crate) fn measure(options: &AddOptions, setup: &Setup) -> Vec<Figure> {
    eprintln!("memory and CPU time");
    let rounds = options.common.rounds(5, 50);
    let case = Case::Ipv4.name();
    let (memory, cpu) = ("MiB", "ms");
    thread::scope(|scope| {
        let mut figures = Vec::new();
        let host_threads: Vec<_> = setup
            .contestants
            .iter()
            .map(|contestant| {
                let network = contestant.network(Case::Ipv4, &setup.disk.0);
                (contestant.name, HostThread::start(scope, contestant.name, |_| network))
            })
            .collect();
        for (name, host_thread) in &host_threads {
            let [first, _] = host_thread.run(usages);
            figures.push(Figure::of("memory, first ADD", case, 0, name, memory, &[first.peak]));
            figures.push(Figure::of("CPU, first ADD", case, 0, name, cpu, &[first.cpu]));
        }
        let mut taken: Vec<Vec<[Usage; 2]>> = vec![Vec::new(); host_threads.len()];
        for _ in 0..rounds {
            for ((_, host_thread), taken) in host_threads.iter().zip(&mut taken) {
                taken.push(host_thread.run(usages));
            }
        }
        for ((name, _), taken) in host_threads.iter().zip(&taken) {
            for (at, verb) in ["ADD", "DEL"].into_iter().enumerate() {
                let peaks: Vec<f64> = taken.iter().map(|usages| usages[at].peak).collect();
                let times: Vec<f64> = taken.iter().map(|usages| usages[at].cpu).collect();
                figures.push(Figure::of(&format!("memory, {verb}"), case, 0, name, memory, &peaks));
                figures.push(Figure::of(&format!("CPU, {verb}"), case, 0, name, cpu, &times));
            }
        }
        let host_thread = HostThread::start(scope, "floor", Floor::new);
        let floor_times = host_thread.run(|host, floor| usage(host, &Command::new(floor.empty()), b""));
        figures.push(Figure::of("memory, ADD", case, 0, "empty program", memory, &[floor_times.peak]));
        figures.push(Figure::of("CPU, ADD", case, 0, "empty program", cpu, &[floor_times.cpu]));
        figures
    })
}

/// The usage of an ADD and its DEL.
fn usages(host: &Host, network: &mut Network) -> [Usage; 2] {
    let pod = host.pod();
    ["ADD", "DEL"].map(|verb| {
        let call = network.call(verb, "usage", &pod);
        usage(host, &call.process(), call.input())
    })
}

/// Starts a process through a small launcher process of this program, and returns its usage.
fn usage(host: &Host, command: &Command, input: &[u8]) -> Usage {
    let file = host.scratch().join("usage");
    let mut launcher = Command::new("/proc/self/exe");
    launcher.env_clear().arg(command.get_program()).env(USAGE_FILE, &file);
    launcher.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    call::run(launcher, input);
    let answer = std::fs::read_to_string(file).expect("a file that the launcher wrote");
    let mut numbers = answer.split(' ').map(|word| word.parse::<f64>().expect("a number"));
    let mut next = || numbers.next().expect("two numbers");
    Usage { peak: next() / 1024.0, cpu: next() / 1e3 }
}
