//! Packets of the tunnel without connection tracking.
//!
//! Each flow in the tunnel has another UDP source port, so the kernel would track each of them once
//! more, on both nodes. No rule of this project needs the state of these connections.

use cnikit::netlink::Result;
use cnikit::netlink::nftables::{
    Action, Batch, Chain, ChainType, Expression, Hook, Match, Priority, Protocol, Rule, Socket,
};

use crate::table::{self, Expected, has_rules, set_rules, table};

/// Excludes packets to this UDP port from connection tracking, in both directions: both nodes
/// receive at this port. Returns whether the rules have changed.
///
/// # Errors
///
/// Fails if the kernel refuses the rules.
pub fn ensure(port: u16) -> Result<bool> {
    let socket = Socket::open()?;
    let mut batch = Batch::new().ensure_table(&table());
    let mut is_changed = false;
    for chain in chains() {
        let rule = Rule::new(Action::Continue)
            .with_match(Match::destination_port(Protocol::UDP, port))
            .with_expression(Expression::new("notrack"));
        let rules = vec![Expected { comment: format!("tunnel, {}", rule.digest()?), rule }];
        if !has_rules(&socket, &chain, &rules)? {
            is_changed = true;
            batch = set_rules(batch.ensure_chain(&chain), &chain, rules);
        }
    }
    if is_changed {
        socket.commit(&batch)?;
    }
    Ok(is_changed)
}

/// Deletes the rules, if they exist.
///
/// # Errors
///
/// Fails if the kernel refuses the deletion.
pub fn remove() -> Result<()> {
    table::remove(&chains(), &[])
}

fn chains() -> [Chain; 2] {
    [("untracked_in", Hook::Prerouting), ("untracked_out", Hook::Output)]
        .map(|(name, hook)| table().chain(name).hook(ChainType::Filter, hook, Priority::RAW))
}
