//! Networks with attached pods: the shared parts that the pods have lost.

use std::collections::{HashMap, HashSet};

use cnikit::netlink::{FdbEntry, FdbState, Link, Socket};
use cnikit::spec::IfName;

use super::config::{forwarding, has_ports};
use super::diagnostic::Diagnostic;
use crate::NAME;
use crate::cli::advice;
use crate::cli::error::Error;
use crate::cli::format::{count, have};
use crate::cli::inventory::pods::{Pod, some_names};
use crate::cli::inventory::{ConfiguredNetwork, NodeNetwork};
use simple_ebpf_cni::config::Ipam;
use simple_ebpf_cni::drift::PortFault;
use simple_ebpf_cni::programs::Programs;
use simple_ebpf_cni::{bridge, drift, masquerade, programs};

/// Reports lost parts of a network that the next ADD does not always repair.
pub(crate) fn attached(
    network: &NodeNetwork,
    pods: &[Pod],
    host: &Socket,
    links: &[Link],
) -> Result<Vec<Diagnostic>, Error> {
    let mut checks = Vec::new();
    // The ADD of the first pod creates the bridge. Each later ADD repairs it.
    if !pods.is_empty() {
        checks.extend(bridge(network, pods, host, links)?);
    }
    checks.extend(unpinned(network, host)?);
    let Some(configured) = &network.configured else {
        return Ok(checks);
    };
    let is_attached = pods.iter().any(|pod| pod.host_interface.is_some());
    if is_attached && configured.masquerades() {
        checks.extend(masquerade(configured, &repair_command(network)));
    }
    checks.extend(unleased(network, configured, pods, host, links)?);
    Ok(checks)
}

/// Reports forwarding that is off on the host, if the network masquerades and has pods.
pub(crate) fn not_forwarded(network: &NodeNetwork, links: &[Link]) -> Vec<Diagnostic> {
    let configured = network.configured.as_ref().filter(|network| network.masquerades());
    let Some(configured) = configured.filter(|network| has_ports(network, links)) else {
        return Vec::new();
    };
    forwarding(configured, links).filter(Diagnostic::has_failed).collect()
}

/// Checks the bridge, its ports and the gateway addresses.
fn bridge(network: &NodeNetwork, pods: &[Pod], host: &Socket, links: &[Link]) -> Result<Vec<Diagnostic>, Error> {
    const CHECK: &str = "bridge";
    let name = &network.name;
    let repair = || repair_command(network);
    let Some(bridge) = network.bridge(links) else {
        let found = format!("the bridge of {name} is gone");
        let remedy = if network.configured.is_some() { repair() + ", or attach a pod" } else { repair() };
        return Ok(vec![Diagnostic::fail(CHECK, found, remedy)]);
    };
    if !network.owns(bridge, host) {
        return Ok(vec![foreign(network, bridge, pods, host, links)]);
    }
    let mut checks = Vec::new();
    if !bridge.up {
        let remedy = format!("{}, or ip link set {} up", repair(), bridge.name);
        checks.push(Diagnostic::fail(CHECK, format!("{} is down", bridge.name), remedy));
    }
    checks.extend(ports(network, bridge, pods, host, links)?);
    // The check `pins` reports missing or incomplete pins.
    if network.datapath.is_complete()? {
        checks.extend(gateways(network, bridge, host)?);
    }
    Ok(checks)
}

/// A bridge that has the configured name, but that the network has not claimed.
fn foreign(network: &NodeNetwork, bridge: &Link, pods: &[Pod], host: &Socket, links: &[Link]) -> Diagnostic {
    const CHECK: &str = "bridge";
    let (name, bridge_name) = (&network.name, &bridge.name);
    if !bridge::is_claimed(host, name, bridge).is_ok_and(|is_claimed| !is_claimed) {
        let found = format!("{bridge_name} does not belong to {name}");
        return Diagnostic::fail(CHECK, found, "set another \"bridge\"");
    }
    let has_pods = attached_pods(pods, links).any(|(_, port)| port.master == Some(bridge.index));
    let found = if has_pods {
        format!("the eBPF programs do not run on {bridge_name}")
    } else {
        format!("{bridge_name} was created again outside the plugin, and the pods of {name} are not its ports")
    };
    Diagnostic::fail(CHECK, found, repair_command(network))
}

/// The attached pods, each with its port.
fn attached_pods<'p>(pods: &'p [Pod], links: &'p [Link]) -> impl Iterator<Item = (&'p Pod, &'p Link)> {
    let by_name: HashMap<&IfName, &Link> = links.iter().map(|link| (&link.name, link)).collect();
    pods.iter().filter_map(move |pod| Some((pod, *by_name.get(pod.host_interface.as_ref()?)?)))
}

/// The network's programs, if the pins lead to the running ones.
fn pinned_programs(network: &NodeNetwork, host: &Socket) -> Result<Option<Programs>, Error> {
    let NodeNetwork { name, datapath, .. } = network;
    // If the maps in use are not the pinned ones, the pins do not lead to the running programs.
    let is_pinned = datapath.is_complete()? && programs::unpinned_maps(host, datapath, name)?.is_none();
    Ok(if is_pinned { Some(Programs::open(host, datapath, name)?) } else { None })
}

/// Whether the programs run on the bridge. Without usable pins, the answer is unknown, and `true`.
pub(crate) fn has_programs(network: &NodeNetwork, bridge: &Link, host: &Socket) -> Result<bool, Error> {
    match pinned_programs(network, host)? {
        Some(programs) => Ok(programs.run_on(host, &network.datapath, bridge.index)?),
        None => Ok(true),
    }
}

/// Reports the faults of pods' ports that CHECK reports too.
fn ports(
    network: &NodeNetwork,
    bridge: &Link,
    pods: &[Pod],
    host: &Socket,
    links: &[Link],
) -> Result<Vec<Diagnostic>, Error> {
    let NodeNetwork { name, datapath, .. } = network;
    let programs = pinned_programs(network, host)?;
    let runs_on = |port: &Link| match &programs {
        Some(programs) => match programs.run_on(host, datapath, port.index) {
            // The link was deleted after the listing, so it has no fault.
            Err(_) if host.link_by_index(port.index)?.is_none() => Ok(true),
            runs => runs,
        },
        None => Ok(true),
    };
    // A running ADD or DEL has an incomplete port.
    let in_progress = network.store.locked_owners()?.into_iter();
    let in_progress: HashSet<IfName> = in_progress.map(|owner| owner.in_network(name).host_ifname()).collect();
    // Without the spoof check, the bridge learns the MACs and has no static entries.
    let has_spoof_check = network.configured.as_ref().is_some_and(|configured| configured.config().spoof_check);
    let mut faults: Vec<(PortFault, Vec<&Pod>)> = Vec::new();
    let mut record = |fault, pod| match faults.iter_mut().find(|(known, _)| *known == fault) {
        Some((_, pods)) => pods.push(pod),
        None => faults.push((fault, vec![pod])),
    };
    for (pod, port) in attached_pods(pods, links).filter(|(_, port)| !in_progress.contains(&port.name)) {
        if !drift::port(port, Some(bridge)).is_empty() {
            // An ADD may have ended, or a DEL started, after the links were listed.
            let now = host.link_by_index(port.index)?;
            now.iter().flat_map(|port| drift::port(port, Some(bridge))).for_each(|fault| record(fault, pod));
        }
        if !runs_on(port)? {
            record(PortFault::NoPrograms, pod);
        }
        let is_static = |entry: &FdbEntry| entry.state == FdbState::Static;
        let has_entry = !has_spoof_check || port.master.is_none() || host.fdb(port.index)?.iter().any(is_static);
        if !has_entry && host.link_by_index(port.index)?.is_some() {
            record(PortFault::NoEntry, pod);
        }
    }
    let mut checks = Vec::new();
    if !runs_on(bridge)? {
        let found = PortFault::NoPrograms.message(&[bridge.name.to_string()], &bridge.name);
        checks.push(Diagnostic::fail("bridge", found, repair_command(network)));
    }
    for (fault, pods) in faults {
        checks.push(Diagnostic::fail("port", fault.message(&port_names(&pods), &bridge.name), repair_command(network)));
    }
    Ok(checks)
}

/// The names of at most three ports with their pods for a message, with the number of the others.
fn port_names(pods: &[&Pod]) -> Vec<String> {
    const MAX: usize = 3;
    let name = |pod: &&Pod| {
        let port = pod.host_interface.as_ref()?;
        let is_named = pod.owner.is_some() || !pod.kubernetes.is_unnamed();
        Some(if is_named { format!("{port} (pod {})", some_names(&[pod])) } else { port.to_string() })
    };
    let mut names: Vec<String> = pods.iter().take(MAX).filter_map(name).collect();
    if pods.len() > MAX {
        names.push(format!("{} more", pods.len() - MAX));
    }
    names
}

/// Reports the faults of the gateway that CHECK reports too.
fn gateways(network: &NodeNetwork, bridge: &Link, host: &Socket) -> Result<Vec<Diagnostic>, Error> {
    const CHECK: &str = "gateway";
    let has = host.addresses(bridge.index)?;
    let config = network.configured.as_ref().map(ConfiguredNetwork::config);
    let (in_maps, required) = (network.datapath.config()?, drift::taken(&network.datapath, config, &has)?);
    let mut checks = Vec::new();
    // A bridge that was created again has another index and no address. The next ADD sets both.
    if let Some(found) = drift::other_mac(bridge, &in_maps) {
        checks.push(Diagnostic::fail(CHECK, found, repair_command(network)));
    }
    // `repair` does not know the prefix length of an address that another plugin assigned.
    let is_delegated = config.is_some_and(|config| matches!(config.ipam, Ipam::Delegated));
    let remedy = if is_delegated { format!("attach a pod of {}", network.name) } else { repair_command(network) };
    for found in drift::lacking(bridge, &has, &required) {
        checks.push(Diagnostic::fail(CHECK, found, remedy.clone()));
    }
    Ok(checks)
}

/// The command that restores the state of the network after an ADD.
pub(crate) fn repair_command(network: &NodeNetwork) -> String {
    let NodeNetwork { name, configured, options, .. } = network;
    match configured {
        Some(_) => format!("{NAME} repair --network {name}{options}"),
        None => format!(
            "restore its configuration, for example with {NAME} install --network {name} --subnet PREFIX{options}, \
             then {NAME} repair --network {name}{options}"
        ),
    }
}

/// Reports running programs that use other maps than the visible pins.
fn unpinned(network: &NodeNetwork, host: &Socket) -> Result<Option<Diagnostic>, Error> {
    let remedy = format!(
        "{}, which pins the maps in use; findmnt --submounts /sys/fs/bpf shows a file system that covers the pins",
        repair_command(network)
    );
    let unpinned = programs::unpinned_maps(host, &network.datapath, &network.name)?;
    let found = || format!("{}: {}", network.name, programs::unpinned(&network.datapath.directory()));
    Ok(unpinned.map(|_| Diagnostic::warn("pins", found(), remedy)))
}

fn masquerade(network: &ConfiguredNetwork, repair: &str) -> Option<Diagnostic> {
    const CHECK: &str = "masquerade";
    let name = &network.name;
    match masquerade::is_incomplete(name, network.config()) {
        Ok(false) => None,
        Ok(true) => Some(Diagnostic::fail(
            CHECK,
            format!("the nftables rules that masquerade {name} are gone: pods cannot reach other networks"),
            format!(
                "{repair}, or attach a pod; find the program that flushes the ruleset, such as \
                 nftables.service"
            ),
        )),
        Err(error) => {
            let found = format!("cannot read the masquerade rules of {name}: {error}");
            Some(Diagnostic::fail(CHECK, found, advice::for_netlink(&error)))
        }
    }
}

/// Reports pods without a lease, in a network that manages leases.
fn unleased(
    network: &NodeNetwork,
    configured: &ConfiguredNetwork,
    pods: &[Pod],
    host: &Socket,
    links: &[Link],
) -> Result<Option<Diagnostic>, Error> {
    let bridge = network.bridge(links).filter(|bridge| network.owns(bridge, host));
    let (Some(bridge), false) = (bridge, matches!(configured.config().ipam, Ipam::Delegated)) else {
        return Ok(None);
    };
    let leased: HashSet<_> =
        pods.iter().filter(|pod| pod.created.is_some()).filter_map(|pod| pod.host_interface.as_ref()).collect();
    // A damaged lease does not name its owner, but it still reserves the address.
    let damaged = network.store.leases()?.filter(Result::is_err).count();
    let lost =
        bridge::pod_ports(bridge, links).filter(|link| !leased.contains(&link.name)).count().saturating_sub(damaged);
    Ok((lost > 0).then(|| {
        let found = format!(
            "{} of {} {} no lease: the state in {} was lost, and an ADD may assign their addresses again",
            count(lost, "pod"),
            network.name,
            have(lost),
            network.store.dir().display()
        );
        Diagnostic::fail("leases", found, format!("delete these pods and create them again: {NAME} pods lists them"))
    }))
}
