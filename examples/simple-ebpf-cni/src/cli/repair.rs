//! `repair`: makes networks whole without an ADD.

use clap::Args;
use cnikit::netlink::Socket;
use cnikit::spec::NetworkName;
use serde::Serialize;

use super::attached::pods;
use super::node::{Known, Scope};
use super::output::{BAD, GOOD, HEADER, Output, VOID};
use super::status::{self, Problem};
use super::{Error, chain};
use simple_ebpf_cni::network::Network;

const EXIT_STATUS: &str = "\
Exit status:
  0  all networks with pods are well now
  1  one is not, and standard output says why
  2  the command line is wrong";

/// Repair what the pods of each network share: the bridge, its addresses and ports, the eBPF programs and maps, masquerading.
///
/// An ADD repairs the same, except the ports of other pods. Pods keep their interfaces. A network without pods is left alone.
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
    networks: Vec<Repaired>,
}

/// What came of the repair of a network.
#[derive(Debug, Serialize)]
struct Repaired {
    name: NetworkName,
    /// What was wrong, and is not any more.
    repaired: Vec<String>,
    /// What is still wrong.
    problems: Vec<Problem>,
    #[serde(skip)]
    has_pods: bool,
}

pub(crate) fn run(options: &Options, output: &mut Output) -> Result<(), Error> {
    let host = Socket::open()?;
    let networks = options.scope.networks()?;
    let repaired = networks.iter().map(|known| Repaired::of(known, &options.scope, &host));
    let report = Report { networks: repaired.collect::<Result<_, _>>()? };
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

impl Repaired {
    fn of(known: &Known, scope: &Scope, host: &Socket) -> Result<Self, Error> {
        let name = known.name.clone();
        let before = status::findings(known, &scope.conf_dir, host)?;
        // Where it cannot be told, a repair may be what is needed.
        let has_pods = pods(known, &host.links()?).map_or(true, |pods| !pods.is_empty());
        let (Some((_, network)), true) = (&known.configured, has_pods) else {
            let [problems, _] = before;
            return Ok(Self { name, repaired: Vec::new(), problems, has_pods });
        };
        let done = Network::new(host, &name, network.config(), &known.store).repair(network.masquerades());
        let after = status::findings(known, &scope.conf_dir, host)?;
        let is_left = |found: &str| after.iter().flatten().any(|problem| problem.found == found);
        let before = before.into_iter().flatten().map(|problem| problem.found);
        let repaired = before.filter(|found| !is_left(found)).collect();
        let [mut problems, _] = after;
        if let Err(failure) = done {
            problems.insert(0, format!("it cannot be repaired: {}", chain(&failure)).into());
        }
        Ok(Self { name, repaired, problems, has_pods })
    }
}

impl Report {
    fn write(&self, output: &mut Output) -> Result<(), Error> {
        if self.networks.is_empty() {
            return output.line("There is no network on this node.");
        }
        for Repaired { name, repaired, problems, has_pods } in &self.networks {
            output.styled(HEADER, name)?;
            for found in repaired {
                output.line(format_args!("  repaired: {found}"))?;
            }
            for problem in problems {
                output.styled(BAD, format_args!("  {problem}"))?;
            }
            match (problems.is_empty(), has_pods) {
                (true, true) => output.styled(GOOD, "  well")?,
                (true, false) => output.styled(VOID, "  no pod is attached, so there is nothing to repair")?,
                (false, _) => {}
            }
        }
        Ok(())
    }
}
