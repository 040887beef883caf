//! Stored results: one JSON file for each measurement, the source of tables and pictures.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// The cases of packets between pods: on one node, and between two nodes.
pub(crate) const ONE_NODE: &str = "IPv4";
pub(crate) const OTHER_NODE: &str = "IPv4, other node";

/// The floor of both cases.
pub(crate) const FLOOR: &str = "veth pair";

/// The ways of this project to another node.
pub(crate) const DIRECT: &str = "cnikit, direct";
pub(crate) const VXLAN: &str = "cnikit, VXLAN";

/// All results of one run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// The command that repeats the measurement.
    pub(crate) command: String,
    pub(crate) figures: Vec<Figure>,
}

/// The result of one contestant in one case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// The measure: `ADD`, `TCP_RR`...
    pub(crate) measure: String,
    /// The variant: `IPv4`, `dual stack`...
    pub(crate) case: String,
    /// The number of pods, or of parallel calls.
    pub(crate) load: usize,
    pub(crate) implementation: String,
    pub(crate) unit: String,
    #[serde(flatten)]
    pub(crate) summary: Summary,
}

/// The statistics of samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// The number of samples.
    pub(crate) samples: usize,
    pub(crate) min: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Report {
    pub(crate) fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    pub(crate) fn write(&self, path: &Path) {
        let mut text = serde_json::to_string_pretty(self).expect("a report is JSON");
        text.push('\n');
        fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// One figure, if it was measured.
    pub(crate) fn figure(&self, measure: &str, case: &str, load: usize, implementation: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| {
            (figure.measure.as_str(), figure.case.as_str(), figure.load, figure.implementation.as_str())
                == (measure, case, load, implementation)
        })
    }
}

impl Figure {
    /// A figure from at least one sample.
    pub(crate) fn of(
        measure: &str,
        case: &str,
        load: usize,
        implementation: &str,
        unit: &str,
        samples: &[f64],
    ) -> Self {
        let [measure, case, implementation, unit] = [measure, case, implementation, unit].map(str::to_owned);
        Self { measure, case, load, implementation, unit, summary: Summary::of(samples) }
    }
}

impl Summary {
    /// The statistics of at least one sample. A percentile is the next higher sample.
    pub(crate) fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).saturating_sub(1)];
        Self { samples: sorted.len(), min: at(0), p50: at(50), p90: at(90), p99: at(99), max: at(100) }
    }
}

#[cfg(test)]
mod tests {
    use super::Summary;

    #[test]
    fn percentiles_are_samples() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let summary = Summary::of(&hundred);
        assert_eq!((summary.min, summary.p50, summary.p90, summary.p99, summary.max), (1.0, 50.0, 90.0, 99.0, 100.0));
    }

    #[test]
    fn one_sample_is_all_percentiles() {
        let summary = Summary::of(&[4.0]);
        assert_eq!((summary.samples, summary.min, summary.p50, summary.p99, summary.max), (1, 4.0, 4.0, 4.0, 4.0));
    }

    #[test]
    fn median_of_an_odd_number_is_the_middle() {
        assert_eq!(Summary::of(&[9.0, 1.0, 5.0]).p50, 5.0);
    }
}
