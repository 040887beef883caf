//! Masquerading: packets of pods to addresses outside of the cluster get the address of the node.
//!
//! The table has two sets of each family. One has the pod CIDRs of all nodes. The other has the
//! addresses of nodes that see the address of a pod. A new node changes elements, and no rule.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cnikit::netlink::Result;
use cnikit::netlink::nftables::{
    Action, Batch, Chain, ChainType, DataType, Element, Hook, Match, PacketField, PortRandomization, Priority, Rule,
    Set, Socket, Value,
};
use cnikit::spec::IfName;
use ipnetwork::IpNetwork;

use crate::desired::Desired;
use crate::table::{self, Expected, has_rules, set_rules};

/// The sets of one family.
struct Sets {
    pod_cidrs: Set,
    nodes: Set,
}

/// Makes chain and sets equal to the desired state: pods of `own` CIDRs are masqueraded. Returns
/// whether they have changed. All changes are one transaction.
///
/// # Errors
///
/// Fails if the kernel refuses the rules.
pub fn ensure(own: &[IpNetwork], desired: &Desired, bridge: &IfName) -> Result<bool> {
    let chain = chain();
    let socket = Socket::open()?;
    let mut batch = Batch::new().ensure_table(&table::table()).ensure_chain(&chain);
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
    if !has_rules(&socket, &chain, &rules)? {
        is_changed = true;
        batch = set_rules(batch, &chain, rules);
    }
    if is_changed {
        socket.commit(&batch)?;
    }
    Ok(is_changed)
}

/// Deletes chain and sets, if they exist.
///
/// # Errors
///
/// Fails if the kernel refuses the deletion.
pub fn remove() -> Result<()> {
    table::remove(&[chain()], &[true, false].map(sets).map(|Sets { pod_cidrs, nodes }| [pod_cidrs, nodes]).concat())
}

fn chain() -> Chain {
    table::table().chain("postrouting").hook(ChainType::Nat, Hook::Postrouting, Priority::SRCNAT)
}

fn sets(is_ipv4: bool) -> Sets {
    let (kind, suffix) = if is_ipv4 { (DataType::Ipv4, "v4") } else { (DataType::Ipv6, "v6") };
    Sets {
        pod_cidrs: table::table().set(format!("pod_cidrs_{suffix}"), [kind]).intervals(),
        nodes: table::table().set(format!("nodes_{suffix}"), [kind]),
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
