//! Masquerading: packets of pods to addresses outside of the cluster get the address of the node.
//!
//! The table has two sets of each family. One has the pod CIDRs of all nodes. The other has the
//! addresses of nodes that see the address of a pod. A new node changes elements, and no rule.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cnikit::netlink::nftables::{
    Action, Batch, Chain, ChainType, DataType, Element, Family, Hook, Match, PacketField, PortRandomization, Priority,
    Rule, Set, Socket, Table, Value,
};
use cnikit::netlink::{self, Result};
use cnikit::spec::IfName;
use ipnetwork::IpNetwork;
use simple_ebpf_cni::agent::NAME;

use crate::desired::Desired;

/// The sets of one family.
struct Sets {
    pod_cidrs: Set,
    nodes: Set,
}

/// A rule with the comment that identifies it.
struct Expected {
    comment: String,
    rule: Rule,
}

/// Makes the table equal to the desired state: pods of `own` CIDRs are masqueraded. Returns whether
/// the table has changed. All changes are one transaction.
///
/// # Errors
///
/// Fails if the kernel refuses the rules.
pub fn ensure(own: &[IpNetwork], desired: &Desired, bridge: &IfName) -> Result<bool> {
    let (table, chain) = (table(), chain());
    let socket = Socket::open()?;
    let mut batch = Batch::new().ensure_table(&table).ensure_chain(&chain);
    let mut is_changed = false;
    for is_ipv4 in [true, false] {
        let Sets { pod_cidrs, nodes } = sets(is_ipv4);
        let wanted = desired.pod_cidrs.iter().filter(|cidr| cidr.is_ipv4() == is_ipv4);
        let wanted_pods: Vec<Element> = wanted.map(|cidr| Element::new([Value::Prefix(*cidr)])).collect();
        let wanted = desired.nodes.iter().filter(|node| node.is_ipv4() == is_ipv4);
        let wanted_nodes: Vec<Element> = wanted.map(|node| Element::new([Value::Address(*node)])).collect();
        for (set, wanted) in [(pod_cidrs, wanted_pods), (nodes, wanted_nodes)] {
            batch = batch.ensure_set(&set);
            if !has_elements(&socket, &set, &wanted)? {
                is_changed = true;
                batch = batch.flush_set(&set).add_elements(&set, wanted);
            }
        }
    }
    let rules: Vec<Expected> = own.iter().map(|cidr| rule(*cidr, bridge)).collect::<Result<_>>()?;
    let found: Vec<_> = socket.rules(&chain)?.into_iter().map(|rule| rule.comment.unwrap_or_default()).collect();
    if !found.iter().eq(rules.iter().map(|rule| &rule.comment)) {
        is_changed = true;
        batch = batch.flush_chain(&chain);
        for Expected { comment, rule } in rules {
            batch = batch.append_rule(&chain, rule.comment(comment));
        }
    }
    if is_changed {
        socket.commit(&batch)?;
    }
    Ok(is_changed)
}

/// Deletes the table, if there is one.
///
/// # Errors
///
/// Fails if the kernel refuses the deletion.
pub fn remove() -> Result<()> {
    match Socket::open().and_then(|socket| socket.delete_table(&table())) {
        Err(netlink::Error::Unsupported { .. }) => Ok(()),
        removed => removed,
    }
}

fn table() -> Table {
    Table::new(Family::Inet, NAME)
}

fn chain() -> Chain {
    table().chain("postrouting").hook(ChainType::Nat, Hook::Postrouting, Priority::SRCNAT)
}

fn sets(is_ipv4: bool) -> Sets {
    let (kind, suffix) = if is_ipv4 { (DataType::Ipv4, "v4") } else { (DataType::Ipv6, "v6") };
    Sets {
        pod_cidrs: table().set(format!("pod_cidrs_{suffix}"), [kind]).intervals(),
        nodes: table().set(format!("nodes_{suffix}"), [kind]),
    }
}

/// Whether the set has exactly these elements.
fn has_elements(socket: &Socket, set: &Set, wanted: &[Element]) -> Result<bool> {
    let keys = |elements: &[Element]| -> BTreeSet<String> {
        elements.iter().map(|element| format!("{:?}", element.key)).collect()
    };
    Ok(keys(&socket.elements(set)?) == keys(wanted))
}

/// The rule for pods of one CIDR. Packets within the bridge and to multicast groups keep their
/// source, as in the rules of the plugin.
fn rule(own: IpNetwork, bridge: &IfName) -> Result<Expected> {
    let Sets { pod_cidrs, nodes } = sets(own.is_ipv4());
    let (group, prefix) = match own {
        IpNetwork::V4(_) => (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4),
        IpNetwork::V6(_) => (IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8),
    };
    let multicast = IpNetwork::new(group, prefix).unwrap_or(own);
    let rule = Rule::new(Action::Masquerade(PortRandomization::FullyRandom))
        .with_match(Match::source(own))
        .with_match(!Match::in_set(pod_cidrs.lookup([PacketField::Destination])))
        .with_match(!Match::in_set(nodes.lookup([PacketField::Destination])))
        .with_match(!Match::destination(multicast))
        .with_match(!Match::output_link(bridge.clone()));
    Ok(Expected { comment: format!("pods of {own}, {}", rule.digest()?), rule })
}
