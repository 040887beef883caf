//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Parser, ValueEnum};
use cnikit::spec::{IfName, Version};

const STYLES: Styles =
    Styles::styled().header(AnsiColor::Green.on_default().bold()).literal(AnsiColor::Cyan.on_default().bold());

/// Hold a CNI plugin to the rules of the specification.
///
/// The plugin is run as a container runtime runs it, in namespaces that are made for the purpose: nothing of this machine's
/// network is touched. Needs root.
#[derive(Debug, Parser)]
#[command(name = "cni-conformance", disable_version_flag = true, styles = STYLES, max_term_width = 110, after_help = EXAMPLES)]
pub(crate) struct Options {
    /// The plugin's executable
    #[arg(long, value_name = "PATH", required_unless_present_any = ["list", "compare"])]
    pub(crate) plugin: Option<PathBuf>,

    /// Its network configuration: one object, or a list of which the first plugin is taken. Give it a pool of at most 60
    /// addresses, or the rules about an exhausted pool are skipped
    #[arg(long, value_name = "FILE", required_unless_present_any = ["list", "compare"])]
    pub(crate) config: Option<PathBuf>,

    /// A directory with plugins to delegate to, after the plugin's own; may be repeated
    #[arg(long, value_name = "DIR")]
    pub(crate) cni_path: Vec<PathBuf>,

    /// A version of the specification to try; may be repeated. All that the plugin speaks by default
    #[arg(long = "version", value_name = "V")]
    pub(crate) versions: Vec<Version>,

    /// The name of the interface inside the container
    #[arg(long, value_name = "NAME", default_value = "eth0")]
    pub(crate) ifname: IfName,

    /// A script to run on each private host before the plugin, such as one that makes a link for macvlan
    #[arg(long, value_name = "SCRIPT")]
    pub(crate) prepare: Option<PathBuf>,

    /// Try only the rules whose id matches; `*` stands for anything; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub(crate) only: Vec<String>,

    /// Leave out the rules whose id matches; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub(crate) skip: Vec<String>,

    /// A list of rules that plugins are known to break, with the reasons: what it lists for this one is no failure
    #[arg(long, value_name = "FILE")]
    pub(crate) known: Option<PathBuf>,

    /// What the plugin is called in that list, instead of by its executable's name
    #[arg(long, value_name = "NAME", requires = "known")]
    pub(crate) name: Option<String>,

    /// How long each call of the plugin may take
    #[arg(long, value_name = "SECS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,

    /// The form of the report
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,

    /// Write to a file instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Whether to use colours
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Color::Auto)]
    pub(crate) color: Color,

    /// List the rules: level, id, least version, section, and what is expected
    #[arg(long)]
    pub(crate) list: bool,

    /// Put JSON reports side by side in a Markdown table, each as [NAME=]FILE
    #[arg(long, value_name = "REPORT", num_args = 1.., conflicts_with_all = ["plugin", "config", "list", "known"])]
    pub(crate) compare: Vec<String>,
}

/// The form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// All there is, for programs
    Json,
    /// For CI systems
    Junit,
}

/// Whether to use colours.
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
  cni-conformance --plugin my-cni --config my.conf --format junit --output report.xml

Exit status:
  0  every rule that must be kept is kept, but for those of --known; there may be warnings about rules that should be
  1  a rule that must be kept is broken
  2  there is no verdict: the command line is wrong, privileges are missing, the plugin serves no ADD at all, or every
     rule was skipped because none applies to the plugin";

impl Options {
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}
