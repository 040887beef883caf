//! Packets from pod to pod, on one node and between two nodes, on each path.

mod cpu;
mod load;
mod one_node;
mod other_node;
mod path;

use std::time::Duration;

use crate::machine::Machine;
use crate::network::Contestant;
use crate::options::{Common, NetOptions, Section, command_line};
use crate::report::{Figure, Report};
use crate::tables;

use self::load::{Ends, Measurement};

/// A load, with its duration in a quick run. A full run takes five times as long.
type Load = (fn(&Ends, Duration) -> Vec<Measurement>, Duration);

/// The results of one path: its name, and the values of each round.
type Samples = (&'static str, Vec<Measurement>);

/// Measures all loads, writes a JSON file for each section and prints the tables.
pub(crate) fn run(options: &NetOptions) {
    let contestants = Contestant::find(&options.common);
    for section in options.sections() {
        let machine = Machine::look(&options.common);
        let figures = match section {
            Section::OneNode => one_node::measure(options, &contestants),
            Section::OtherNode => other_node::measure(options, &contestants),
        };
        let report = Report { machine, command: command_line(), figures };
        if let Some(path) = &options.common.json {
            report.write(&section.file(path));
        }
        tables::print(&report);
    }
}

/// Measures each load on each path in each round. `measure` runs a load on the path with an index.
fn rounds(
    options: &Common,
    names: &[&'static str],
    loads: &[Load],
    measure: impl Fn(usize, Load) -> Vec<Measurement>,
) -> Vec<Samples> {
    let rounds = options.rounds(3, 15);
    let factor = if options.quick { 1 } else { 5 };
    let mut samples: Vec<Samples> = names.iter().map(|name| (*name, Vec::new())).collect();
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        for (load, time) in loads {
            // The order changes, because an earlier measurement may affect the next one.
            for place in 0..names.len() {
                let at = (round + place) % names.len();
                samples[at].1.extend(measure(at, (*load, *time * factor)));
            }
        }
    }
    samples
}

fn figures((name, measurements): &Samples, case: &str, pods: usize) -> Vec<Figure> {
    let kinds = tables::distinct(measurements.iter().map(|one| (one.measure, one.unit)));
    kinds
        .into_iter()
        .map(|(measure, unit)| {
            let values = measurements.iter().filter(|one| one.measure == measure).map(|one| one.value);
            Figure::of(measure, case, pods, name, unit, &values.collect::<Vec<_>>())
        })
        .collect()
}
