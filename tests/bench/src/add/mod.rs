//! ADD, CHECK and DEL of each contestant from the view of a runtime: one process for each call.

mod first;
mod floor;
mod latency;
mod rates;
mod resources;
mod steps;

use tempfile::TempDir;

use crate::machine::{Machine, file_system};
use crate::network::{Case, Contestant};
use crate::options::{AddOptions, command_line};
use crate::report::{Figure, Report};
use crate::tables;

/// The installed plugins.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    contestants: Vec<Contestant>,
    /// A folder on a disk, and its file system type.
    disk: (std::path::PathBuf, String),
}

/// Measures all parts, writes the JSON file and prints the tables.
pub(crate) fn run(options: &AddOptions) {
    let mut machine = Machine::look(&options.common);
    let disk = TempDir::with_prefix_in("cnikit-bench-", &options.disk)
        .unwrap_or_else(|error| panic!("{}: {error}", options.disk.display()));
    let setup = Setup {
        contestants: Contestant::find(&options.common),
        disk: (disk.path().to_owned(), file_system(disk.path())),
    };
    machine.versions.insert("state".to_owned(), format!("tmpfs; {} in the disk case", setup.disk.1));

    let mut report = Report { machine, command: command_line(), figures: Vec::new() };
    // The results are written after each part: a failing peer ends the run, and must not discard
    // minutes of measurement.
    let mut keep = |figures: Vec<Figure>| {
        report.figures.extend(figures);
        if let Some(path) = &options.common.json {
            report.write(path);
        }
    };
    keep(first::measure(options, &setup));
    if options.first {
        tables::print(&report);
        return;
    }
    keep(rates::measure(options, &setup));
    keep(resources::measure(options, &setup));
    keep(steps::measure(options, &setup));
    for case in Case::ALL {
        keep(latency::measure(options, &setup, case));
    }
    tables::print(&report);
}
