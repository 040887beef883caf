//! Options and help texts that several commands share.

use clap::Args;

use super::inventory::Selector;

pub(crate) const EXIT_STATUS: &str = "\
Exit status:
  0  success
  1  failure; the reason is on standard error
  2  the command line is invalid";

/// The options of a command that prints a report about networks.
#[derive(Debug, Args)]
pub(crate) struct ReportOptions {
    #[command(flatten)]
    pub(crate) selector: Selector,

    /// Output JSON
    #[arg(long)]
    pub(crate) json: bool,
}
