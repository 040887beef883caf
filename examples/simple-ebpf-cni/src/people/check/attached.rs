//! What pods that are attached have lost since.

use std::collections::HashSet;

use cnikit::netlink::{Link, Socket};
use cnikit::spec::Attachment;

use super::{Check, Verdict, forwarding};
use crate::config::Addressing;
use crate::people::attached::Pod;
use crate::people::network::Network;
use crate::people::node::Known;
use crate::people::text::{count, have};
use crate::people::{Error, chain, remedy};
use crate::{NAME, drift, masquerade, programs};

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
        checks.extend(bridge(known, host, links)?);
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

fn bridge(known: &Known, host: &Socket, links: &[Link]) -> Result<Vec<Check>, Error> {
    const CHECK: &str = "bridge";
    let name = &known.name;
    let Some(bridge) = known.bridge(links) else {
        let found = format!("the bridge of {name} is gone");
        return Ok(vec![Check::fail(CHECK, found, format!("{NAME} repair --network {name}, or attach a pod"))]);
    };
    let mut checks = Vec::new();
    if !bridge.up {
        let remedy = format!("ip link set {} up", bridge.name);
        checks.push(Check::fail(CHECK, format!("{} is down", bridge.name), remedy));
    } else if !known.owns(bridge, host) {
        let found = format!("{} is not {name}'s", bridge.name);
        return Ok(vec![Check::fail(CHECK, found, "name another as \"bridge\"")]);
    }
    // Pins that are gone, or not whole, are reported as such.
    if known.datapath.is_complete()? {
        checks.extend(gateways(known, bridge, host)?);
    }
    Ok(checks)
}

/// What CHECK would report of the gateway.
fn gateways(known: &Known, bridge: &Link, host: &Socket) -> Result<Vec<Check>, Error> {
    const CHECK: &str = "gateway";
    let has = host.addresses(bridge.index)?;
    let config = known.configured.as_ref().map(|(_, network)| network.config());
    let (told, taken) = (known.datapath.config()?, drift::taken(&known.datapath, config, &has)?);
    let mut checks = Vec::new();
    // A bridge that was made anew has no address, and another index: the next ADD gives it both.
    if let Some(found) = drift::other_mac(bridge, &told) {
        let remedy = format!("ip link set {} address {}; or {}", bridge.name, told.gateway_mac, mend(known, true));
        checks.push(Check::fail(CHECK, found, remedy));
    }
    let is_own = config.is_some_and(|config| !matches!(config.addressing, Addressing::Delegated));
    for found in drift::lacking(bridge, &has, &taken) {
        checks.push(Check::fail(CHECK, found, mend(known, is_own)));
    }
    Ok(checks)
}

/// How to have the network as an ADD leaves it. Which address another plugin gave the bridge, `repair` does not know.
fn mend(known: &Known, is_repairable: bool) -> String {
    let name = &known.name;
    if is_repairable { format!("{NAME} repair --network {name}") } else { format!("attach a pod of {name}") }
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
            format!(
                "{NAME} repair --network {name}, or attach a pod; look for what flushes the ruleset, such as nftables.service"
            ),
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
