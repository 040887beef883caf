//! ADD, CHECK and DEL of each contestant, as a runtime sees them: a process each.

mod call;
mod floor;
mod memory;
mod network;
mod rates;
mod steps;
mod turns;

use tempfile::TempDir;

use crate::machine::{Machine, file_system};
use crate::options::AddOptions;
use crate::report::{Figure, Report, Summary};
use crate::tables;

use self::network::{Case, Contestant};

/// The plugins that are there.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    contestants: Vec<Contestant>,
    /// A folder on a disk, and its file system's kind.
    disk: (std::path::PathBuf, String),
}

/// Measures everything, writes the JSON file and prints the tables.
pub(crate) fn run(options: &AddOptions) {
    let mut machine = Machine::look(&options.common);
    let disk = TempDir::with_prefix_in("cnikit-bench-", &options.disk)
        .unwrap_or_else(|error| panic!("{}: {error}", options.disk.display()));
    let field = Field {
        contestants: Contestant::find(&options.common),
        disk: (disk.path().to_owned(), file_system(disk.path())),
    };
    machine.versions.insert("state".to_owned(), format!("tmpfs, or {} where disk is said", field.disk.1));

    let mut figures = Vec::new();
    for case in Case::ALL {
        figures.extend(turns::measure(options, &field, case));
    }
    figures.extend(rates::measure(options, &field));
    figures.extend(memory::measure(options, &field));
    figures.extend(steps::measure(options, &field));
    let report = Report { machine, command: "make bench-add".to_owned(), figures };
    if let Some(path) = &options.common.json {
        report.write(path);
    }
    tables::print(&report);
}

/// A figure of the samples, of which there is at least one.
fn figure(measure: &str, case: &str, load: usize, implementation: &str, unit: &str, samples: &[f64]) -> Figure {
    let [measure, case, implementation, unit] = [measure, case, implementation, unit].map(str::to_owned);
    Figure { measure, case, load, implementation, unit, summary: Summary::of(samples) }
}
