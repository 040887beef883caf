//! An existing network: leases, pins, map entries, and the parts that its pods share.

use cnikit::netlink::{Link, Socket};

use super::attachments::{attached, repair_command};
use super::config::state;
use super::diagnostic::Diagnostic;
use super::lock::check_lock;
use super::xdp;
use crate::NAME;
use crate::cli::advice;
use crate::cli::error::Error;
use crate::cli::format::{count, have, verb};
use crate::cli::inventory::NodeNetwork;
use crate::cli::inventory::pods::{Pod, pods, some_names};
use simple_ebpf_cni::endpoints::Endpoints;
use simple_ebpf_cni::{bridge, pool};

/// Checks whether the network has all objects that its pods and the next ADD need, and no stale
/// ones.
pub(super) fn network(network: &NodeNetwork, host: &Socket, links: &[Link]) -> Vec<Diagnostic> {
    let mut checks = Vec::new();
    // A configured network has this diagnostic already, from the check of its configuration.
    let state = state(&network.name, &network.store);
    let is_unwritable = state.is_some();
    checks.extend(state.filter(|_| network.configured.is_none()));
    checks.extend(check_lock(&network.store.dir().join("lock")));
    if let Err(error) = network.datapath.probe() {
        let remedy = advice::for_datapath(&error);
        checks.push(Diagnostic::fail("pins", format!("{}: {error}", network.name), remedy));
        return checks;
    }
    match objects(network, host, links) {
        Ok(found) => checks.extend(found),
        // The check `state` has reported the directory of the leases.
        Err(Error::Leases(_)) if is_unwritable => {}
        Err(error) => {
            let found = format!("cannot check {}: {error}", network.name);
            checks.push(Diagnostic::fail("network", found, error.advice()));
        }
    }
    if checks.is_empty() {
        let found = format!("{} was not checked because of the problems above", network.name);
        checks.push(Diagnostic::warn("network", found, "fix them and run doctor again"));
    }
    checks
}

fn objects(network: &NodeNetwork, host: &Socket, links: &[Link]) -> Result<Vec<Diagnostic>, Error> {
    let NodeNetwork { name, configured, store, datapath, .. } = network;
    let mut checks = Vec::new();
    if let Some(configured) = configured
        && let Err(error) = pool::refuse_exhausted(name, store, configured.config(), host)
    {
        let remedy = format!("{NAME} leases shows their owners");
        checks.push(Diagnostic::fail("ipam", format!("{name}: {error}"), remedy));
    }
    if let Some(full) = network.bridge(links).filter(|found| bridge::is_full(found, links)) {
        checks.push(Diagnostic::fail(
            "bridge",
            bridge::full(&full.name).to_string(),
            format!("ip link show master {}", full.name),
        ));
    }
    for error in store.leases()?.filter_map(Result::err) {
        checks.push(Diagnostic::warn("leases", error.to_string(), "the next DEL or GC moves the file away"));
    }
    let pods = pods(network, links)?;
    let gone: Vec<&Pod> = pods.iter().filter(|pod| pod.host_interface.is_none()).collect();
    if !gone.is_empty() {
        let (leases, have, names) = (count(gone.len(), "lease"), have(gone.len()), some_names(&gone));
        let found = format!("{leases} of {name} {have} no interface any more ({names})");
        let (them, pods) = if gone.len() == 1 { ("it", "its pod") } else { ("them", "their pods") };
        let remedy = format!("{} frees {them}, unless the runtime still lists {pods}", gc_command(network));
        checks.push(Diagnostic::warn("leases", found, remedy));
    }
    checks.extend(attached(network, &pods, host, links)?);
    checks.extend(xdp::bypassed(network, &pods, host, links)?);
    if network.maps()?.is_some() {
        checks.extend(stale_entries(network, links)?);
    } else if !pods.is_empty() {
        let found = format!("the pins of {name} are incomplete: {}", datapath.directory().display());
        checks.push(Diagnostic::warn("pins", found, repair_command(network)));
    }
    if configured.is_none() && pods.is_empty() && datapath.is_complete()? {
        let found = format!("{name} has pinned programs, but no pods and no configuration");
        checks.push(Diagnostic::warn("pins", found, format!("{NAME} uninstall --purge --network {name}")));
    }
    if checks.is_empty() {
        checks.push(Diagnostic::ok("network", format!("{name} is complete, with {}", count(pods.len(), "pod"))));
    }
    Ok(checks)
}

/// The command that removes the remains of pods.
fn gc_command(network: &NodeNetwork) -> String {
    format!("{NAME} gc --network {}{}", network.name, network.options)
}

/// Reports map entries without an interface.
fn stale_entries(network: &NodeNetwork, links: &[Link]) -> Result<Option<Diagnostic>, Error> {
    let Some(maps) = network.maps()? else { return Ok(None) };
    let entries = Endpoints::from_maps(&maps)?;
    let mut stale = entries.indexes()?;
    for link in links {
        stale.remove(&link.index);
    }
    // Entries of gateways stay after their bridge is deleted, and GC does not remove them.
    let mut number = 0;
    for index in &stale {
        number += usize::from(!entries.is_former_bridge(*index)?);
    }
    let leads = verb(number, "lead");
    let found = || format!("{} in the maps of {} {leads} to no interface", count(number, "entry"), network.name);
    Ok((number > 0).then(|| Diagnostic::warn("endpoints", found(), gc_command(network) + " removes them")))
}
