//! Makes a network whole, as an ADD does, without a pod.

use cnikit::ipam::{Lease, Store};
use cnikit::netlink::Socket;
use cnikit::plugin::{Failure, Step as _};
use cnikit::spec::NetworkName;
use ipnetwork::IpNetwork;

use crate::config::Config;
use crate::gateway::Gateways;
use crate::masquerade::Masquerade;
use crate::programs::Programs;
use crate::rows::Rows;
use crate::{bridge, drift, network};

/// Repairs what the pods of a network share: the bridge, its addresses, the programs and maps, the masquerade rules. What
/// is there stays. Nothing is touched if the bridge cannot be used.
pub(crate) fn repair(
    host: &Socket,
    network: &NetworkName,
    config: &Config,
    masquerades: bool,
    leases: &Store,
) -> Result<(), Failure> {
    let found = bridge::look(host, network, config)?;
    let asked = Gateways::look(host, config, found.as_ref())?;
    let datapath = network::datapath(network);
    let mut programs = Programs::ensure(host, &datapath, network)?;
    let leased: Vec<Lease> = leases.leases()?.filter_map(Result::ok).collect();
    let leased: Vec<IpNetwork> = leased.into_iter().flat_map(|lease| lease.addresses).collect();
    // The maps know the gateways by the index of the bridge, which may be another in a moment.
    let taken = drift::taken(&datapath, Some(config), &[])?;
    let is_wanted = |gateway: &IpNetwork| {
        taken.contains(gateway) || leased.iter().any(|address| network::subnet(*address) == network::subnet(*gateway))
    };
    let gateways: Vec<IpNetwork> = bridge::gateways(config).filter(is_wanted).collect();

    let bridge = network::ensure(host, network, config, leases, &datapath, &mut programs, found)?;
    let own = asked.ensure(&bridge, &gateways)?;
    let rows = Rows::open(&datapath).step("open the eBPF maps")?;
    rows.set_gateways(&gateways, &own, network::gateway_port(&bridge)).step("put the gateway's map rows")?;
    if masquerades {
        Masquerade::new(network, config, true, &leased)?.ensure(host, leases).step("masquerade the pods")?;
    }
    Ok(())
}
