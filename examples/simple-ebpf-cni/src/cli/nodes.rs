//! `nodes`: lists the other nodes of the cluster with the ways to their pods.

use std::time::{Duration, SystemTime};

use clap::Args;
use clap::builder::styling::Style;
use simple_ebpf_cni::agent::{PeerReport, ProbeReport, Report, Way};

use super::agent;
use super::error::Error;
use super::format::{UNKNOWN, age, count};
use super::options::EXIT_STATUS;
use super::output::{DIM, ERROR, Output, WARNING};
use super::table::Table;

/// List the other nodes of the cluster, with the way to their pods.
///
/// The agent on this node writes the list. WAY is `direct` if packets go to the node's address,
/// and `vxlan` if they go there through a tunnel. It is `routed` if the network between the nodes
/// routes the packets. It is `none` if pods of the node cannot be reached. EBPF shows whether the
/// programs forward the packets, or the stack. PROBE is the age of the last answer by the direct
/// way. REASON has the cause of the choice.
#[derive(Debug, Args)]
#[command(after_help = EXIT_STATUS)]
pub(crate) struct Options {
    /// Output JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: &Options, output: &mut Output) -> Result<(), Error> {
    let report = agent::report()?.ok_or(Error::NoAgent)?;
    if options.json { output.json(&report) } else { write(&report, output) }
}

/// The age of the last answer, and the number of lost probes since then.
fn probed(probe: &ProbeReport) -> String {
    let answered = probe.answered.map(|time| age(SystemTime::UNIX_EPOCH + Duration::from_secs(time)));
    match (answered, probe.lost) {
        (Some(age), 0) => format!("{age} ago"),
        (Some(age), lost) => format!("{age} ago, {lost} lost since"),
        (None, 0) => UNKNOWN.to_owned(),
        (None, lost) => format!("{lost} lost"),
    }
}

fn write(report: &Report, output: &mut Output) -> Result<(), Error> {
    let mut table = Table::new(["NODE", "POD CIDR", "WAY", "EBPF", "ADDRESS", "LINK", "MTU", "PROBE", "REASON"]);
    for PeerReport { node, pod_cidr, address, way, reason, link, mtu, bypass, probe, .. } in &report.peers {
        let unknown = || UNKNOWN.to_owned();
        let (style, way) = match way {
            Way::Direct => (Style::new(), "direct"),
            Way::Vxlan => (Style::new(), "vxlan"),
            Way::Routed => (Style::new(), "routed"),
            Way::None => (ERROR, "none"),
        };
        table.row(
            style,
            [
                node.clone(),
                pod_cidr.to_string(),
                way.to_owned(),
                if *bypass { "yes" } else { "no" }.to_owned(),
                address.map_or_else(unknown, |address| address.to_string()),
                link.clone().unwrap_or_else(unknown),
                mtu.map_or_else(unknown, |mtu| mtu.to_string()),
                probe.as_ref().map_or_else(unknown, probed),
                reason.clone(),
            ],
        );
    }
    table.write(output)?;
    if !report.peers.is_empty() {
        output.line("")?;
    }
    let cidrs = super::format::list(&report.pod_cidrs);
    let own = if cidrs.is_empty() { "no pod CIDR".to_owned() } else { cidrs };
    let number = count(report.peers.len(), "pod CIDR");
    output.line(format_args!("{number} of other nodes, from {} ({own})", report.node))?;
    for problem in &report.problems {
        output.styled(WARNING, format_args!("problem: {problem}"))?;
    }
    let time = format!("state of the agent {} ago, at its last comparison with the kernel", age(agent::time(report)));
    if agent::is_late(report) {
        return output.styled(WARNING, format_args!("{time}; the agent may not run"));
    }
    output.styled(DIM, time)
}
