//! Rules in the packet filters of other programs, so that these do not drop packets of pods.

use cnikit::netlink::nftables::Socket;
use cnikit::netlink::{Error, Result};
use ipnetwork::IpNetwork;
use simple_ebpf_cni::agent::forward::{ForwardChain, Problem, chains};
use tracing::info;

/// The result of a comparison with the chains of other programs.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The chains that have new rules, or lost old ones.
    pub changed: Vec<String>,
    /// The chains that the kernel did not change, with the reason.
    pub refused: Vec<(ForwardChain, Error)>,
}

/// Applies the option `--forward-accept`. Returns a message for each chain that still drops packets
/// of pods: pods of this node reach each other without these chains.
#[must_use]
pub fn apply(own: &[IpNetwork], is_enabled: bool) -> Vec<String> {
    let applied = if is_enabled { ensure(own) } else { remove() };
    let Outcome { changed, refused } = match applied {
        Ok(outcome) => outcome,
        Err(error) => return vec![format!("cannot read the packet filters of this node: {error}")],
    };
    for chain in changed {
        info!("changed the rules for pods in the nftables chain {chain}");
    }
    let remaining = refused.into_iter().map(|(chain, error)| match chain.problem(own) {
        Some(Problem { found, remedy, .. }) => {
            format!("{found}, and the kernel refuses the rules of the agent ({error}): {remedy}")
        }
        None => format!("cannot delete the rules for pods in the nftables chain {chain}: {error}"),
    });
    let mut problems: Vec<String> = remaining.collect();
    if !is_enabled {
        match dropping(own) {
            Ok(dropping) => {
                problems.extend(dropping.into_iter().map(|Problem { found, remedy, .. }| format!("{found}: {remedy}")));
            }
            Err(error) => problems.push(format!("cannot read the packet filters of this node: {error}")),
        }
    }
    problems
}

/// Inserts rules for pods with these CIDRs into each chain that drops forwarded packets. Deletes
/// rules of the agent that are not needed. Each chain is one transaction, because a program can
/// refuse changes of its table.
///
/// # Errors
///
/// Fails if the chains cannot be listed.
pub fn ensure(own: &[IpNetwork]) -> Result<Outcome> {
    let nftables = match Socket::open() {
        Err(Error::Unsupported { .. }) => return Ok(Outcome::default()),
        socket => socket?,
    };
    let mut outcome = Outcome::default();
    for chain in chains(&nftables)? {
        let Some(batch) = chain.changes(own) else { continue };
        match nftables.commit(&batch) {
            Ok(()) => outcome.changed.push(chain.to_string()),
            Err(error) => outcome.refused.push((chain, error)),
        }
    }
    Ok(outcome)
}

/// Deletes all rules of the agent in chains of other programs.
///
/// # Errors
///
/// As for [`ensure`].
pub fn remove() -> Result<Outcome> {
    ensure(&[])
}

/// The chains that drop packets of pods with these CIDRs.
///
/// # Errors
///
/// As for [`ensure`].
pub fn dropping(own: &[IpNetwork]) -> Result<Vec<Problem>> {
    let nftables = match Socket::open() {
        Err(Error::Unsupported { .. }) => return Ok(Vec::new()),
        socket => socket?,
    };
    Ok(chains(&nftables)?.iter().filter_map(|chain| chain.problem(own)).collect())
}
