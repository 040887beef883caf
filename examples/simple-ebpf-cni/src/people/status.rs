//! `status`: whether each network is well, and what it has done.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use cnikit::datapath::NetStats;
use cnikit::netlink::{Link, Socket};
use cnikit::spec::{IfName, NetworkName};
use serde::Serialize;

use super::attached::{Reasons, pods};
use super::network::Range;
use super::node::{Known, Scope};
use super::output::{BAD, GOOD, HEADER, Output, VOID};
use super::text::{count, list};
use super::{Error, chain};
use crate::bridge;
use crate::programs::Programs;

const EXIT_STATUS: &str = "\
Exit status:
  0  all networks are well; one without pods is
  1  one is not, or it could not be found out
  2  the command line is wrong";

/// Show whether each network is well, and what it has done.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS)]
pub(crate) struct Options {
    #[command(flatten)]
    scope: Scope,

    /// Print all there is as JSON, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    networks: Vec<Network>,
}

/// What is shown of a network.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Network {
    name: NetworkName,
    /// What is wrong; nothing where the network is well.
    problems: Vec<String>,
    /// The file that configures it.
    config: Option<PathBuf>,
    /// None where it cannot be told.
    pods: Option<usize>,
    bridge: Option<Bridge>,
    datapath: Option<Datapath>,
    /// How full the configured ranges are.
    ranges: Vec<Range>,
}

#[derive(Debug, Serialize)]
struct Bridge {
    name: IfName,
    up: bool,
    addresses: Vec<IpAddr>,
}

/// The programs, and what they have done.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Datapath {
    attached: bool,
    direct: bool,
    guard: bool,
    stats: Stats,
    drops: Reasons,
}

/// The verdicts on the network's packets, since its programs were loaded.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    direct: u64,
    to_stack: u64,
    to_host: u64,
    from_stack: u64,
    arp_answers: u64,
    nd_answers: u64,
    flows_added: u64,
    flows_forgotten: u64,
}

pub(crate) fn run(options: &Options, output: &mut Output) -> Result<(), Error> {
    let host = Socket::open()?;
    let links = host.links()?;
    let networks = options.scope.networks()?;
    let networks = networks.iter().map(|known| Network::look(known, &host, &links)).collect::<Result<_, _>>()?;
    let report = Report { networks };
    if options.json {
        output.json(&report)?
    } else {
        report.write(output)?
    }
    match report.networks.iter().map(|network| network.problems.len()).sum() {
        0 => Ok(()),
        problems => Err(Error::Problems(problems)),
    }
}

impl Network {
    fn look(known: &Known, host: &Socket, links: &[Link]) -> Result<Self, Error> {
        let mut problems: Vec<String> = known.store.probe().err().iter().map(|error| chain(error)).collect();
        problems.extend(known.datapath.probe().err().iter().map(|error| chain(error)));
        let pods = match pods(known, links) {
            // What keeps them from being found is among the problems.
            Err(_) if !problems.is_empty() => return Ok(Self::unknown(known, problems)),
            pods => pods?,
        };
        let gone = pods.iter().filter(|pod| pod.host_interface.is_none()).count();
        if gone > 0 {
            let pods = count(gone, "pod");
            problems.push(format!("{pods} hold addresses and have no interface: the runtime's GC or DEL frees them"));
        }
        let bridge = known.bridge(links);
        // What serves the network is made by the ADD of its first pod, and mended by that of each.
        if !pods.is_empty() {
            match bridge {
                None => problems.push("its bridge is gone: the next ADD makes it again".to_owned()),
                Some(bridge) if !bridge.up => problems.push(format!("{0} is down: ip link set {0} up", bridge.name)),
                Some(bridge) if !known.owns(bridge, host) => {
                    problems.push(format!("{} is not the network's: name another as \"bridge\"", bridge.name));
                }
                Some(found) if bridge::is_full(found, links) => problems.push(bridge::full(&found.name).to_string()),
                Some(_) => {}
            }
            if !known.datapath.is_complete()? {
                problems.push("its eBPF programs are not pinned: the next ADD loads them".to_owned());
            }
        }
        let datapath =
            if known.datapath.is_complete()? { Some(Datapath::look(known, host, &mut problems)?) } else { None };
        let bridge = bridge.map(|bridge| Bridge::look(bridge, host)).transpose()?;
        let ranges = ranges(known, &mut problems)?;
        let damaged = known.store.leases()?.filter_map(Result::err);
        problems.extend(damaged.map(|error| chain(&error)));
        let config = known.configured.as_ref().map(|(file, _)| file.clone());
        Ok(Self { name: known.name.clone(), problems, config, pods: Some(pods.len()), bridge, datapath, ranges })
    }

    /// A network of which no more can be said than what is wrong.
    fn unknown(known: &Known, problems: Vec<String>) -> Self {
        let config = known.configured.as_ref().map(|(file, _)| file.clone());
        Self {
            name: known.name.clone(),
            problems,
            config,
            pods: None,
            bridge: None,
            datapath: None,
            ranges: Vec::new(),
        }
    }
}

impl Bridge {
    fn look(link: &Link, host: &Socket) -> Result<Self, Error> {
        let addresses = host.addresses(link.index)?.iter().map(|address| address.ip()).collect();
        Ok(Self { name: link.name.clone(), up: link.up, addresses })
    }
}

impl Datapath {
    fn look(known: &Known, host: &Socket, problems: &mut Vec<String>) -> Result<Self, Error> {
        let missing = Programs::open(&known.datapath, &known.name)?.missing(host)?;
        if !missing.is_empty() {
            problems.push(format!("{} not attached: the next ADD does it", list(&missing)));
        }
        let config = known.datapath.config()?;
        let stats = known.datapath.stats()?.into();
        let drops = known.datapath.drops()?.into();
        Ok(Self { attached: missing.is_empty(), direct: config.direct, guard: config.guard, stats, drops })
    }
}

impl From<NetStats> for Stats {
    fn from(stats: NetStats) -> Self {
        Self {
            direct: stats.direct,
            to_stack: stats.to_stack,
            to_host: stats.to_host,
            from_stack: stats.from_stack,
            arp_answers: stats.arp_answers,
            nd_answers: stats.nd_answers,
            flows_added: stats.flows_added,
            flows_forgotten: stats.flows_forgotten,
        }
    }
}

impl Report {
    fn write(&self, output: &mut Output) -> Result<(), Error> {
        if self.networks.is_empty() {
            return output.line("There is no network on this node: install lays down a configuration.");
        }
        for (number, network) in self.networks.iter().enumerate() {
            if number > 0 {
                output.line("")?;
            }
            network.write(output)?;
        }
        Ok(())
    }
}

impl Network {
    fn write(&self, output: &mut Output) -> Result<(), Error> {
        output.styled(HEADER, &self.name)?;
        if self.problems.is_empty() {
            output.styled(GOOD, "  well")?;
        }
        for problem in &self.problems {
            output.styled(BAD, format_args!("  {problem}"))?;
        }
        match &self.config {
            Some(file) => output.line(format_args!("  config   {}", file.display()))?,
            None => output.styled(VOID, "  config   none")?,
        }
        let Some(pods) = self.pods else {
            return output.styled(VOID, "  nothing more can be told before that is mended");
        };
        output.line(format_args!("  pods     {pods}"))?;
        for range in &self.ranges {
            output.line(format_args!("  pool     {range}"))?;
        }
        match &self.bridge {
            Some(Bridge { name, up, addresses }) => {
                let state = if *up { "up" } else { "down" };
                output.line(format_args!("  bridge   {name} {state} {}", list(addresses)))?;
            }
            None => output.styled(VOID, "  bridge   none yet")?,
        }
        match &self.datapath {
            Some(datapath) => datapath.write(output),
            None => output.styled(VOID, "  eBPF     not loaded yet"),
        }
    }
}

impl Datapath {
    fn write(&self, output: &mut Output) -> Result<(), Error> {
        let on = |on| if on { "on" } else { "off" };
        let attached = if self.attached { "attached" } else { "not attached" };
        let (direct, guard, stats) = (on(self.direct), on(self.guard), &self.stats);
        output.line(format_args!("  eBPF     {attached}, direct delivery {direct}, guard {guard}"))?;
        output.line(format_args!(
            "  packets  {} direct, {} to the bridge, {} from it, {} up to the host",
            stats.direct, stats.to_stack, stats.from_stack, stats.to_host
        ))?;
        output.line(format_args!(
            "  answers  {} to ARP, {} to neighbour solicitations",
            stats.arp_answers, stats.nd_answers
        ))?;
        output.line(format_args!(
            "  flows    {} delivered by the stack, {} forgotten",
            stats.flows_added, stats.flows_forgotten
        ))?;
        let reasons = self.drops.reasons.iter().map(|(reason, packets)| format!(" {reason} {packets}"));
        output.line(format_args!("  drops    {}{}", self.drops.total, reasons.collect::<String>()))
    }
}

fn ranges(known: &Known, problems: &mut Vec<String>) -> Result<Vec<Range>, Error> {
    let mut all = Vec::new();
    for pool in known.configured.iter().flat_map(|(_, network)| network.pools()) {
        let ranges = Range::of(pool, &known.store)?;
        if ranges.iter().all(|range| range.free == 0) {
            problems.push(format!("all addresses of {pool} are leased: remove pods, or configure a larger subnet"));
        }
        all.extend(ranges);
    }
    Ok(all)
}
