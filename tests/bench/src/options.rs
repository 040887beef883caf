//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Measures simple-ebpf-cni beside the reference plugins, and draws what it measured
///
/// Everything runs on private hosts: no interface, mount or file of this machine is touched. Progress goes to standard
/// error, the tables to standard output.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 120)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// ADD, CHECK and DEL: how long they take, how many at once, and what an ADD is made of
    Add(AddOptions),

    /// Packets from pod to pod: latency, throughput, connections and CPU time, by each way that leads there
    Net(NetOptions),

    /// Collects what `cargo bench` has measured of the library
    Library(LibraryOptions),

    /// Writes the tables and pictures of the documentation from results
    Plot(PlotOptions),
}

/// What both measurements are told.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Our binary
    #[arg(long, value_name = "FILE", default_value = "target/release/simple-ebpf-cni")]
    pub(crate) plugin: PathBuf,

    /// The folder with bridge, ptp and host-local; those that it lacks are left out
    #[arg(long, value_name = "DIR", default_value = "/usr/lib/cni")]
    pub(crate) peers: PathBuf,

    /// Few rounds, to see that all works
    #[arg(long)]
    pub(crate) quick: bool,

    /// How often each thing is measured; contestants take turns within a round
    #[arg(long, value_name = "N")]
    pub(crate) rounds: Option<usize>,

    /// Where the results go, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct AddOptions {
    #[command(flatten)]
    pub(crate) common: Common,

    /// Measure the first ADDs of networks alone, which take a minute
    #[arg(long)]
    pub(crate) first: bool,

    /// Beside how many pods, in ascending order [default: 1,100,500,1000; quick: 1,10]
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    pub(crate) pods: Vec<usize>,

    /// A folder on a disk, for the case with state on one
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    pub(crate) disk: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct NetOptions {
    #[command(flatten)]
    pub(crate) common: Common,

    /// With how many pods on the node, in ascending order [default: 2,200; quick: 2]
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    pub(crate) pods: Vec<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct LibraryOptions {
    /// Where criterion keeps its results
    #[arg(long, value_name = "DIR", default_value = "target/criterion")]
    pub(crate) criterion: PathBuf,

    /// Where the results go, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PlotOptions {
    /// Where add.json, net.json and library.json are, and the pictures go
    #[arg(long, value_name = "DIR", default_value = "docs/benchmarks")]
    pub(crate) data: PathBuf,

    /// The document with the tables
    #[arg(long, value_name = "FILE", default_value = "docs/benchmarks.md")]
    pub(crate) docs: PathBuf,
}

impl Command {
    pub(crate) fn needs_root(&self) -> bool {
        matches!(self, Self::Add(_) | Self::Net(_))
    }
}

impl Common {
    /// The number of rounds: as told, else by how quick it is to be.
    pub(crate) fn rounds(&self, quick: usize, full: usize) -> usize {
        self.rounds.unwrap_or(if self.quick { quick } else { full }).max(1)
    }
}

/// What to type to measure the same again: `make` chooses by itself what is measured, and where results go.
pub(crate) fn as_typed() -> String {
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

impl NetOptions {
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
