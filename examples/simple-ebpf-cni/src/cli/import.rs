//! `leases import`: imports the leases of another plugin.

use std::path::PathBuf;

use clap::Args;
use clap::builder::styling::Style;
use cnikit::ipam::{ForeignLeases, Import, LOCK_TIMEOUT, Lease};
use cnikit::spec::IfName;
use serde::Serialize;
use tracing::warn;

use super::error::Error;
use super::format::{count, list, short};
use super::inventory::ConfiguredNetwork;
use super::options::EXIT_STATUS;
use super::output::{DIM, Output};
use super::table::Table;

/// Import the leases of another plugin, which must not run any more.
///
/// Each attachment keeps its addresses. The import does not change the source. A second import
/// finds no new leases. Leases of pods that no longer exist are imported too: only a DEL or a GC of
/// the runtime removes them.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS)]
pub(crate) struct Options {
    /// host-local's directory of the network, such as /var/lib/cni/networks/podnet, or a JSON file
    /// that maps addresses to container ids: {"allocated": {"10.244.1.2": "4fe2c9"}}
    source: PathBuf,

    /// Configuration of the network that uses this plugin
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Directory for leases, instead of the directory in --config
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Interface in the pod, for entries of the source without one
    #[arg(long, value_name = "NAME", default_value = "eth0")]
    ifname: IfName,

    /// Print the changes without making them
    #[arg(long, short = 'n')]
    dry_run: bool,

    /// Output JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    dry_run: bool,
    imported: Vec<Lease>,
    skipped: Vec<Skipped>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Skipped {
    name: String,
    reason: String,
}

pub(crate) fn run(options: &Options, output: &mut Output) -> Result<(), Error> {
    let network = ConfiguredNetwork::read(&options.config)?;
    if network.pools().is_empty() {
        return Err(Error::NoRanges { path: options.config.clone() });
    }
    let store = network.store(&network.data_dir(options.data_dir.as_deref()))?;
    let foreign = ForeignLeases::read(&options.source, &options.ifname)?;
    let import = if options.dry_run {
        store.preview_import(foreign, network.pools())?
    } else {
        let mut store = store.lock(LOCK_TIMEOUT)?;
        for damaged in store.quarantined() {
            warn!("{damaged}");
        }
        store.import(foreign, network.pools())?
    };
    let report = Report::new(import, options.dry_run);
    if options.json { output.json(&report) } else { report.write(output) }
}

impl Report {
    fn new(import: Import, dry_run: bool) -> Self {
        let Import { mut leases, mut skipped, .. } = import;
        leases.sort_by_cached_key(|lease| lease.addresses.first().map(|address| address.ip()));
        skipped.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let skipped = skipped.into_iter().map(|lease| Skipped { reason: lease.reason.to_string(), name: lease.name });
        Self { dry_run, imported: leases, skipped: skipped.collect() }
    }

    fn write(&self, output: &mut Output) -> Result<(), Error> {
        let done = if self.dry_run { "would be imported" } else { "imported" };
        let mut table = Table::new(["ADDRESS", "CONTAINER", "IFNAME", "RESULT"]);
        for lease in &self.imported {
            let owner = &lease.owner;
            let (container, ifname) = (short(owner.container_id.as_str()), owner.ifname.as_str());
            table.row(Style::new(), [list(&lease.addresses), container.into(), ifname.into(), done.into()]);
        }
        for Skipped { name, reason } in &self.skipped {
            table.row(DIM, [name.clone(), String::new(), String::new(), format!("skipped: {reason}")]);
        }
        table.write(output)?;
        let (imported, skipped) = (count(self.imported.len(), "lease"), self.skipped.len());
        output.line(format_args!("{imported} {done}, {skipped} skipped"))
    }
}
