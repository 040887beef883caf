//! The rows that the maps hold of pods, and of the gateway.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use cnikit::datapath::{
    self, CounterMap, Datapath, Endpoint, EndpointMap, MapSet, PortConfig, PortConfigMap, SharedAddressMap,
};
use cnikit::ipam;
use cnikit::netlink::{Link, Socket};
use cnikit::plugin::PluginError;
use cnikit::spec::Attachment;
use ipnetwork::IpNetwork;
use tracing::{debug, info_span};

use crate::{bridge, siblings};

/// The maps with rows for each pod.
pub(crate) struct Rows {
    counters: CounterMap,
    ports: EndpointMap,
    links: PortConfigMap,
    /// Absent from sets of an older build.
    shared: Option<SharedAddressMap>,
}

impl Rows {
    pub(crate) fn open(datapath: &Datapath) -> datapath::Result<Self> {
        Self::of(&datapath.maps())
    }

    /// The entries of maps that need not be pinned.
    pub(crate) fn of(maps: &MapSet) -> datapath::Result<Self> {
        let _span = info_span!("rows").entered();
        let (counters, ports, links) = (maps.open_counters()?, maps.open_endpoints()?, maps.open_port_configs()?);
        Ok(Self { counters, ports, links, shared: maps.open_shared_addresses()? })
    }

    /// Refuses addresses, and a MAC, that are the gateway's or those of another pod that is there.
    pub(crate) fn refuse_taken(
        &self,
        host: &Socket,
        addresses: &[IpNetwork],
        port: Endpoint,
    ) -> Result<(), PluginError> {
        let link_local = IpAddr::from(port.mac.link_local());
        for address in addresses.iter().map(IpNetwork::ip).chain([link_local]) {
            let owner = self.ports.read(address)?.filter(|owner| owner.ifindex != port.ifindex);
            let Some(owner) = owner else { continue };
            // The row of a pod that is gone does not count.
            let Some(link) = host.link_by_index(owner.ifindex)? else { continue };
            let what = if address == link_local { format!("MAC {}", port.mac) } else { format!("address {address}") };
            return Err(PluginError::new(
                ipam::ADDRESS_TAKEN,
                format!("the {what} is in use at {}: ask for another, or detach who has it first", link.name),
            ));
        }
        Ok(())
    }

    /// Holds a new port to its MAC, to the link-local address that derives from it, and to the addresses that are
    /// [put](Self::put) from now on.
    pub(crate) fn guard(&self, port: Endpoint, stack_only: bool) -> datapath::Result<()> {
        let _span = info_span!("rows").entered();
        // The attachment had a pair before, which went without a DEL.
        if self.links.read(port.ifindex)?.is_some() {
            self.remove_ports(&HashSet::from([port.ifindex]))?;
        }
        // This order: the row of the port leads to its link-local address, for who removes what a kill has left.
        self.insert_link(port, stack_only)?;
        self.ports.insert(port.mac.link_local().into(), port)
    }

    /// Has packets for the addresses delivered to the port, lets it send from them, and counts for them from zero.
    pub(crate) fn put(&self, addresses: &[IpNetwork], port: Endpoint) -> datapath::Result<()> {
        let _span = info_span!("rows").entered();
        for address in addresses {
            self.ports.insert(address.ip(), port)?;
            self.counters.insert(address.ip())?;
        }
        Ok(())
    }

    /// Puts what is missing of the entries of a pod that is attached, which may send meanwhile. What was counted stays.
    pub(crate) fn put_missing(
        &self,
        addresses: &[IpNetwork],
        port: Endpoint,
        stack_only: bool,
    ) -> datapath::Result<()> {
        let link_local = IpAddr::from(port.mac.link_local());
        for address in addresses.iter().map(IpNetwork::ip).chain([link_local]) {
            if self.ports.read(address)? != Some(port) {
                self.ports.insert(address, port)?;
            }
            if address != link_local && self.counters.read(address)?.is_none() {
                self.counters.insert(address)?;
            }
        }
        // Last: from here on, the pod may send from these addresses alone.
        match self.links.read(port.ifindex)? {
            Some(link) if link.mac == port.mac && link.stack_only >= stack_only => {
                self.watch_xdp(port.ifindex);
                Ok(())
            }
            _ => self.insert_link(port, stack_only),
        }
    }

    fn insert_link(&self, port: Endpoint, stack_only: bool) -> datapath::Result<()> {
        self.links.insert(port.ifindex, PortConfig::new(port.mac).stack_only(stack_only))?;
        self.watch_xdp(port.ifindex);
        Ok(())
    }

    fn watch_xdp(&self, port: u32) {
        match self.links.watch_xdp(port) {
            Ok(true) => {}
            Ok(false) => debug!("direct delivery bypasses a driver-mode XDP program at link {port}"),
            Err(error) => debug!("direct delivery bypasses a driver-mode XDP program at link {port}: {error}"),
        }
    }

    /// Removes entries of addresses, as far as they lead to a port.
    pub(crate) fn remove_addresses<'a>(
        &self,
        addresses: impl Iterator<Item = &'a IpAddr>,
        port: u32,
    ) -> datapath::Result<()> {
        for address in addresses {
            if self.ports.read(*address)?.is_some_and(|owner| owner.ifindex == port) {
                self.remove_address(*address)?;
            }
        }
        Ok(())
    }

    /// The addresses of all entries, by the ports that they lead to.
    pub(crate) fn addresses(&self) -> datapath::Result<HashMap<u32, Vec<IpAddr>>> {
        let mut found: HashMap<u32, Vec<IpAddr>> = HashMap::new();
        for address in self.ports.addresses()? {
            if let Some(port) = self.ports.read(address)? {
                found.entry(port.ifindex).or_default().push(address);
            }
        }
        Ok(found)
    }

    /// Removes the entries of ports that do not exist, except those of `spared`, and returns the links of the host. Entries
    /// of gateways stay when their bridge is gone: a bridge that replaces it needs these addresses.
    pub(crate) fn remove_lost(&self, host: &Socket, spared: &HashSet<u32>) -> Result<Vec<Link>, PluginError> {
        // In this order: a pair is made before its entries, so a port that has entries now and no link later is gone.
        let known = self.indexes()?;
        let links = host.links()?;
        let stays: HashSet<u32> = links.iter().map(|link| link.index).chain(spared.iter().copied()).collect();
        let mut lost: HashSet<u32> = known.difference(&stays).copied().collect();
        for former in lost.clone() {
            if self.is_former_bridge(former)? {
                lost.remove(&former);
                self.remove_former_bridge(former)?;
            }
        }
        self.remove_ports(&lost)?;
        siblings::prune(host, self, &links)?;
        Ok(links)
    }

    /// Removes what the maps hold of a bridge that is gone, except the gateways' addresses.
    fn remove_former_bridge(&self, ifindex: u32) -> datapath::Result<()> {
        let addresses = self.ports.addresses()?;
        self.remove_addresses(addresses.iter().filter(|address| bridge::is_link_local(**address)), ifindex)
    }

    /// Makes the node known under those of its pods' gateways that are its own, and under no other of them. A
    /// [gateway's entry](Self::is_gateway) is the memory that the node has taken the address.
    pub(crate) fn set_gateways(
        &self,
        gateways: &[IpNetwork],
        own: &[IpNetwork],
        bridge: Endpoint,
    ) -> datapath::Result<()> {
        let link_local = IpAddr::from(bridge.mac.link_local());
        for address in own.iter().map(IpNetwork::ip).chain([link_local]) {
            if self.ports.read(address)? != Some(bridge) {
                self.ports.insert(address, bridge)?;
            }
        }
        for address in gateways.iter().filter(|gateway| !own.contains(gateway)).map(IpNetwork::ip) {
            if self.is_gateway(address, bridge.ifindex)? {
                self.ports.remove(address)?;
            }
        }
        Ok(())
    }

    /// Whether the node has taken the address, on the bridge with this index or on one that this bridge replaces.
    pub(crate) fn is_gateway(&self, address: IpAddr, bridge: u32) -> datapath::Result<bool> {
        match self.ports.read(address)? {
            Some(port) if port.ifindex == bridge => Ok(true),
            // The link-local address derives from the MAC of the former bridge.
            Some(port) if !bridge::is_link_local(address) => self.is_former_bridge(port.ifindex),
            _ => Ok(false),
        }
    }

    /// The addresses that the node has taken as the gateway of its pods, except link-local ones, which come and go with the
    /// bridge. `bridge` is the index of the bridge.
    pub(crate) fn gateways(&self, bridge: u32) -> datapath::Result<Vec<IpAddr>> {
        let mut gateways = Vec::new();
        for address in self.ports.addresses()? {
            if !bridge::is_link_local(address) && self.is_gateway(address, bridge)? {
                gateways.push(address);
            }
        }
        Ok(gateways)
    }

    /// Whether an index that has entries is that of a bridge, rather than of a pod's port. For a bridge that is gone, no
    /// other record remains.
    pub(crate) fn is_former_bridge(&self, ifindex: u32) -> datapath::Result<bool> {
        Ok(!Attachment::is_host_ifindex(ifindex) && self.links.read(ifindex)?.is_none())
    }

    /// The ports that these addresses lead to.
    pub(crate) fn owners(&self, addresses: &[IpNetwork]) -> datapath::Result<HashSet<u32>> {
        let owners = addresses.iter().filter_map(|address| self.ports.read(address.ip()).transpose());
        owners.map(|owner| owner.map(|port| port.ifindex)).collect()
    }

    /// Removes the rows of addresses that nobody else can have, and those of the ports that they lead to; absent is
    /// success. Returns whether there were any.
    pub(crate) fn remove(&self, addresses: &[IpNetwork], port: Option<u32>) -> datapath::Result<bool> {
        let _span = info_span!("rows").entered();
        let mut was_known = false;
        let mut ports: HashSet<u32> = port.into_iter().collect();
        for address in addresses {
            let owner = self.ports.read(address.ip())?;
            was_known |= owner.is_some();
            ports.extend(owner.map(|port| port.ifindex));
        }
        for &port in &ports {
            if let Some(link) = self.links.read(port)? {
                was_known = true;
                let link_local = link.mac.link_local().into();
                if self.ports.read(link_local)?.is_some_and(|owner| owner.ifindex == port) {
                    self.ports.remove(link_local)?;
                }
            }
            self.links.remove(port)?;
        }
        // After these, as they lead to the ports.
        addresses.iter().try_for_each(|address| self.remove_address(address.ip()))?;
        siblings::unshare(self, &ports)?;
        Ok(was_known)
    }

    /// Removes the rows of ports, and of all addresses that lead to them; absent is success. Returns whether there were
    /// any.
    pub(crate) fn remove_ports(&self, ports: &HashSet<u32>) -> datapath::Result<bool> {
        let _span = info_span!("rows").entered();
        let mut was_known = false;
        for address in self.ports.addresses()? {
            if self.ports.read(address)?.is_some_and(|port| ports.contains(&port.ifindex)) {
                was_known = true;
                self.remove_address(address)?;
            }
        }
        for ifindex in ports {
            was_known |= self.links.read(*ifindex)?.is_some();
            self.links.remove(*ifindex)?;
        }
        siblings::unshare(self, ports)?;
        Ok(was_known)
    }

    /// Stops to count for addresses that lead to no port, but for those that are to stay.
    pub(crate) fn forget_lost(&self, stays: impl Fn(IpAddr) -> bool) -> datapath::Result<()> {
        for address in self.counters.addresses()?.into_iter().filter(|address| !stays(*address)) {
            if self.ports.read(address)?.is_none() {
                self.counters.remove(address)?;
            }
        }
        Ok(())
    }

    /// The ports that any row is about.
    pub(crate) fn indexes(&self) -> datapath::Result<HashSet<u32>> {
        let mut indexes: HashSet<u32> = self.links.indexes()?.into_iter().collect();
        for address in self.ports.addresses()? {
            indexes.extend(self.ports.read(address)?.map(|port| port.ifindex));
        }
        indexes.extend(self.shared.as_ref().map(SharedAddressMap::indexes).transpose()?.into_iter().flatten());
        Ok(indexes)
    }

    /// Whether an address leads to a port.
    pub(crate) fn is_owner(&self, address: IpAddr, port: u32) -> datapath::Result<bool> {
        Ok(self.ports.read(address)?.is_some_and(|owner| owner.ifindex == port))
    }

    /// Changes what a port may do. A port without an entry gets none.
    pub(crate) fn change_link(&self, port: u32, change: impl FnOnce(&mut PortConfig)) -> datapath::Result<()> {
        let Some(now) = self.links.read(port)? else { return Ok(()) };
        let mut changed = now;
        change(&mut changed);
        if changed == now { Ok(()) } else { self.links.insert(port, changed) }
    }

    /// The addresses of a port that are good beyond its link.
    pub(crate) fn addresses_of(&self, port: u32) -> datapath::Result<Vec<IpAddr>> {
        let mut addresses = Vec::new();
        for address in self.ports.addresses()? {
            let is_link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
            if !is_link_local && self.ports.read(address)?.is_some_and(|owner| owner.ifindex == port) {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }

    /// The addresses that pods have at other ports of theirs. `None` for the maps of an older build.
    pub(crate) fn shared(&self) -> Option<&SharedAddressMap> {
        self.shared.as_ref()
    }

    /// What a port may do, if anything is known of it.
    pub(crate) fn link(&self, ifindex: u32) -> datapath::Result<Option<PortConfig>> {
        self.links.read(ifindex)
    }

    /// What is not as [`put`](Self::put) leaves it.
    pub(crate) fn differences(&self, addresses: &[IpNetwork], expected: Endpoint) -> datapath::Result<Vec<String>> {
        let mut differences = Vec::new();
        let link_local = IpAddr::from(expected.mac.link_local());
        for address in addresses.iter().map(IpNetwork::ip).chain([link_local]) {
            match self.ports.read(address)? {
                None => differences.push(format!("the map pod_ifindex has no row for {address}")),
                Some(found) if found != expected => differences.push(format!(
                    "the map pod_ifindex has {address} at link {} with MAC {}, not at link {} with MAC {}",
                    found.ifindex, found.mac, expected.ifindex, expected.mac
                )),
                Some(_) => {}
            }
            if address != link_local && self.counters.read(address)?.is_none() {
                differences.push(format!("the map pkt_count has no row for {address}"));
            }
        }
        match self.links.read(expected.ifindex)? {
            Some(link) if link.mac == expected.mac => {}
            Some(link) => differences.push(format!("the map port_config has MAC {}, not {}", link.mac, expected.mac)),
            None => differences.push(format!("the map port_config has no row for link {}", expected.ifindex)),
        }
        Ok(differences)
    }

    fn remove_address(&self, address: IpAddr) -> datapath::Result<()> {
        // This order: where there is no lease, the port's row tells that the address is to be removed.
        self.counters.remove(address)?;
        self.ports.remove(address)
    }
}
