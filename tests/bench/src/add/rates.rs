//! Parallel calls: the number of finished calls per second.

use std::num::NonZeroUsize;
use std::thread;

use crate::add::Setup;
use crate::host_thread::HostThread;
use crate::network::{Case, Network};
use crate::options::AddOptions;
use crate::report::Figure;

const WIDTHS: [usize; 3] = [1, 4, 16];

/// The number of pods in a burst, in addition to one that stays.
const BURST: usize = 48;

pub(crate) fn measure(options: &AddOptions, setup: &Setup) -> Vec<Figure> {
    let burst = if options.common.quick { 16 } else { BURST };
    let rounds = options.common.rounds(2, 15);
    thread::scope(|scope| {
        let host_threads: Vec<_> = setup
            .contestants
            .iter()
            .map(|contestant| {
                let network = contestant.network(Case::Ipv4, &setup.disk.0);
                (contestant.name, HostThread::start(scope, contestant.name, |_| network))
            })
            .collect();
        for (_, host_thread) in &host_threads {
            host_thread.run(|host, network: &mut Network| network.populate(host, 1));
        }
        let mut figures = Vec::new();
        for width in WIDTHS.into_iter().filter_map(NonZeroUsize::new) {
            eprintln!("{width} parallel calls");
            let mut rates: Vec<[Vec<f64>; 2]> = vec![Default::default(); host_threads.len()];
            for round in 0..rounds {
                for place in 0..host_threads.len() {
                    let at = (round + place) % host_threads.len();
                    let times = host_threads[at].1.run(move |host, network| {
                        let times = network.burst(host, burst, width);
                        network.settle();
                        times
                    });
                    for (rates, time) in rates[at].iter_mut().zip(times) {
                        rates.push(burst as f64 / time.as_secs_f64());
                    }
                }
            }
            for ((name, _), rates) in host_threads.iter().zip(&rates) {
                for (verb, rates) in ["ADD rate", "DEL rate"].into_iter().zip(rates) {
                    figures.push(Figure::of(verb, Case::Ipv4.name(), width.get(), name, "per second", rates));
                }
            }
        }
        figures
    })
}
