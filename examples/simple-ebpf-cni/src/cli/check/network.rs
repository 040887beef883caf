//! What of a network is left over, or not whole.

use cnikit::netlink::{Link, Socket};
use simple_ebpf_cni::endpoints::Endpoints;
use simple_ebpf_cni::{bridge, pool};

use super::attached::mend;
use super::configuration::state;
use super::{Check, held};
use crate::NAME;
use crate::cli::attached::{Pod, names_of_some, pods};
use crate::cli::node::Known;
use crate::cli::text::{count, have, verb};
use crate::cli::{Error, chain, remedy};

/// Whether the network has what its pods and the next ADD need, and nothing more.
pub(crate) fn network(known: &Known, host: &Socket, links: &[Link]) -> Vec<Check> {
    let mut checks = Vec::new();
    // Where it is configured, that was said with its configuration.
    let state = state(&known.name, &known.store);
    let is_lost = state.is_some();
    checks.extend(state.filter(|_| known.configured.is_none()));
    checks.extend(held(&known.store.dir().join("lock")));
    if let Err(error) = known.datapath.probe() {
        let remedy = remedy::of_datapath(&error);
        checks.push(Check::fail("pins", format!("{}: {}", known.name, chain(&error)), remedy));
        return checks;
    }
    match look(known, host, links) {
        Ok(found) => checks.extend(found),
        // The leases cannot be read for what was found of their directory.
        Err(Error::Leases(_)) if is_lost => {}
        Err(error) => {
            let found = format!("{} cannot be looked at: {}", known.name, chain(&error));
            checks.push(Check::fail("network", found, remedy::of(&error)));
        }
    }
    if checks.is_empty() {
        let found = format!("{} was not looked at, for what stands above", known.name);
        checks.push(Check::warn("network", found, "run it again when that is done"));
    }
    checks
}

fn look(known: &Known, host: &Socket, links: &[Link]) -> Result<Vec<Check>, Error> {
    let Known { name, configured, store, datapath } = known;
    let mut checks = Vec::new();
    if let Some((_, network)) = configured
        && let Err(failure) = pool::refuse_exhausted(name, store, network.config(), host)
    {
        checks.push(Check::fail("pool", format!("{name}: {failure}"), format!("{NAME} leases, for who has them")));
    }
    if let Some(full) = known.bridge(links).filter(|found| bridge::is_full(found, links)) {
        checks.push(Check::fail(
            "bridge",
            bridge::full(&full.name).to_string(),
            format!("ip link show master {}", full.name),
        ));
    }
    for error in store.leases()?.filter_map(Result::err) {
        checks.push(Check::warn("leases", chain(&error), "the next DEL or GC puts the file out of the way"));
    }
    let pods = pods(known, links)?;
    let gone: Vec<&Pod> = pods.iter().filter(|pod| pod.host_interface.is_none()).collect();
    if !gone.is_empty() {
        let (leases, have, names) = (count(gone.len(), "lease"), have(gone.len()), names_of_some(&gone));
        let found = format!("{leases} of {name} {have} no interface any more ({names})");
        checks.push(Check::warn("leases", found, "the runtime's GC frees them, or an ADD that finds the pool dry"));
    }
    checks.extend(super::attached(known, &pods, host, links)?);
    checks.extend(super::xdp::bypassed(known, &pods, host, links)?);
    if let Some(maps) = known.maps()? {
        let rows = Endpoints::from_maps(&maps)?;
        let mut lost = rows.indexes()?;
        for link in links {
            lost.remove(&link.index);
        }
        // Entries of gateways outlive their bridge, and no GC removes them.
        let mut number = 0;
        for index in &lost {
            number += usize::from(!rows.is_former_bridge(*index)?);
        }
        if number > 0 {
            let found =
                format!("{} in the maps of {name} {} to no interface", count(number, "row"), verb(number, "lead"));
            checks.push(Check::warn("rows", found, "the runtime's GC removes them"));
        }
    } else if !pods.is_empty() {
        let found = format!("the pins of {name} are not whole: {}", datapath.directory().display());
        checks.push(Check::warn("pins", found, mend(known)));
    }
    if configured.is_none() && pods.is_empty() && datapath.is_complete()? {
        let found = format!("{name} has no pods and no configuration, and its programs are pinned");
        checks.push(Check::warn("pins", found, format!("{NAME} uninstall --purge --network {name}")));
    }
    if checks.is_empty() {
        checks.push(Check::ok("network", format!("{name} is whole, with {}", count(pods.len(), "pod"))));
    }
    Ok(checks)
}
