//! `status`: whether each network is well, and what it has done.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use cnikit::datapath::{MapSet, NetStats};
use cnikit::netlink::{Link, Socket};
use cnikit::spec::{IfName, NetworkName};
use serde::{Serialize, Serializer};
use simple_ebpf_cni::{bridge, pool, programs};

use super::attached::{Pod, Reasons, names_of_some, pods};
use super::check::{self, Check, Verdict};
use super::network::Range;
use super::node::{Known, Scope};
use super::output::{BAD, DOUBTFUL, GOOD, HEADER, Output, VOID};
use super::text::{count, have, list, verb};
use super::{Error, chain, remedy};

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
    /// Configurations of the plugin that cannot be used: of which network they are, they may not tell.
    problems: Vec<Problem>,
    networks: Vec<Network>,
}

/// What is wrong, and what to do about it if that is known. In JSON it is one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) found: String,
    remedy: Option<String>,
}

/// What is shown of a network.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Network {
    name: NetworkName,
    /// What is wrong; nothing where the network is well.
    problems: Vec<Problem>,
    /// What need not be mended, as an ADD does it where it has to.
    notes: Vec<Problem>,
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
    let look = |known| Network::look(known, &options.scope.conf_dir, &host, &links);
    let networks = networks.iter().map(look).collect::<Result<_, _>>()?;
    let problems = check::unusable_ones(&options.scope)?.into_iter().map(Problem::from).collect();
    let report = Report { problems, networks };
    if options.json {
        output.json(&report)?
    } else {
        report.write(output)?
    }
    match report.problems.len() + report.networks.iter().map(|network| network.problems.len()).sum::<usize>() {
        0 => Ok(()),
        problems => Err(Error::Problems(problems)),
    }
}

impl Network {
    fn look(known: &Known, conf_dir: &Path, host: &Socket, links: &[Link]) -> Result<Self, Error> {
        let mut problems = Vec::new();
        problems.extend(known.store.probe().err().map(|error| with_remedy(&error, &remedy::of_ipam(&error))));
        problems.extend(known.datapath.probe().err().map(|error| with_remedy(&error, &remedy::of_datapath(&error))));
        let pods = match pods(known, links) {
            // What keeps them from being found is among the problems.
            Err(_) if !problems.is_empty() => {
                // What libbpf says of a file system that is read-only does not tell what to do.
                let bpffs = Some(check::bpffs()).filter(|check| check.verdict == Verdict::Fail);
                problems.extend(bpffs.map(Problem::from));
                return Ok(Self::unknown(known, problems));
            }
            pods => pods?,
        };
        if known.configured.is_none() && !pods.is_empty() {
            let found = format!("no file in {} configures it, and pods are attached", conf_dir.display());
            problems.push(Problem { found, remedy: Some(check::mend(known)) });
        }
        let mut notes = Vec::new();
        for check in check::attached(known, &pods, host, links)? {
            match check.verdict {
                Verdict::Fail => problems.push(check.into()),
                Verdict::Ok | Verdict::Warn => notes.push(check.into()),
            }
        }
        problems.extend(check::not_forwarded(known, links).into_iter().map(Problem::from));
        if let Some((_, network)) = &known.configured {
            let checks = check::addresses(network, host, links)?;
            problems.extend(checks.into_iter().filter(|check| check.verdict == Verdict::Fail).map(Problem::from));
        }
        let gone: Vec<&Pod> = pods.iter().filter(|pod| pod.host_interface.is_none()).collect();
        if !gone.is_empty() {
            let (number, names) = (gone.len(), names_of_some(&gone));
            let (pods, hold, have) = (count(number, "pod"), verb(number, "hold"), have(number));
            let found = format!("{pods} {hold} addresses and {have} no interface ({names})");
            let remedy = "GC or DEL frees them, or an ADD that finds the pool dry".to_owned();
            notes.push(Problem { found, remedy: Some(remedy) });
        }
        let bridge = known.bridge(links);
        // What serves the network is made by the ADD of its first pod, and mended by that of each.
        if !pods.is_empty() {
            match bridge {
                Some(found) if bridge::is_full(found, links) => {
                    problems.push(bridge::full(&found.name).to_string().into());
                }
                _ => {}
            }
            if known.maps()?.is_none() {
                let found = "its eBPF programs are not pinned".to_owned();
                problems.push(Problem { found, remedy: Some(check::mend(known)) });
            }
        }
        let datapath = known.maps()?.map(|maps| Datapath::look(known, &maps, host, &mut problems)).transpose()?;
        let bridge = bridge.map(|bridge| Bridge::look(bridge, host)).transpose()?;
        let ranges = ranges(known, host, &mut problems)?;
        let damaged = known.store.leases()?.filter_map(Result::err);
        problems.extend(damaged.map(|error| chain(&error).into()));
        let config = known.configured.as_ref().map(|(file, _)| file.clone());
        Ok(Self { name: known.name.clone(), problems, notes, config, pods: Some(pods.len()), bridge, datapath, ranges })
    }

    /// A network of which no more can be said than what is wrong.
    fn unknown(known: &Known, problems: Vec<Problem>) -> Self {
        let config = known.configured.as_ref().map(|(file, _)| file.clone());
        Self {
            name: known.name.clone(),
            problems,
            notes: Vec::new(),
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
    fn look(known: &Known, maps: &MapSet, host: &Socket, problems: &mut Vec<Problem>) -> Result<Self, Error> {
        let missing = programs::missing(host, &known.datapath, &known.name)?;
        if !missing.is_empty() {
            let found = format!("{} not attached", list(&missing));
            problems.push(Problem { found, remedy: Some(check::mend(known)) });
        }
        let config = maps.config()?;
        let (stats, drops) = (maps.stats()?.into(), maps.drops()?.into());
        Ok(Self {
            attached: missing.is_empty(),
            direct: config.direct_forwarding,
            guard: config.spoof_check,
            stats,
            drops,
        })
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
        for problem in &self.problems {
            output.styled(BAD, problem)?;
        }
        if self.networks.is_empty() && !self.problems.is_empty() {
            return Ok(());
        }
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
        for note in &self.notes {
            output.styled(DOUBTFUL, format_args!("  {note}"))?;
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
        let reasons = self.drops.refusals().map(|(reason, packets)| format!(" {reason} {packets}"));
        let refused = self.drops.refused();
        output.line(format_args!("  drops    {refused}{}", reasons.collect::<String>()))
    }
}

fn ranges(known: &Known, host: &Socket, problems: &mut Vec<Problem>) -> Result<Vec<Range>, Error> {
    let Some((_, network)) = &known.configured else {
        return Ok(Vec::new());
    };
    // As the STATUS of runtimes says it: an address that an ADD would take back is as good as a free one.
    let full = pool::refuse_exhausted(&known.name, &known.store, network.config(), host);
    problems.extend(full.err().map(|failure| failure.to_string().into()));
    let ranges = network.pools().iter().map(|pool| Range::of(pool, &known.store));
    Ok(ranges.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

/// What is wrong with a network, and what is only noted of it.
pub(crate) fn findings(known: &Known, conf_dir: &Path, host: &Socket) -> Result<[Vec<Problem>; 2], Error> {
    let Network { problems, notes, .. } = Network::look(known, conf_dir, host, &host.links()?)?;
    Ok([problems, notes])
}

impl From<String> for Problem {
    fn from(found: String) -> Self {
        Self { found, remedy: None }
    }
}

impl From<Check> for Problem {
    fn from(check: Check) -> Self {
        Self { found: check.found, remedy: check.remedy }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.remedy {
            Some(remedy) => write!(f, "{}: {remedy}", self.found),
            None => f.write_str(&self.found),
        }
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An error with what to do about it, where that is known.
fn with_remedy(error: &dyn std::error::Error, remedy: &str) -> Problem {
    Problem { found: chain(error), remedy: (remedy != remedy::REPORT).then(|| remedy.to_owned()) }
}
