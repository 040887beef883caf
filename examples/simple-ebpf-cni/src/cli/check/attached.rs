//! What pods that are attached have lost since.

use std::collections::{HashMap, HashSet};

use cnikit::netlink::{FdbEntry, FdbState, Link, Socket};
use cnikit::spec::IfName;
use simple_ebpf_cni::config::Ipam;
use simple_ebpf_cni::drift::PortFault;
use simple_ebpf_cni::programs::Programs;
use simple_ebpf_cni::{bridge, drift, masquerade, naming, programs};

use super::{Check, Verdict, forwarding};
use crate::NAME;
use crate::cli::attached::{Pod, names_of_some};
use crate::cli::network::Network;
use crate::cli::node::Known;
use crate::cli::text::{count, have};
use crate::cli::{Error, chain, remedy};

/// Whether a network has pods, by the ports of its bridge alone.
pub(super) fn has_ports(network: &Network, links: &[Link]) -> bool {
    let bridge = links.iter().find(|link| link.name == *network.bridge());
    bridge.is_some_and(|bridge| bridge::pod_ports(bridge, links).next().is_some())
}

/// What pods of the network lack, which the next ADD of another one would not always mend.
pub(crate) fn attached(known: &Known, pods: &[Pod], host: &Socket, links: &[Link]) -> Result<Vec<Check>, Error> {
    let mut checks = Vec::new();
    // What serves the network is made by the ADD of its first pod, and mended by that of each.
    if !pods.is_empty() {
        checks.extend(bridge(known, pods, host, links)?);
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

/// What is wrong with the bridge, its ports and the gateway's addresses.
fn bridge(known: &Known, pods: &[Pod], host: &Socket, links: &[Link]) -> Result<Vec<Check>, Error> {
    const CHECK: &str = "bridge";
    let name = &known.name;
    let Some(bridge) = known.bridge(links) else {
        let found = format!("the bridge of {name} is gone");
        let remedy = if known.configured.is_some() { mend(known) + ", or attach a pod" } else { mend(known) };
        return Ok(vec![Check::fail(CHECK, found, remedy)]);
    };
    if !known.owns(bridge, host) {
        return Ok(vec![foreign(known, bridge, pods, host, links)]);
    }
    let mut checks = Vec::new();
    if !bridge.up {
        let remedy = format!("{}, or ip link set {} up", mend(known), bridge.name);
        checks.push(Check::fail(CHECK, format!("{} is down", bridge.name), remedy));
    }
    checks.extend(ports_of(known, bridge, pods, host, links)?);
    // Pins that are gone, or not whole, are reported as such.
    if known.datapath.is_complete()? {
        checks.extend(gateways(known, bridge, host)?);
    }
    Ok(checks)
}

/// The bridge's name leads to one that the network has not claimed.
fn foreign(known: &Known, bridge: &Link, pods: &[Pod], host: &Socket, links: &[Link]) -> Check {
    const CHECK: &str = "bridge";
    let (name, bridge_name) = (&known.name, &bridge.name);
    if !bridge::is_claimed(host, name, bridge).is_ok_and(|is_claimed| !is_claimed) {
        return Check::fail(CHECK, format!("{bridge_name} is not {name}'s"), "name another as \"bridge\"");
    }
    let has_pods = attached_pods(pods, links).any(|(_, port)| port.master == Some(bridge.index));
    let found = if has_pods {
        format!("the eBPF programs do not run on {bridge_name}")
    } else {
        format!("{bridge_name} was created anew outside the plugin, and the pods of {name} are no ports of it")
    };
    Check::fail(CHECK, found, mend(known))
}

/// The pods that are attached, each with its port.
fn attached_pods<'p>(pods: &'p [Pod], links: &'p [Link]) -> impl Iterator<Item = (&'p Pod, &'p Link)> {
    let by_name: HashMap<&IfName, &Link> = links.iter().map(|link| (&link.name, link)).collect();
    pods.iter().filter_map(move |pod| Some((pod, *by_name.get(pod.host_interface.as_ref()?)?)))
}

/// What CHECK would report of the pods' ports.
fn ports_of(known: &Known, bridge: &Link, pods: &[Pod], host: &Socket, links: &[Link]) -> Result<Vec<Check>, Error> {
    // Where the maps in use are others than the pinned ones, nothing leads to the programs that run.
    let is_known =
        known.datapath.is_complete()? && programs::unpinned_maps(host, &known.datapath, &known.name)?.is_none();
    let programs = if is_known { Some(Programs::open(host, &known.datapath, &known.name)?) } else { None };
    let runs_on = |port: &Link| match &programs {
        Some(programs) => match programs.run_on(host, &known.datapath, port.index) {
            // A link that was deleted meanwhile lacks nothing.
            Err(_) if host.link_by_index(port.index)?.is_none() => Ok(true),
            runs => runs,
        },
        None => Ok(true),
    };
    // Ports of pods that a call attaches or detaches are not whole yet, or no more.
    let at_work = known.store.locked_owners()?.into_iter();
    let at_work: HashSet<IfName> = at_work.map(|owner| naming::attachment(&known.name, owner).host_ifname()).collect();
    // Bridges learn the MACs of pods that are not held to them.
    let is_guarded = known.configured.as_ref().is_some_and(|(_, network)| network.config().spoof_check);
    let mut faults: Vec<(PortFault, Vec<&Pod>)> = Vec::new();
    let mut note = |fault, pod| match faults.iter_mut().find(|(known, _)| *known == fault) {
        Some((_, pods)) => pods.push(pod),
        None => faults.push((fault, vec![pod])),
    };
    for (pod, port) in attached_pods(pods, links).filter(|(_, port)| !at_work.contains(&port.name)) {
        if !drift::port(port, Some(bridge)).is_empty() {
            // An ADD may have finished, or a DEL begun, since the links were listed.
            let now = host.link_by_index(port.index)?;
            now.iter().flat_map(|port| drift::port(port, Some(bridge))).for_each(|fault| note(fault, pod));
        }
        if !runs_on(port)? {
            note(PortFault::NoPrograms, pod);
        }
        let is_static = |entry: &FdbEntry| entry.state == FdbState::Static;
        let has_entry = !is_guarded || port.master.is_none() || host.fdb(port.index)?.iter().any(is_static);
        if !has_entry && host.link_by_index(port.index)?.is_some() {
            note(PortFault::NoEntry, pod);
        }
    }
    let mut checks = Vec::new();
    if !runs_on(bridge)? {
        let found = PortFault::NoPrograms.message(&[bridge.name.to_string()], &bridge.name);
        checks.push(Check::fail("bridge", found, mend(known)));
    }
    for (fault, pods) in faults {
        checks.push(Check::fail("port", fault.message(&port_names(&pods), &bridge.name), mend(known)));
    }
    Ok(checks)
}

/// The ports of some pods with the pods' names, for a message: of three at most, and how many more there are.
fn port_names(pods: &[&Pod]) -> Vec<String> {
    const MOST: usize = 3;
    let name = |pod: &&Pod| {
        let port = pod.host_interface.as_ref()?;
        let is_named = pod.owner.is_some() || !pod.kubernetes.is_unnamed();
        Some(if is_named { format!("{port} (pod {})", names_of_some(&[pod])) } else { port.to_string() })
    };
    let mut names: Vec<String> = pods.iter().take(MOST).filter_map(name).collect();
    if pods.len() > MOST {
        names.push(format!("{} more", pods.len() - MOST));
    }
    names
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
        checks.push(Check::fail(CHECK, found, mend(known)));
    }
    // Which address another plugin gave the bridge, with which prefix length, `repair` does not know.
    let is_delegated = config.is_some_and(|config| matches!(config.ipam, Ipam::Delegated));
    let remedy = if is_delegated { format!("attach a pod of {}", known.name) } else { mend(known) };
    for found in drift::lacking(bridge, &has, &taken) {
        checks.push(Check::fail(CHECK, found, remedy.clone()));
    }
    Ok(checks)
}

/// How to have the network as an ADD leaves it.
pub(crate) fn mend(known: &Known) -> String {
    let Known { name, configured, .. } = known;
    match configured {
        Some(_) => format!("{NAME} repair --network {name}"),
        None => format!(
            "restore its configuration, such as by install --network {name} --subnet PREFIX, then {NAME} repair --network \
             {name}"
        ),
    }
}

/// Whether the programs that run use other maps than those that are pinned where this process looks.
fn unpinned(known: &Known, host: &Socket) -> Result<Option<Check>, Error> {
    let remedy = format!(
        "{}, which pins the maps in use; findmnt --submounts /sys/fs/bpf shows whether another file system lies over the \
         pins",
        mend(known)
    );
    let unpinned = programs::unpinned_maps(host, &known.datapath, &known.name)?;
    let found = || format!("{}: {}", known.name, programs::unpinned(&known.datapath.directory()));
    Ok(unpinned.map(|_| Check::warn("pins", found(), remedy)))
}

fn masquerade(network: &Network) -> Option<Check> {
    const CHECK: &str = "masquerade";
    let name = &network.name;
    match masquerade::is_incomplete(name, network.config()) {
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
    let (Some(bridge), false) = (bridge, matches!(network.config().ipam, Ipam::Delegated)) else {
        return Ok(None);
    };
    let leased: HashSet<_> =
        pods.iter().filter(|pod| pod.created.is_some()).filter_map(|pod| pod.host_interface.as_ref()).collect();
    // A damaged lease does not say whose it is, and holds its address all the same.
    let damaged = known.store.leases()?.filter(Result::is_err).count();
    let lost =
        bridge::pod_ports(bridge, links).filter(|link| !leased.contains(&link.name)).count().saturating_sub(damaged);
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
