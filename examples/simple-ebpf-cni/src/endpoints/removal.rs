//! The removal of map entries.

use std::collections::HashSet;
use std::net::IpAddr;

use cnikit::datapath;
use cnikit::netlink::{IfIndex, Link, Socket};
use cnikit::plugin::PluginError;
use ipnetwork::IpNetwork;
use tracing::{info_span, warn};

use super::Endpoints;
use crate::ip::is_link_local;

impl Endpoints {
    /// Removes the entries of addresses that lead to a port.
    pub(crate) fn remove_addresses<'a>(
        &self,
        addresses: impl Iterator<Item = &'a IpAddr>,
        port: IfIndex,
    ) -> datapath::Result<()> {
        for address in addresses {
            if self.is_owner(*address, port)? {
                self.remove_address(*address)?;
            }
        }
        Ok(())
    }

    /// Removes the entries of ports that do not exist, except the ports in `spared`. Returns the
    /// links of the host.
    ///
    /// Entries of gateways stay if their bridge was deleted: a replacement needs these addresses.
    ///
    /// # Errors
    ///
    /// Fails if the maps or the links cannot be read, or an entry cannot be removed.
    pub fn remove_stale_ports(&self, host: &Socket, spared: &HashSet<IfIndex>) -> Result<Vec<Link>, PluginError> {
        // In this order: a pair exists before its entries. A port with entries now and without a
        // link later was therefore deleted.
        let known = self.indexes()?;
        let links = host.links()?;
        let existing: HashSet<IfIndex> = links.iter().map(|link| link.index).chain(spared.iter().copied()).collect();
        let mut stale: HashSet<IfIndex> = known.difference(&existing).copied().collect();
        for former in stale.clone() {
            if self.is_former_bridge(former)? {
                stale.remove(&former);
                self.remove_former_bridge(former)?;
            }
        }
        self.remove_ports(&stale)?;
        Ok(links)
    }

    /// Removes the entries of a deleted bridge, except the gateways' addresses.
    fn remove_former_bridge(&self, ifindex: IfIndex) -> datapath::Result<()> {
        let addresses = self.endpoints.addresses()?;
        self.remove_addresses(addresses.iter().filter(|address| is_link_local(**address)), ifindex)
    }

    /// Removes the entries of a lease's addresses, and of the ports that they lead to. Returns
    /// whether there were any.
    ///
    /// # Errors
    ///
    /// Fails if an entry cannot be read or removed.
    pub fn remove(&self, addresses: &[IpNetwork], port: Option<IfIndex>) -> datapath::Result<bool> {
        let _span = info_span!("maps").entered();
        let mut was_known = false;
        let mut ports: HashSet<IfIndex> = port.into_iter().collect();
        for address in addresses {
            let owner = self.endpoints.read(address.ip())?;
            was_known |= owner.is_some();
            ports.extend(owner.map(|port| port.ifindex));
        }
        for &port in &ports {
            if let Some(config) = self.port_configs.read(port)? {
                was_known = true;
                let link_local = config.mac.link_local().into();
                if self.is_owner(link_local, port)? {
                    self.endpoints.remove(link_local)?;
                }
            }
            self.port_configs.remove(port)?;
        }
        // The addresses come last, because they lead to the ports.
        addresses.iter().try_for_each(|address| self.remove_address(address.ip()))?;
        self.unshare(&ports)?;
        Ok(was_known)
    }

    /// Removes the entries of ports, and of all addresses that lead to them. Returns whether there
    /// were any.
    ///
    /// # Errors
    ///
    /// Fails if an entry cannot be read or removed.
    pub fn remove_ports(&self, ports: &HashSet<IfIndex>) -> datapath::Result<bool> {
        let _span = info_span!("maps").entered();
        let mut was_known = false;
        for address in self.endpoints.addresses()? {
            if self.endpoints.read(address)?.is_some_and(|port| ports.contains(&port.ifindex)) {
                was_known = true;
                self.remove_address(address)?;
            }
        }
        for ifindex in ports {
            was_known |= self.port_configs.read(*ifindex)?.is_some();
            self.port_configs.remove(*ifindex)?;
        }
        self.unshare(ports)?;
        Ok(was_known)
    }

    /// Removes the addresses of ports from their siblings, and the siblings' addresses from the
    /// ports. The addresses must have no entries any more: a concurrent ADD that shares them sees
    /// this, and removes them again. Costs one lookup if each pod of the network has one port.
    fn unshare(&self, ports: &HashSet<IfIndex>) -> datapath::Result<()> {
        let Some(shared) = self.shared_addresses() else { return Ok(()) };
        let own = shared.entries(|port| ports.contains(&port))?;
        let remaining = own.iter().filter(|entry| !ports.contains(&entry.sibling));
        let pairs: HashSet<(IfIndex, IfIndex)> = remaining.map(|entry| (entry.sibling, entry.ifindex)).collect();
        for (sibling, port) in pairs {
            if self.port_config(sibling)?.is_some() {
                self.remove_sibling(sibling, port)?;
            } else if let Err(error) = remove_foreign_sibling(sibling, port) {
                warn!(
                    "the port {sibling} of the pod can still send from addresses of the deleted port {port}: {error}"
                );
            }
        }
        // Last: after a kill, these entries lead the next call to the siblings.
        own.iter().try_for_each(|entry| shared.remove(entry.ifindex, entry.address))
    }

    /// Removes the addresses of `port` from the port `sibling`.
    fn remove_sibling(&self, sibling: IfIndex, port: IfIndex) -> datapath::Result<()> {
        let Some(shared) = self.shared_addresses() else { return Ok(()) };
        let (removed, others): (Vec<_>, Vec<_>) =
            shared.entries(|index| index == sibling)?.into_iter().partition(|entry| entry.sibling == port);
        removed.iter().try_for_each(|entry| shared.remove(sibling, entry.address))?;
        self.update_port_config(sibling, |config| config.has_siblings = !others.is_empty())
    }

    /// Removes the counters of addresses that lead to no port, except those that `is_kept` selects.
    ///
    /// # Errors
    ///
    /// Fails if an entry cannot be read or removed.
    pub fn gc_counters(&self, is_kept: impl Fn(IpAddr) -> bool) -> datapath::Result<()> {
        for address in self.counters.addresses()?.into_iter().filter(|address| !is_kept(*address)) {
            if self.endpoints.read(address)?.is_none() {
                self.counters.remove(address)?;
            }
        }
        Ok(())
    }

    fn remove_address(&self, address: IpAddr) -> datapath::Result<()> {
        // In this order: without a lease, cleanup finds the address through its endpoint entry.
        self.counters.remove(address)?;
        self.endpoints.remove(address)
    }
}

/// Removes the addresses of `port` from the port `sibling` of another network.
fn remove_foreign_sibling(sibling: IfIndex, port: IfIndex) -> Result<(), cnikit::Error> {
    let host = Socket::open()?;
    // The maps of a deleted port need no change.
    if host.link_by_index(sibling)?.is_none() {
        return Ok(());
    }
    let endpoints = Endpoints::at_port(&host, sibling)?;
    Ok(endpoints.map_or(Ok(()), |endpoints| endpoints.remove_sibling(sibling, port))?)
}
