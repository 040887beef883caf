//! Packets between two pods of one node.

use std::thread;
use std::time::Duration;

use crate::host_thread::HostThread;
use crate::network::Contestant;
use crate::options::NetOptions;
use crate::report::{Figure, ONE_NODE};

use super::path::{Fixture, Path};
use super::{Load, figures, load, rounds};

/// The loads of each path in each round.
const LOADS: [Load; 4] = [
    (load::round_trips, Duration::from_millis(100)),
    (load::stream, Duration::from_millis(200)),
    (load::datagrams, Duration::from_millis(200)),
    (load::connections, Duration::from_millis(100)),
];

pub(super) fn measure(options: &NetOptions, contestants: &[Contestant]) -> Vec<Figure> {
    options.pods().into_iter().flat_map(|pods| measure_beside(options, contestants, pods.max(2))).collect()
}

/// Measures with this number of pods.
fn measure_beside(options: &NetOptions, contestants: &[Contestant], pods: usize) -> Vec<Figure> {
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
        let names: Vec<_> = host_threads.iter().map(|(name, _)| *name).collect();
        let samples = rounds(&options.common, &names, &LOADS, |at, (load, time)| {
            host_threads[at].1.run(move |_, fixture| load(fixture.ends(), time))
        });
        for (_, host_thread) in &host_threads {
            host_thread.run(|host, fixture| fixture.assert_path(host));
        }
        samples.iter().flat_map(|samples| figures(samples, ONE_NODE, pods)).collect()
    })
}
