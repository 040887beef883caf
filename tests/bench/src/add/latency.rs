//! ADD, CHECK and DEL in alternation: each round runs each contestant once, with an increasing
//! number of pods.

use std::thread;
use std::time::Duration;

use crate::add::Setup;
use crate::add::floor::{Floor, FloorTimes};
use crate::host_thread::HostThread;
use crate::network::{CallTimes, Case, Network, peers_of};
use crate::options::AddOptions;
use crate::report::Figure;

/// The values of one contestant with this number of pods.
struct Samples {
    name: &'static str,
    latency: Vec<CallTimes>,
}

/// Measures one case.
pub(crate) fn measure(options: &AddOptions, setup: &Setup, case: Case) -> Vec<Figure> {
    thread::scope(|scope| {
        let mut host_threads: Vec<_> = peers_of(case, &setup.contestants)
            .map(|contestant| {
                let network = contestant.network(case, &setup.disk.0);
                (contestant.name, HostThread::start(scope, contestant.name, |_| network))
            })
            .collect();
        let floor = HostThread::start(scope, "floor", Floor::new);

        let mut figures = Vec::new();
        for pods in options.pods() {
            eprintln!("{} with {pods} pods", case.name());
            host_threads.retain(|(name, host_thread)| {
                let populated = host_thread.run(move |host, network| network.populate_in_time(host, pods));
                if !populated {
                    eprintln!("NOT MEASURED: {name} with {pods} or more pods: attaching them takes too long");
                }
                let supported = host_thread.run(|host, network| network.supported(host));
                if !supported {
                    eprintln!("NOT MEASURED: {name}, {}: not supported", case.name());
                }
                populated && supported
            });
            // The kernel's work for a port grows with the ports of its bridge. The floor is
            // measured in one case only.
            if case == Case::Ipv4 {
                floor.run(move |host, floor| floor.populate(host, pods));
            }
            let (samples, floor_times) = rounds(&host_threads, &floor, options.common.rounds(5, 100));
            for Samples { name, latency } in &samples {
                type Verb = fn(&CallTimes) -> Duration;
                let verbs: [(&str, Verb); 3] = [
                    ("ADD", |call_times| call_times.add),
                    ("CHECK", |call_times| call_times.check),
                    ("DEL", |call_times| call_times.del),
                ];
                figures.extend(verbs.map(|(verb, time)| {
                    let times: Vec<f64> = latency.iter().map(|call_times| millis(time(call_times))).collect();
                    Figure::of(verb, case.name(), pods, name, "ms", &times)
                }));
            }
            if case == Case::Ipv4 {
                figures.extend(floors(&floor_times, case, pods));
            }
        }
        figures
    })
}

/// One call of each contestant in each round. The order changes from round to round, because an
/// earlier call may affect the next one.
fn rounds(
    host_threads: &[(&'static str, HostThread<Network>)],
    floor: &HostThread<Floor>,
    rounds: usize,
) -> (Vec<Samples>, Vec<FloorTimes>) {
    let mut samples: Vec<_> = host_threads.iter().map(|(name, _)| Samples { name, latency: Vec::new() }).collect();
    let mut floor_times = Vec::new();
    for round in 0..rounds {
        for place in 0..host_threads.len() {
            let at = (round + place) % host_threads.len();
            samples[at].latency.push(host_threads[at].1.run(|host, network| network.call_times(host)));
        }
        floor_times.push(floor.run(|host, floor| floor.call_times(host)));
    }
    for (_, host_thread) in host_threads {
        host_thread.run(|_, network| network.settle());
    }
    floor.run(|_, floor| floor.settle());
    (samples, floor_times)
}

/// The floor of ADD is a process and its messages; the floor of DEL is `ip link del`.
fn floors(floor_times: &[FloorTimes], case: Case, pods: usize) -> [Figure; 4] {
    type Part = fn(&FloorTimes) -> Duration;
    let parts: [(&str, &str, Part); 4] = [
        ("ADD", "floor", |floor_times| floor_times.exec + floor_times.messages),
        ("floor", "exec", |floor_times| floor_times.exec),
        ("floor", "messages", |floor_times| floor_times.messages),
        ("DEL", "ip link del", |floor_times| floor_times.link_del),
    ];
    parts.map(|(measure, name, part)| {
        let times: Vec<f64> = floor_times.iter().map(|floor_times| millis(part(floor_times))).collect();
        Figure::of(measure, case.name(), pods, name, "ms", &times)
    })
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
