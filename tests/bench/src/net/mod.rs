//! Packets from pod to pod on one node, on each path.

mod cpu;
mod load;
mod path;

use std::thread;
use std::time::Duration;

use crate::machine::Machine;
use crate::network::Contestant;
use crate::options::{NetOptions, as_typed};
use crate::report::{Figure, Report};
use crate::site::Site;
use crate::tables;

use self::load::Measured;
use self::path::{Fixture, Path};

/// The loads of each path in each round, with their duration in a quick run. A full run takes five
/// times as long.
const LOADS: [(Load, Duration); 4] = [
    (load::round_trips, Duration::from_millis(100)),
    (load::stream, Duration::from_millis(200)),
    (load::datagrams, Duration::from_millis(200)),
    (load::connections, Duration::from_millis(100)),
];

type Load = fn(&load::Ends, Duration) -> Vec<Measured>;

/// The results of one path: its name, and the values of each round.
type Samples = (String, Vec<Measured>);

/// Measures all loads, writes the JSON file and prints the tables.
pub(crate) fn run(options: &NetOptions) {
    let machine = Machine::look(&options.common);
    let contestants = Contestant::find(&options.common);
    let mut figures = Vec::new();
    for pods in options.pods() {
        figures.extend(measure(options, &contestants, pods.max(2)));
    }
    let report = Report { machine, command: as_typed(), figures };
    if let Some(path) = &options.common.json {
        report.write(path);
    }
    tables::print(&report);
}

/// Measures with this number of pods.
fn measure(options: &NetOptions, contestants: &[Contestant], pods: usize) -> Vec<Figure> {
    thread::scope(|scope| {
        let sites: Vec<(&str, Site<Fixture>)> = Path::ALL
            .into_iter()
            .filter_map(|path| {
                let contestant = path.contestant();
                let plugin = contestants.iter().find(|one| Some(one.name) == contestant);
                let network = plugin.map(|plugin| path.network(plugin));
                let is_there = contestant.is_none() || network.is_some();
                let site = || Site::start(scope, path.name(), move |host| Fixture::new(host, path, network, pods));
                is_there.then(|| (path.name(), site()))
            })
            .collect();
        for (name, site) in &sites {
            eprintln!("{name}, with {pods} pods");
            site.run(|host, fixture: &mut Fixture| fixture.assert_way(host));
        }

        let rounds = options.common.rounds(3, 15);
        let factor = if options.common.quick { 1 } else { 5 };
        let mut samples: Vec<Samples> = sites.iter().map(|(name, _)| ((*name).to_owned(), Vec::new())).collect();
        for round in 0..rounds {
            eprintln!("round {} of {rounds}", round + 1);
            for (load, time) in LOADS {
                // The order changes, because an earlier measurement may affect the next one.
                for place in 0..sites.len() {
                    let at = (round + place) % sites.len();
                    samples[at].1.extend(sites[at].1.run(move |_, fixture| load(fixture.ends(), time * factor)));
                }
            }
        }
        for (_, site) in &sites {
            site.run(|host, fixture| fixture.assert_way(host));
        }
        samples.iter().flat_map(|samples| figures(samples, pods)).collect()
    })
}

fn figures((name, measured): &Samples, pods: usize) -> Vec<Figure> {
    let kinds = tables::distinct(measured.iter().map(|one| (one.measure, one.unit)));
    kinds
        .into_iter()
        .map(|(measure, unit)| {
            let values = measured.iter().filter(|one| one.measure == measure).map(|one| one.value);
            Figure::of(measure, "IPv4", pods, name, unit, &values.collect::<Vec<_>>())
        })
        .collect()
}
