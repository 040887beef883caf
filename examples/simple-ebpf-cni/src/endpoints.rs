//! The map entries of pods and gateways.

mod removal;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use cnikit::datapath::{
    self, CounterMap, Datapath, Endpoint, EndpointMap, MapSet, PortConfig, PortConfigMap, SharedAddressMap,
};
use cnikit::ipam;
use cnikit::netlink::Socket;
use cnikit::plugin::PluginError;
use cnikit::spec::{Attachment, IfIndex};
use ipnetwork::IpNetwork;
use tracing::{debug, info_span};

use crate::ip::is_link_local;
use crate::programs;

/// The maps with entries for each pod.
#[derive(Debug)]
pub struct Endpoints {
    counters: CounterMap,
    endpoints: EndpointMap,
    port_configs: PortConfigMap,
    /// `None` for the maps of an older build.
    shared_addresses: Option<SharedAddressMap>,
}

impl Endpoints {
    /// Opens the pinned maps.
    ///
    /// # Errors
    ///
    /// Fails if a map is missing or cannot be opened.
    pub fn open(datapath: &Datapath) -> datapath::Result<Self> {
        Self::from_maps(&datapath.maps())
    }

    /// Opens maps that need not be pinned.
    ///
    /// # Errors
    ///
    /// Fails if a map is missing or cannot be opened.
    pub fn from_maps(maps: &MapSet) -> datapath::Result<Self> {
        let _span = info_span!("maps").entered();
        let (counters, endpoints) = (maps.open_counters()?, maps.open_endpoints()?);
        let (port_configs, shared_addresses) = (maps.open_port_configs()?, maps.open_shared_addresses()?);
        Ok(Self { counters, endpoints, port_configs, shared_addresses })
    }

    /// Opens the maps of the programs at a port, also if the port belongs to another network.
    pub(crate) fn at_port(host: &Socket, port: IfIndex) -> Result<Option<Self>, cnikit::Error> {
        let maps = MapSet::in_use(&programs::at_port(host, port)?)?;
        Ok(maps.map(|maps| Self::from_maps(&maps)).transpose()?)
    }

    /// Refuses addresses and a MAC that belong to a gateway or to another live pod.
    ///
    /// # Errors
    ///
    /// Fails with the first conflict, or if the maps or the links cannot be read.
    pub fn check_conflicts(&self, host: &Socket, addresses: &[IpNetwork], port: Endpoint) -> Result<(), PluginError> {
        let link_local = IpAddr::from(port.mac.link_local());
        for address in addresses.iter().map(IpNetwork::ip).chain([link_local]) {
            let owner = self.endpoints.read(address)?.filter(|owner| owner.ifindex != port.ifindex);
            let Some(owner) = owner else { continue };
            // The entry of a deleted pod does not count.
            let Some(link) = host.link_by_index(owner.ifindex)? else { continue };
            let what = if address == link_local { format!("MAC {}", port.mac) } else { format!("address {address}") };
            return Err(PluginError::new(
                ipam::ADDRESS_TAKEN,
                format!("the {what} is in use at {}: request another, or first detach its owner", link.name),
            ));
        }
        Ok(())
    }

    /// Restricts a new port to its MAC, to the MAC's link-local address, and to addresses that are
    /// [added](Self::add_addresses) later.
    ///
    /// # Errors
    ///
    /// Fails if an entry cannot be written.
    pub fn register_port(&self, port: Endpoint, stack_only: bool) -> datapath::Result<()> {
        let _span = info_span!("maps").entered();
        // The attachment had a pair before that was deleted without a DEL.
        if self.port_configs.read(port.ifindex)?.is_some() {
            self.remove_ports(&HashSet::from([port.ifindex]))?;
        }
        // The port's entry comes first: cleanup after a crash finds the link-local address
        // through it.
        self.insert_port_config(port, stack_only)?;
        self.endpoints.insert(port.mac.link_local().into(), port)
    }

    /// Delivers packets for the addresses to the port, lets the port send from them, and counts
    /// their packets from zero.
    ///
    /// # Errors
    ///
    /// Fails if an entry cannot be written.
    pub fn add_addresses(&self, addresses: &[IpNetwork], port: Endpoint) -> datapath::Result<()> {
        let _span = info_span!("maps").entered();
        for address in addresses {
            self.endpoints.insert(address.ip(), port)?;
            self.counters.insert(address.ip())?;
        }
        Ok(())
    }

    /// Adds the missing entries of an attached pod, which may send at the same time. Counters stay.
    pub(crate) fn ensure_endpoint(
        &self,
        addresses: &[IpNetwork],
        port: Endpoint,
        stack_only: bool,
    ) -> datapath::Result<()> {
        let link_local = IpAddr::from(port.mac.link_local());
        for address in addresses.iter().map(IpNetwork::ip).chain([link_local]) {
            if self.endpoints.read(address)? != Some(port) {
                self.endpoints.insert(address, port)?;
            }
            if address != link_local && self.counters.read(address)?.is_none() {
                self.counters.insert(address)?;
            }
        }
        // Last: this entry restricts the pod to the addresses above.
        match self.port_configs.read(port.ifindex)? {
            Some(config) if config.mac == port.mac && config.stack_only >= stack_only => {
                self.watch_xdp(port.ifindex);
                Ok(())
            }
            _ => self.insert_port_config(port, stack_only),
        }
    }

    fn insert_port_config(&self, port: Endpoint, stack_only: bool) -> datapath::Result<()> {
        self.port_configs.insert(port.ifindex, PortConfig::new(port.mac).stack_only(stack_only))?;
        self.watch_xdp(port.ifindex);
        Ok(())
    }

    fn watch_xdp(&self, port: IfIndex) {
        match self.port_configs.watch_xdp(port) {
            Ok(true) => {}
            Ok(false) => debug!("direct forwarding bypasses a driver-mode XDP program at link {port}"),
            Err(error) => debug!("direct forwarding bypasses a driver-mode XDP program at link {port}: {error}"),
        }
    }

    /// The addresses of all entries, by port.
    pub(crate) fn addresses_by_port(&self) -> datapath::Result<HashMap<IfIndex, Vec<IpAddr>>> {
        let mut found: HashMap<IfIndex, Vec<IpAddr>> = HashMap::new();
        for address in self.endpoints.addresses()? {
            if let Some(port) = self.endpoints.read(address)? {
                found.entry(port.ifindex).or_default().push(address);
            }
        }
        Ok(found)
    }

    /// Adds the entries of the gateways in `own`, and removes the entries of the other `gateways`.
    /// A [gateway's entry](Self::is_gateway) records that the node has taken the address.
    ///
    /// # Errors
    ///
    /// Fails if an entry cannot be read or written.
    pub fn set_gateways(&self, gateways: &[IpNetwork], own: &[IpNetwork], bridge: Endpoint) -> datapath::Result<()> {
        let link_local = IpAddr::from(bridge.mac.link_local());
        for address in own.iter().map(IpNetwork::ip).chain([link_local]) {
            if self.endpoints.read(address)? != Some(bridge) {
                self.endpoints.insert(address, bridge)?;
            }
        }
        for address in gateways.iter().filter(|gateway| !own.contains(gateway)).map(IpNetwork::ip) {
            if self.is_gateway(address, Some(bridge.ifindex))? {
                self.endpoints.remove(address)?;
            }
        }
        Ok(())
    }

    /// Whether the node has taken the address, on the bridge with this index or on a bridge that it
    /// replaces.
    ///
    /// # Errors
    ///
    /// Fails if an entry cannot be read.
    pub fn is_gateway(&self, address: IpAddr, bridge: Option<IfIndex>) -> datapath::Result<bool> {
        match self.endpoints.read(address)? {
            Some(port) if Some(port.ifindex) == bridge => Ok(true),
            // A link-local address derives from the MAC of the former bridge.
            Some(port) if !is_link_local(address) => self.is_former_bridge(port.ifindex),
            _ => Ok(false),
        }
    }

    /// The gateway addresses that the node has taken. Omits link-local addresses, which depend on
    /// the bridge. `bridge` is the index of the bridge.
    pub(crate) fn gateways(&self, bridge: Option<IfIndex>) -> datapath::Result<Vec<IpAddr>> {
        let mut gateways = Vec::new();
        for address in self.endpoints.addresses()? {
            if !is_link_local(address) && self.is_gateway(address, bridge)? {
                gateways.push(address);
            }
        }
        Ok(gateways)
    }

    /// Whether an index with entries belonged to a bridge, not to a pod's port. No other record of
    /// a deleted bridge remains.
    ///
    /// # Errors
    ///
    /// Fails if the entry of the port cannot be read.
    pub fn is_former_bridge(&self, ifindex: IfIndex) -> datapath::Result<bool> {
        Ok(!Attachment::is_host_ifindex(ifindex) && self.port_configs.read(ifindex)?.is_none())
    }

    /// The ports of these addresses.
    ///
    /// # Errors
    ///
    /// Fails if an entry cannot be read.
    pub fn ports_of(&self, addresses: &[IpNetwork]) -> datapath::Result<HashSet<IfIndex>> {
        let owners = addresses.iter().filter_map(|address| self.endpoints.read(address.ip()).transpose());
        owners.map(|owner| owner.map(|port| port.ifindex)).collect()
    }

    /// The indexes of all ports with entries.
    ///
    /// # Errors
    ///
    /// Fails if a map cannot be read.
    pub fn indexes(&self) -> datapath::Result<HashSet<IfIndex>> {
        let mut indexes: HashSet<IfIndex> = self.port_configs.indexes()?.into_iter().collect();
        for address in self.endpoints.addresses()? {
            indexes.extend(self.endpoints.read(address)?.map(|port| port.ifindex));
        }
        let shared = self.shared_addresses.as_ref().map(SharedAddressMap::indexes).transpose()?;
        indexes.extend(shared.into_iter().flatten());
        Ok(indexes)
    }

    /// Whether an address leads to a port.
    pub(crate) fn is_owner(&self, address: IpAddr, port: IfIndex) -> datapath::Result<bool> {
        Ok(self.endpoints.read(address)?.is_some_and(|owner| owner.ifindex == port))
    }

    /// Changes the entry of a port, if there is one.
    pub(crate) fn update_port_config(
        &self,
        port: IfIndex,
        change: impl FnOnce(&mut PortConfig),
    ) -> datapath::Result<()> {
        let Some(current) = self.port_configs.read(port)? else { return Ok(()) };
        let mut changed = current;
        change(&mut changed);
        if changed == current { Ok(()) } else { self.port_configs.insert(port, changed) }
    }

    /// The addresses of a port, except link-local addresses.
    pub(crate) fn addresses_of(&self, port: IfIndex) -> datapath::Result<Vec<IpAddr>> {
        let mut addresses = Vec::new();
        for address in self.endpoints.addresses()? {
            if !is_link_local(address) && self.is_owner(address, port)? {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }

    /// The map of addresses that a port shares with its siblings. `None` for the maps of an older
    /// build.
    pub(crate) fn shared_addresses(&self) -> Option<&SharedAddressMap> {
        self.shared_addresses.as_ref()
    }

    /// The entry of a port.
    ///
    /// # Errors
    ///
    /// Fails if the map cannot be read.
    pub fn port_config(&self, ifindex: IfIndex) -> datapath::Result<Option<PortConfig>> {
        self.port_configs.read(ifindex)
    }

    /// A message for each difference from the entries of [`register_port`](Self::register_port) and
    /// [`add_addresses`](Self::add_addresses).
    ///
    /// # Errors
    ///
    /// Fails if a map cannot be read.
    pub fn differences(&self, addresses: &[IpNetwork], expected: Endpoint) -> datapath::Result<Vec<String>> {
        let mut differences = Vec::new();
        let link_local = IpAddr::from(expected.mac.link_local());
        for address in addresses.iter().map(IpNetwork::ip).chain([link_local]) {
            match self.endpoints.read(address)? {
                None => differences.push(format!("the map pod_ifindex has no entry for {address}")),
                Some(found) if found != expected => differences.push(format!(
                    "the map pod_ifindex has {address} at link {} with MAC {}, not at link {} with MAC {}",
                    found.ifindex, found.mac, expected.ifindex, expected.mac
                )),
                Some(_) => {}
            }
            if address != link_local && self.counters.read(address)?.is_none() {
                differences.push(format!("the map pkt_count has no entry for {address}"));
            }
        }
        match self.port_configs.read(expected.ifindex)? {
            Some(config) if config.mac == expected.mac => {}
            Some(config) => {
                differences.push(format!("the map port_config has MAC {}, not {}", config.mac, expected.mac));
            }
            None => differences.push(format!("the map port_config has no entry for link {}", expected.ifindex)),
        }
        Ok(differences)
    }
}
