//! Packets from pod to pod on one node, on each path.

mod cpu;
mod load;
mod path;

use std::thread;
use std::time::Duration;

use crate::host_thread::HostThread;
use crate::machine::Machine;
use crate::network::Contestant;
use crate::options::{NetOptions, command_line};
use crate::report::{Figure, Report};
use crate::tables;

use self::load::Measurement;
use self::path::{Fixture, Path};

/// The loads of each path in each round, with their duration in a quick run. A full run takes five
/// times as long.
const LOADS: [(Load, Duration); 4] = [
    (load::round_trips, Duration::from_millis(100)),
    (load::stream, Duration::from_millis(200)),
    (load::datagrams, Duration::from_millis(200)),
    (load::connections, Duration::from_millis(100)),
];

type Load = fn(&load::Ends, Duration) -> Vec<Measurement>;

/// The results of one path: its name, and the values of each round.
type Samples = (String, Vec<Measurement>);

/// Measures all loads, writes the JSON file and prints the tables.
pub(crate) fn run(options: &NetOptions) {
    let machine = Machine::look(&options.common);
    let contestants = Contestant::find(&options.common);
    let mut figures = Vec::new();
    for pods in options.pods() {
        figures.extend(measure(options, &contestants, pods.max(2)));
    }
    let report = Report { machine, command: command_line(), figures };
    if let Some(path) = &options.common.json {
        report.write(path);
    }
    tables::print(&report);
}

/// Measures with this number of pods.
fn measure(options: &NetOptions, contestants: &[Contestant], pods: usize) -> Vec<Figure> {
    thread::scope(|scope| {
        let host_threads: Vec<(&str, HostThread<Fixture>)> = Path::ALL
            .into_iter()
            .filter_map(|path| {
                let contestant = path.contestant();
                let plugin = contestants.iter().find(|one| Some(one.name) == contestant);
                let network = plugin.map(|plugin| path.network(plugin));
                let is_there = contestant.is_none() || network.is_some();
                let host_thread =
                    || HostThread::start(scope, path.name(), move |host| Fixture::new(host, path, network, pods));
                is_there.then(|| (path.name(), host_thread()))
            })
            .collect();
        for (name, host_thread) in &host_threads {
            eprintln!("{name} with {pods} pods");
            host_thread.run(|host, fixture: &mut Fixture| fixture.assert_path(host));
        }

        let rounds = options.common.rounds(3, 15);
        let factor = if options.common.quick { 1 } else { 5 };
        let mut samples: Vec<Samples> = host_threads.iter().map(|(name, _)| ((*name).to_owned(), Vec::new())).collect();
        for round in 0..rounds {
            eprintln!("round {} of {rounds}", round + 1);
            for (load, time) in LOADS {
                // The order changes, because an earlier measurement may affect the next one.
                for place in 0..host_threads.len() {
                    let at = (round + place) % host_threads.len();
                    samples[at].1.extend(host_threads[at].1.run(move |_, fixture| load(fixture.ends(), time * factor)));
                }
            }
        }
        for (_, host_thread) in &host_threads {
            host_thread.run(|host, fixture| fixture.assert_path(host));
        }
        samples.iter().flat_map(|samples| figures(samples, pods)).collect()
    })
}

fn figures((name, measurements): &Samples, pods: usize) -> Vec<Figure> {
    let kinds = tables::distinct(measurements.iter().map(|one| (one.measure, one.unit)));
    kinds
        .into_iter()
        .map(|(measure, unit)| {
            let values = measurements.iter().filter(|one| one.measure == measure).map(|one| one.value);
            Figure::of(measure, "IPv4", pods, name, unit, &values.collect::<Vec<_>>())
        })
        .collect()
}
