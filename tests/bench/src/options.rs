//! The command line.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Measures simple-ebpf-cni and the reference plugins, and draws the results
///
/// Everything runs on private hosts: no interface, mount or file of this machine changes. Progress
/// goes to standard error, the tables go to standard output.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 120)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// ADD, CHECK and DEL: latency, rate of parallel calls, and steps of an ADD
    Add(AddOptions),

    /// Packets from pod to pod on each path, on one node and between two nodes
    Net(NetOptions),

    /// Collects the `cargo bench` results of the library
    Library(LibraryOptions),

    /// Writes the tables and pictures of the documentation from results
    Plot(PlotOptions),
}

/// The options of both measurements.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Path of the simple-ebpf-cni binary
    #[arg(long, value_name = "FILE", default_value = "target/release/simple-ebpf-cni")]
    pub(crate) plugin: PathBuf,

    /// Directory with bridge, ptp and host-local; missing plugins are skipped
    #[arg(long, value_name = "DIR", default_value = "/usr/lib/cni")]
    pub(crate) peers: PathBuf,

    /// Run few rounds, to test the benchmark itself
    #[arg(long)]
    pub(crate) quick: bool,

    /// Number of measurements; contestants alternate within a round
    #[arg(long, value_name = "N")]
    pub(crate) rounds: Option<usize>,

    /// JSON file for the results
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct AddOptions {
    #[command(flatten)]
    pub(crate) common: Common,

    /// Measure only the first ADDs of networks, which takes a minute
    #[arg(long)]
    pub(crate) first: bool,

    /// Numbers of attached pods, in ascending order [default: 1,100,500,1000; quick: 1,10]
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    pub(crate) pods: Vec<usize>,

    /// Directory on a disk, for the case with state on a disk
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    pub(crate) disk: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct NetOptions {
    #[command(flatten)]
    pub(crate) common: Common,

    /// Numbers of pods on the node, in ascending order [default: 2,200; quick: 2]
    ///
    /// Only for the section one-node.
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    pub(crate) pods: Vec<usize>,

    /// Sections of the measurement [default: all]
    ///
    /// The results of other-node have a JSON file of their own, with this suffix.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub(crate) section: Vec<Section>,
}

/// A part of the measurement of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Section {
    /// Packets between two pods of one node
    OneNode,
    /// Packets between pods of two nodes
    OtherNode,
}

#[derive(Debug, Args)]
pub(crate) struct LibraryOptions {
    /// Directory of the criterion results
    #[arg(long, value_name = "DIR", default_value = "target/criterion")]
    pub(crate) criterion: PathBuf,

    /// JSON file for the results
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PlotOptions {
    /// Directory of add.json, net.json and library.json, and of the pictures
    #[arg(long, value_name = "DIR", default_value = "docs/benchmarks")]
    pub(crate) data: PathBuf,

    /// Document with the tables
    #[arg(long, value_name = "FILE", default_value = "docs/benchmarks.md")]
    pub(crate) docs: PathBuf,
}

impl Command {
    pub(crate) fn needs_root(&self) -> bool {
        matches!(self, Self::Add(_) | Self::Net(_))
    }
}

impl Common {
    /// The number of rounds: the option, or a default for quick and full runs.
    pub(crate) fn rounds(&self, quick: usize, full: usize) -> usize {
        self.rounds.unwrap_or(if self.quick { quick } else { full }).max(1)
    }
}

/// The command that repeats the measurement. `make` chooses the binaries and the result files
/// itself.
pub(crate) fn command_line() -> String {
    let mut words = std::env::args().skip(1);
    let what = words.next().unwrap_or_default();
    let mut options = Vec::new();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--plugin" | "--peers" | "--json" => drop(words.next()),
            _ => options.push(word),
        }
    }
    match options.join(" ") {
        none if none.is_empty() => format!("make bench-{what}"),
        options => format!("make bench-{what} BENCH=\"{options}\""),
    }
}

impl Section {
    /// The file of this section's results: `net.json`, or `net-other-node.json`.
    pub(crate) fn file(self, json: &Path) -> PathBuf {
        match self {
            Self::OneNode => json.to_owned(),
            Self::OtherNode => {
                let stem = json.file_stem().unwrap_or_default().to_string_lossy();
                json.with_file_name(format!("{stem}-other-node.json"))
            }
        }
    }
}

impl NetOptions {
    pub(crate) fn sections(&self) -> Vec<Section> {
        match self.section.as_slice() {
            [] => vec![Section::OneNode, Section::OtherNode],
            sections => sections.to_vec(),
        }
    }

    pub(crate) fn pods(&self) -> Vec<usize> {
        match self.pods.as_slice() {
            [] if self.common.quick => vec![2],
            [] => vec![2, 200],
            pods => pods.to_vec(),
        }
    }
}

impl AddOptions {
    pub(crate) fn pods(&self) -> Vec<usize> {
        match self.pods.as_slice() {
            [] if self.common.quick => vec![1, 10],
            [] => vec![1, 100, 500, 1_000],
            pods => pods.to_vec(),
        }
    }
}
