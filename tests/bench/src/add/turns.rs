//! ADD, CHECK and DEL in alternation: each round runs each contestant once, with an increasing
//! number of pods.

use std::thread;
use std::time::Duration;

use crate::add::Field;
use crate::add::floor::{Floor, Least};
use crate::network::{Case, Network, Turn, peers_of};
use crate::options::AddOptions;
use crate::report::Figure;
use crate::site::Site;

/// The values of one contestant with this number of pods.
struct Samples {
    name: &'static str,
    turns: Vec<Turn>,
}

/// Measures one case.
pub(crate) fn measure(options: &AddOptions, field: &Field, case: Case) -> Vec<Figure> {
    thread::scope(|scope| {
        let mut sites: Vec<_> = peers_of(case, &field.contestants)
            .map(|contestant| {
                let network = contestant.network(case, &field.disk.0);
                (contestant.name, Site::start(scope, contestant.name, |_| network))
            })
            .collect();
        let floor = Site::start(scope, "floor", Floor::new);

        let mut figures = Vec::new();
        for pods in options.pods() {
            eprintln!("{}, beside {pods} pods", case.name());
            sites.retain(|(name, site)| {
                let populated = site.run(move |host, network| network.populate_in_time(host, pods));
                if !populated {
                    eprintln!("NOT MEASURED: {name} beside {pods} pods or more: to attach them takes too long");
                }
                let understood = site.run(|host, network| network.understood(host));
                if !understood {
                    eprintln!("NOT MEASURED: {name}, {}: it does not know that", case.name());
                }
                populated && understood
            });
            // The kernel's work for a port grows with the ports of its bridge. The floor is
            // measured in one case only.
            if case == Case::Ipv4 {
                floor.run(move |host, floor| floor.populate(host, pods));
            }
            let (samples, least) = rounds(&sites, &floor, options.common.rounds(5, 100));
            for Samples { name, turns } in &samples {
                type Verb = fn(&Turn) -> Duration;
                let verbs: [(&str, Verb); 3] =
                    [("ADD", |turn| turn.add), ("CHECK", |turn| turn.check), ("DEL", |turn| turn.del)];
                figures.extend(verbs.map(|(verb, time)| {
                    let times: Vec<f64> = turns.iter().map(|turn| millis(time(turn))).collect();
                    Figure::of(verb, case.name(), pods, name, "ms", &times)
                }));
            }
            if case == Case::Ipv4 {
                figures.extend(floors(&least, case, pods));
            }
        }
        figures
    })
}

/// One call of each contestant in each round. The order changes from round to round, because an
/// earlier call may affect the next one.
fn rounds(sites: &[(&'static str, Site<Network>)], floor: &Site<Floor>, rounds: usize) -> (Vec<Samples>, Vec<Least>) {
    let mut samples: Vec<_> = sites.iter().map(|(name, _)| Samples { name, turns: Vec::new() }).collect();
    let mut least = Vec::new();
    for round in 0..rounds {
        for place in 0..sites.len() {
            let at = (round + place) % sites.len();
            samples[at].turns.push(sites[at].1.run(|host, network| network.turn(host)));
        }
        least.push(floor.run(|host, floor| floor.turn(host)));
    }
    for (_, site) in sites {
        site.run(|_, network| network.settle());
    }
    floor.run(|_, floor| floor.settle());
    (samples, least)
}

/// The floor of ADD is a process and its messages; the floor of DEL is `ip link del`.
fn floors(least: &[Least], case: Case, pods: usize) -> [Figure; 4] {
    type Part = fn(&Least) -> Duration;
    let parts: [(&str, &str, Part); 4] = [
        ("ADD", "floor", |least| least.exec + least.messages),
        ("floor", "exec", |least| least.exec),
        ("floor", "messages", |least| least.messages),
        ("DEL", "ip link del", |least| least.link_del),
    ];
    parts.map(|(measure, name, part)| {
        let times: Vec<f64> = least.iter().map(|least| millis(part(least))).collect();
        Figure::of(measure, case.name(), pods, name, "ms", &times)
    })
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
