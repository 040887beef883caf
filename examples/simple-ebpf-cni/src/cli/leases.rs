//! `leases`: lists the owner of each address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::builder::styling::Style;
use clap::{Args, Subcommand};
use cnikit::ipam::{self, Lease, Pool, Store};
use cnikit::runtime::NetworkConfigList;
use cnikit::spec::{AttachmentKey, NetworkName};
use serde::Serialize;

use super::error::Error;
use super::format::{self, count, list, short};
use super::import;
use super::inventory::configured::RangeUsage;
use super::inventory::{CachedTenants, ConfiguredNetwork};
use super::options::EXIT_STATUS;
use super::output::{DIM, ERROR, Output};
use super::table::Table;
use simple_ebpf_cni::config::DEFAULT_DATA_DIR;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, after_help = EXIT_STATUS)]
pub(crate) struct Options {
    #[command(subcommand)]
    action: Option<Action>,

    /// Output JSON
    #[arg(long)]
    json: bool,

    /// Select only this network
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    network: Option<NetworkName>,

    /// Directory for leases [default: the directory in --config, or /var/lib/cni/simple-ebpf-cni]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Configuration of a network: show its leases and the usage of its ranges
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Directory of the runtime for network configurations: show the usage of their ranges too
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    conf_dir: Option<PathBuf>,

    /// Do not truncate pod names and container ids
    #[arg(long)]
    no_trunc: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Import the leases of another plugin, which must not run any more
    Import(import::Options),
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    data_dir: PathBuf,
    networks: Vec<Leases>,
}

/// The leases of a network.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Leases {
    name: NetworkName,
    leases: Vec<Entry>,
    /// Damaged files that were moved away.
    set_aside: Vec<PathBuf>,
    /// The usage of the configured ranges.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<RangeUsage>,
}

/// A lease file.
#[derive(Debug, Serialize)]
#[serde(tag = "state", rename_all = "camelCase")]
enum Entry {
    Held(Lease),
    EarlierBoot(Lease),
    #[serde(rename_all = "camelCase")]
    Damaged {
        #[serde(flatten, serialize_with = "format::owner_keys")]
        owner: Option<AttachmentKey>,
        /// The addresses that stay reserved because of the file.
        addresses: Vec<IpAddr>,
        problem: String,
    },
}

pub(crate) fn run(options: &Options, output: &mut Output) -> Result<(), Error> {
    if let Some(Action::Import(options)) = &options.action {
        return import::run(options, output);
    }
    let report = report(options)?;
    if options.json { output.json(&report) } else { report.write(options.no_trunc, output) }
}

fn report(options: &Options) -> Result<Report, Error> {
    if let Some(file) = &options.config {
        let network = ConfiguredNetwork::read(file)?;
        let data_dir = network.data_dir(options.data_dir.as_deref());
        let store = network.store(&data_dir)?;
        return Ok(Report { networks: vec![Leases::read(network.name.clone(), &store, network.pools())?], data_dir });
    }
    let data_dir = options.data_dir.clone().unwrap_or_else(|| DEFAULT_DATA_DIR.into());
    let mut stores = Store::open_all(&data_dir)?;
    let mut configured: BTreeMap<NetworkName, ConfiguredNetwork> = BTreeMap::new();
    for file in
        options.conf_dir.iter().map(|dir| NetworkConfigList::files(dir)).collect::<Result<Vec<_>, _>>()?.concat()
    {
        if let Ok(network) = ConfiguredNetwork::read(&file) {
            // If several files configure one network, a runtime uses the first.
            configured.entry(network.name.clone()).or_insert(network);
        }
    }
    for (name, network) in &configured {
        stores.insert(name.clone(), network.store(&network.data_dir(options.data_dir.as_deref()))?);
    }
    if let Some(network) = &options.network {
        if !stores.contains_key(network) {
            let present = stores.keys().map(ToString::to_string).collect();
            return Err(Error::NoSuchNetwork { network: network.clone(), data_dir, present });
        }
        stores.retain(|name, _| name == network);
    }
    let leases = |(name, store): (NetworkName, Store)| {
        let pools = configured.get(&name).map_or(&[][..], ConfiguredNetwork::pools);
        Leases::read(name, &store, pools)
    };
    let networks = stores.into_iter().map(leases).collect::<Result<_, _>>()?;
    Ok(Report { networks, data_dir })
}

impl Leases {
    fn read(name: NetworkName, store: &Store, pools: &[Pool]) -> Result<Self, Error> {
        let leases = store.leases_of_all_boots()?;
        let mut cache = CachedTenants::new(&name);
        let named = leases.map(|lease| {
            let mut lease = lease?;
            lease.pod = cache.pod_of(&lease);
            Ok(lease)
        });
        let mut leases: Vec<Entry> = named.map(|lease| Entry::new(lease, store)).collect();
        leases.sort_by_cached_key(Entry::sort_key);
        let mut ranges = Vec::new();
        for pool in pools {
            ranges.extend(RangeUsage::of_pool(pool, store)?);
        }
        let mut set_aside = store.damaged()?;
        set_aside.sort_unstable();
        Ok(Self { name, leases, set_aside, ranges })
    }
}

impl Entry {
    fn new(lease: ipam::Result<Lease>, store: &Store) -> Self {
        match lease {
            Ok(lease) if lease.boot_id == *store.boot_id() => Self::Held(lease),
            Ok(lease) => Self::EarlierBoot(lease),
            Err(error) => {
                let salvaged = store.salvage(&error).ok().flatten();
                let addresses =
                    salvaged.iter().flat_map(|lease| &lease.addresses).map(|address| address.ip()).collect();
                Self::Damaged { owner: salvaged.map(|lease| lease.owner), addresses, problem: error.to_string() }
            }
        }
    }

    /// The sort key: the first address. Entries without one come first.
    fn sort_key(&self) -> Option<IpAddr> {
        match self {
            Self::Held(lease) | Self::EarlierBoot(lease) => lease.addresses.first().map(|address| address.ip()),
            Self::Damaged { addresses, .. } => addresses.first().copied(),
        }
    }

    /// The cells pod, addresses, container, interface, time and state, with their style.
    fn row(&self, no_trunc: bool) -> (Style, [String; 6]) {
        const UNKNOWN: &str = "?";
        let (style, owner, addresses, since, state) = match self {
            Self::Held(lease) => {
                (Style::new(), Some(&lease.owner), list(&lease.addresses), lease.created_rfc3339(), "held")
            }
            Self::EarlierBoot(lease) => {
                (DIM, Some(&lease.owner), list(&lease.addresses), lease.created_rfc3339(), "earlier boot")
            }
            Self::Damaged { owner, addresses, .. } => {
                (ERROR, owner.as_ref(), list(addresses), UNKNOWN.to_owned(), "damaged")
            }
        };
        let (container, ifname) = owner.map_or((UNKNOWN, UNKNOWN), |AttachmentKey { container_id, ifname }| {
            (if no_trunc { container_id.as_str() } else { short(container_id.as_str()) }, ifname.as_str())
        });
        let addresses = if addresses.is_empty() { UNKNOWN.to_owned() } else { addresses };
        let pod = match self {
            Self::Held(lease) | Self::EarlierBoot(lease) => format::pod(&lease.pod, no_trunc),
            Self::Damaged { .. } => UNKNOWN.to_owned(),
        };
        (style, [pod, addresses, container.to_owned(), ifname.to_owned(), since, state.to_owned()])
    }
}

impl Report {
    fn write(&self, no_trunc: bool, output: &mut Output) -> Result<(), Error> {
        if self.networks.is_empty() {
            return output.line(format_args!("No network has leases in {}.", self.data_dir.display()));
        }
        let mut table = Table::new(["NAMESPACE/POD", "NETWORK", "ADDRESS", "CONTAINER", "IFNAME", "SINCE", "STATE"]);
        for network in &self.networks {
            for entry in &network.leases {
                let (style, [pod, addresses, container, ifname, since, state]) = entry.row(no_trunc);
                table.row(style, [pod, network.name.to_string(), addresses, container, ifname, since, state]);
            }
        }
        table.write(output)?;
        for network in &self.networks {
            output.line("")?;
            network.write_totals(output)?;
        }
        Ok(())
    }
}

impl Leases {
    fn write_totals(&self, output: &mut Output) -> Result<(), Error> {
        let (mut held, mut addresses, mut old) = (0, 0, 0);
        let mut problems = Vec::new();
        for entry in &self.leases {
            match entry {
                Entry::Held(lease) => (held, addresses) = (held + 1, addresses + lease.addresses.len()),
                Entry::EarlierBoot(_) => old += 1,
                Entry::Damaged { problem, .. } => problems.push(problem),
            }
        }
        output.line(format_args!("{}: {}, {}", self.name, count(held, "lease"), count(addresses, "address")))?;
        for range in &self.ranges {
            output.line(format_args!("  {range}"))?;
        }
        if old > 0 {
            output.styled(
                DIM,
                format_args!("  {old} from an earlier boot: invalid, and removed by the next ADD or DEL"),
            )?;
        }
        for problem in problems {
            output.styled(ERROR, format_args!("  {problem}"))?;
        }
        if let Some(first) = self.set_aside.first() {
            let dir = first.parent().unwrap_or(first);
            let files = count(self.set_aside.len(), "damaged file");
            output.styled(ERROR, format_args!("  {files} moved to {}", dir.display()))?;
        }
        Ok(())
    }
}
