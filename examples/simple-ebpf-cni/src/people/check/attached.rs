//! What pods that are attached have lost since.

use std::collections::HashSet;

use cnikit::netlink::{Link, Socket};
use cnikit::spec::Attachment;

use super::{Check, Verdict, forwarding};
use crate::NAME;
use crate::config::Addressing;
use crate::people::attached::Pod;
use crate::people::network::Network;
use crate::people::node::Known;
use crate::people::text::{count, have};
use crate::people::{Error, chain, remedy};
use crate::{masquerade, programs};

/// Whether a network has pods, by the ports of its bridge alone.
pub(super) fn has_ports(network: &Network, links: &[Link]) -> bool {
    let bridge = links.iter().find(|link| link.name == *network.bridge());
    bridge.is_some_and(|bridge| ports(bridge, links).next().is_some())
}

/// What pods of the network lack, which the next ADD of another one would not always mend.
pub(crate) fn attached(known: &Known, pods: &[Pod], host: &Socket, links: &[Link]) -> Result<Vec<Check>, Error> {
    let mut checks = Vec::new();
    // What serves the network is made by the ADD of its first pod, and mended by that of each.
    if !pods.is_empty() {
        checks.extend(bridge(known, host, links));
    }
    checks.extend(unpinned(known, host)?);
    let Some((_, network)) = &known.configured else {
        return Ok(checks);
    };
    let is_attached = pods.iter().any(|pod| pod.host_interface.is_some());
    if is_attached && network.masquerades() {
        checks.extend(masquerade(network));
    }
    checks.extend(unleased(known, network, pods, host, links)?);
    Ok(checks)
}

/// What keeps the host from routing what pods send to the world, where their network masquerades.
pub(crate) fn not_forwarded(known: &Known, links: &[Link]) -> Vec<Check> {
    let network = known.configured.as_ref().map(|(_, network)| network).filter(|network| network.masquerades());
    let Some(network) = network.filter(|network| has_ports(network, links)) else {
        return Vec::new();
    };
    forwarding(network, links).filter(|check| check.verdict == Verdict::Fail).collect()
}

fn bridge(known: &Known, host: &Socket, links: &[Link]) -> Option<Check> {
    const CHECK: &str = "bridge";
    let name = &known.name;
    match known.bridge(links) {
        None => Some(Check::fail(
            CHECK,
            format!("the bridge of {name} is gone"),
            "attach a pod, as the next ADD makes it again",
        )),
        Some(bridge) if !bridge.up => {
            Some(Check::fail(CHECK, format!("{} is down", bridge.name), format!("ip link set {} up", bridge.name)))
        }
        Some(bridge) if !known.owns(bridge, host) => {
            let found = format!("{} is not {name}'s", bridge.name);
            Some(Check::fail(CHECK, found, "name another as \"bridge\""))
        }
        Some(_) => None,
    }
}

/// Whether the programs that run use other maps than those that are pinned where this process looks.
fn unpinned(known: &Known, host: &Socket) -> Result<Option<Check>, Error> {
    const REMEDY: &str = "attach a pod, as the next ADD pins the maps in use; findmnt --submounts /sys/fs/bpf shows \
                          whether another file system lies over the pins";
    let unpinned = programs::unpinned_maps(host, &known.datapath, &known.name)?;
    let found = || format!("{}: {}", known.name, programs::unpinned(&known.datapath.directory()));
    Ok(unpinned.map(|_| Check::warn("pins", found(), REMEDY)))
}

fn masquerade(network: &Network) -> Option<Check> {
    const CHECK: &str = "masquerade";
    let name = &network.name;
    match masquerade::is_lost(name, network.config()) {
        Ok(false) => None,
        Ok(true) => Some(Check::fail(
            CHECK,
            format!("the nftables rules that masquerade {name} are gone: its pods do not reach the world"),
            "attach a pod, as the next ADD makes them again; look for what flushes the ruleset, such as nftables.service",
        )),
        Err(error) => {
            let found = format!("it cannot be told whether the pods of {name} are masqueraded: {}", chain(&error));
            Some(Check::fail(CHECK, found, remedy::of_netlink(&error)))
        }
    }
}

/// Pods without a lease, of a network that keeps leases.
fn unleased(
    known: &Known,
    network: &Network,
    pods: &[Pod],
    host: &Socket,
    links: &[Link],
) -> Result<Option<Check>, Error> {
    let bridge = known.bridge(links).filter(|bridge| known.owns(bridge, host));
    let (Some(bridge), false) = (bridge, matches!(network.config().addressing, Addressing::Delegated)) else {
        return Ok(None);
    };
    let leased: HashSet<_> =
        pods.iter().filter(|pod| pod.created.is_some()).filter_map(|pod| pod.host_interface.as_ref()).collect();
    // A damaged lease does not say whose it is, and holds its address all the same.
    let damaged = known.store.leases()?.filter(Result::is_err).count();
    let lost = ports(bridge, links).filter(|link| !leased.contains(&link.name)).count().saturating_sub(damaged);
    Ok((lost > 0).then(|| {
        let found = format!(
            "{} of {} {} no lease: the state in {} was lost, and an ADD may give their addresses again",
            count(lost, "pod"),
            known.name,
            have(lost),
            known.store.dir().display()
        );
        Check::fail("leases", found, format!("remove these pods and make them again: {NAME} pods shows them"))
    }))
}

fn ports<'l>(bridge: &'l Link, links: &'l [Link]) -> impl Iterator<Item = &'l Link> {
    links.iter().filter(|link| link.master == Some(bridge.index) && Attachment::is_host_ifname(&link.name))
}
