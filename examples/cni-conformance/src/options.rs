//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Parser, ValueEnum};
use cnikit::spec::{IfName, Version};

const STYLES: Styles =
    Styles::styled().header(AnsiColor::Green.on_default().bold()).literal(AnsiColor::Cyan.on_default().bold());

/// Test a CNI plugin against the rules of the specification.
///
/// Runs the plugin as a container runtime does, in private namespaces. Does not change the network
/// of this machine. Needs root.
#[derive(Debug, Parser)]
#[command(name = "cni-conformance", disable_version_flag = true, styles = STYLES, max_term_width = 110, after_help = EXAMPLES)]
pub(crate) struct Options {
    /// Path of the plugin's executable
    #[arg(long, value_name = "PATH", required_unless_present_any = ["list", "compare"])]
    pub(crate) plugin: Option<PathBuf>,

    /// Network configuration: one object, or a list with the plugin, found by its file name.
    /// Rules about an exhausted pool are skipped if the pool has more than 60 addresses
    #[arg(long, value_name = "FILE", required_unless_present_any = ["list", "compare"])]
    pub(crate) config: Option<PathBuf>,

    /// Test the plugin as a chained plugin: the suite attaches the pod first, and passes
    /// prevResult. The default for a plugin that is not the first one of a list
    #[arg(long)]
    pub(crate) chained: bool,

    /// Directory with delegate plugins, searched after the plugin's own directory; can be repeated
    #[arg(long, value_name = "DIR")]
    pub(crate) cni_path: Vec<PathBuf>,

    /// Version of the specification to try; can be repeated [default: all that the plugin supports]
    #[arg(long = "version", value_name = "V")]
    pub(crate) versions: Vec<Version>,

    /// Name of the interface in the container
    #[arg(long, value_name = "NAME", default_value = "eth0")]
    pub(crate) ifname: IfName,

    /// Script that runs on each private host before the plugin, for example to create a link for
    /// macvlan
    #[arg(long, value_name = "SCRIPT")]
    pub(crate) prepare: Option<PathBuf>,

    /// Try only rules with a matching id; `*` matches anything; can be repeated
    #[arg(long, value_name = "GLOB")]
    pub(crate) only: Vec<String>,

    /// Skip rules with a matching id; can be repeated
    #[arg(long, value_name = "GLOB")]
    pub(crate) skip: Vec<String>,

    /// File with known violations; listed violations of this plugin are not failures
    #[arg(long, value_name = "FILE")]
    pub(crate) known: Option<PathBuf>,

    /// Name of the plugin in that file [default: file name of the executable]
    #[arg(long, value_name = "NAME", requires = "known")]
    pub(crate) name: Option<String>,

    /// Timeout of each call of the plugin
    #[arg(long, value_name = "SECS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,

    /// Format of the report
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,

    /// Write to a file instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// When to use colors
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Color::Auto)]
    pub(crate) color: Color,

    /// List the rules: level, id, oldest version, section and description
    #[arg(long)]
    pub(crate) list: bool,

    /// Print a Markdown table that compares JSON reports, each given as [NAME=]FILE
    #[arg(long, value_name = "REPORT", num_args = 1.., conflicts_with_all = ["plugin", "config", "list", "known"])]
    pub(crate) compare: Vec<String>,
}

/// The format of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Text table
    Table,
    /// Complete report as JSON
    Json,
    /// JUnit XML for CI systems
    Junit,
}

/// When to use colors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

const EXAMPLES: &str = "\
Examples:
  cni-conformance --plugin /opt/cni/bin/bridge --config bridge.conf
  cni-conformance --plugin target/debug/my-cni --config my.conflist --cni-path /opt/cni/bin --only 'del.*'
  cni-conformance --plugin my-tuning --config tuning.conf --chained
  cni-conformance --plugin my-cni --config my.conf --format junit --output report.xml

Exit status:
  0  every \"must\" rule passed or is listed in --known; \"should\" rules may have warnings
  1  a \"must\" rule is broken
  2  there is no verdict: the command line is wrong, privileges are missing, the plugin cannot serve an ADD, or every
     rule was skipped because none applies to the plugin";

impl Options {
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}
