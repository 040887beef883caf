//! The node agent, and the packet filters that drop packets of pods of other nodes.

use std::fs;

use cnikit::netlink::nftables;
use simple_ebpf_cni::agent::forward::{Problem, chains};
use simple_ebpf_cni::agent::{Report, Way};

use super::diagnostic::{Diagnostic, Verdict};
use crate::NAME;
use crate::cli::agent::{State, failure, report};
use crate::cli::format::count;

const AGENT: &str = "agent";
const FORWARD: &str = "forward";

/// The tables of iptables-legacy in this namespace.
const LEGACY_TABLES: [(&str, &str); 2] =
    [("/proc/net/ip_tables_names", "iptables-legacy"), ("/proc/net/ip6_tables_names", "ip6tables-legacy")];

/// Checks the agent and the packet filters. A node without an agent has no such check.
pub(super) fn agent() -> Vec<Diagnostic> {
    let report = match report() {
        Ok(Some(report)) => report,
        Ok(None) => return Vec::new(),
        Err(error) => return vec![Diagnostic::warn(AGENT, error.to_string(), "restart the agent: it writes the file")],
    };
    let forward = forward(&report);
    let mut checks = vec![match failure(&report) {
        Some(found) => Diagnostic::warn(
            AGENT,
            format!("{found}: pods keep their network, and changes of other nodes have no effect"),
            "kubectl -n kube-system get pods -l app.kubernetes.io/name=simple-ebpf-cni -o wide",
        ),
        None => Diagnostic::ok(
            AGENT,
            format!("runs on node {}; ways to other nodes: {}", report.node, State::of(&report).nodes()),
        ),
    }];
    let unreachable: Vec<_> = report.peers.iter().filter(|peer| peer.way == Way::None).collect();
    if let Some(first) = unreachable.first() {
        let found = format!(
            "no way to {}, such as {} of node {}: {}",
            count(unreachable.len(), "pod CIDR"),
            first.pod_cidr,
            first.node,
            first.reason
        );
        checks.push(Diagnostic::warn(AGENT, found, format!("{NAME} nodes lists the reasons")));
    }
    // The checks of unreachable nodes and of packet filters report the same.
    let is_reported = |problem: &str| {
        unreachable.iter().any(|peer| problem.contains(&format!("no route to pods of node {}: ", peer.node)))
            || forward.iter().any(|check| problem.starts_with(&check.found))
    };
    for problem in report.problems.iter().filter(|problem| !is_reported(problem)) {
        checks.push(Diagnostic::warn(AGENT, problem.clone(), "the agent tries again after each change of the node"));
    }
    checks.extend(forward);
    checks
}

/// Checks whether chains drop forwarded packets of pods.
fn forward(report: &Report) -> Vec<Diagnostic> {
    let chains = match nftables::Socket::open().and_then(|nftables| chains(&nftables)) {
        Ok(chains) => chains,
        Err(error) => {
            return vec![Diagnostic::warn(
                FORWARD,
                error.to_string(),
                "nft list ruleset shows chains that drop packets",
            )];
        }
    };
    let problems = chains.iter().filter_map(|chain| chain.problem(&report.pod_cidrs));
    let mut checks: Vec<_> = problems
        .map(|Problem { found, remedy, is_uncertain }| {
            if is_uncertain {
                Diagnostic::warn(FORWARD, found, remedy)
            } else {
                Diagnostic::fail(FORWARD, found, remedy)
            }
        })
        .collect();
    if checks.is_empty() {
        checks.push(Diagnostic::ok(FORWARD, "no nftables chain drops forwarded packets of pods"));
    }
    checks.extend(LEGACY_TABLES.into_iter().filter(|(file, _)| has_filter(file)).map(|(_, program)| Diagnostic {
        check: FORWARD,
        verdict: Verdict::Ok,
        found: format!("{program} has a table filter, which only {program} can read"),
        remedy: Some(legacy_remedy(program, report)),
    }));
    checks
}

fn has_filter(file: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|tables| tables.lines().any(|table| table == "filter"))
}

fn legacy_remedy(program: &str, report: &Report) -> String {
    let is_ipv4 = program == "iptables-legacy";
    let cidrs = report.pod_cidrs.iter().filter(|cidr| cidr.is_ipv4() == is_ipv4);
    let commands: Vec<_> = cidrs
        .flat_map(|cidr| ["-s", "-d"].map(|field| format!("{program} -I FORWARD {field} {cidr} -j ACCEPT")))
        .collect();
    format!("if {program} -S FORWARD shows -P FORWARD DROP: {}", commands.join(" && "))
}
