//! `leases import`: takes over the leases of another plugin.

use std::path::PathBuf;

use clap::Args;
use clap::builder::styling::Style;
use cnikit::ipam::{ForeignLeases, Import, LOCK_TIMEOUT, Lease};
use cnikit::spec::IfName;
use serde::Serialize;
use tracing::warn;

use super::network::Network;
use super::output::{Output, VOID};
use super::table::Table;
use super::text::{count, list, short};
use super::{EXIT_STATUS, Error, chain};

/// Take over the leases of another plugin, which must not run any more.
///
/// Each attachment keeps its addresses. The source is only read, and a second import finds everything taken over already.
/// Leases of pods that are long gone are imported as well: they leave by the runtime's DEL or GC, and by nothing else.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS)]
pub(crate) struct Options {
    /// host-local's directory of the network, such as /var/lib/cni/networks/podnet, or a file with the table
    /// {"allocated": {"10.244.1.2": "4fe2c9"}}, of addresses and container ids
    source: PathBuf,

    /// The configuration of the network, with this plugin in it
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Where leases are kept, if not where --config says
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// The interface in the pod, where the source does not tell it
    #[arg(long, value_name = "NAME", default_value = "eth0")]
    ifname: IfName,

    /// Say what would be done, and change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,

    /// Print all there is as JSON, for programs
    #[arg(long)]
    json: bool,
}

/// What became of it.
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
    let network = Network::read(&options.config)?;
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
    let report = Report::of(import, options.dry_run);
    if options.json { output.json(&report) } else { report.write(output) }
}

impl Report {
    fn of(import: Import, dry_run: bool) -> Self {
        let Import { mut leases, mut skipped, .. } = import;
        leases.sort_by_cached_key(|lease| lease.addresses.first().map(|address| address.ip()));
        skipped.sort_by(|one, other| one.name.cmp(&other.name));
        let skipped = skipped.into_iter().map(|one| Skipped { reason: chain(&one.reason), name: one.name });
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
            table.row(VOID, [name.clone(), String::new(), String::new(), format!("skipped: {reason}")]);
        }
        table.write(output)?;
        let (imported, skipped) = (count(self.imported.len(), "lease"), self.skipped.len());
        output.line(format_args!("{imported} {done}, {skipped} skipped"))
    }
}
