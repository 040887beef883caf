//! `status`: shows the state and the counters of each network.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use cnikit::datapath::{MapSet, NetStats};
use cnikit::netlink::{Link, Socket};
use cnikit::spec::{IfName, NetworkName};
use serde::{Serialize, Serializer};

use super::advice;
use super::agent::{self, State};
use super::doctor::addresses::{Place, addresses};
use super::doctor::attachments::{attached, has_programs, not_forwarded, repair_command};
use super::doctor::config_dir::unusable_configurations;
use super::doctor::diagnostic::Diagnostic;
use super::doctor::node::bpffs;
use super::error::Error;
use super::format::{count, have, list, verb};
use super::inventory::configured::RangeUsage;
use super::inventory::pods::{DropCounts, Pod, pods, some_names};
use super::inventory::{NodeNetwork, Selector};
use super::options::ReportOptions;
use super::output::{DIM, ERROR, HEADER, OK, Output, WARNING};
use simple_ebpf_cni::{bridge, pool, programs};

const EXIT_STATUS: &str = "\
Exit status:
  0  all networks work; a network without pods counts as working
  1  a network has a problem, or cannot be checked
  2  the command line is invalid";

/// Show the state of each network, and its counters.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS)]
pub(crate) struct Options {
    #[command(flatten)]
    report: ReportOptions,
}

#[derive(Debug, Serialize)]
struct Report {
    /// Configurations of the plugin that cannot be used. Such a file may not name its network.
    problems: Vec<Problem>,
    networks: Vec<Network>,
    /// The node agent. `None` on a node without one.
    agent: Option<State>,
}

/// A problem, with its fix if one is known. In JSON it is one string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) found: String,
    remedy: Option<String>,
}

/// The state of a network.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Network {
    name: NetworkName,
    problems: Vec<Problem>,
    /// Findings without an effect on pods. An ADD fixes them if it must.
    notes: Vec<Problem>,
    /// The configuration file.
    config: Option<PathBuf>,
    /// `None` if the pods cannot be read.
    pods: Option<usize>,
    bridge: Option<Bridge>,
    /// Only in the text, because `problems` has it too.
    #[serde(skip)]
    missing_bridge: Option<String>,
    datapath: Option<Datapath>,
    /// The usage of the configured ranges.
    ranges: Vec<RangeUsage>,
}

#[derive(Debug, Serialize)]
struct Bridge {
    name: IfName,
    up: bool,
    addresses: Vec<IpAddr>,
    /// Whether the programs run on it. Only in the text, because `problems` has it too.
    #[serde(skip)]
    has_programs: bool,
}

/// The eBPF programs, and their counters.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Datapath {
    attached: bool,
    direct: bool,
    #[serde(rename = "guard")]
    spoof_check: bool,
    #[serde(with = "Stats")]
    stats: NetStats,
    drops: DropCounts,
}

/// The JSON keys of [`NetStats`]. `unknown` is left out.
#[derive(Serialize)]
#[serde(remote = "NetStats", rename_all = "camelCase")]
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
    let ReportOptions { selector, json } = &options.report;
    let host = Socket::open()?;
    let links = host.links()?;
    let networks = selector.networks()?;
    let read = |network| Network::read(network, &selector.conf_dir, &host, &links);
    let networks = networks.iter().map(read).collect::<Result<_, _>>()?;
    let mut problems: Vec<_> = unusable_configurations(selector)?.into_iter().map(Problem::from).collect();
    let agent = match agent::report() {
        Ok(report) => report.as_ref().map(State::of),
        Err(error) => {
            problems.push(error.to_string().into());
            None
        }
    };
    let report = Report { problems, networks, agent };
    if *json {
        output.json(&report)?
    } else {
        report.write(selector, output)?
    }
    match report.problems.len() + report.networks.iter().map(|network| network.problems.len()).sum::<usize>() {
        0 => Ok(()),
        problems => Err(Error::Problems(problems)),
    }
}

/// The problems of a network, and its notes.
pub(crate) fn findings(network: &NodeNetwork, conf_dir: &Path, host: &Socket) -> Result<[Vec<Problem>; 2], Error> {
    let Network { problems, notes, .. } = Network::read(network, conf_dir, host, &host.links()?)?;
    Ok([problems, notes])
}

impl Network {
    fn read(network: &NodeNetwork, conf_dir: &Path, host: &Socket, links: &[Link]) -> Result<Self, Error> {
        let repair = || Some(repair_command(network));
        let mut problems = Vec::new();
        let ipam = network.store.probe().err();
        problems.extend(ipam.map(|error| Problem::from_error(&error, advice::for_ipam(&error))));
        let datapath = network.datapath.probe().err();
        problems.extend(datapath.map(|error| Problem::from_error(&error, advice::for_datapath(&error))));
        let pods = match pods(network, links) {
            // The cause is one of the problems.
            Err(_) if !problems.is_empty() => {
                // libbpf's error for a read-only file system does not name the fix.
                problems.extend(Some(bpffs()).filter(Diagnostic::has_failed).map(Problem::from));
                return Ok(Self::unknown(network, problems));
            }
            pods => pods?,
        };
        if network.configured.is_none() && !pods.is_empty() {
            let dir = conf_dir.display();
            let (cause, remedy) = if conf_dir.exists() {
                (format!("no file in {dir} configures it"), repair())
            } else {
                (format!("there is no {dir}"), Some("pass the runtime's directory with --conf-dir".to_owned()))
            };
            let found = format!("{cause}, and pods are attached");
            problems.push(Problem { found, remedy });
        }
        let mut notes = Vec::new();
        for check in attached(network, &pods, host, links)? {
            let list = if check.has_failed() { &mut problems } else { &mut notes };
            list.push(check.into());
        }
        problems.extend(not_forwarded(network, links).into_iter().map(Problem::from));
        if let Some(configured) = &network.configured {
            let checks = addresses(configured, host, links, Place::Node)?;
            problems.extend(checks.into_iter().filter(Diagnostic::has_failed).map(Problem::from));
        }
        notes.extend(Problem::of_lost_interfaces(&pods));
        let bridge = network.bridge(links);
        // The ADD of the first pod creates the bridge and the maps. Each later ADD repairs them.
        if !pods.is_empty() {
            match bridge {
                Some(found) if bridge::is_full(found, links) => {
                    problems.push(bridge::full(&found.name).to_string().into());
                }
                _ => {}
            }
            if network.maps()?.is_none() {
                let found = "its eBPF programs are not pinned".to_owned();
                problems.push(Problem { found, remedy: repair() });
            }
        }
        let datapath = network.maps()?.map(|maps| Datapath::read(network, &maps, host, &mut problems)).transpose()?;
        // Before the first pod, no bridge is missing.
        let missing_bridge = (bridge.is_none() && !pods.is_empty()).then(|| match &network.configured {
            Some(configured) => format!("{} is missing", configured.bridge()),
            None => "missing".to_owned(),
        });
        let bridge = bridge.map(|bridge| Bridge::read(bridge, network, host)).transpose()?;
        let ranges = ranges(network, host, &mut problems)?;
        let damaged = network.store.leases()?.filter_map(Result::err);
        problems.extend(damaged.map(|error| error.to_string().into()));
        let pods = Some(pods.len());
        Ok(Self { notes, pods, bridge, missing_bridge, datapath, ranges, ..Self::unknown(network, problems) })
    }

    /// A network with unreadable pods. Only its problems are known.
    fn unknown(network: &NodeNetwork, problems: Vec<Problem>) -> Self {
        let config = network.configured.as_ref().map(|configured| configured.file().to_owned());
        Self {
            name: network.name.clone(),
            problems,
            notes: Vec::new(),
            config,
            pods: None,
            bridge: None,
            missing_bridge: None,
            datapath: None,
            ranges: Vec::new(),
        }
    }
}

impl Bridge {
    fn read(link: &Link, network: &NodeNetwork, host: &Socket) -> Result<Self, Error> {
        let addresses = host.addresses(link.index)?.iter().map(|address| address.ip()).collect();
        Ok(Self { name: link.name.clone(), up: link.up, addresses, has_programs: has_programs(network, link, host)? })
    }
}

impl Datapath {
    fn read(network: &NodeNetwork, maps: &MapSet, host: &Socket, problems: &mut Vec<Problem>) -> Result<Self, Error> {
        let missing = programs::missing(host, &network.datapath, &network.name)?;
        if !missing.is_empty() {
            let found = format!("{} not attached", list(&missing));
            problems.push(Problem { found, remedy: Some(repair_command(network)) });
        }
        let config = maps.config()?;
        Ok(Self {
            attached: missing.is_empty(),
            direct: config.direct_forwarding,
            spoof_check: config.spoof_check,
            stats: maps.stats()?,
            drops: maps.drops()?.into(),
        })
    }
}

/// The usage of the configured ranges. A full pool is a problem, as in STATUS.
fn ranges(network: &NodeNetwork, host: &Socket, problems: &mut Vec<Problem>) -> Result<Vec<RangeUsage>, Error> {
    let Some(configured) = &network.configured else {
        return Ok(Vec::new());
    };
    // An address that the next ADD can take back counts as free.
    let full = pool::refuse_exhausted(&network.name, &network.store, configured.config(), host);
    problems.extend(full.err().map(|error| error.to_string().into()));
    let ranges = configured.pools().iter().map(|pool| RangeUsage::of_pool(pool, &network.store));
    Ok(ranges.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

impl Report {
    fn write(&self, selector: &Selector, output: &mut Output) -> Result<(), Error> {
        for problem in &self.problems {
            output.styled(ERROR, problem)?;
        }
        if let Some(agent) = &self.agent {
            let (style, state) = if agent.running { (OK, "running") } else { (WARNING, "not running") };
            output.styled(style, format_args!("agent {state}; ways to other nodes: {}", agent.nodes()))?;
        }
        if self.networks.is_empty() && !self.problems.is_empty() {
            return Ok(());
        }
        if self.networks.is_empty() {
            return output.line(format_args!("{} `install` writes a configuration.", selector.no_network()));
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
            output.styled(OK, "  OK")?;
        }
        for problem in &self.problems {
            output.styled(ERROR, format_args!("  {problem}"))?;
        }
        for note in &self.notes {
            output.styled(WARNING, format_args!("  {note}"))?;
        }
        match &self.config {
            Some(file) => output.line(format_args!("  config   {}", file.display()))?,
            None => output.styled(DIM, "  config   none")?,
        }
        let Some(pods) = self.pods else {
            return output.styled(DIM, "  details unavailable until the problems above are fixed");
        };
        output.line(format_args!("  pods     {pods}"))?;
        for range in &self.ranges {
            output.line(format_args!("  pool     {range}"))?;
        }
        match &self.bridge {
            Some(Bridge { name, up, addresses, .. }) => {
                let state = if *up { "up" } else { "down" };
                output.line(format_args!("  bridge   {name} {state} {}", list(addresses)))?;
            }
            None => match &self.missing_bridge {
                Some(missing) => output.styled(ERROR, format_args!("  bridge   {missing}"))?,
                None => output.styled(DIM, "  bridge   none yet")?,
            },
        }
        match &self.datapath {
            Some(datapath) => datapath.write(self.bridge.as_ref(), output),
            None => output.styled(DIM, "  eBPF     not loaded yet"),
        }
    }
}

impl Datapath {
    fn write(&self, bridge: Option<&Bridge>, output: &mut Output) -> Result<(), Error> {
        let on = |on| if on { "on" } else { "off" };
        let attached = match bridge {
            _ if !self.attached => "not attached".to_owned(),
            Some(Bridge { name, has_programs: false, .. }) => format!("not on {name}"),
            _ => "attached".to_owned(),
        };
        let (direct, spoof_check, stats) = (on(self.direct), on(self.spoof_check), &self.stats);
        output.line(format_args!("  eBPF     {attached}, direct forwarding {direct}, spoof check {spoof_check}"))?;
        output.line(format_args!(
            "  packets  forwarded {} direct, {} via bridge; delivered {} via bridge; {} to host",
            stats.direct, stats.to_stack, stats.from_stack, stats.to_host
        ))?;
        output.line(format_args!("  proxied  {} ARP, {} ND", stats.arp_answers, stats.nd_answers))?;
        output.line(format_args!("  flows    {} tracked, {} evicted", stats.flows_added, stats.flows_forgotten))?;
        let reasons = self.drops.by_reason().map(|(reason, packets)| format!(" {reason} {packets}"));
        output.line(format_args!("  drops    {}{}", self.drops.total(), reasons.collect::<String>()))
    }
}

impl Problem {
    /// An error with its fix, if one is known.
    fn from_error(error: &dyn std::error::Error, advice: String) -> Self {
        Self { found: error.to_string(), remedy: (advice != advice::REPORT).then_some(advice) }
    }

    /// Pods that have a lease and no interface.
    fn of_lost_interfaces(pods: &[Pod]) -> Option<Self> {
        let gone: Vec<&Pod> = pods.iter().filter(|pod| pod.host_interface.is_none()).collect();
        let number = gone.len();
        let (hold, have, names) = (verb(number, "hold"), have(number), some_names(&gone));
        let found = format!("{} {hold} addresses and {have} no interface ({names})", count(number, "pod"));
        let remedy = Some("GC or DEL frees the addresses, or an ADD that finds no free address".to_owned());
        (number > 0).then_some(Self { found, remedy })
    }
}

impl From<String> for Problem {
    fn from(found: String) -> Self {
        Self { found, remedy: None }
    }
}

impl From<Diagnostic> for Problem {
    fn from(diagnostic: Diagnostic) -> Self {
        Self { found: diagnostic.found, remedy: diagnostic.remedy }
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
