//! The nftables table of the agent.

use cnikit::netlink::nftables::{Batch, Chain, Family, Rule, Set, Socket, Table};
use cnikit::netlink::{self, Result};
use simple_ebpf_cni::agent::NAME;

/// A rule, and the comment that identifies it.
#[derive(Debug)]
pub struct Expected {
    /// Contains the digest of the rule.
    pub comment: String,
    /// The rule, without the comment.
    pub rule: Rule,
}

/// The table.
#[must_use]
pub fn table() -> Table {
    Table::new(Family::Inet, NAME)
}

/// Whether a chain has exactly these rules, in this order.
///
/// # Errors
///
/// Fails if the kernel does not list the rules.
pub fn has_rules(socket: &Socket, chain: &Chain, rules: &[Expected]) -> Result<bool> {
    let found: Vec<_> = socket.rules(chain)?.into_iter().map(|rule| rule.comment.unwrap_or_default()).collect();
    Ok(found.iter().eq(rules.iter().map(|rule| &rule.comment)))
}

/// Replaces all rules of a chain.
#[must_use]
pub fn set_rules(batch: Batch, chain: &Chain, rules: Vec<Expected>) -> Batch {
    let append = |batch: Batch, Expected { comment, rule }| batch.append_rule(chain, rule.comment(comment));
    rules.into_iter().fold(batch.flush_chain(chain), append)
}

/// Deletes chains and sets of the table, as far as they exist, and then the table if it is empty.
///
/// # Errors
///
/// Fails if the kernel refuses the deletion.
pub fn remove(chains: &[Chain], sets: &[Set]) -> Result<()> {
    let remove = |socket: Socket| {
        chains.iter().try_for_each(|chain| socket.delete_chain(chain))?;
        sets.iter().try_for_each(|set| socket.delete_set(set))?;
        socket.delete_empty_table(&table()).map(drop)
    };
    match Socket::open().and_then(remove) {
        Err(netlink::Error::Unsupported { .. }) => Ok(()),
        removed => removed,
    }
}
