//! The criterion results of the library, converted to the format of the other results.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::machine::Machine;
use crate::options::LibraryOptions;
use crate::report::{Figure, Report, Summary};
use crate::tables;

/// The used members of criterion's `benchmark.json`.
#[derive(Debug, Deserialize)]
struct Benchmark {
    /// `area/case`.
    group_id: String,
    function_id: Option<String>,
}

/// The used members of criterion's `estimates.json`.
#[derive(Debug, Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Debug, Deserialize)]
struct Estimate {
    /// In nanoseconds.
    point_estimate: f64,
    confidence_interval: Interval,
}

#[derive(Debug, Deserialize)]
struct Interval {
    lower_bound: f64,
    upper_bound: f64,
}

/// Collects the medians of the last `cargo bench`, writes the JSON file and prints the table.
pub(crate) fn run(options: &LibraryOptions) {
    let mut figures: Vec<Figure> = folders(&options.criterion).iter().filter_map(|folder| figure(folder)).collect();
    assert!(!figures.is_empty(), "{}: no criterion results; run `cargo bench` first", options.criterion.display());
    // cnikit first, then the others.
    let key = |figure: &Figure| {
        let Figure { measure, case, implementation, .. } = figure;
        (measure.clone(), tables::natural(case), implementation != "cnikit", implementation.clone())
    };
    figures.sort_by_key(key);
    let report = Report { machine: Machine::read_host(), command: "cargo bench".to_owned(), figures };
    if let Some(path) = &options.json {
        report.write(path);
    }
    tables::print(&report);
}

/// The folders of the newest results, at any depth.
fn folders(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root).into_iter().flatten().filter_map(Result::ok);
    let below = entries.map(|entry| entry.path()).filter(|path| path.is_dir());
    below.flat_map(|path| if path.ends_with("new") { vec![path] } else { folders(&path) }).collect()
}

fn figure(folder: &Path) -> Option<Figure> {
    let benchmark: Benchmark = read(&folder.join("benchmark.json"))?;
    let Estimates { median } = read(&folder.join("estimates.json"))?;
    let (measure, case) = benchmark.group_id.split_once('/')?;
    let interval = median.confidence_interval;
    // Criterion does not export its samples: the spread here is the confidence interval of the
    // median.
    let summary = Summary {
        samples: 1,
        min: interval.lower_bound,
        p50: median.point_estimate,
        p90: interval.upper_bound,
        p99: interval.upper_bound,
        max: interval.upper_bound,
    };
    let [measure, case, unit] = [measure, case, "ns"].map(str::to_owned);
    Some(Figure { measure, case, load: 0, implementation: benchmark.function_id?, unit, summary })
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
