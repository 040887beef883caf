//! `repair`: repairs networks without a new pod.

use clap::Args;
use cnikit::netlink::Socket;
use cnikit::spec::NetworkName;
use serde::Serialize;

use simple_ebpf_cni::network::Network;

use super::error::Error;
use super::inventory::pods::pods;
use super::inventory::{NodeNetwork, Selector};
use super::options::ReportOptions;
use super::output::{DIM, ERROR, HEADER, OK, Output};
use super::status::{self, Problem};

const EXIT_STATUS: &str = "\
Exit status:
  0  all networks with pods work
  1  a network still has a problem, which is printed on standard output
  2  the command line is invalid";

/// Repair the shared parts of each network: bridge, gateway addresses, ports, eBPF programs and
/// maps, masquerading.
///
/// An ADD makes the same repairs, except for the ports of other pods. Pods keep their interfaces.
/// Networks without pods do not change.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS)]
pub(crate) struct Options {
    #[command(flatten)]
    report: ReportOptions,
}

#[derive(Debug, Serialize)]
struct Report {
    networks: Vec<Repaired>,
}

/// The result of the repair of a network.
#[derive(Debug, Serialize)]
struct Repaired {
    name: NetworkName,
    /// The problems that are fixed.
    repaired: Vec<String>,
    /// The problems that remain.
    problems: Vec<Problem>,
    #[serde(skip)]
    has_pods: bool,
}

pub(crate) fn run(options: &Options, output: &mut Output) -> Result<(), Error> {
    let ReportOptions { selector, json } = &options.report;
    let host = Socket::open()?;
    let networks = selector.networks()?;
    let repaired = networks.iter().map(|network| Repaired::repair(network, selector, &host));
    let report = Report { networks: repaired.collect::<Result<_, _>>()? };
    if *json {
        output.json(&report)?
    } else {
        report.write(selector, output)?
    }
    match report.networks.iter().map(|network| network.problems.len()).sum() {
        0 => Ok(()),
        problems => Err(Error::Problems(problems)),
    }
}

impl Repaired {
    fn repair(network: &NodeNetwork, selector: &Selector, host: &Socket) -> Result<Self, Error> {
        let name = network.name.clone();
        let before = status::findings(network, &selector.conf_dir, host)?;
        // If the pods cannot be read, a repair may be necessary.
        let has_pods = pods(network, &host.links()?).map_or(true, |pods| !pods.is_empty());
        let (Some(configured), true) = (&network.configured, has_pods) else {
            let [problems, _] = before;
            return Ok(Self { name, repaired: Vec::new(), problems, has_pods });
        };
        let result = Network::new(host, &name, configured.config(), &network.store).repair(configured.masquerades());
        let after = status::findings(network, &selector.conf_dir, host)?;
        let remains = |found: &str| after.iter().flatten().any(|problem| problem.found == found);
        let before = before.into_iter().flatten().map(|problem| problem.found);
        let repaired = before.filter(|found| !remains(found)).collect();
        let [mut problems, _] = after;
        if let Err(error) = result {
            problems.insert(0, format!("cannot repair the network: {error}").into());
        }
        Ok(Self { name, repaired, problems, has_pods })
    }
}

impl Report {
    fn write(&self, selector: &Selector, output: &mut Output) -> Result<(), Error> {
        if self.networks.is_empty() {
            return output.line(selector.no_network());
        }
        for Repaired { name, repaired, problems, has_pods } in &self.networks {
            output.styled(HEADER, name)?;
            for found in repaired {
                output.line(format_args!("  repaired: {found}"))?;
            }
            for problem in problems {
                output.styled(ERROR, format_args!("  {problem}"))?;
            }
            match (problems.is_empty(), has_pods) {
                (true, true) => output.styled(OK, "  OK")?,
                (true, false) => output.styled(DIM, "  no pod is attached, so there is nothing to repair")?,
                (false, _) => {}
            }
        }
        Ok(())
    }
}
