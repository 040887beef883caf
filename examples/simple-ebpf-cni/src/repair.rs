//! Repairs a network as an ADD does, without a pod.

use std::collections::HashMap;

use cnikit::datapath::Endpoint;
use cnikit::ipam::Lease;
use cnikit::netlink::Link;
use cnikit::plugin::{Context as _, PluginError};
use cnikit::spec::{Attachment, IfName};
use ipnetwork::IpNetwork;

use crate::config::{Config, Ipam};
use crate::drift::PortFault;
use crate::endpoints::Endpoints;
use crate::masquerade::Masquerade;
use crate::network::Network;
use crate::programs::Programs;
use crate::setup::{Observed, gateway_endpoint};
use crate::{bridge, drift, ip, ipv6};

impl Network<'_> {
    /// Repairs the shared objects of the network: the bridge, its addresses and ports, the programs
    /// and maps, and with `masquerades` the masquerading rules. Keeps existing objects.
    ///
    /// # Errors
    ///
    /// Fails if the network cannot use the bridge: nothing has changed then. Fails also if an
    /// object cannot be repaired.
    pub fn repair(&self, masquerades: bool) -> Result<(), PluginError> {
        let leased: Vec<Lease> = self.leases.leases()?.filter_map(Result::ok).collect();
        let leased: Vec<IpNetwork> = leased.into_iter().flat_map(|lease| lease.addresses).collect();
        let has_ipv6 = self.config.has_ipv6_ranges() || leased.iter().any(IpNetwork::is_ipv6);
        let Observed { bridge: existing, gateways } = self.look(has_ipv6)?;
        let mut programs = self.ensure_programs()?;
        // The entries or programs of a single pod may be missing.
        programs.unsettle();
        // Before the set-up: the maps name the gateways by the index of the bridge, which may
        // change.
        let taken = drift::taken(&self.datapath, Some(self.config), &[])?;
        let mut needed = NeededGateways::new(self.config, &taken, &leased);

        // An unclaimed bridge gets its ports with the claim.
        if let Some(existing) = existing.as_ref().filter(|existing| existing.is_claimed) {
            self.adopt_ports(&existing.bridge).context("make the pods ports of the bridge")?;
        }
        let shared = self.ensure(existing, programs)?;
        let bridge = &shared.bridge;
        let in_progress = self.in_progress()?.iter().map(Attachment::host_ifname).collect();
        self.set_ports_up(bridge, &in_progress).context("set the pods' ports up")?;
        if has_ipv6 || taken.iter().any(IpNetwork::is_ipv6) {
            ipv6::ensure(self.name, bridge, self.mtu(bridge))?;
        }
        let own = gateways.ensure(bridge, &needed.needed)?;
        let addresses = self.host.addresses(bridge.index)?;
        // There is no lease for a pod with a delegate's address.
        needed.obsolete.retain(|gateway| {
            let has_leases = !matches!(self.config.ipam, Ipam::Delegated);
            has_leases && !addresses.iter().any(|address| address.ip() == gateway.ip())
        });
        let known = [needed.needed, needed.obsolete].concat();
        let set = shared.endpoints.set_gateways(&known, &own, gateway_endpoint(bridge));
        set.context("add the gateways' map entries")?;
        bridge::announce(self.host, bridge).context("announce the bridge's MAC")?;
        if masquerades {
            Masquerade::new(self, true, &leased)?.ensure(self).context("masquerade the pods")?;
        }
        Ok(())
    }

    /// A message for each fault of an attached pod that [`repair`](Self::repair) corrects.
    ///
    /// A port is down or no port of the bridge, the programs do not run on it, or map entries are
    /// missing or differ. `links` are the links of the host.
    ///
    /// Omits pods without a lease or a link. An ADD or DEL that runs at the same time causes no
    /// message, if its port is in `links`.
    ///
    /// # Errors
    ///
    /// Fails if the leases, the maps or the programs cannot be read.
    pub fn pod_faults(&self, bridge: &Link, links: &[Link]) -> Result<Vec<String>, PluginError> {
        let ports = links.iter().filter(|link| Attachment::is_host_ifname(&link.name));
        let mut ports: HashMap<IfName, &Link> = ports.map(|link| (link.name.clone(), link)).collect();
        // After the links, and before the maps: a call that has ended in between has complete
        // entries.
        for attachment in self.in_progress()? {
            ports.remove(&attachment.host_ifname());
        }
        if ports.is_empty() {
            return Ok(Vec::new());
        }
        let (endpoints, programs) =
            (Endpoints::open(&self.datapath)?, Programs::open(self.host, &self.datapath, self.name)?);
        let mut faults = Vec::new();
        for lease in self.leases.leases()?.filter_map(Result::ok) {
            let name = self.attachment(lease.owner).host_ifname();
            let Some(port) = ports.get(&name) else { continue };
            let message = |fault: PortFault| fault.message(&[name.as_str()], &bridge.name);
            let mut of_pod: Vec<String> = drift::port(port, Some(bridge)).into_iter().map(message).collect();
            match endpoints.port_config(port.index)? {
                Some(config) => {
                    of_pod.extend(endpoints.differences(&lease.addresses, Endpoint::new(port.index, config.mac))?);
                }
                None => of_pod.push(format!("the map port_config has no entry for {name}")),
            }
            if !programs.run_on(self.host, &self.datapath, port.index)? {
                of_pod.push(message(PortFault::NoPrograms));
            }
            // A DEL may have started after the links were listed.
            if !of_pod.is_empty() && self.host.link_by_index(port.index)?.is_some() {
                faults.extend(of_pod);
            }
        }
        Ok(faults)
    }
}

/// The gateways of attached pods.
struct NeededGateways {
    /// The addresses that pods use.
    needed: Vec<IpNetwork>,
    /// The addresses that the node has taken and no pod uses.
    obsolete: Vec<IpNetwork>,
}

impl NeededGateways {
    /// `taken` are the addresses that the node has taken, `leased` the addresses of pods.
    fn new(config: &Config, taken: &[IpNetwork], leased: &[IpNetwork]) -> Self {
        let is_needed = |gateway: &IpNetwork| {
            taken.contains(gateway) || leased.iter().any(|address| ip::subnet(*address) == ip::subnet(*gateway))
        };
        let configured: Vec<IpNetwork> = config.gateways().filter(is_needed).collect();
        let (mut needed, mut obsolete) = (configured.clone(), Vec::new());
        // A gateway that the configuration no longer names: pods with leases of its subnet still
        // need it.
        for gateway in taken.iter().filter(|gateway| !configured.contains(gateway)) {
            let lease = leased.iter().find(|address| ip::subnet(**address).contains(gateway.ip()));
            match lease.and_then(|address| IpNetwork::new(gateway.ip(), address.prefix()).ok()) {
                Some(gateway) => needed.push(gateway),
                None => obsolete.push(*gateway),
            }
        }
        Self { needed, obsolete }
    }
}
