//! Makes a network whole, as an ADD does, without a pod.

use cnikit::ipam::{Lease, Store};
use cnikit::netlink::Socket;
use cnikit::plugin::{Context as _, PluginError};
use cnikit::spec::NetworkName;
use ipnetwork::IpNetwork;

use crate::config::{Addressing, Config};
use crate::endpoints::Rows;
use crate::gateway::Gateways;
use crate::masquerade::Masquerade;
use crate::programs::Programs;
use crate::{bridge, drift, ipv6, network};

/// Repairs what the pods of a network share: the bridge, its addresses and ports, the programs and maps, the masquerade
/// rules. What is there stays. Nothing is touched if the bridge cannot be used.
pub(crate) fn repair(
    host: &Socket,
    network: &NetworkName,
    config: &Config,
    masquerades: bool,
    leases: &Store,
) -> Result<(), PluginError> {
    let found = bridge::look(host, network, config)?;
    let leased: Vec<Lease> = leases.leases()?.filter_map(Result::ok).collect();
    let leased: Vec<IpNetwork> = leased.into_iter().flat_map(|lease| lease.addresses).collect();
    let has_ipv6 = config.ranges().any(|range| range.subnet().is_ipv6()) || leased.iter().any(IpNetwork::is_ipv6);
    if has_ipv6 {
        ipv6::refuse_unavailable(network, &config.bridge, found.as_ref().map(|found| &found.bridge))?;
    }
    let asked = Gateways::look(host, config, found.as_ref())?;
    let datapath = network::datapath(network);
    let mut programs = Programs::ensure(host, &datapath, network)?;
    // A pod may have lost its entries or programs alone.
    programs.unsettle();
    // The maps know the gateways by the index of the bridge, which may be another in a moment.
    let taken = drift::taken(&datapath, Some(config), &[])?;
    let is_wanted = |gateway: &IpNetwork| {
        taken.contains(gateway) || leased.iter().any(|address| network::subnet(*address) == network::subnet(*gateway))
    };
    let mut gateways: Vec<IpNetwork> = bridge::gateways(config).filter(is_wanted).collect();
    // Gateways that the configuration names no more: pods whose leases are of their subnets still need them.
    let mut unneeded = Vec::new();
    let configured = gateways.clone();
    for gateway in taken.iter().filter(|gateway| !configured.contains(gateway)) {
        let lease = leased.iter().find(|address| network::subnet(**address).contains(gateway.ip()));
        match lease.and_then(|address| IpNetwork::new(gateway.ip(), address.prefix()).ok()) {
            Some(gateway) => gateways.push(gateway),
            None => unneeded.push(*gateway),
        }
    }

    // The ports of a bridge that is not claimed yet are adopted with the claim.
    if let Some(found) = found.as_ref().filter(|found| found.is_claimed) {
        bridge::adopt_ports(host, config, &datapath, &found.bridge).context("make the pods ports of the bridge")?;
    }
    let bridge = network::ensure(host, network, config, leases, &datapath, &mut programs, found)?;
    let at_work = leases.locked_owners()?.into_iter().map(|owner| network::attachment(network, owner).host_ifname());
    bridge::set_ports_up(host, config, &datapath, &bridge, &at_work.collect()).context("set the pods' ports up")?;
    if has_ipv6 || taken.iter().any(IpNetwork::is_ipv6) {
        ipv6::ensure(network, &bridge, config.mtu.unwrap_or(bridge.mtu))?;
    }
    let own = asked.ensure(&bridge, &gateways)?;
    let rows = Rows::open(&datapath).context("open the eBPF maps")?;
    let addresses = host.addresses(bridge.index)?;
    // Of pods with addresses of another plugin, there is no lease.
    unneeded.retain(|gateway| {
        let has_leases = !matches!(config.addressing, Addressing::Delegated);
        has_leases && !addresses.iter().any(|address| address.ip() == gateway.ip())
    });
    let known = [gateways, unneeded].concat();
    rows.set_gateways(&known, &own, network::gateway_port(&bridge)).context("put the gateway's map rows")?;
    bridge::announce(host, &bridge).context("announce the bridge's MAC")?;
    if masquerades {
        Masquerade::new(network, config, true, &leased)?.ensure(host, leases).context("masquerade the pods")?;
    }
    Ok(())
}
