//! How much memory a call takes at its peak.

use std::process::Command;
use std::thread;

use cnikit_testbed::{Host, Invocation};

use crate::add::Field;
use crate::add::floor::Floor;
use crate::call;
use crate::launcher::PEAK_FILE;
use crate::network::{Case, Network};
use crate::options::AddOptions;
use crate::report::Figure;
use crate::site::Site;

/// The peak of the largest process of each call, the first of its network and a later one.
pub(crate) fn measure(options: &AddOptions, field: &Field) -> Vec<Figure> {
    eprintln!("memory");
    let rounds = options.common.rounds(2, 5);
    thread::scope(|scope| {
        let mut figures = Vec::new();
        for contestant in &field.contestants {
            let network = contestant.network(Case::Ipv4, &field.disk.0);
            let site = Site::start(scope, contestant.name, |_| network);
            let peaks: Vec<[f64; 2]> = (0..=rounds).map(|_| site.run(peaks)).collect();
            let case = Case::Ipv4.name();
            figures.push(Figure::of("memory, first ADD", case, 0, contestant.name, "MiB", &[peaks[0][0]]));
            for (at, measure) in ["memory, ADD", "memory, DEL"].into_iter().enumerate() {
                let peaks: Vec<f64> = peaks[1..].iter().map(|peaks| peaks[at]).collect();
                figures.push(Figure::of(measure, case, 0, contestant.name, "MiB", &peaks));
            }
        }
        let site = Site::start(scope, "floor", Floor::new);
        let least = site.run(|host, floor| peak(host, &Command::new(floor.empty()), b""));
        figures.push(Figure::of("memory, ADD", Case::Ipv4.name(), 0, "least that is seen", "MiB", &[least]));
        figures
    })
}

/// The peaks of an ADD and of its DEL.
fn peaks(host: &Host, network: &mut Network) -> [f64; 2] {
    let pod = host.pod();
    ["ADD", "DEL"].map(|verb| {
        let call: Invocation = network.call(verb, "m", &pod);
        peak(host, &call.process(), call.input())
    })
}

/// Has a small process of this program start another, and tell its peak in MiB.
fn peak(host: &Host, command: &Command, input: &[u8]) -> f64 {
    let file = host.scratch().join("peak");
    let mut launcher = Command::new("/proc/self/exe");
    launcher.env_clear().arg(command.get_program()).env(PEAK_FILE, &file);
    launcher.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    call::run(launcher, input);
    let kib = std::fs::read_to_string(file).expect("a file that the launcher wrote");
    kib.parse::<f64>().expect("a number") / 1024.0
}
